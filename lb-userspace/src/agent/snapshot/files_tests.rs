//! The folder: modes, refusals, full disks, and agents that are killed while they write.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use super::*;
use crate::{
    k8s,
    model::{Index, Object},
    plan::state::ServiceName,
};

/// Tells a process of this test program to write without an end.
const CHILD: &str = "BERRYLB_TEST_SNAPSHOT_DIR";

fn state_dir(dir: &Path) -> StateDir {
    StateDir::new(dir, Identity { node: "n1".into(), server: "https://pi:6443/".into() })
}

/// So many Services of this generation, which is their port less one.
fn services(count: usize, generation: u16) -> Vec<Shared> {
    let yaml = "{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, ports: [{port: 1}]}}";
    let parsed = k8s::parse("test", yaml.as_bytes());
    let [Object::Service(first)] = &parsed.objects.iter().map(|located| &located.object).collect::<Vec<_>>()[..] else {
        panic!("{:?}", parsed.bad)
    };
    let mut index = Index::default();
    for number in 0..count {
        let mut service = first.clone();
        service.name = ServiceName::new("default", &format!("s{number}"));
        service.ports[0].port = generation + 1;
        index.upsert(Object::Service(service));
    }
    index.shared()
}

fn read(dir: &Path) -> Vec<Object> {
    state_dir(dir).read(|_| true).expect("good").expect("there").objects
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o7777
}

#[test]
fn only_the_agents_user_can_look_and_nothing_is_left_beside_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/state");
    let state = state_dir(&dir);
    assert!(state.read(|_| true).unwrap().is_none(), "a folder that is not there holds none");
    let first = state.write(UNIX_EPOCH, services(3, 0), None).unwrap();
    assert_eq!((mode(&dir), mode(&state.path())), (0o700, 0o600));
    // What a killed agent left of another mode.
    fs::write(dir.join(NEW), "half").unwrap();
    fs::set_permissions(dir.join(NEW), Permissions::from_mode(0o644)).unwrap();
    let second = state.write(UNIX_EPOCH, services(3, 1), Some(first.digest)).unwrap();
    assert!(second.bytes.is_some() && second.digest != first.digest);
    assert_eq!(mode(&state.path()), 0o600);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    assert_eq!(read(&dir).len(), 3);
}

#[test]
fn what_is_there_already_is_not_written_unless_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let state = state_dir(dir.path());
    let first = state.write(UNIX_EPOCH, services(3, 0), None).unwrap();
    let inode = fs::metadata(state.path()).unwrap().ino();
    let found = state.read(|_| false).unwrap().unwrap();
    assert_eq!(found.digest, first.digest, "as another agent finds it");
    let again = state.write(UNIX_EPOCH + Duration::from_secs(9), services(3, 0), Some(found.digest)).unwrap();
    assert_eq!((again.bytes, fs::metadata(state.path()).unwrap().ino()), (None, inode));
    fs::remove_file(state.path()).unwrap();
    assert!(state.write(UNIX_EPOCH, services(3, 0), Some(found.digest)).unwrap().bytes.is_some());
}

