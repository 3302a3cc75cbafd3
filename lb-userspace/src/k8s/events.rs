//! From text to tree: one YAML (or JSON) document.
//!
//! Only syntax is refused here. Scalars follow YAML 1.2's core schema: `yes` and `on` are text. So is a number with a
//! leading zero, which YAML 1.1 readers take for octal and others for decimal, and one with underscores.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::tree::{Map, Node, Value};

/// How deep things may be nested, so that nobody's stack overflows. Kubernetes' own types need about twenty levels.
const MAX_DEPTH: usize = 100;
/// How many values aliases may repeat in one document, so that a few lines cannot fill the memory.
const MAX_REPEATED: usize = 100_000;

/// Text that is not YAML.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SyntaxError {
    /// Line in the document, from 1.
    pub(super) line: u32,
    pub(super) cause: String,
}

/// Parses one document. Text without any is null.
pub(super) fn parse(text: &str) -> Result<Node<'_>, SyntaxError> {
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
        emit_comments: false,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| SyntaxError { line: line(e.marker().line()), cause: e.info() })?;
        builder.line = line(span.start.line());
        builder.event(event).map_err(|cause| SyntaxError { line: builder.line, cause })?;
    }
    Ok(builder.root.unwrap_or(Node { line: 1, value: Value::Null }))
}

fn line(number: usize) -> u32 {
    u32::try_from(number.max(1)).unwrap_or(u32::MAX)
}

/// What is being built, innermost last.
#[derive(Default)]
struct Builder<'a> {
    root: Option<Node<'a>>,
    open: Vec<Open<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    /// Values that aliases have repeated so far.
    repeated: usize,
    /// Of the current event.
    line: u32,
}

/// A collection that has not ended.
struct Open<'a> {
    line: u32,
    anchor: usize,
    content: Content<'a>,
}

enum Content<'a> {
    List(Vec<Node<'a>>),
    Map {
        entries: Vec<(Key<'a>, Node<'a>)>,
        /// The key whose value comes next.
        key: Option<Key<'a>>,
    },
}

struct Key<'a> {
    text: Cow<'a, str>,
    line: u32,
    /// `<<`, whose value is mixed into the mapping.
    merge: bool,
}

impl<'a> Builder<'a> {
    fn event(&mut self, event: Event<'a>) -> Result<(), String> {
        let line = self.line;
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let merge = style == ScalarStyle::Plain && tag.is_none() && text == "<<";
                let node = Node { line, value: scalar(text, style, tag.as_deref()) };
                self.complete(node, anchor, merge)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open { line, anchor, content: Content::List(Vec::new()) });
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.open.push(Open { line, anchor, content: Content::Map { entries: Vec::new(), key: None } });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { line, anchor, content }) = self.open.pop() else {
                    return Err("a collection ends that has not begun".to_owned());
                };
                let value = match content {
                    Content::List(items) => Value::List(items),
                    Content::Map { entries, .. } => Value::Map(map(entries)?),
                };
                self.complete(Node { line, value }, anchor, false)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err("an alias stands inside of what it repeats".to_owned());
                };
                self.repeated += size(&node);
                if self.repeated > MAX_REPEATED {
                    return Err(format!("aliases repeat more than {MAX_REPEATED} values"));
                }
                self.complete(Node { line, ..node }, 0, false)
            }
            Event::UnresolvedAlias(name) => Err(format!("alias *{name} repeats nothing")),
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            // Known to the parser because kube wants it so; not asked for.
            | Event::Comment(..) => Ok(()),
            // It would be new in the parser.
            other => Err(format!("the parser tells of something unknown: {other:?}")),
        }
    }

    /// A value is whole and goes where it belongs.
    fn complete(&mut self, node: Node<'a>, anchor: usize, merge: bool) -> Result<(), String> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None if self.root.is_some() => return Err("a second document begins without ---".to_owned()),
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(Key { line: node.line, text: key_text(node.value), merge }),
            },
        }
        Ok(())
    }
}

