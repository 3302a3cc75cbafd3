//! From single values to what is told of them. Pure.

use serde::Serialize;

/// Values of several rounds: the middle one, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spread {
    /// The middle value; of an even number the lower one of the two.
    pub(crate) median: f64,
    /// The least.
    pub(crate) least: f64,
    /// The greatest.
    pub(crate) most: f64,
    /// How many there are.
    pub(crate) rounds: usize,
}

impl Spread {
    /// None of no values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        Some(Self { median: rank(&sorted, 50)?, least, most, rounds: sorted.len() })
    }
}

/// Times of many events.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Times {
    /// Half of them took no longer.
    pub(crate) p50: f64,
    /// 99 of 100 took no longer.
    pub(crate) p99: f64,
    /// None took longer.
    pub(crate) max: f64,
    /// How many there are.
    pub(crate) count: usize,
}

impl Times {
    /// None of no times.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        Some(Self { p50: rank(&sorted, 50)?, p99: rank(&sorted, 99)?, max: *sorted.last()?, count: sorted.len() })
    }
}

/// The least value that so many percent of all are not above (nearest rank); none of no values.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    rank(&sorted(values), percent)
}

/// The middle value; of an even number the lower one of the two.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 50)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The least value that so many percent of all are not above (nearest rank).
fn rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest_ranks() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(Times::of(&values), Some(Times { p50: 100.0, p99: 198.0, max: 200.0, count: 200 }));
        assert_eq!(Times::of(&[7.0]), Some(Times { p50: 7.0, p99: 7.0, max: 7.0, count: 1 }));
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, least: 1.0, most: 3.0, rounds: 3 }));
        assert_eq!(Spread::of(&[4.0, 1.0]).map(|s| s.median), Some(1.0));
        assert_eq!((Spread::of(&[]), Times::of(&[])), (None, None));
    }
}
