//! What the watched files hold together: which object comes from which file, and which one counts.
//!
//! Pure but for [`read`]. One file changed costs the work of that file's objects. A bad object keeps its last good
//! version; a file that cannot be read keeps all of its objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use crate::{
    k8s::{self, BadObject, Located, Meant, Parsed},
    model::{Kind, Object, ObjectRef},
    plan::state::ServiceName,
};

/// Where a file stands in the order of reading: the number of its `--from`, then its path.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct FileKey {
    /// Index of the `--from` that names it or its folder.
    pub(super) source: usize,
    /// Its path.
    pub(super) path: PathBuf,
}

/// A change for the planner.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ObjectChange {
    /// New or different.
    Upsert(Box<Object>),
    /// Nowhere any more.
    Remove(ObjectRef),
    /// Of this kind there are these and no others.
    Retain(Kind, BTreeSet<ObjectRef>),
}

#[derive(Debug, Default)]
struct FileState {
    bytes: Vec<u8>,
    parsed: Parsed,
    /// Services that are not served as the file says, as it could not be understood.
    problems: Vec<(ServiceName, String)>,
}

/// All files.
#[derive(Debug, Default)]
pub(super) struct FileSet {
    files: BTreeMap<FileKey, FileState>,
    /// Who holds each object; the last holder counts.
    holders: BTreeMap<ObjectRef, BTreeMap<FileKey, Object>>,
}

/// What came of a file's change.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// For the planner.
    pub(super) changes: Vec<ObjectChange>,
    /// One line each, for the log.
    pub(super) messages: Vec<String>,
    /// The same, of what is no fault any more.
    pub(super) good_again: Vec<String>,
}

impl FileSet {
    /// Files known below a source, to find those that are gone.
    pub(super) fn of_source(&self, source: usize) -> Vec<FileKey> {
        self.files.keys().filter(|key| key.source == source).cloned().collect()
    }

    /// Whether an object of any file is bad now.
    pub(super) fn has_bad_objects(&self) -> bool {
        self.files.values().any(|file| !file.parsed.bad.is_empty())
    }

    /// Services that are not served as the files say, and why.
    pub(super) fn problems(&self) -> impl Iterator<Item = &(ServiceName, String)> {
        self.files.values().flat_map(|file| &file.problems)
    }

    /// The file's text is now this.
    pub(super) fn update(&mut self, key: &FileKey, bytes: Vec<u8>) -> Outcome {
        let old = self.files.remove(key).unwrap_or_default();
        if old.bytes == bytes && !bytes.is_empty() {
            self.files.insert(key.clone(), old);
            return Outcome::default();
        }
        let mut parsed = k8s::parse(&key.path.to_string_lossy(), &bytes);
        let mut outcome = Outcome::default();
        outcome.messages.extend(parsed.bad.iter().map(|bad| told(bad, &old.parsed)));
        let (strays, known) = (parsed.stray_slices(), old.parsed.stray_slices().map(|stray| stray.key));
        let known: BTreeSet<ObjectRef> = known.collect();
        outcome.messages.extend(strays.filter(|stray| !known.contains(&stray.key)).map(|stray| stray.to_string()));
        outcome.good_again = good_again(key, &old.parsed, &parsed);
        if parsed.unknown != old.parsed.unknown {
            let unknown = parsed.unknown.iter().map(|(kind, count)| kind.message(*count));
            outcome.messages.extend(unknown.map(|message| format!("{}: {message}", key.path.display())));
        }
        let mut problems = Vec::new();
        if !parsed.bad.is_empty() {
            let read = parsed.objects.len();
            parsed.keep_last_good(&old.parsed);
            let kept = &parsed.objects[..parsed.objects.len() - read];
            problems = parsed.bad.iter().flat_map(|bad| problems_of(bad, &old.parsed, kept)).collect();
        }
        self.replace(key, &old.parsed, &parsed, &mut outcome);
        self.files.insert(key.clone(), FileState { bytes, parsed, problems });
        outcome
    }

    /// The file is gone.
    pub(super) fn remove(&mut self, key: &FileKey) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(old) = self.files.remove(key) {
            self.replace(key, &old.parsed, &Parsed::default(), &mut outcome);
        }
        outcome
    }

    fn replace(&mut self, key: &FileKey, old: &Parsed, new: &Parsed, outcome: &mut Outcome) {
        let mut held: BTreeMap<ObjectRef, &Object> = BTreeMap::new();
        for located in &new.objects {
            let name = located.object.key();
            if held.insert(name.clone(), &located.object).is_some() {
                outcome
                    .messages
                    .push(format!("{}: {name}: given twice in this file; the later one counts", located.at));
            }
        }
        let mut touched: BTreeSet<ObjectRef> = old.objects.iter().map(|located| located.object.key()).collect();
        touched.extend(held.keys().cloned());
        for name in touched {
            let holders = self.holders.entry(name.clone()).or_default();
            let before = holders.last_key_value().map(|(_, object)| object.clone());
            match held.get(&name) {
                Some(object) => {
                    let first_time = holders.insert(key.clone(), (*object).clone()).is_none();
                    if first_time && holders.len() > 1 {
                        let last = holders.last_key_value().map_or(&key.path, |(holder, _)| &holder.path);
                        let others = holders.keys().map(|holder| holder.path.display().to_string());
                        outcome.messages.push(format!(
                            "{name}: given in {}; the one in {} counts",
                            others.collect::<Vec<_>>().join(" and "),
                            last.display()
                        ));
                    }
                }
                None => {
                    holders.remove(key);
                }
            }
            let after = holders.last_key_value().map(|(_, object)| object);
            if before.as_ref() != after {
                outcome.changes.push(match after {
                    Some(object) => ObjectChange::Upsert(Box::new(object.clone())),
                    None => ObjectChange::Remove(name.clone()),
                });
            }
            if holders.is_empty() {
                self.holders.remove(&name);
            }
        }
    }
}

