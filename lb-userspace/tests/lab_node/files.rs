//! The agent follows its files however they are written: by rename, in place, in pieces, by an editor, by a ConfigMap's
//! swap. What cannot be read or understood keeps what it last said and harms nothing else.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use lb_lab::{
    Agent, Host,
    objects::{Endpoint, Port, Service},
};

use crate::world::{BERRYLB, World, assert_agrees, assert_dumps, eventually};

/// A Service and its one endpoint, by which its versions are told apart.
fn text(name: &str, address: u8, version: u8) -> String {
    let service = Service::new(name, &[[10, 96, 9, address].into()], &[Port::tcp("http", 80, 80)]);
    let slice = service.slice(&[Endpoint::new(endpoint(version).parse().unwrap(), "raspi002")]);
    format!("{service}---\n{slice}")
}

fn endpoint(version: u8) -> String {
    format!("10.244.9.{version}")
}

fn start(world: &World, from: &Path, flags: &[&str]) -> Agent {
    Agent::start(world.node("raspi002"), Path::new(BERRYLB), from, flags).unwrap()
}

/// What `berrylb plan` makes of these paths for the agent's node, whatever it complains about.
fn plan_of(world: &World, paths: &[&Path]) -> String {
    let node = world.node("raspi002");
    let mut command = node.command(BERRYLB).args(["plan", "-o", "json", "--node-name", node.name()]);
    for path in paths {
        command = command.arg("--from").arg(path);
    }
    let command = node.ips().iter().fold(command, |c, ip| c.args(["--node-address", &ip.to_string()]));
    command.output().unwrap().stdout
}

/// Waits until the datapath is as planned and holds this endpoint: a step that changed nothing would pass otherwise.
fn assert_holds(agent: &Agent, version: u8, what: &str) {
    eventually(what, || {
        let dump = agent.dump_text().unwrap();
        let wanted = format!("\"{}\"", endpoint(version));
        if dump.contains(&wanted) { Ok(()) } else { Err(format!("no {wanted} in {dump}\n{}", agent.log().unwrap())) }
    });
    assert_agrees(agent);
}

/// Saves a text under a name.
type Save = fn(&Path, &str);

/// Ways to put a new text under a name.
const WAYS: [(&str, Save); 7] = [
    ("atomic replace", |file, text| {
        let new = file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, file).unwrap();
    }),
    ("truncate, write, close", |file, text| fs::write(file, text).unwrap()),
    ("written in small pieces", |file, text| {
        let mut file = File::create(file).unwrap();
        for piece in text.as_bytes().chunks(100) {
            file.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(3));
        }
    }),
    ("vim: a backup first", |file, text| {
        let backup = file.with_extension("yaml~");
        fs::rename(file, &backup).unwrap();
        fs::write(file, text).unwrap();
        fs::remove_file(backup).unwrap();
    }),
    ("cp over it", |file, text| {
        let source = file.parent().unwrap().parent().unwrap().join("elsewhere");
        fs::write(&source, text).unwrap();
        fs::copy(source, file).unwrap();
    }),
    ("removed and written again", |file, text| {
        fs::remove_file(file).unwrap();
        fs::write(file, text).unwrap();
    }),
    ("moved in from another folder", |file, text| {
        let source = file.parent().unwrap().parent().unwrap().join("elsewhere");
        fs::write(&source, text).unwrap();
        fs::rename(source, file).unwrap();
    }),
];

#[test]
fn every_way_of_writing_is_seen() {
    for whole_folder in [true, false] {
        let world = World::of_one_node();
        let folder = world.lab.dir().join("etc");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("services.yaml");
        fs::write(&file, text("watched", 1, 0)).unwrap();
        let agent = start(&world, if whole_folder { &folder } else { &file }, &[]);
        assert_holds(&agent, 0, "the first state");
        for (version, (way, write)) in (1..).zip(WAYS) {
            write(&file, &text("watched", 1, version));
            assert_holds(&agent, version, way);
        }
        // Twice at once: the second is not lost behind the first.
        for version in 50..60 {
            fs::write(&file, text("watched", 1, version)).unwrap();
        }
        assert_holds(&agent, 59, "ten saves in a row");
    }
}

