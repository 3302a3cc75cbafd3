//! Figures of this run beside those of an earlier one. Ratios are compared, not times: another day or another machine
//! changes all modes together. Pure.

use std::fmt::Write as _;

use super::{figures::ModeFigures, report::Report};

/// What a ratio may differ by beyond the noise of both runs: the kernel places code and tables anew at each boot.
const TOLERANCE: f64 = 0.03;

/// The comparison.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comparison {
    /// Ratios that are in both.
    pub(super) compared: usize,
    /// Of berrylb's modes, those that are worse beyond the noise, as text.
    pub(super) worse: Vec<String>,
    /// Those that are better beyond the noise.
    pub(super) better: Vec<String>,
}

/// Compares what is in both.
pub(super) fn compare(before: &Report, now: &Report) -> Comparison {
    let mut comparison = Comparison::default();
    for scenario in &now.scenarios {
        let Some(earlier) = before.scenarios.iter().find(|earlier| earlier.name == scenario.name) else { continue };
        // What rules cost is the kernel's matter; they are there to compare with.
        for figures in scenario.modes.iter().filter(|figures| figures.mode.flags().is_some()) {
            let Some(old) = earlier.of(figures.mode, figures.services) else { continue };
            comparison.compared += 1;
            let change = figures.ratio.middle.median - old.ratio.middle.median;
            if change.abs() > allowed(old, figures) {
                let list = if change > 0.0 { &mut comparison.worse } else { &mut comparison.better };
                list.push(describe(&scenario.name, old, figures));
            }
        }
    }
    comparison
}

fn allowed(old: &ModeFigures, new: &ModeFigures) -> f64 {
    old.ratio.noise + new.ratio.noise + TOLERANCE
}

fn describe(scenario: &str, old: &ModeFigures, new: &ModeFigures) -> String {
    let mut text = format!("{scenario}, {}", new.mode.name());
    if new.services > 1 {
        let _infallible = write!(text, " with {} Services", new.services);
    }
    let [before, now] = [old, new].map(|figures| figures.ratio.middle.median);
    let _infallible = write!(text, ": {before:.3} of direct before, {now:.3} now (noise ±{:.3})", allowed(old, new));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        datapath::{
            figures::{Middle, Ratio, ScenarioFigures},
            histogram::Quantiles,
            modes::Mode,
        },
        machine::Machine,
    };

    fn report(mode: Mode, ratio: f64, noise: f64) -> Report {
        let middle = |median| Middle { p10: median, median, p90: median };
        let figures = ModeFigures {
            mode,
            services: 1,
            nanos: middle(ratio * 1e4),
            ratio: Ratio { middle: middle(ratio), noise },
            times: Quantiles::default(),
            busy: 1.0,
            operations: 1,
        };
        let machine = Machine { processor: String::new(), processors: 2, kernel: String::new(), date: String::new() };
        let scenarios = vec![ScenarioFigures { name: "rr".into(), bytes: None, modes: vec![figures] }];
        Report { scenarios, ..Report::empty(machine) }
    }

    #[test]
    fn only_what_is_beyond_the_noise_of_both_runs_counts() {
        let before = report(Mode::Packet, 1.00, 0.01);
        let found = |mode, ratio| compare(&before, &report(mode, ratio, 0.01));
        assert_eq!(found(Mode::Packet, 1.04), Comparison { compared: 1, ..Comparison::default() });
        let worse = found(Mode::Packet, 1.06);
        assert_eq!((worse.worse.len(), worse.better.len()), (1, 0), "{worse:?}");
        assert!(worse.worse[0].contains("rr, packet: 1.000 of direct before, 1.060 now"), "{worse:?}");
        assert_eq!(found(Mode::Packet, 0.94).better.len(), 1);
        assert_eq!(found(Mode::Both, 1.05).compared, 0, "another mode");
    }

    #[test]
    fn rules_are_not_ours_to_mend() {
        let before = report(Mode::Iptables, 1.0, 0.0);
        assert_eq!(compare(&before, &report(Mode::Iptables, 9.0, 0.0)), Comparison::default());
    }
}
