//! EndpointSlices as the index holds them: packed, without the name of their Service, and mostly without their own, which begins
//! with that. Controllers name a slice `SERVICE-`, and five characters (`generateName`); a name of another form is kept whole.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::{
    EndpointGroup, EndpointSlice, SliceFamily,
    bytes::{put_text, take, text},
    names::{Names, Numbers},
    packed::{give_back_group, pack_group, unpack_group},
    record::Piece,
};
use crate::plan::state::ServiceName;

/// Namespace and name of a slice.
pub(super) type SliceKey = (Arc<str>, Arc<str>);

/// In front of a slice whose name is that of its Service, a dash, and this.
const SUFFIX: u8 = 1;
/// In front of a slice whose whole name this is.
const WHOLE: u8 = 2;

const IGNORED: u8 = 1;
const MIRRORED: u8 = 1 << 1;
/// Where the place in [`FAMILIES`] is.
const FAMILY_SHIFT: u32 = 2;
const FAMILIES: [SliceFamily; 3] = [SliceFamily::V4, SliceFamily::V6, SliceFamily::Fqdn];

/// The Service that a slice's name points to, if it is named like that, and what is behind it.
pub(super) fn points_to(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('-')
}

/// The head of a slice's piece in the record of this Service.
pub(super) fn head(service: &str, name: &str) -> Vec<u8> {
    let mut head = Vec::new();
    put_head(service, name, &mut head);
    head
}

fn put_head(service: &str, name: &str, out: &mut Vec<u8>) {
    let (kind, kept) = match points_to(name) {
        Some((start, suffix)) if start == service => (SUFFIX, suffix),
        Some(_) | None => (WHOLE, name),
    };
    out.push(kind);
    put_text(kept, out);
}

/// Whether a slice's head is one with a whole name: its name does not tell where it is.
pub(super) fn is_stray(head: &[u8]) -> bool {
    head.first() == Some(&WHOLE)
}

/// Packs a slice for the record of `service`, its own or what stands for none. [`Packed::give_back`] is to be called at the end
/// of what it gives.
pub(super) fn pack(slice: &EndpointSlice, service: &str, numbers: &mut Numbers, piece: &mut Piece) {
    let EndpointSlice { namespace: _, name, service: _, ignored, mirrored, family, triggered: _, group } = slice;
    piece.begin(|head| put_head(service, name, head));
    let family = FAMILIES.iter().position(|known| known == family).expect("all families are there");
    let flags = [(*ignored, IGNORED), (*mirrored, MIRRORED)].into_iter().filter(|(set, _)| *set);
    piece.bytes.push(flags.fold((family as u8) << FAMILY_SHIFT, |all, (_, flag)| all | flag));
    pack_group(group, numbers, &mut piece.bytes);
}

/// What is in a slice's piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packed<'a> {
    kind: u8,
    kept_name: &'a str,
    flags: u8,
    group: &'a [u8],
}

impl<'a> Packed<'a> {
    pub(super) fn of(mut piece: &'a [u8]) -> Self {
        let rest = &mut piece;
        Self { kind: take(rest), kept_name: text(rest), flags: take(rest), group: rest }
    }

    pub(super) const fn is_ignored(self) -> bool {
        self.flags & IGNORED != 0
    }

    pub(super) const fn is_mirrored(self) -> bool {
        self.flags & MIRRORED != 0
    }

    /// Its name, in the record of this Service.
    pub(super) fn name(self, service: &str) -> Arc<str> {
        if self.kind == WHOLE { self.kept_name.into() } else { format!("{service}-{}", self.kept_name).into() }
    }

    /// Its endpoints.
    pub(super) fn group(self, names: &[Arc<str>]) -> EndpointGroup {
        unpack_group(self.group, names)
    }

    /// The names of its endpoints are no longer needed.
    pub(super) fn give_back(self, numbers: &mut Numbers) {
        give_back_group(self.group, numbers);
    }
}

/// An EndpointSlice that stays as it is, whatever happens to the index that it is from. Written as [`EndpointSlice`] is.
#[derive(Clone, Debug)]
pub struct SharedSlice {
    name: Arc<str>,
    /// The Service whose record it is from; without a name, it has none.
    home: ServiceName,
    piece: Box<[u8]>,
    names: Names,
}

impl SharedSlice {
    /// The slice of a piece of this Service's record.
    pub(super) fn new(home: ServiceName, packed: Packed<'_>, piece: &[u8], names: Names) -> Self {
        Self { name: packed.name(home.name()), home, piece: piece.into(), names }
    }

    /// Namespace and name.
    #[must_use]
    pub fn name(&self) -> (&str, &str) {
        (self.home.namespace(), &self.name)
    }

    /// The Service that it belongs to.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceName> {
        Some(&self.home).filter(|home| !home.name().is_empty())
    }

    /// The slice itself, but for `triggered`.
    #[must_use]
    pub fn to_slice(&self) -> EndpointSlice {
        let packed = Packed::of(&self.piece);
        EndpointSlice {
            namespace: self.home.namespace().into(),
            name: self.name.clone(),
            service: self.service().cloned(),
            ignored: packed.is_ignored(),
            mirrored: packed.is_mirrored(),
            family: FAMILIES[usize::from(packed.flags >> FAMILY_SHIFT)],
            triggered: None,
            group: packed.group(&self.names),
        }
    }
}

impl From<EndpointSlice> for SharedSlice {
    fn from(slice: EndpointSlice) -> Self {
        let mut numbers = Numbers::default();
        let home = home(&slice);
        let mut piece = Piece::default();
        pack(&slice, home.name(), &mut numbers, &mut piece);
        Self { name: slice.name, home, piece: piece.bytes.into(), names: numbers.names() }
    }
}

impl Serialize for SharedSlice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_slice().serialize(serializer)
    }
}

/// Whose record a slice is in: its Service's, or that of one without a name in its namespace.
pub(super) fn home(slice: &EndpointSlice) -> ServiceName {
    slice.service.clone().unwrap_or_else(|| ServiceName::new(&slice.namespace, ""))
}
