//! A document as a tree of values that know their line, so that each object in it can be judged by itself.
//!
//! Only looks things up; `events` builds it from text, `decode` makes objects of it.

use std::borrow::Cow;

use super::path::{FieldPath, Invalid, Step};

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node<'a> {
    /// Line in the document, from 1, where it begins.
    pub(super) line: u32,
    /// The value.
    pub(super) value: Value<'a>,
}

/// A YAML value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Map(Map<'a>),
}

/// A mapping in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Map<'a> {
    pub(super) entries: Vec<(Cow<'a, str>, Node<'a>)>,
    /// A key that stands there twice, and the line of the second. It spoils the object, not the document.
    pub(super) repeated: Option<(Cow<'a, str>, u32)>,
}

impl<'a> Node<'a> {
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

    /// The first repeated key in it or in anything below, outermost first, with the line where it is repeated.
    pub(super) fn repeated_key(&self) -> Option<(Invalid, u32)> {
        match &self.value {
            Value::Map(Map { repeated: Some((key, line)), .. }) => {
                let cause = format!("the key \"{key}\" stands here twice; keep one");
                Some((Invalid::new(FieldPath::default(), cause), *line))
            }
            Value::Map(Map { entries, repeated: None }) => {
                entries.iter().find_map(|(key, node)| node.repeated_below(|| Step::Key(key.to_string())))
            }
            Value::List(items) => items.iter().enumerate().find_map(|(i, node)| node.repeated_below(|| Step::Index(i))),
            Value::Null | Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) | Value::Text(_) => {
                None
            }
        }
    }

    fn repeated_below(&self, step: impl FnOnce() -> Step) -> Option<(Invalid, u32)> {
        let (mut invalid, line) = self.repeated_key()?;
        invalid.path.0.insert(0, step());
        Some((invalid, line))
    }
}
