//! From slices to figures: medians, how far they spread, ratios to the first mode of a scenario, and the noise of a ratio.
//! Pure.

use serde::{Deserialize, Serialize};

use super::{crew::Pass, histogram::Quantiles, modes::Mode, worker::Slice};
use crate::stats::{median, percentile};

/// The middle one of many values, and between what eight of ten are.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Middle {
    pub(super) p10: f64,
    pub(super) median: f64,
    pub(super) p90: f64,
}

impl Middle {
    /// None of no values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let at = |percent| percentile(values, percent);
        Some(Self { p10: at(10)?, median: at(50)?, p90: at(90)? })
    }
}

/// Cost of a mode divided by the cost of the scenario's first mode in the same round.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Ratio {
    /// Over all rounds.
    #[serde(flatten)]
    pub(super) middle: Middle,
    /// How far the medians of the passes, each with new processes, lie from the median of all: the largest distance.
    pub(super) noise: f64,
}

/// One mode in one scenario.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModeFigures {
    pub(super) mode: Mode,
    pub(super) services: u32,
    /// Processor time of an operation, both ends and all between, in nanoseconds.
    pub(super) nanos: Middle,
    pub(super) ratio: Ratio,
    /// Times of single operations, in microseconds: the median of the passes.
    pub(super) times: Quantiles,
    /// Processor time of the worker by time that passed: near 1, or `nanos` holds something else.
    pub(super) busy: f64,
    pub(super) operations: u64,
}

/// One scenario.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScenarioFigures {
    pub(super) name: String,
    /// Bytes that an operation carries, for those whose rate is of interest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<usize>,
    pub(super) modes: Vec<ModeFigures>,
}

impl ScenarioFigures {
    /// Figures of a scenario's mode.
    pub(super) fn of(&self, mode: Mode, services: u32) -> Option<&ModeFigures> {
        self.modes.iter().find(|figures| figures.mode == mode && figures.services == services)
    }
}

/// Figures of the modes, of what they brought in each pass. `None` without a pass. With `paced` the worker sleeps between
/// operations, which cost what it was busy with.
pub(super) fn figures(keys: &[(Mode, u32)], paced: bool, passes: &[Vec<Pass>]) -> Option<Vec<ModeFigures>> {
    let cost: fn(&Slice) -> f64 = if paced { busy } else { cost };
    let one = |at: usize| {
        let (mode, services) = keys[at];
        let slices: Vec<&Slice> = passes.iter().flat_map(|pass| &pass[at].slices).collect();
        let ratios: Vec<Vec<f64>> = passes.iter().map(|pass| ratios(&pass[at].slices, &pass[0].slices, cost)).collect();
        let middle = Middle::of(&ratios.concat())?;
        let far = ratios.iter().filter_map(|pass| Some((median(pass)? - middle.median).abs()));
        let times =
            |part: fn(&Quantiles) -> f64| median(&passes.iter().map(|pass| part(&pass[at].times)).collect::<Vec<_>>());
        Some(ModeFigures {
            mode,
            services,
            nanos: Middle::of(&slices.iter().map(|slice| cost(slice)).collect::<Vec<_>>())?,
            ratio: Ratio { middle, noise: far.fold(0.0, f64::max) },
            times: Quantiles { p50: times(|times| times.p50)?, p99: times(|times| times.p99)? },
            busy: median(&slices.iter().map(|slice| slice.busy as f64 / slice.nanos as f64).collect::<Vec<_>>())?,
            operations: slices.iter().map(|slice| slice.operations).sum(),
        })
    };
    (0..keys.len()).map(one).collect()
}

fn ratios(own: &[Slice], first: &[Slice], cost: fn(&Slice) -> f64) -> Vec<f64> {
    own.iter().zip(first).map(|(own, first)| cost(own) / cost(first)).collect()
}

fn busy(slice: &Slice) -> f64 {
    slice.busy as f64 / slice.operations as f64
}

fn cost(slice: &Slice) -> f64 {
    slice.nanos as f64 / slice.operations as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(costs: &[u64]) -> Pass {
        let slice = |cost: &u64| Slice { operations: 100, nanos: 100 * cost, busy: 50 * cost };
        Pass { slices: costs.iter().map(slice).collect(), times: Quantiles { p50: 1.0, p99: 2.0 } }
    }

    #[test]
    fn ratios_are_taken_in_each_round_so_that_what_all_modes_share_falls_out() {
        // In the second round, and in the second pass, everything takes twice as long.
        let passes = [vec![pass(&[10, 20, 10]), pass(&[15, 30, 15])], vec![pass(&[20, 40]), pass(&[30, 60])]];
        let all = [(Mode::Direct, 1), (Mode::Both, 1)];
        let paced = figures(&all, true, &passes).unwrap();
        assert_eq!((paced[1].nanos.median, paced[1].ratio.middle.median), (15.0, 1.5));
        let figures = figures(&all, false, &passes).unwrap();
        let Ratio { middle, noise } = figures[1].ratio;
        assert_eq!((middle, noise), (Middle { p10: 1.5, median: 1.5, p90: 1.5 }, 0.0));
        assert_eq!(figures[0].ratio.middle.median, 1.0);
        assert_eq!((figures[1].nanos.median, figures[1].busy, figures[1].operations), (30.0, 0.5, 500));
    }

    #[test]
    fn noise_is_the_pass_that_is_farthest_off() {
        let passes = [100, 104, 102].map(|cost| vec![pass(&[100]), pass(&[cost])]);
        let figures = figures(&[(Mode::Direct, 1), (Mode::Packet, 1)], false, &passes).unwrap();
        assert!((figures[1].ratio.middle.median - 1.02).abs() < 1e-9);
        assert!((figures[1].ratio.noise - 0.02).abs() < 1e-9);
        assert_eq!(super::figures(&[(Mode::Direct, 1)], false, &[]), None);
    }
}