/// A text that is half there when somebody looks is not taken for the whole.
#[test]
fn a_half_written_file_is_not_read() {
    let world = World::of_one_node();
    let folder = world.lab.dir().join("etc");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("services.yaml");
    let old = format!("{}---\n{}", text("first", 1, 1), text("second", 2, 2));
    fs::write(&path, &old).unwrap();
    let agent = start(&world, &folder, &[]);
    let before = agent.dump_text().unwrap();

    let new = format!("{}---\n{}", text("first", 1, 3), text("second", 2, 4));
    let (first, second) = new.split_at(text("first", 1, 3).len() + 20);
    let mut file = File::create(&path).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    // Another file's change shows that the agent has looked around meanwhile.
    fs::write(folder.join("other.yaml"), text("other", 3, 5)).unwrap();
    eventually("the other file is read", || {
        let dump = agent.dump_text().unwrap();
        if dump.contains(&endpoint(5)) { Ok(()) } else { Err(dump) }
    });
    fs::remove_file(folder.join("other.yaml")).unwrap();
    assert_dumps(&agent, &before);
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    assert_holds(&agent, 4, "the whole file");
}

/// `..data` is a link to the folder of a version, files are links through it: one rename swaps all of them.
#[test]
fn a_config_maps_swap_is_seen() {
    for whole_folder in [true, false] {
        let world = World::of_one_node();
        let volume = world.lab.dir().join("volume");
        fs::create_dir(&volume).unwrap();
        let publish = |version: u8| {
            let data = format!("..2026_01_01.{version}");
            fs::create_dir(volume.join(&data)).unwrap();
            fs::write(volume.join(&data).join("services.yaml"), text("mounted", 1, version)).unwrap();
            let old = fs::read_link(volume.join("..data"));
            symlink(&data, volume.join("..data_tmp")).unwrap();
            fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
            if let Ok(old) = old {
                fs::remove_dir_all(volume.join(old)).unwrap();
            }
        };
        publish(1);
        let file = volume.join("services.yaml");
        symlink("..data/services.yaml", &file).unwrap();
        let agent = start(&world, if whole_folder { &volume } else { &file }, &[]);
        assert_holds(&agent, 1, "the first state");
        for version in 2..5 {
            publish(version);
            assert_holds(&agent, version, "a swap");
        }
    }
}

