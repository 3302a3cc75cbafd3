//! What reading gives: objects with their place, and what had to be left out.
//!
//! Values only; everything that a person should read has a one-line `Display`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::PathBuf,
    sync::Arc,
};

use crate::model::{Object, ObjectRef};

/// A place in a file.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// As it was named to us; `stdin` for standard input.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An object and where it begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    /// The object.
    pub object: Object,
    /// First line of the document or List item.
    pub at: Position,
}

/// An object that was left out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadObject {
    /// First line of the document or List item.
    pub at: Position,
    /// `kind`, as far as it could be read.
    pub kind: Option<String>,
    /// `metadata.namespace`, or `default` where a kind of ours leaves it out.
    pub namespace: Option<String>,
    /// `metadata.name`, as far as it could be read.
    pub name: Option<String>,
    /// What is wrong, with the line where that is known.
    pub cause: String,
    /// Which object of ours it was meant to be.
    pub meant: Meant,
}

/// What a bad object was meant to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Meant {
    /// This object of a kind of ours.
    Object(ObjectRef),
    /// One or more that cannot be told, as in a broken List or without a name.
    Unclear,
    /// Of a kind that has no effect.
    Nothing,
}

impl BadObject {
    /// Place, object and cause, without what follows from it.
    #[must_use]
    pub fn problem(&self) -> String {
        let Self { at, kind, namespace, name, cause, meant: _ } = self;
        if kind.is_none() && name.is_none() {
            return format!("{at}: {cause}");
        }
        let kind = kind.as_deref().unwrap_or("object of unknown kind");
        let name = name.as_deref().unwrap_or("(no name)");
        match namespace {
            Some(namespace) => format!("{at}: {kind} {namespace}/{name}: {cause}"),
            None => format!("{at}: {kind} {name}: {cause}"),
        }
    }
}

impl fmt::Display for BadObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; this object is left out", self.problem())
    }
}

/// A kind that has no effect here.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct UnknownKind {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
}

impl UnknownKind {
    /// What there is to say about so many objects of it.
    #[must_use]
    pub fn message(&self, count: usize) -> String {
        let Self { api_version, kind } = self;
        let objects = if count == 1 { "object" } else { "objects" };
        format!("{api_version} {kind}: {count} {objects} of this kind: no effect")
    }
}

/// What one text holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Parsed {
    /// Good objects in the order of the text; the same object may be there twice.
    pub objects: Vec<Located>,
    /// Bad ones.
    pub bad: Vec<BadObject>,
    /// How many objects of each other kind.
    pub unknown: BTreeMap<UnknownKind, usize>,
}

impl Parsed {
    /// EndpointSlices that no Service can have, as they lack the label for it. An API server takes them, and so do we; in a
    /// file of one's own it is most often a slip.
    pub fn stray_slices(&self) -> impl Iterator<Item = StraySlice> {
        self.objects.iter().filter_map(|Located { object, at }| match object {
            Object::EndpointSlice(slice) if slice.service.is_none() && !slice.ignored => {
                Some(StraySlice { key: object.key(), at: at.clone() })
            }
            Object::EndpointSlice(_) | Object::Service(_) | Object::Endpoints(_) | Object::Node(_) => None,
        })
    }

    /// Puts back what `previous`, the same file parsed earlier, held for the objects that are bad now. If a bad object
    /// cannot be identified, everything that the file held and no longer holds is put back.
    pub fn keep_last_good(&mut self, previous: &Self) {
        let present: BTreeSet<ObjectRef> = self.objects.iter().map(|o| o.object.key()).collect();
        let lost = |key: &ObjectRef| {
            self.bad.iter().any(|b| match &b.meant {
                Meant::Object(bad) => bad == key,
                Meant::Unclear => true,
                Meant::Nothing => false,
            })
        };
        let kept = previous.objects.iter().filter(|o| {
            let key = o.object.key();
            !present.contains(&key) && lost(&key)
        });
        let kept: Vec<_> = kept.cloned().collect();
        self.objects.splice(0..0, kept);
    }
}

/// An EndpointSlice without `kubernetes.io/service-name`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StraySlice {
    /// Which one.
    pub key: ObjectRef,
    /// Where it is.
    pub at: Position,
}

impl fmt::Display for StraySlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, at } = self;
        write!(f, "{at}: {key}: no label kubernetes.io/service-name, so it is no Service's and has no effect")
    }
}

/// The same object twice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Duplicate {
    /// Which object.
    pub key: ObjectRef,
    /// The one without effect.
    pub dropped: Position,
    /// The one that counts.
    pub kept: Position,
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, dropped, kept } = self;
        write!(f, "{dropped}: {key}: given again at {kept}; the later one counts")
    }
}

/// A path that could not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The path.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: {}; check --from", self.path.display(), self.error)
    }
}

/// What all paths together hold.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Each object once.
    pub objects: BTreeMap<ObjectRef, Located>,
    /// Bad objects in the order of reading.
    pub bad: Vec<BadObject>,
    /// Objects that were given more than once.
    pub duplicates: Vec<Duplicate>,
    /// EndpointSlices of no Service.
    pub stray_slices: Vec<StraySlice>,
    /// How many objects of each other kind.
    pub unknown: BTreeMap<UnknownKind, usize>,
    /// Paths that could not be read.
    pub unreadable: Vec<Unreadable>,
}

impl Loaded {
    /// Whether everything could be read and nothing was bad.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.bad.is_empty() && self.unreadable.is_empty()
    }

    /// All there is to say about it, one line each.
    #[must_use]
    pub fn messages(&self) -> Vec<String> {
        let Self { objects: _, bad, duplicates, stray_slices, unknown, unreadable } = self;
        let unknown = unknown.iter().map(|(kind, count)| kind.message(*count));
        let unreadable = unreadable.iter().map(ToString::to_string);
        let bad = bad.iter().map(ToString::to_string);
        let duplicates = duplicates.iter().map(ToString::to_string);
        let stray = stray_slices.iter().map(ToString::to_string);
        unreadable.chain(bad).chain(duplicates).chain(stray).chain(unknown).collect()
    }
}

/// Joins what several texts hold, in that order: of the same object twice, the later counts.
#[must_use]
pub fn merge(parsed: impl IntoIterator<Item = Parsed>) -> Loaded {
    let mut loaded = Loaded::default();
    for parsed in parsed {
        loaded.stray_slices.extend(parsed.stray_slices());
        let Parsed { objects, bad, unknown } = parsed;
        for located in objects {
            let key = located.object.key();
            let kept = located.at.clone();
            if let Some(Located { at: dropped, .. }) = loaded.objects.insert(key.clone(), located) {
                loaded.duplicates.push(Duplicate { key, dropped, kept });
            }
        }
        loaded.bad.extend(bad);
        for (kind, count) in unknown {
            *loaded.unknown.entry(kind).or_default() += count;
        }
    }
    loaded
}
