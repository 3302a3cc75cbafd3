//! Patterns for device names and others: `*` stands for any characters, `?` for one. Nothing else is special.

use std::{fmt, str::FromStr};

/// A pattern for device names, such as `veth*`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Glob {
    pattern: String,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GlobError {
    /// Nothing matches an empty pattern.
    #[error("a device pattern is empty; to match no device leave out the comma, or name one that does not exist")]
    Empty,
    /// No device name has such a character (`dev_valid_name` of the kernel).
    #[error("device pattern {pattern:?}: no device name contains {character:?}")]
    Impossible {
        /// The pattern.
        pattern: String,
        /// The character.
        character: char,
    },
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if let Some(character) = text.chars().find(|c| c.is_whitespace() || matches!(c, '/' | ':' | ',')) {
            return Err(GlobError::Impossible { pattern: text.to_owned(), character });
        }
        Ok(Self { pattern: text.to_owned() })
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

impl Glob {
    /// A pattern for names that are no devices': any text is one.
    pub fn for_names(pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into() }
    }

    /// Whether the whole of `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.pattern.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on if what follows the last star does not fit: one more character belongs to the star.
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p, n));
                    p += 1;
                }
                Some(c) if *c == b'?' || Some(c) == name.get(n) => {
                    p += 1;
                    n += 1;
                }
                Some(_) | None => match retry {
                    Some((star, from)) => {
                        retry = Some((star, from + 1));
                        p = star + 1;
                        n = from + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == b'*'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("eth*", "eth0.100", true),
            ("*.100", "eth0.100", true),
            ("*.100", "eth0.1000", false),
            ("e*h?", "eth0", true),
            ("e*h?", "eth", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("*aab", "aaab", true),
            ("*", "anything", true),
            ("?", "", false),
        ];
        for (pattern, name, expected) in cases {
            let glob: Glob = pattern.parse().expect("a pattern");
            assert_eq!(glob.matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn impossible_patterns_are_named() {
        assert_eq!("".parse::<Glob>(), Err(GlobError::Empty));
        let error = "eth0, eth1".parse::<Glob>().expect_err("a comma");
        assert!(error.to_string().contains("','"), "{error}");
    }
}
