//! From moments to nanoseconds of an operation: by part, for each mode, and what a mode has more than the first one. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Parts of less than this share of an operation in all modes are shown as one.
const LEAST_SHARE: f64 = 0.002;

/// Moments that a mode's worker was seen in, by part.
pub(super) type Moments = BTreeMap<String, u64>;

/// A mode's moments, and what an operation takes.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) mode: String,
    /// Time of an operation, measured while nobody took samples, in nanoseconds.
    pub(super) nanos: f64,
    pub(super) moments: Moments,
}

/// Time in a part and its standard error, both in nanoseconds of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Time {
    nanos: f64,
    error: f64,
}

impl Column {
    fn total(&self) -> u64 {
        self.moments.values().sum()
    }

    fn time(&self, parts: &[&str]) -> Time {
        let total = self.total() as f64;
        let share = parts.iter().filter_map(|part| self.moments.get(*part)).sum::<u64>() as f64 / total;
        Time { nanos: share * self.nanos, error: (share * (1.0 - share) / total).sqrt() * self.nanos }
    }
}

impl Time {
    fn above(self, other: Self) -> Self {
        Self { nanos: self.nanos - other.nanos, error: self.error.hypot(other.error) }
    }
}

/// The table of a scenario; the first column is what others are compared with. Rows are ordered by the most that a mode has
/// more than the first one, what all have alike at the end.
pub(super) fn table(scenario: &str, columns: &[Column]) -> String {
    let mut out = format!("\n{scenario}: nanoseconds of an operation\n");
    let Some((first, others)) = columns.split_first() else { return out };
    let _infallible = write!(out, "  {:<56}{:>9}", "part", first.mode);
    for column in others {
        let _infallible = write!(out, "{:>9}{:>9}{:>7}", column.mode, "more", "±");
    }
    let mut line = |name: &str, time: &dyn Fn(&Column) -> Time| {
        let base = time(first);
        let _infallible = write!(out, "\n  {name:<56}{:>9.0}", base.nanos);
        for time in others.iter().map(time) {
            let more = time.above(base);
            let _infallible = write!(out, "{:>9.0}{:>+9.0}{:>7.0}", time.nanos, more.nanos, more.error);
        }
    };
    line("all", &|column| Time { nanos: column.nanos, error: 0.0 });
    let (mut rows, few) = rows(columns);
    let most = |part: &str| {
        let base = first.time(&[part]).nanos;
        others.iter().map(|column| column.time(&[part]).nanos - base).fold(f64::MIN, f64::max)
    };
    rows.sort_by(|a, b| most(b).total_cmp(&most(a)));
    for part in rows {
        line(part, &|column| column.time(&[part]));
    }
    if !few.is_empty() {
        line(&format!("{} smaller ones", few.len()), &|column| column.time(&few));
    }
    let moments = columns.iter().map(|column| format!("{} {}", column.mode, column.total())).collect::<Vec<_>>();
    let _infallible = writeln!(out, "\n  moments: {}", moments.join(", "));
    out
}

/// Parts that are shown by themselves, and those that are not.
fn rows(columns: &[Column]) -> (Vec<&str>, Vec<&str>) {
    let parts: BTreeSet<&str> = columns.iter().flat_map(|column| column.moments.keys().map(String::as_str)).collect();
    let shown = |part: &&str| columns.iter().any(|column| column.time(&[*part]).nanos >= LEAST_SHARE * column.nanos);
    parts.into_iter().partition(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(mode: &str, nanos: f64, moments: &[(&str, u64)]) -> Column {
        let moments = moments.iter().map(|(part, count)| ((*part).to_owned(), *count)).collect();
        Column { mode: mode.to_owned(), nanos, moments }
    }

    #[test]
    fn the_parts_of_an_operation_add_up_and_differ_by_what_a_mode_adds() {
        let direct = column("direct", 1000.0, &[("bridge", 250), ("sockets", 750)]);
        let packet = column("packet", 1200.0, &[("bridge", 50), ("sockets", 150), ("program x", 40)]);
        assert_eq!(direct.time(&["bridge"]).nanos, 250.0);
        assert_eq!(packet.time(&["bridge"]).nanos, 250.0);
        let program = packet.time(&["program x"]).above(direct.time(&["program x"]));
        assert_eq!(program.nanos, 200.0);
        // 40 of 240 moments, give or take their binomial deviation.
        assert!((program.error - 1200.0 * (1.0_f64 / 6.0 * 5.0 / 6.0 / 240.0).sqrt()).abs() < 1e-9);
        let table = table("crr", &[direct, packet]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[3], ["all", "1000", "1200", "+200", "0"]);
        assert_eq!(rows[4][..5], ["program", "x", "0", "200", "+200"]);
        assert_eq!(rows[5][..4], ["bridge", "250", "250", "+0"]);
        assert_eq!(rows.last().unwrap().join(" "), "moments: direct 1000, packet 240");
    }

    #[test]
    fn small_parts_are_shown_as_one() {
        let direct = column("direct", 1000.0, &[("sockets", 9997), ("a", 1), ("b", 2)]);
        let packet = column("packet", 1000.0, &[("sockets", 9000), ("c", 1000)]);
        let (shown, few) = rows(std::slice::from_ref(&direct));
        assert_eq!((shown, few), (vec!["sockets"], vec!["a", "b"]));
        let text = table("crr", &[direct, packet]);
        assert!(text.contains("2 smaller ones") && text.contains("\n  c "), "{text}");
    }
}
