//! Histograms, and Prometheus' text format (version 0.0.4) for them and for single numbers. Knows no clock.

use std::fmt::{Display, Write as _};

/// Observations by upper bound; a bound includes what is equal to it.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    /// Ascending; above the last one is `+Inf`.
    bounds: Vec<f64>,
    /// One for each bound, not cumulative.
    counts: Vec<u64>,
    above: u64,
    sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: Vec<f64>) -> Self {
        Self { counts: vec![0; bounds.len()], bounds, above: 0, sum: 0.0 }
    }

    /// `count` bounds from `first` on, each twice the one before.
    pub(super) fn doubling(first: f64, count: usize) -> Self {
        Self::new(std::iter::successors(Some(first), |bound| Some(bound * 2.0)).take(count).collect())
    }

    pub(super) fn observe(&mut self, value: f64) {
        match self.bounds.iter().position(|bound| value <= *bound) {
            Some(place) => self.counts[place] += 1,
            None => self.above += 1,
        }
        self.sum += value;
    }

    pub(super) fn write(&self, name: &str, help: &str, out: &mut String) {
        head(name, "histogram", help, out);
        let mut count = 0;
        for (bound, here) in self.bounds.iter().zip(&self.counts) {
            count += here;
            line(format_args!("{name}_bucket{{le=\"{bound}\"}}"), count, out);
        }
        count += self.above;
        line(format_args!("{name}_bucket{{le=\"+Inf\"}}"), count, out);
        line(format_args!("{name}_sum"), self.sum, out);
        line(format_args!("{name}_count"), count, out);
    }
}

/// One number without labels.
pub(super) fn write_number(name: &str, kind: &str, help: &str, value: impl Display, out: &mut String) {
    head(name, kind, help, out);
    line(format_args!("{name}"), value, out);
}

fn head(name: &str, kind: &str, help: &str, out: &mut String) {
    out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

fn line(series: impl Display, value: impl Display, out: &mut String) {
    writeln!(out, "{series} {value}").expect("a string takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let mut histogram = Histogram::doubling(0.001, 3);
        [0.0005, 0.001, 0.0011, 7.5].into_iter().for_each(|value| histogram.observe(value));
        let mut text = String::new();
        histogram.write("x_seconds", "Of x.", &mut text);
        let wanted = "# HELP x_seconds Of x.\n# TYPE x_seconds histogram\n\
             x_seconds_bucket{le=\"0.001\"} 2\nx_seconds_bucket{le=\"0.002\"} 3\nx_seconds_bucket{le=\"0.004\"} 3\n\
             x_seconds_bucket{le=\"+Inf\"} 4\nx_seconds_sum 7.5026\nx_seconds_count 4\n";
        assert_eq!(text, wanted);
    }
}
