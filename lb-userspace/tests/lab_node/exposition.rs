//! A reader of Prometheus' text format, version 0.0.4, that forgives nothing: what promtool calls an error or a lint is
//! one here.

use std::collections::{BTreeMap, BTreeSet};

/// What a family is, and where its histogram has come to.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    /// Bound and count of the last bucket.
    bucket: Option<(f64, f64)>,
}

impl Family<'_> {
    /// Whether a sample of this name and these labels may come now.
    fn take(&mut self, name: &str, labels: &[(String, String)], value: f64) -> Result<(), String> {
        let part = name.strip_prefix(self.name).ok_or_else(|| format!("{name} is not of {}", self.name))?;
        match (self.kind, part) {
            ("gauge" | "counter", "") => Ok(()),
            ("histogram", "_bucket") => {
                let [(label, bound)] = labels else { return Err("a bucket has one label".to_owned()) };
                let bound: f64 = bound.parse().map_err(|_| format!("bound {bound}"))?;
                let grows = self.bucket.is_none_or(|(before, count)| before < bound && count <= value);
                self.bucket = Some((bound, value));
                if label == "le" && grows { Ok(()) } else { Err("buckets do not grow".to_owned()) }
            }
            ("histogram", "_sum") => Ok(()),
            ("histogram", "_count") => match self.bucket {
                Some((f64::INFINITY, count)) if count.to_bits() == value.to_bits() => Ok(()),
                other => Err(format!("the count is not the last bucket's, {other:?}")),
            },
            (kind, part) => Err(format!("{kind} has no {part:?}")),
        }
    }
}

/// The value of each series.
///
/// # Panics
/// Names the line that is not as it should be.
pub(crate) fn read(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line ends");
    let (mut series, mut families) = (BTreeMap::new(), BTreeSet::new());
    let mut lines = text.lines();
    let mut family: Option<Family<'_>> = None;
    while let Some(line) = lines.next() {
        let fail = |why: &str| -> ! { panic!("{line}: {why}") };
        if let Some(help) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = help.split_once(' ') else { fail("no help") };
            if help.trim() != help || help.is_empty() || !is_name(name) || !families.insert(name) {
                fail("no good help, or one of a family that was there before");
            }
            let kind =
                lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.strip_prefix(name)?.strip_prefix(' '));
            let Some(kind @ ("counter" | "gauge" | "histogram")) = kind else { fail("no type follows") };
            if (kind == "counter") != name.ends_with("_total") {
                fail("counters, and only they, end in _total");
            }
            family = Some(Family { name, kind, bucket: None });
            continue;
        }
        let Some((key, value)) = line.rsplit_once(' ') else { fail("no value") };
        let Ok(value) = value.parse::<f64>() else { fail("no number") };
        let (name, labels) = match key.split_once('{') {
            Some((name, rest)) => (name, labels(rest).unwrap_or_else(|| fail("no labels"))),
            None => (key, Vec::new()),
        };
        let Some(family) = &mut family else { fail("no family") };
        if let Err(why) = family.take(name, &labels, value) {
            fail(&why);
        }
        if !value.is_finite() || series.insert(key.to_owned(), value).is_some() {
            fail("it is there already, or no number");
        }
    }
    series
}

fn is_name(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(first) && text.chars().all(|c| first(c) || c.is_ascii_digit())
}

/// `a="b",c="d"}`.
fn labels(text: &str) -> Option<Vec<(String, String)>> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = rest.split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                }),
                (_, c) => value.push(c),
            }
        };
        if !is_name(name) || labels.iter().any(|(known, _)| known == name) {
            return None;
        }
        labels.push((name.to_owned(), value));
        match &after[end + 1..] {
            "}" => return Some(labels),
            more => rest = more.strip_prefix(',')?,
        }
    }
}
