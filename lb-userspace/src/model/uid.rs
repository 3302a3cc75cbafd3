//! `metadata.uid`: what tells an object from an earlier one of the same name. It keeps what the API server gave, byte for
//! byte, in as little room as it can; it says nothing about any object.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A uid. API servers give UUIDs, but promise no form (`types.UID` of apimachinery).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uid(Form);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    /// A UUID in lower case, which is kept for every Service.
    Uuid([u8; 16]),
    Text(Box<str>),
}

/// The lengths of the five parts of a UUID's text, in digits (RFC 9562 4).
const PARTS: [usize; 5] = [8, 4, 4, 4, 12];

impl Uid {
    /// `None`: an empty text is no uid.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        let lengths = text.split('-').map(str::len);
        let digits = text.bytes().all(|b| b == b'-' || b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let uuid = (lengths.eq(PARTS) && digits).then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok());
        Some(Self(match uuid.flatten() {
            Some(number) => Form::Uuid(number.to_be_bytes()),
            None => Form::Text(text.into()),
        }))
    }

    /// The number that it is if it is a UUID in lower case.
    pub(super) const fn as_uuid(&self) -> Option<[u8; 16]> {
        match self.0 {
            Form::Uuid(bytes) => Some(bytes),
            Form::Text(_) => None,
        }
    }

    /// The UUID that is this number.
    pub(super) const fn from_uuid(bytes: [u8; 16]) -> Self {
        Self(Form::Uuid(bytes))
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| D::Error::custom("an empty text is no uid"))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match &self.0 {
            Form::Text(text) => return f.write_str(text),
            Form::Uuid(bytes) => bytes,
        };
        let digits = format!("{:032x}", u128::from_be_bytes(*bytes));
        let mut rest = digits.as_str();
        for (i, length) in PARTS.into_iter().enumerate() {
            let (part, behind) = rest.split_at(length);
            f.write_str(if i > 0 { "-" } else { "" })?;
            f.write_str(part)?;
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_comes_out_as_it_went_in() {
        for (text, is_uuid) in [
            ("5f1a4a0e-6f0b-4c7e-9d8c-0123456789ab", true),
            ("00000000-0000-4000-8000-000000000001", true),
            ("5F1A4A0E-6f0b-4c7e-9d8c-0123456789ab", false),
            ("5f1a4a0e6f0b4c7e9d8c0123456789ab", false),
            ("5f1a4a0-e6f0b-4c7e-9d8c-0123456789ab", false),
            ("+f1a4a0e-6f0b-4c7e-9d8c-0123456789ab", false),
            ("anything", false),
        ] {
            let uid = Uid::new(text).unwrap();
            assert_eq!((uid.to_string().as_str(), matches!(uid.0, Form::Uuid(_))), (text, is_uuid));
        }
        assert_eq!(Uid::new(""), None);
        assert!(size_of::<Option<Uid>>() <= 24);
    }
}
