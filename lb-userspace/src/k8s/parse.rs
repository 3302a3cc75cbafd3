//! One text into objects: documents, Lists and their items, each judged by itself.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    BadObject, FieldPath, Invalid, Located, Meant, Parsed, Position, UnknownKind, convert,
    decode::decode,
    documents::{self, Document},
    events::{self, SyntaxError},
    tree::{Node, Value},
};
use crate::model::{Kind, Object, ObjectRef};

/// The kinds that stand for the objects they hold, with the kind that items need not repeat.
const LISTS: [(&str, &str, Option<&str>); 5] = [
    ("v1", "List", None),
    ("v1", "ServiceList", Some("Service")),
    ("v1", "EndpointsList", Some("Endpoints")),
    ("v1", "NodeList", Some("Node")),
    ("discovery.k8s.io/v1", "EndpointSliceList", Some("EndpointSlice")),
];

/// Reads all objects of a YAML or JSON text. Never fails: what is bad is part of the result. `file` is how positions
/// name the text.
#[must_use]
pub fn parse(file: &str, bytes: &[u8]) -> Parsed {
    let mut reader = Reader { file: file.into(), first_line: 1, parsed: Parsed::default() };
    for document in documents::split(bytes) {
        reader.document(&document);
    }
    reader.parsed
}

struct Reader {
    file: Arc<str>,
    /// Of the current document.
    first_line: u32,
    parsed: Parsed,
}

/// `apiVersion` and `kind`.
#[derive(Clone, Copy)]
struct TypeMeta<'a> {
    api_version: &'a str,
    kind: &'a str,
}

impl Reader {
    fn document(&mut self, document: &Document<'_>) {
        self.first_line = document.first_line;
        let at = Position { file: self.file.clone(), line: document.content_line };
        let text = match std::str::from_utf8(document.text) {
            Ok(text) => text,
            Err(error) => {
                let before = &document.text[..error.valid_up_to()];
                let line = self.line(1 + before.iter().filter(|b| **b == b'\n').count());
                let cause = format!("not UTF-8 text (line {line})");
                let readable = String::from_utf8_lossy(before);
                self.parsed.bad.push(Guess::from_text(&readable).bad(at, cause));
                return;
            }
        };
        match events::parse(text) {
            Ok(Node { value: Value::Null, .. }) => {}
            Ok(root) => self.object(&root, None, at),
            Err(SyntaxError { line, cause }) => {
                let cause = format!("not valid YAML (line {}): {cause}", self.line(line as usize));
                self.parsed.bad.push(Guess::from_text(text).bad(at, cause));
            }
        }
    }

    /// Line in the file of a line of the current document.
    fn line(&self, in_document: usize) -> u32 {
        u32::try_from(in_document).unwrap_or(u32::MAX).saturating_add(self.first_line - 1)
    }

    /// A document or an item. `implied`: what a typed list says of its items.
    fn object(&mut self, node: &Node<'_>, implied: Option<TypeMeta<'_>>, at: Position) {
        let meta = match type_meta(node, implied) {
            Ok(meta) => meta,
            Err(invalid) => return self.bad(node, implied, at, &invalid, None),
        };
        if let Some((_, _, item_kind)) = LISTS.iter().find(|l| (l.0, l.1) == (meta.api_version, meta.kind)) {
            let implied = item_kind.map(|kind| TypeMeta { api_version: meta.api_version, kind });
            return self.list(node, meta, implied, at);
        }
        let Some(kind) = Kind::from_names(meta.api_version, meta.kind) else {
            let unknown = UnknownKind { api_version: meta.api_version.to_owned(), kind: meta.kind.to_owned() };
            *self.parsed.unknown.entry(unknown).or_default() += 1;
            return;
        };
        if let Some((invalid, line)) = node.repeated_key() {
            return self.bad(node, Some(meta), at, &invalid, Some(line));
        }
        let object = match kind {
            Kind::Service => convert(node, convert::service).map(Object::Service),
            Kind::EndpointSlice => convert(node, convert::endpoint_slice).map(Object::EndpointSlice),
            Kind::Endpoints => convert(node, convert::endpoints).map(Object::Endpoints),
            Kind::Node => convert(node, convert::node).map(Object::Node),
        };
        match object {
            Ok(object) => self.parsed.objects.push(Located { object, at }),
            Err(invalid) => self.bad(node, Some(meta), at, &invalid, None),
        }
    }

    fn list(&mut self, node: &Node<'_>, meta: TypeMeta<'_>, implied: Option<TypeMeta<'_>>, at: Position) {
        match node.get("items").map(|items| &items.value) {
            None | Some(Value::Null) => {}
            Some(Value::List(items)) => {
                for item in items {
                    let at = Position { file: self.file.clone(), line: self.line(item.line as usize) };
                    self.object(item, implied, at);
                }
            }
            Some(_) => self.bad(node, Some(meta), at, &Invalid::new(FieldPath::new(["items"]), "is not a list"), None),
        }
    }

