//! A document as a tree of values that know their line, so that each object in it can be judged by itself.
//!
//! Only syntax is checked here. Repeated keys are remembered, not refused: they spoil the object they stand in, not the
//! document. Untyped scalars follow YAML 1.2: `yes` and `on` are text, and so is a number with a leading zero, which
//! YAML 1.1 readers take for octal and others for decimal.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_yaml::Spanned;

use super::path::{FieldPath, Invalid, Step};

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Line in the document, from 1, where it begins.
    pub(super) line: u32,
    /// The value.
    pub(super) value: Value,
}

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

/// A mapping in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Map {
    pub(super) entries: Vec<(String, Node)>,
    /// A key that stands there twice, and the line of the second.
    repeated: Option<(String, u32)>,
}

/// Text that is not YAML.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SyntaxError {
    /// Line in the document, from 1, if known.
    pub(super) line: Option<u32>,
    pub(super) cause: String,
}

/// Parses one document. The limits only keep a hostile file from exhausting memory: a List of 10,000 slices as
/// `kubectl` prints it passes.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_events: 60_000_000,
            max_nodes: 30_000_000,
            max_total_scalar_bytes: 1 << 30,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: 100_000 },
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::PassThrough,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    serde_yaml::from_str_with_options(text, options).map_err(|error| {
        let cause = error.to_string();
        let Some(place) = error.location().filter(|l| l.line() > 0) else { return SyntaxError { line: None, cause } };
        // The message ends with a line that counts from the start of the document, not of the file.
        let place_text = format!(" at line {}, column {}", place.line(), place.column());
        let cause = cause.strip_suffix(&place_text).unwrap_or(&cause).to_owned();
        SyntaxError { line: u32::try_from(place.line()).ok(), cause }
    })
}

impl Node {
    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(map) => map.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            Value::Null
            | Value::Bool(_)
            | Value::Signed(_)
            | Value::Unsigned(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_) => None,
        }
    }

    /// The text of a key, if it has one that is not empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            Value::Text(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Signed(_)
            | Value::Unsigned(_)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_) => None,
        }
    }

    /// The line of a field, or of the innermost thing around it that is there.
    pub(super) fn line_of(&self, path: &FieldPath) -> u32 {
        let mut node = self;
        for step in &path.0 {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(_)) => node.get(key),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                (Step::Key(_) | Step::Index(_), _) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line
    }

    /// The first repeated key in it or in anything below, outermost first.
    pub(super) fn repeated_key(&self) -> Option<(Invalid, u32)> {
        self.find_repeated(&FieldPath::default())
    }

    fn find_repeated(&self, path: &FieldPath) -> Option<(Invalid, u32)> {
        match &self.value {
            Value::Map(Map { entries, repeated }) => {
                if let Some((key, line)) = repeated {
                    let cause = format!("the key \"{key}\" stands here twice; keep one");
                    return Some((Invalid::new(path.clone(), cause), *line));
                }
                entries.iter().find_map(|(key, value)| value.find_repeated_below(path, || Step::Key(key.clone())))
            }
            Value::List(items) => {
                items.iter().enumerate().find_map(|(i, item)| item.find_repeated_below(path, || Step::Index(i)))
            }
            Value::Null | Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) | Value::Text(_) => {
                None
            }
        }
    }

    fn find_repeated_below(&self, path: &FieldPath, step: impl Fn() -> Step) -> Option<(Invalid, u32)> {
        match &self.value {
            Value::Map(_) | Value::List(_) => {
                let mut below = path.clone();
                below.0.push(step());
                self.find_repeated(&below)
            }
            Value::Null | Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) | Value::Text(_) => {
                None
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: line(&spanned), value: spanned.value })
    }
}

fn line<T>(spanned: &Spanned<T>) -> u32 {
    u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Signed(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Unsigned(value))
    }

    // Wider than any field of ours: kept, so that the field is named when it is decoded.
    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        let mut lines = Vec::new();
        while let Some(key) = items.next_key::<Spanned<Key>>()? {
            lines.push(line(&key));
            entries.push((key.value.0, items.next_value()?));
        }
        let mut order: Vec<usize> = (0..lines.len()).collect();
        order.sort_by_key(|i| (&entries[*i].0, *i));
        let twice = order.windows(2).filter(|w| entries[w[0]].0 == entries[w[1]].0).map(|w| w[1]).min();
        let repeated = twice.map(|i| (entries[i].0.clone(), lines[i]));
        Ok(Value::Map(Map { entries, repeated }))
    }
}

/// A key, as text whatever it is: Kubernetes knows no others, so anything else is simply no known field.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_unit<E: Error>(self) -> Result<Key, E> {
        Ok(Key("null".to_owned()))
    }

    fn visit_none<E: Error>(self) -> Result<Key, E> {
        Ok(Key("null".to_owned()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        Key::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Key, E> {
        Ok(Key(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Key, E> {
        Ok(Key(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Key, E> {
        Ok(Key(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Key, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Key("[…]".to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Key, A::Error> {
        while items.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Key("{…}".to_owned()))
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