/// What is wrong with an object, and what the datapath holds of it: `old` is the file as it was.
fn told(bad: &BadObject, old: &Parsed) -> String {
    match &bad.meant {
        Meant::Object(name) if old.objects.iter().any(|located| located.object.key() == *name) => {
            format!("{}; its last good version stays in force", bad.problem())
        }
        Meant::Unclear if !old.objects.is_empty() => {
            format!("{}; what this file held before stays in force", bad.problem())
        }
        Meant::Object(_) | Meant::Unclear | Meant::Nothing => bad.to_string(),
    }
}

/// What was bad in the file and is not any more.
fn good_again(key: &FileKey, old: &Parsed, new: &Parsed) -> Vec<String> {
    let still = |meant: &Meant| new.bad.iter().any(|bad| bad.meant == *meant);
    let mut over: Vec<&Meant> = Vec::new();
    for BadObject { meant, .. } in &old.bad {
        if !still(meant) && !over.contains(&meant) {
            over.push(meant);
        }
    }
    let path = key.path.display();
    let told = over.into_iter().map(|meant| match meant {
        Meant::Object(name) => match new.objects.iter().find(|located| located.object.key() == *name) {
            Some(located) => format!("{}: {name}: is good again", located.at),
            None => format!("{path}: {name}, which was bad, is not there any more"),
        },
        Meant::Unclear => format!("{path}: which objects it holds can be told again"),
        Meant::Nothing => format!("{path}: what was bad without being any object of ours is not there any more"),
    });
    told.collect()
}

/// The Services that are not served as the file says because of this object. `kept`: what was put back.
fn problems_of(bad: &BadObject, old: &Parsed, kept: &[Located]) -> Vec<(ServiceName, String)> {
    let told = told(bad, old);
    let services: BTreeSet<ServiceName> = match &bad.meant {
        Meant::Object(name) if name.kind == Kind::Service => [ServiceName::new(&name.namespace, &name.name)].into(),
        Meant::Object(name) => {
            kept.iter().filter(|l| l.object.key() == *name).filter_map(|l| service_of(&l.object)).collect()
        }
        Meant::Unclear => kept.iter().filter_map(|located| service_of(&located.object)).collect(),
        Meant::Nothing => BTreeSet::new(),
    };
    services.into_iter().map(|service| (service, told.clone())).collect()
}

/// The Service that an object belongs to.
fn service_of(object: &Object) -> Option<ServiceName> {
    match object {
        Object::Service(service) => Some(service.name.clone()),
        Object::EndpointSlice(slice) => slice.service.clone(),
        Object::Endpoints(endpoints) => Some(endpoints.name.clone()),
        Object::Node(_) => None,
    }
}