/// Any key as text: Kubernetes knows no others, so that what is no text is no known field.
fn key_text(value: Value<'_>) -> Cow<'_, str> {
    match value {
        Value::Text(text) => text,
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string().into(),
        Value::Signed(value) => value.to_string().into(),
        Value::Unsigned(value) => value.to_string().into(),
        Value::Float(value) => value.to_string().into(),
        Value::List(_) => "[…]".into(),
        Value::Map(_) => "{…}".into(),
    }
}

/// Closes a mapping: mixes in what `<<` names, where own keys win, and then what was named first.
fn map<'a>(all: Vec<(Key<'a>, Node<'a>)>) -> Result<Map<'a>, String> {
    let mut order: Vec<usize> = (0..all.len()).filter(|i| !all[*i].0.merge).collect();
    order.sort_by_key(|i| (&all[*i].0.text, *i));
    let twice = order.windows(2).filter(|w| all[w[0]].0.text == all[w[1]].0.text).map(|w| w[1]).min();
    let repeated = twice.map(|i| (all[i].0.text.clone(), all[i].0.line));
    let (merged, own): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| key.merge);
    let mut entries: Vec<_> = own.into_iter().map(|(key, node)| (key.text, node)).collect();
    if !merged.is_empty() {
        let mut known: HashSet<Cow<'a, str>> = entries.iter().map(|(key, _)| key.clone()).collect();
        for (_, Node { value, .. }) in merged {
            let sources =
                if let Value::List(items) = value { items.into_iter().map(|n| n.value).collect() } else { vec![value] };
            for source in sources {
                let Value::Map(source) = source else {
                    return Err("<< needs a mapping or a list of mappings".to_owned());
                };
                entries.extend(source.entries.into_iter().filter(|(key, _)| known.insert(key.clone())));
            }
        }
    }
    Ok(Map { entries, repeated })
}

fn size(node: &Node<'_>) -> usize {
    match &node.value {
        Value::List(items) => items.iter().map(size).sum::<usize>() + 1,
        Value::Map(map) => map.entries.iter().map(|(_, node)| size(node)).sum::<usize>() + 1,
        Value::Null | Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) | Value::Text(_) => 1,
    }
}

/// A scalar's value. Quotes and `!!str` make text; `!!int` and its like make a quoted scalar count as plain.
fn scalar<'a>(text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value<'a> {
    let plain = match tag.map(Tag::core_suffix) {
        Some(Some("null" | "bool" | "int" | "float")) => true,
        Some(_) => false,
        None => style == ScalarStyle::Plain,
    };
    if plain { resolve(&text).unwrap_or(Value::Text(text)) } else { Value::Text(text) }
}

/// What a plain scalar stands for, if not for itself (YAML 1.2.2, 10.3.2).
fn resolve(text: &str) -> Option<Value<'static>> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some((radix, digits)) = text.strip_prefix("0x").map(|d| (16, d)).or(text.strip_prefix("0o").map(|d| (8, d)))
    {
        let number = digits.chars().all(|c| c.is_digit(radix)).then(|| u64::from_str_radix(digits, radix).ok())??;
        return Some(whole(number));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let first = digits.bytes().next()?;
    if !first.is_ascii_digit() && first != b'.' {
        return None;
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        if digits.len() > 1 && first == b'0' {
            return None;
        }
        let signed = text.parse().ok().map(Value::Signed);
        let unsigned = || text.parse().ok().map(Value::Unsigned);
        return signed.or_else(unsigned).or_else(|| text.parse().ok().map(Value::Float));
    }
    is_float(digits).then(|| text.parse().ok().map(Value::Float)).flatten()
}

fn whole(number: u64) -> Value<'static> {
    i64::try_from(number).map_or(Value::Unsigned(number), Value::Signed)
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_good = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_is_good
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
