//! Whose sockets are left to the packet path, as the operator writes it: cgroups by pattern, network namespaces by name.
//! Reads nothing of the machine.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::Deserialize;

use super::values::list_text;
use crate::net::Glob;

/// Folder of named network namespaces (ip-netns(8)); container runtimes keep theirs there as well.
const NETNS_DIR: &str = "/run/netns";

/// cgroups below `--cgroup`, each with everything beneath it: a pattern for each level, as `kubepods*/*/pod4711*`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CgroupGlob {
    text: String,
    levels: Vec<Glob>,
}

impl CgroupGlob {
    /// Patterns of the names from `--cgroup` down; at least one.
    #[must_use]
    pub fn levels(&self) -> &[Glob] {
        &self.levels
    }
}

impl FromStr for CgroupGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let levels: Vec<&str> = text.split('/').collect();
        if levels.iter().any(|level| level.is_empty() || matches!(*level, "." | "..")) {
            return Err(format!(
                "{text:?} is no cgroup below --cgroup: write a pattern for each level, with no slash at either end, as in \
                 kubepods.slice/kubepods-*.slice/*-pod4711*"
            ));
        }
        Ok(Self { text: text.to_owned(), levels: levels.into_iter().map(Glob::for_names).collect() })
    }
}

impl fmt::Display for CgroupGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Network namespaces by the files that stand for them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetnsName {
    /// The folder.
    pub folder: PathBuf,
    /// Names in it.
    pub name: Glob,
}

impl FromStr for NetnsName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (folder, name) = match text.rsplit_once('/') {
            None => (NETNS_DIR, text),
            Some((folder, name)) if folder.starts_with('/') => (folder, name),
            Some(_) => return Err(format!("{text:?} is neither a name in {NETNS_DIR} nor an absolute path")),
        };
        if matches!(name, "" | "." | "..") {
            return Err(format!("{text:?} names no network namespace"));
        }
        Ok(Self { folder: folder.into(), name: Glob::for_names(name) })
    }
}

/// A list with commas, or a YAML list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed<T>(pub Vec<T>);

impl<T: FromStr<Err = String>> FromStr for Listed<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(T::from_str).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Listed<T> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        list_text(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is left to the packet path.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SkipRules {
    /// By the calling task's cgroup.
    pub cgroups: Vec<CgroupGlob>,
    /// By the socket's network namespace.
    pub netns: Vec<NetnsName>,
}

impl SkipRules {
    /// Bit n: a pattern has n levels, so cgroups n levels below `--cgroup` may match.
    ///
    /// # Errors
    /// Names the pattern that is deeper than programs look.
    pub fn depths(&self) -> Result<u32, String> {
        self.cgroups.iter().try_fold(0, |bits, glob| {
            let depth = u32::try_from(glob.levels.len()).unwrap_or(u32::MAX);
            let bit =
                1_u32.checked_shl(depth).ok_or_else(|| format!("cgroup pattern {glob} has more than 31 levels"))?;
            Ok(bits | bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_a_level_for_each_name() {
        let rules = |text: &str| SkipRules {
            cgroups: text.parse::<Listed<CgroupGlob>>().expect("patterns").0,
            netns: Vec::new(),
        };
        let found = rules("kubepods*/*/pod4711*, machine.slice,,a:b c/?");
        assert_eq!(found.cgroups.len(), 3);
        assert_eq!(found.depths(), Ok(0b1110));
        assert!(found.cgroups[0].levels()[2].matches("pod4711-22"));
        assert!(found.cgroups[2].levels()[0].matches("a:b c"), "cgroups may have any name");
        assert_eq!(rules(&vec!["*"; 31].join("/")).depths(), Ok(1 << 31));
        assert!(rules(&vec!["*"; 32].join("/")).depths().is_err_and(|error| error.contains("31 levels")));
        assert_eq!(SkipRules::default().depths(), Ok(0));
        for bad in ["/kubepods", "kubepods/", "a//b", "a/../b", "."] {
            assert!(bad.parse::<CgroupGlob>().is_err_and(|error| error.contains("--cgroup")), "{bad}");
        }
    }

    #[test]
    fn a_list_is_text_with_commas_or_a_list() {
        let parse = |text: &str| serde_json::from_str::<Listed<CgroupGlob>>(text);
        let list = parse(r#"["kubepods/*", "mesh"]"#).expect("a list");
        assert_eq!(list, parse(r#""kubepods/*, mesh""#).expect("text"));
        assert_eq!(list.0.iter().map(ToString::to_string).collect::<Vec<_>>(), ["kubepods/*", "mesh"]);
        assert!(parse(r#"["/kubepods"]"#).is_err_and(|error| error.to_string().contains("--cgroup")));
    }

    #[test]
    fn namespaces_are_names_or_absolute_paths() {
        let name = |text: &str| text.parse::<NetnsName>().map(|name| (name.folder, name.name.to_string()));
        assert_eq!(name("cni-*"), Ok((NETNS_DIR.into(), "cni-*".into())));
        assert_eq!(name("/var/run/mesh/a"), Ok(("/var/run/mesh".into(), "a".into())));
        for bad in ["", "/", "mesh/a", "/run/netns/", "..", "/run/.."] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