/// The files that a `--from` stands for now, and the text of each; a file that cannot be read is an error of its own.
///
/// # Errors
/// If the path itself cannot be read.
pub(super) fn read(path: &Path) -> io::Result<Vec<(PathBuf, io::Result<Vec<u8>>)>> {
    Ok(k8s::files(path)?
        .into_iter()
        .map(|file| {
            let bytes = std::fs::read(&file);
            (file, bytes)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: usize, path: &str) -> FileKey {
        FileKey { source, path: path.into() }
    }

    fn service(name: &str, ip: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n"
        )
    }

    fn names(outcome: &Outcome) -> Vec<String> {
        outcome
            .changes
            .iter()
            .map(|change| match change {
                ObjectChange::Upsert(object) => format!("+{}", object.key()),
                ObjectChange::Remove(name) => format!("-{name}"),
                ObjectChange::Retain(kind, keys) => format!("={} {kind}", keys.len()),
            })
            .collect()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut set = FileSet::default();
        let two = format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2"));
        assert_eq!(
            names(&set.update(&key(0, "x.yaml"), two.clone().into())),
            ["+Service default/a", "+Service default/b"]
        );
        assert_eq!(names(&set.update(&key(0, "x.yaml"), two.into())), [""; 0]);
        let one = format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.3"));
        assert_eq!(names(&set.update(&key(0, "x.yaml"), one.into())), ["+Service default/b"]);
        assert_eq!(names(&set.remove(&key(0, "x.yaml"))), ["-Service default/a", "-Service default/b"]);
        assert!(set.holders.is_empty());
    }

    #[test]
    fn the_later_file_counts_and_the_earlier_comes_back() {
        let mut set = FileSet::default();
        set.update(&key(0, "b.yaml"), service("a", "10.96.0.2").into());
        let shadowed = set.update(&key(0, "a.yaml"), service("a", "10.96.0.1").into());
        assert_eq!(names(&shadowed), [""; 0]);
        assert_eq!(shadowed.messages.len(), 1, "{shadowed:?}");
        assert_eq!(names(&set.remove(&key(0, "b.yaml"))), ["+Service default/a"]);
        assert_eq!(names(&set.update(&key(1, "0.yaml"), service("a", "10.96.0.9").into())), ["+Service default/a"]);
    }

    #[test]
    fn a_bad_object_keeps_its_last_good_version() {
        let mut set = FileSet::default();
        set.update(
            &key(0, "x.yaml"),
            format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2")).into(),
        );
        let bad = set.update(
            &key(0, "x.yaml"),
            format!("{}---\n{}", service("a", "nonsense"), service("b", "10.96.0.7")).into(),
        );
        assert_eq!(names(&bad), ["+Service default/b"]);
        assert!(
            bad.messages[0].contains("default/a") && bad.messages[0].ends_with("its last good version stays in force"),
            "{bad:?}"
        );
        let broken = set.update(&key(0, "x.yaml"), b"apiVersion: v1\nkind: [".to_vec());
        assert_eq!(names(&broken), [""; 0]);
        assert!(broken.messages[0].ends_with("what this file held before stays in force"), "{broken:?}");
        let problems = |set: &FileSet| set.problems().map(|(name, why)| format!("{name} {why}")).collect::<Vec<_>>();
        let both = problems(&set);
        assert!(
            both.len() == 2 && both[0].starts_with("default/a x.yaml:1: ") && both[1].starts_with("default/b "),
            "{both:?}"
        );
        let new = set.update(&key(0, "y.yaml"), service("c", "nonsense").into());
        assert!(new.messages[0].ends_with("this object is left out"), "{new:?}");
        assert!(problems(&set)[2].starts_with("default/c "));
        let gone = set.update(&key(0, "x.yaml"), service("b", "10.96.0.7").into());
        assert_eq!(names(&gone), ["-Service default/a"]);
        assert_eq!(problems(&set).len(), 1);
    }

    #[test]
    fn what_is_good_again_is_told_once() {
        let mut set = FileSet::default();
        let mut told = |text: String| set.update(&key(0, "x.yaml"), text.into()).good_again;
        let two = |a: &str| format!("{}---\n{}", service("b", "10.96.0.2"), service("a", a));
        assert_eq!(told(two("nonsense")), [""; 0]);
        assert_eq!(told(two("other nonsense")), [""; 0], "as bad as before");
        assert_eq!(told(two("10.96.0.1")), ["x.yaml:6: Service default/a: is good again"]);
        assert_eq!(told(two("10.96.0.3")), [""; 0]);
        told(two("nonsense"));
        assert_eq!(told("kind: [".into()), ["x.yaml: Service default/a, which was bad, is not there any more"]);
        assert_eq!(told(two("10.96.0.1")), ["x.yaml: which objects it holds can be told again"]);
    }

    #[test]
    fn a_slice_of_no_service_is_told_once() {
        let mut set = FileSet::default();
        let slice = |labels: &str, ip: &str| {
            let meta = format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{labels}}}\n");
            format!("{meta}addressType: IPv4\nendpoints: [{{addresses: [{ip}]}}]\n")
        };
        let mut told = |text: String| set.update(&key(0, "x.yaml"), text.into()).messages;
        let labelled = ", labels: {kubernetes.io/service-name: a}";
        assert_eq!(
            told(slice("", "10.0.0.1")),
            [
                "x.yaml:1: EndpointSlice default/s: no label kubernetes.io/service-name, so it is no Service's and has no effect"
            ]
        );
        assert_eq!(told(slice("", "10.0.0.2")), [""; 0]);
        assert_eq!(told(slice(labelled, "10.0.0.2")), [""; 0]);
    }

    #[test]
    fn kinds_without_effect_are_told_once() {
        let mut set = FileSet::default();
        let text = |ip: &str, pods: usize| {
            let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: x}\n";
            format!("{}{}", service("a", ip), pod.repeat(pods))
        };
        let mut messages = |ip, pods| set.update(&key(0, "x.yaml"), text(ip, pods).into()).messages;
        assert_eq!(messages("10.96.0.1", 2), ["x.yaml: v1 Pod: 2 objects of this kind: no effect"]);
        assert_eq!(messages("10.96.0.2", 2), [""; 0]);
        assert_eq!(messages("10.96.0.2", 1), ["x.yaml: v1 Pod: 1 object of this kind: no effect"]);
        assert_eq!(messages("10.96.0.2", 0), [""; 0]);
    }

    #[test]
    fn an_emptied_file_empties() {
        let mut set = FileSet::default();
        set.update(&key(0, "x.yaml"), service("a", "10.96.0.1").into());
        assert_eq!(names(&set.update(&key(0, "x.yaml"), Vec::new())), ["-Service default/a"]);
    }
}
