//! Annotations of ours on a Service. A bad one never makes its Service bad: it is told, and the Service goes on as
//! without it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::fields;
use crate::{
    model::{BadAnnotation, Weights, shared},
    plan::state::Algorithm,
};

/// What stands before the names of ours.
const PREFIX: &str = "berrylb.io/";
/// `random` or `maglev`.
const ALGORITHM: &str = "berrylb.io/algorithm";
/// `NODE=WEIGHT` and `ADDRESS=WEIGHT`, separated by commas.
const WEIGHTS: &str = "berrylb.io/weights";
/// The largest weight.
const MAX_WEIGHT: u16 = 1000;

/// What the annotations ask for.
#[derive(Default)]
pub(super) struct Annotations {
    pub(super) algorithm: Option<Algorithm>,
    pub(super) weights: Weights,
    pub(super) bad: Vec<BadAnnotation>,
}

impl Annotations {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        let mut found = Self::default();
        for (name, value) in metadata.annotations.iter().flatten().filter(|(name, _)| name.starts_with(PREFIX)) {
            let taken = match name.as_str() {
                ALGORITHM => value.parse().map(|algorithm| found.algorithm = Some(algorithm)),
                WEIGHTS => weights(value).map(|weights| found.weights = weights),
                _ => Err(format!("no annotation of this version; known are {ALGORITHM} and {WEIGHTS}")),
            };
            if let Err(cause) = taken {
                found.bad.push(BadAnnotation { name: name.clone(), cause });
            }
        }
        found
    }
}

fn weights(text: &str) -> Result<Weights, String> {
    let mut weights = Weights::default();
    for entry in text.split(',') {
        let entry = entry.trim();
        let (name, weight) =
            entry.split_once('=').ok_or_else(|| format!("{entry:?} is not NODE=WEIGHT or ADDRESS=WEIGHT"))?;
        let (name, weight) = (name.trim(), weight.trim());
        let weight = match weight.parse::<u16>() {
            // `+3` is a number to Rust; to a reader it may be an increment.
            Ok(number) if number <= MAX_WEIGHT && !weight.starts_with('+') => number,
            _ => return Err(format!("{weight:?} is not a weight: 0–{MAX_WEIGHT}")),
        };
        let known = match fields::address(name, Default::default) {
            Ok(address) => weights.addresses.insert(address, weight),
            Err(_) if name.is_empty() => return Err(format!("{entry:?} names no node and no address")),
            Err(_) => weights.nodes.insert(shared(fields::checked_name(name)?), weight),
        };
        if known.is_some() {
            return Err(format!("{name} is listed twice"));
        }
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_for_nodes_and_addresses() {
        let found = weights("raspi003=3, 10.244.2.66=0 ,fd00::1 = 1000,::ffff:10.0.0.1=7").unwrap();
        let nodes: Vec<_> = found.nodes.iter().map(|(name, weight)| (&**name, *weight)).collect();
        assert_eq!(nodes, [("raspi003", 3)]);
        let addresses: Vec<_> = found.addresses.iter().map(|(ip, weight)| (ip.to_string(), *weight)).collect();
        let expected = [("10.0.0.1", 7), ("10.244.2.66", 0), ("fd00::1", 1000)];
        assert_eq!(addresses, expected.map(|(ip, weight)| (ip.to_owned(), weight)));
    }

    #[test]
    fn bad_weights_name_the_part() {
        for (text, part) in [
            ("", "\"\" is not NODE=WEIGHT"),
            ("a=1,", "\"\" is not NODE=WEIGHT"),
            ("a", "\"a\" is not NODE=WEIGHT"),
            ("=1", "\"=1\" names no node"),
            ("a=1001", "\"1001\" is not a weight: 0–1000"),
            ("a=-1", "\"-1\" is not a weight"),
            ("a=+1", "\"+1\" is not a weight"),
            ("a=1.5", "\"1.5\" is not a weight"),
            ("a=", "\"\" is not a weight"),
            ("a=1=2", "\"1=2\" is not a weight"),
            ("a=1,b=2,a=3", "a is listed twice"),
            ("10.0.0.1=1,::ffff:10.0.0.1=1", "::ffff:10.0.0.1 is listed twice"),
            ("Pi=1", "\"Pi\" is not a name"),
            ("10.0.0.1:80=1", "\"10.0.0.1:80\" is not a name"),
        ] {
            let cause = weights(text).unwrap_err();
            assert!(cause.contains(part), "{text:?}: {cause}");
        }
    }
}
