//! Weights as repeated slots, for random choice. Pure: it knows no slot and no backend.

/// Slots that the weights of one backend set may take. Weights whose sum, divided by their greatest common divisor, is
/// not above it are kept exactly.
const FEW: u64 = 1024;
/// The same for each backend of a large set.
const EACH: u64 = 4;

/// How many slots each weight gets, in their ratio; 0 only for weight 0.
///
/// Exact if the reduced weights add up to at most 1024, or 4 for each backend if that is more. Above, they are scaled to
/// that sum and rounded, and each that is not 0 keeps at least one slot: a share is then off by half a slot, at most
/// 0.05 % of the connections of a small set.
#[must_use]
pub fn repeats(weights: &[u16]) -> Vec<u16> {
    let divisor = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let sum: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let used = weights.iter().filter(|weight| **weight > 0).count() as u64;
    // Rounding up may add a slot for each.
    let most = FEW.max(EACH * used).min(u64::from(u16::MAX).saturating_sub(used).max(1));
    let scaled = |weight: u16| {
        let reduced = u64::from(weight / divisor);
        let slots = if sum <= most { reduced } else { ((2 * reduced * most + sum) / (2 * sum)).max(1) };
        if weight == 0 { 0 } else { u16::try_from(slots).unwrap_or(u16::MAX) }
    };
    weights.iter().map(|weight| scaled(*weight)).collect()
}

const fn gcd(mut a: u16, mut b: u16) -> u16 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_ratios_are_exact() {
        for (weights, expected) in [
            (&[][..], &[][..]),
            (&[1, 1, 1], &[1, 1, 1]),
            (&[1000, 1000], &[1, 1]),
            (&[0, 0], &[0, 0]),
            (&[0, 7], &[0, 1]),
            (&[3, 0, 1], &[3, 0, 1]),
            (&[300, 100, 250], &[6, 2, 5]),
            (&[1000, 23], &[1000, 23]),
            (&[1000, 24], &[125, 3]),
            (&[1000, 25], &[40, 1]),
            (&[1000, 1], &[1000, 1]),
        ] {
            assert_eq!(repeats(weights), expected, "{weights:?}");
        }
    }

    #[test]
    fn large_ones_are_rounded() {
        assert_eq!(repeats(&[1000, 999]), [512, 512]);
        assert_eq!(repeats(&[1000, 1000, 999, 1]), [341, 341, 341, 1]);
        let mut many = vec![1; 2000];
        many[0] = 1000;
        assert_eq!(repeats(&many), many, "2999 slots are fewer than four for each");
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(0_u16..=1000, 1..300)) {
            let slots = repeats(&weights);
            let (sum, total) = (weights.iter().map(|w| f64::from(*w)).sum::<f64>(), slots.iter().map(|s| u32::from(*s)).sum::<u32>());
            prop_assert!(total <= 4 * 300 + 300);
            for (weight, slots) in weights.iter().zip(&slots) {
                prop_assert_eq!(*weight == 0, *slots == 0);
                if *weight > 0 {
                    let ideal = f64::from(*weight) / sum * f64::from(total);
                    prop_assert!((f64::from(*slots) - ideal).abs() <= 1.0 + ideal * 0.15, "{slots} instead of {ideal}");
                }
            }
        }

        #[test]
        fn a_set_never_outgrows_its_count(n in 1_usize..60_000, heavy in 1_u16..=1000) {
            let mut weights = vec![1; n];
            weights[0] = heavy;
            let total: u64 = repeats(&weights).iter().map(|s| u64::from(*s)).sum();
            prop_assert!(total <= u64::from(u16::MAX));
        }
    }
}