/// Files and folders that go take their objects along; a folder that cannot be found at all changes nothing until it
/// is back.
#[test]
fn files_and_folders_go_and_come_back() {
    let world = World::of_one_node();
    let (folder, away) = (world.lab.dir().join("etc"), world.lab.dir().join("away"));
    let second: PathBuf = world.lab.dir().join("second.yaml");
    fs::create_dir(&folder).unwrap();
    let file = |name: &str| folder.join(name);
    fs::write(file("one.yaml"), text("one", 1, 1)).unwrap();
    fs::write(file("two.yml"), text("two", 2, 2)).unwrap();
    fs::write(&second, text("three", 3, 3)).unwrap();
    let agent = start(&world, &folder, &["--from", second.to_str().unwrap()]);
    let assert_planned = || assert_dumps(&agent, &plan_of(&world, &[&folder, &second]));
    assert_planned();

    fs::remove_file(file("two.yml")).unwrap();
    assert_planned();
    fs::write(file("ignored.txt"), text("ignored", 4, 4)).unwrap();
    fs::write(file("new.json"), r#"{"apiVersion": "v1", "kind": "List", "items": []}"#).unwrap();
    fs::write(file("new.yaml"), text("new", 5, 5)).unwrap();
    assert_planned();
    assert!(agent.dump_text().unwrap().contains(&endpoint(5)));

    let before = agent.dump_text().unwrap();
    fs::rename(&folder, &away).unwrap();
    eventually("the agent misses its folder", || {
        let log = agent.log().unwrap();
        if log.contains(&format!("cannot read {}", folder.display())) { Ok(()) } else { Err(log) }
    });
    assert_eq!(agent.dump_text().unwrap(), before);
    fs::create_dir(&folder).unwrap();
    fs::write(file("one.yaml"), text("one", 1, 6)).unwrap();
    assert_planned();
    assert_holds_only(&agent, &[6, 3]);

    fs::remove_dir_all(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    assert_planned();
    assert_holds_only(&agent, &[1, 5, 3]);
    fs::write(file("one.yaml"), text("one", 1, 7)).unwrap();
    assert_planned();
    assert_holds_only(&agent, &[7, 5, 3]);
}

fn assert_holds_only(agent: &Agent, versions: &[u8]) {
    let dump = agent.dump_text().unwrap();
    let held: Vec<u8> = (0..10).filter(|version| dump.contains(&format!("\"{}\"", endpoint(*version)))).collect();
    let mut wanted = versions.to_vec();
    wanted.sort_unstable();
    assert_eq!(held, wanted, "{dump}");
}

/// A bad object is named and keeps its last good version; the others of its file and of other files go on.
#[test]
fn a_bad_object_harms_nothing_else() {
    let world = World::of_one_node();
    let (folder, reference) = (world.lab.dir().join("etc"), world.lab.dir().join("reference"));
    [&folder, &reference].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let put = |folder: &Path, name: &str, texts: &[&str]| fs::write(folder.join(name), texts.join("---\n")).unwrap();
    let good = text("good", 1, 1);
    let other = text("other", 2, 2);
    put(&folder, "a.yaml", &[&good, &other]);
    put(&folder, "b.yaml", &[&text("third", 3, 3)]);
    let agent = start(&world, &folder, &[]);
    assert_agrees(&agent);

    // Bad text of `good`, what the log has to say of it, and whether the rest of the file can be told apart.
    let cases = [
        (good.replace("10.244.9.1", "10.244.9.999"), "default/good-ipv4"),
        (good.replace("port: 80\n", "port: 80000\n"), "default/good"),
        (good.replace("clusterIP: 10.96.9.1", "clusterIP: nonsense"), "default/good"),
        ("apiVersion: v1\nkind: [Service\n".to_owned(), "a.yaml"),
        (good.replace("spec:", "spec: {{{"), "a.yaml"),
    ];
    for (version, (bad, named)) in (4..).zip(cases) {
        assert_ne!(bad, good);
        let said = agent.log().unwrap().len();
        put(&folder, "a.yaml", &[&bad, &text("other", 2, version)]);
        put(&reference, "a.yaml", &[&good, &text("other", 2, version)]);
        put(&folder, "b.yaml", &[&text("third", 3, version + 100)]);
        put(&reference, "b.yaml", &[&text("third", 3, version + 100)]);
        assert_dumps(&agent, &plan_of(&world, &[&reference]));
        let log = agent.log().unwrap().split_off(said);
        assert!(log.contains(named) && log.contains("a.yaml:"), "{bad}\nis not named as {named} in\n{log}");
        let node = world.node("raspi002");
        let plan = node.command(BERRYLB).arg("plan").arg("--from").arg(&folder).output().unwrap();
        assert_eq!(plan.status.code(), Some(1), "plan accepts {bad}");
    }
    put(&folder, "a.yaml", &[&text("good", 1, 9), &other]);
    assert_holds(&agent, 9, "the good text");

    // A name that leads in a circle cannot be read, not even by root: what it held stays, and is read when it can be.
    let (path, link) = (folder.join("a.yaml"), folder.join("link"));
    let before = agent.dump_text().unwrap();
    let said = agent.log().unwrap().len();
    symlink("a.yaml", &link).unwrap();
    fs::rename(&link, &path).unwrap();
    eventually("the unreadable file is named", || {
        let log = agent.log().unwrap().split_off(said);
        if log.contains(&format!("cannot read {}", path.display())) { Ok(()) } else { Err(log) }
    });
    put(&folder, "c.yaml", &[&text("fourth", 4, 44)]);
    eventually("another file is read meanwhile", || {
        let dump = agent.dump_text().unwrap();
        if dump.contains(&endpoint(44)) { Ok(()) } else { Err(dump) }
    });
    fs::remove_file(folder.join("c.yaml")).unwrap();
    assert_dumps(&agent, &before);
    fs::write(&link, text("good", 1, 55)).unwrap();
    fs::rename(&link, &path).unwrap();
    assert_holds(&agent, 55, "the readable file");
}

/// What an earlier run left of a Service that is gone stays while an object is bad, as it may be that object's. It goes as
/// soon as none is, and not with the next audit.
#[test]
fn what_is_gone_goes_once_no_object_is_bad() {
    let mut world = World::of_one_node();
    world.start("raspi002", &["--audit-interval", "0"]);
    world.put("gone", &[&text("gone", 1, 1)]);
    world.agent_mut("raspi002").kill9().unwrap();
    world.objects.remove("gone").unwrap();
    let bad =
        "apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {clusterIP: nonsense, ports: [{port: 80}]}\n";
    world.objects.put("other", &[&bad]).unwrap();
    world.agent_mut("raspi002").start_again().unwrap();
    let dump = world.agent("raspi002").dump_text().unwrap();
    assert!(dump.contains(&endpoint(1)), "{dump}");
    world.put("other", &[&text("other", 2, 2)]);
}