    /// `line`: in the document, of the fault; `None`: where the field is.
    fn bad(&mut self, node: &Node<'_>, meta: Option<TypeMeta<'_>>, at: Position, invalid: &Invalid, line: Option<u32>) {
        let line = self.line(line.unwrap_or_else(|| node.line_of(&invalid.path)) as usize);
        let cause = match (invalid.path.is_empty(), line == at.line) {
            (true, true) => invalid.cause.clone(),
            (true, false) => format!("line {line}: {}", invalid.cause),
            (false, _) => format!("{} (line {line}): {}", invalid.path, invalid.cause),
        };
        let metadata = node.get("metadata");
        let owned = |key: &str| metadata.and_then(|m| m.text(key)).map(str::to_owned);
        let guess = Guess {
            api_version: meta.map(|m| m.api_version).or_else(|| node.text("apiVersion")).map(str::to_owned),
            kind: meta.map(|m| m.kind).or_else(|| node.text("kind")).map(str::to_owned),
            namespace: owned("namespace"),
            name: owned("name"),
        };
        self.parsed.bad.push(guess.bad(at, cause));
    }
}

fn convert<'de, S: Deserialize<'de>, T>(
    node: &'de Node<'_>,
    convert: impl FnOnce(&S) -> Result<T, Invalid>,
) -> Result<T, Invalid> {
    convert(&decode::<S>(node)?)
}

fn type_meta<'a>(node: &'a Node<'_>, implied: Option<TypeMeta<'a>>) -> Result<TypeMeta<'a>, Invalid> {
    if !matches!(node.value, Value::Map(_)) {
        return Err(Invalid::new(FieldPath::default(), "not an object: a mapping with apiVersion and kind is needed"));
    }
    let field = |key: &str, implied: Option<&'a str>| {
        let missing = || Invalid::new(FieldPath::new([key]), "is missing or not text");
        node.text(key).or(implied).ok_or_else(missing)
    };
    Ok(TypeMeta {
        kind: field("kind", implied.map(|m| m.kind))?,
        api_version: field("apiVersion", implied.map(|m| m.api_version))?,
    })
}

/// What can be told of an object that is bad.
#[derive(Debug, Default)]
struct Guess {
    api_version: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

impl Guess {
    /// Reads the name off a text that is no YAML, line by line: good enough to tell a person, and the agent, which
    /// object is meant. Of a List only the kind is told, for its items may be anything.
    fn from_text(text: &str) -> Self {
        let mut guess = Self::default();
        let mut in_metadata = false;
        let mut indent = None;
        let value = |line: &str, key: &str| {
            let rest = line.strip_prefix(key)?.strip_prefix(':')?;
            let word = rest.split(" #").next().unwrap_or(rest).trim().trim_matches(['"', '\'']);
            let plain = !word.is_empty() && !word.contains([' ', '{', '[', '&', '*', '"', '\'']);
            plain.then(|| word.to_owned())
        };
        for line in text.lines() {
            let bare = line.trim_start_matches(' ');
            let depth = line.len() - bare.len();
            if depth == 0 && !bare.is_empty() && !bare.starts_with('#') {
                in_metadata = bare.trim_end() == "metadata:";
                indent = None;
                guess.api_version = guess.api_version.or_else(|| value(bare, "apiVersion"));
                guess.kind = guess.kind.or_else(|| value(bare, "kind"));
            } else if in_metadata && !bare.is_empty() && *indent.get_or_insert(depth) == depth {
                guess.namespace = guess.namespace.or_else(|| value(bare, "namespace"));
                guess.name = guess.name.or_else(|| value(bare, "name"));
            }
        }
        guess
    }

    fn bad(self, at: Position, cause: String) -> BadObject {
        let Self { api_version, kind, mut namespace, name } = self;
        let names = api_version.as_deref().zip(kind.as_deref());
        let ours = names.and_then(|(api_version, kind)| Kind::from_names(api_version, kind));
        match ours {
            Some(kind) if kind.is_namespaced() => namespace = namespace.or_else(|| Some("default".to_owned())),
            Some(_) => namespace = None,
            None => {}
        }
        let meant = match (ours, &name, names) {
            (Some(kind), Some(name), _) => {
                Meant::Object(ObjectRef::new(kind, namespace.as_deref().unwrap_or_default(), name.as_str()))
            }
            (None, _, Some(names)) if !LISTS.iter().any(|list| (list.0, list.1) == names) => Meant::Nothing,
            (Some(_) | None, _, _) => Meant::Unclear,
        };
        BadObject { at, kind, namespace, name, cause, meant }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