#[track_caller]
fn refused(dir: &Path, told: &[&str]) {
    let error = state_dir(dir).read(|_| true).unwrap_err().to_string();
    let path = dir.join(NAME).display().to_string();
    assert!(error.contains(&path) && error.contains("next step: "), "{error}");
    for part in told {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_file_that_is_not_the_agents_is_refused_with_cause_and_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let (state, path) = (state_dir(dir.path()), dir.path().join(NAME));
    state.write(UNIX_EPOCH, services(1, 0), None).unwrap();
    let good = fs::read(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
    refused(dir.path(), &["others may write it (mode 620)", "see who wrote it"]);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(read(dir.path()).len(), 1, "that others could read it is no reason");

    fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused(dir.path(), &["damaged or cut off", "it is replaced once every list"]);
    fs::write(&path, "hello").unwrap();
    refused(dir.path(), &["no snapshot of berrylb", "a folder of berrylb's own"]);
    let other = StateDir::new(dir.path(), Identity { node: "n2".into(), server: "https://pi:6443/".into() });
    fs::write(&path, &good).unwrap();
    let error = other.read(|_| true).unwrap_err().to_string();
    assert!(error.contains("it is of node \"n1\", and this is \"n2\"") && error.contains("--state-dir of its own"));

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(dir.path(), &["no plain file"]);
    fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(dir.path(), &["no plain file"]);
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    refused(dir.path(), &["it cannot be opened", "remove it"]);
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let state = state_dir(dir.path());
    state.write(UNIX_EPOCH, services(2, 0), None).unwrap();
    // Neither root's rights nor any other's write over a folder.
    fs::create_dir(dir.path().join(NEW)).unwrap();
    let error = state.write(UNIX_EPOCH, services(5, 1), None).unwrap_err().to_string();
    assert!(error.starts_with("write ") && error.contains(NEW) && error.contains("directory"), "{error}");
    assert_eq!(read(dir.path()).len(), 2);

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = state_dir(&file.join("state")).write(UNIX_EPOCH, services(1, 0), None).unwrap_err().to_string();
    assert!(error.starts_with("create folder "), "{error}");
}

#[test]
fn removing_takes_the_snapshot_and_leaves_what_is_anothers() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    assert_eq!(remove_snapshot(&dir).unwrap(), [""; 0].map(PathBuf::from));
    let state = state_dir(&dir);
    state.write(UNIX_EPOCH, services(1, 0), None).unwrap();
    fs::write(dir.join(NEW), "half").unwrap();
    fs::write(dir.join("else"), "").unwrap();
    assert_eq!(remove_snapshot(&dir).unwrap(), [dir.join(NEW), dir.join(NAME)]);
    assert!(dir.join("else").exists());
    fs::remove_file(dir.join("else")).unwrap();
    assert_eq!(remove_snapshot(&dir).unwrap(), [""; 0].map(PathBuf::from), "an empty folder may be anybody's");
    state.write(UNIX_EPOCH, services(1, 0), None).unwrap();
    assert_eq!(remove_snapshot(&dir).unwrap(), [dir.join(NAME), dir.clone()]);
    assert!(!dir.exists());
}

/// How many Services each generation has: of changing length, so that a mixture of two would not fit.
const SIZES: [usize; 5] = [300, 250, 350, 280, 320];

/// Not a test: what [`whoever_is_killed_while_writing_leaves_a_whole_snapshot`] starts and kills.
#[test]
fn writer() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let state = state_dir(Path::new(&dir));
    let generations: Vec<_> = (0..).zip(SIZES).map(|(generation, size)| services(size, generation)).collect();
    loop {
        for objects in &generations {
            state.write(UNIX_EPOCH, objects.clone(), None).expect("written");
        }
    }
}

#[test]
fn whoever_is_killed_while_writing_leaves_a_whole_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (path, new) = (dir.path().join(NAME), dir.path().join(NEW));
    let mut left_halves = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent::snapshot::files::tests::writer", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let mut wait_for = |what: &dyn Fn() -> bool| {
            while !what() {
                assert!(begun.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none(), "no writer");
            }
        };
        let inode = || fs::metadata(&path).map(|meta| meta.ino()).ok();
        let before = inode();
        wait_for(&|| inode() != before);
        if round % 4 == 0 {
            thread::sleep(Duration::from_millis(round));
        } else {
            wait_for(&|| new.exists());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        left_halves += usize::from(new.exists());
        let objects = read(dir.path());
        let port = |object: &Object| match object {
            Object::Service(service) => service.ports[0].port,
            Object::EndpointSlice(_) | Object::Endpoints(_) | Object::Node(_) => panic!("{object:?}"),
        };
        let ports: BTreeSet<u16> = objects.iter().map(port).collect();
        let [port] = ports.into_iter().collect::<Vec<_>>()[..] else { panic!("more than one generation") };
        assert_eq!(objects.len(), SIZES[usize::from(port - 1)], "all of it");
    }
    assert!(left_halves > 0, "none was killed in a write");
}
