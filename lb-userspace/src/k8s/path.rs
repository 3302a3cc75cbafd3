//! The name of a field inside an object, and what is wrong with it.

use std::fmt;

/// One step into an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// A key of a mapping.
    Key(String),
    /// An index of a sequence, from 0.
    Index(usize),
}

/// A path such as `spec.ports[0].port`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FieldPath(pub(super) Vec<Step>);

impl FieldPath {
    /// A path of keys, outermost first.
    #[must_use]
    pub fn new<const N: usize>(keys: [&str; N]) -> Self {
        Self(keys.into_iter().map(|k| Step::Key(k.to_owned())).collect())
    }

    /// This path and a further key.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_owned()));
        path
    }

    /// This path and an index.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }

    /// Whether it names the object itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) if key.contains(['.', '/']) => write!(f, "[\"{key}\"]")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Why an object is bad.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}{cause}", prefix(path))]
pub struct Invalid {
    /// The field; empty: the object as a whole.
    pub path: FieldPath,
    /// What is wrong with it, and what would be right.
    pub cause: String,
}

impl Invalid {
    /// A bad field.
    pub fn new(path: FieldPath, cause: impl Into<String>) -> Self {
        Self { path, cause: cause.into() }
    }
}

fn prefix(path: &FieldPath) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}
