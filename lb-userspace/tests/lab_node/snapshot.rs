//! A node whose API server is away: what a snapshot on disk serves, for how long, and what a disk that fails costs. And the
//! API server's own backends, which outlive an agent.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use lb_lab::{
    Host as _,
    api_server::Resource,
    objects::{self, Endpoint, Port, Service, Slice},
    peer::TcpAsk,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    api::{Cluster, frontends, one_node},
    process::metric,
    world::{World, assert_dumps, eventually, json, layout},
};

/// Longer than the API server is waited for.
const WAITED: Duration = Duration::from_millis(4_500);
const NAME: &str = "objects.json.gz";
const KEPT: &str = "service default/kubernetes: no endpoint is left, so those that it had last are kept";

fn state_dir(world: &World) -> PathBuf {
    world.lab.dir().join("state")
}

impl Cluster {
    /// One node with a snapshot that is written each second at most.
    fn keeping() -> Self {
        Self::with(one_node(), |world| {
            let dir = state_dir(world).display().to_string();
            ["--state-dir", &dir, "--state-interval", "1"].map(str::to_owned).to_vec()
        })
    }

    fn file(&self) -> PathBuf {
        state_dir(&self.world).join(NAME)
    }

    fn metrics(&self) -> String {
        self.curl("http://127.0.0.1:10249/metrics")
    }

    fn curl(&self, url: &str) -> String {
        self.world.node("raspi002").command("curl").args(["-s", url]).ok().unwrap()
    }

    /// Starts the agent and waits until there are maps to look at.
    fn start_unready(&mut self) {
        self.agent.start_unready().unwrap();
        eventually("there are maps", || self.agent.dump_text().map_err(|error| error.to_string()));
    }

    /// As after the power was cut: no process, no map, no program.
    fn lose_power(&mut self) {
        self.agent.kill9().unwrap();
        self.agent.cleanup().unwrap();
        assert!(!layout(self.world.node("raspi002")).root().exists());
    }

    /// Waits until the snapshot says what the API server does.
    fn settle_snapshot(&self) {
        self.settle();
        let written = || fs::metadata(self.file()).and_then(|meta| meta.modified()).ok();
        let (before, begun) = (written(), std::time::Instant::now());
        // A change is on the disk after at most two intervals; if there was none, nothing comes.
        while written() == before && begun.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_node_boots_by_its_snapshot_and_then_follows_the_api_server() {
    let mut cluster = Cluster::keeping();
    let node = cluster.world.node("raspi002");
    let (web, client) = (node.add_pod_at("web", 72).unwrap(), node.add_pod("client").unwrap());
    let _server = web.serve(&[80]).unwrap();
    let service = Service::new("web", &["10.96.7.7".parse().unwrap()], &[Port::tcp("http", 80, 80)]);
    cluster.put("web", &format!("{service}---\n{}", service.slice(&[Endpoint::v4(&web)])));
    (1..=3).for_each(|n| cluster.put_service(n, 2));
    cluster.settle();
    assert!(cluster.agent.terminate().unwrap().success());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cluster.file()), mode(cluster.file().parent().unwrap())), (0o600, 0o700));
    let removed = cluster.agent.cleanup().unwrap();
    assert!(removed.contains("removed map") && cluster.file().exists(), "{removed}");

    cluster.server.refuse();
    let expected = cluster.agent.plan_text().unwrap();
    for killed in [false, true] {
        if killed {
            // The maps are marked: an agent does not take them for what an API server has confirmed.
            cluster.agent.kill9().unwrap();
        }
        cluster.start_unready();
        // With names, which only an agent has that has read the snapshot.
        assert_dumps(&cluster.agent, &expected);
        let answers = client.ask(TcpAsk::to("10.96.7.7:80".parse().unwrap())).unwrap();
        assert_eq!(answers.all()[0].name, "web");
    }
    assert_eq!((cluster.health("/healthz"), cluster.health("/livez")), ("503".into(), "200".into()));
    let health: serde_json::Value = serde_json::from_str(&cluster.curl("http://127.0.0.1:10256/healthz")).unwrap();
    assert!(health["snapshot"]["inUse"] == true && health["snapshot"]["ageSeconds"].as_u64().unwrap() > 0, "{health}");
    let metrics = cluster.metrics();
    assert_eq!((metric(&metrics, "berrylb_snapshot_in_use"), metric(&metrics, "berrylb_ready")), (1.0, 0.0));
    assert!(metric(&metrics, "berrylb_snapshot_in_use_age_seconds") > 0.0, "{metrics}");
    let listed = cluster.agent.command(&["service", "list"]).output().unwrap();
    let remark = format!("this is what the snapshot {} says, which is ", cluster.file().display());
    assert!(listed.stdout.contains("default/s2") && listed.stderr.contains(&remark), "{listed}");
    let verified = cluster.agent.command(&["verify"]).output().unwrap();
    assert!(verified.status.code() == Some(1) && verified.stderr.contains(&remark), "{verified}");
    let log = cluster.agent.log().unwrap();
    let told = "the API server does not answer: serving 9 objects of a snapshot that is ";
    let line = log.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains(" s old, until every list was read"), "{line}");

    cluster.remove_service(2);
    cluster.put_service(3, 1);
    cluster.put_service(4, 2);
    assert_eq!(cluster.agent.dump_text().unwrap(), expected, "until the server can be read");
    cluster.server.listen_again();
    cluster.agent.wait_ready().unwrap();
    cluster.settle();
    assert_eq!(cluster.health("/healthz"), "200");
    let metrics = cluster.metrics();
    assert_eq!((metric(&metrics, "berrylb_snapshot_in_use"), metric(&metrics, "berrylb_ready")), (0.0, 1.0));
    assert!(cluster.agent.log().unwrap().contains("the API server's lists take the place of the snapshot"));
    assert!(!layout(cluster.world.node("raspi002")).unconfirmed().exists());
    assert_eq!(json(&cluster.agent, &["verify"]), serde_json::json!([]));

    // What was learnt since is on the disk, though the agent is killed.
    cluster.settle_snapshot();
    cluster.lose_power();
    cluster.server.refuse();
    cluster.start_unready();
    cluster.settle();
    // A node is taken out of use while it serves from a snapshot.
    cluster.agent.terminate().unwrap();
    let dir = state_dir(&cluster.world);
    let removed = cluster.agent.command(&["cleanup", "--state-dir", dir.to_str().unwrap()]).ok().unwrap();
    let told = format!("removed snapshot {}\n", cluster.file().display());
    assert!(removed.contains(&told) && !dir.exists() && removed.contains("/unconfirmed"), "{removed}");
    assert!(!layout(cluster.world.node("raspi002")).root().exists());
}

/// A server that is there is waited for, so that nothing that is gone is served even for a moment.
#[test]
fn a_server_that_answers_decides_alone() {
    let mut cluster = Cluster::keeping();
    (1..=3).for_each(|n| cluster.put_service(n, 2));
    cluster.settle_snapshot();
    cluster.lose_power();
    cluster.remove_service(2);
    cluster.agent.start_again().unwrap();
    cluster.settle();
    let log = cluster.agent.log().unwrap();
    assert!(!log.contains("of a snapshot that is"), "{log}");
}

/// What an earlier run left in the maps is newer than any snapshot.
#[test]
fn a_snapshot_never_takes_the_place_of_what_is_in_the_maps() {
    let mut cluster = Cluster::keeping();
    (1..=3).for_each(|n| cluster.put_service(n, 2));
    cluster.settle_snapshot();
    let old = fs::read(cluster.file()).unwrap();
    cluster.remove_service(2);
    cluster.put_service(3, 1);
    cluster.settle();
    cluster.agent.terminate().unwrap();
    assert_ne!(fs::read(cluster.file()).unwrap(), old);
    fs::write(cluster.file(), &old).unwrap();
    cluster.server.refuse();
    let expected = cluster.agent.dump_text().unwrap();
    cluster.start_unready();
    thread::sleep(WAITED);
    assert_eq!(frontends(&cluster.agent.dump_text().unwrap()), frontends(&expected));
    let health: serde_json::Value = serde_json::from_str(&cluster.curl("http://127.0.0.1:10256/healthz")).unwrap();
    assert_eq!(health["snapshot"]["inUse"], false);
    cluster.server.listen_again();
    cluster.agent.wait_ready().unwrap();
    cluster.settle();
}

/// Every file that is no snapshot of this node costs one line in the log, and is replaced.
#[test]
fn a_snapshot_that_is_no_good_is_refused_and_replaced() {
    let mut cluster = Cluster::keeping();
    (1..=2).for_each(|n| cluster.put_service(n, 2));
    cluster.settle_snapshot();
    cluster.lose_power();
    let good = fs::read(cluster.file()).unwrap();
    fs::write(cluster.file(), &good[..good.len() - 3]).unwrap();
    cluster.server.refuse();
    cluster.start_unready();
    let refused = format!("snapshot {} is not used: it is damaged or cut off (", cluster.file().display());
    eventually("it is refused", || {
        let log = cluster.agent.log().unwrap();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("is not used")).collect();
        let [line] = lines[..] else { return Err(log) };
        assert!(line.contains(&refused) && line.contains("next step: none; it is replaced once"), "{line}");
        Ok(())
    });
    thread::sleep(WAITED);
    assert_eq!(frontends(&cluster.agent.dump_text().unwrap()), [""; 0]);
    let listed = cluster.agent.command(&["service", "list"]).output().unwrap();
    assert!(listed.stderr.contains(&refused), "{listed}");

    cluster.server.listen_again();
    cluster.agent.wait_ready().unwrap();
    cluster.settle();
    cluster.agent.terminate().unwrap();
    cluster.agent.cleanup().unwrap();
    cluster.server.refuse();
    cluster.start_unready();
    cluster.settle();
}

/// A file system of 16 KiB, or less.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=16k,mode=700")).unwrap();
        Self(at)
    }

    fn read_only(&self, is: bool) {
        let flags = if is { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        // Not while a file is open for writing.
        eventually("it is mounted anew", || {
            let flags = MsFlags::MS_REMOUNT | flags;
            mount(None::<&str>, &self.0, None::<&str>, flags, None::<&str>).map_err(|error| error.to_string())
        });
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

/// Takes all the room that there is.
fn fill(path: &Path) {
    let error = fs::write(path, vec![0; 64 << 10]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
}

/// A disk that takes nothing costs the snapshot: it is told once, and everything else goes on.
#[test]
fn a_full_or_read_only_disk_costs_nothing_but_the_snapshot() {
    let mut disk = None;
    let mut cluster = Cluster::with(one_node(), |world| {
        let dir = state_dir(world);
        disk = Some(Small::mount(dir.clone()));
        ["--state-dir", dir.to_str().unwrap(), "--state-interval", "1"].map(str::to_owned).to_vec()
    });
    let disk = disk.unwrap();
    let ballast = disk.0.join("ballast");
    let told = |cluster: &Cluster| cluster.agent.log().unwrap().matches("the snapshot is not written: ").count();
    let failures = |cluster: &Cluster| metric(&cluster.metrics(), "berrylb_snapshot_write_failures_total");
    let troubles: [(&str, &dyn Fn(bool)); 2] = [
        ("No space left", &|broken| match broken {
            true => fill(&ballast),
            false => fs::remove_file(&ballast).unwrap(),
        }),
        ("Read-only", &|broken| disk.read_only(broken)),
    ];
    for (number, (cause, set_broken)) in (1..).zip(troubles) {
        set_broken(true);
        let before = failures(&cluster);
        cluster.put_service(number, 2);
        cluster.settle();
        eventually("it is tried again", || match failures(&cluster) - before {
            some if some >= 2.0 => Ok(()),
            some => Err(format!("{some}: {}", cluster.agent.log().unwrap())),
        });
        assert_eq!(told(&cluster), usize::from(number), "told once: {}", cluster.agent.log().unwrap());
        let listed = cluster.agent.command(&["service", "list"]).output().unwrap();
        assert!(listed.stderr.contains("the snapshot is not written: ") && listed.stderr.contains(cause), "{listed}");
        assert_eq!((cluster.health("/healthz"), cluster.health("/livez")), ("200".into(), "200".into()));
        cluster.put_service(number + 10, 2);
        cluster.settle();
        set_broken(false);
        eventually("it is written again", || {
            let log = cluster.agent.log().unwrap();
            if log.matches("the snapshot is written again").count() == usize::from(number) { Ok(()) } else { Err(log) }
        });
        assert!(cluster.file().exists());
    }
    // With a disk that has failed for good it ends in time, and starts.
    disk.read_only(true);
    cluster.put_service(3, 2);
    cluster.settle();
    cluster.agent.restart().unwrap();
    cluster.settle();
    // The lab takes its folder away.
    drop(disk);
}

/// The API server's own Service with these endpoints.
fn api_server(endpoints: &[Endpoint]) -> String {
    let service = Service::new("kubernetes", &["10.96.0.1".parse().unwrap()], &[Port::tcp("https", 443, 6443)]);
    let slice = Slice { name: "kubernetes".into(), ..service.slice(endpoints) };
    format!("{service}---\n{slice}")
}

/// An agent that starts while the slices of `default/kubernetes` hold nobody keeps what an earlier one had, from the maps or,
/// where they went with the power, from the snapshot.
#[test]
fn the_api_servers_backends_outlive_the_agent() {
    let mut cluster = Cluster::keeping();
    let endpoint = Endpoint::new("192.168.1.10".parse().unwrap(), "raspi001");
    cluster.put("kubernetes", &api_server(std::slice::from_ref(&endpoint)));
    cluster.settle();
    let expected = cluster.agent.plan_text().unwrap();
    assert!(expected.contains("\"192.168.1.10\""), "{expected}");
    for (number, from) in (1..).zip(["maps", "maps", "snapshot"]) {
        if from == "snapshot" {
            // It was written while the slices were empty already.
            cluster.agent.terminate().unwrap();
            cluster.agent.cleanup().unwrap();
        } else {
            cluster.agent.kill9().unwrap();
        }
        cluster.server.apply(&api_server(&[endpoint.clone().unready()])).unwrap();
        cluster.agent.start_again().unwrap();
        assert_dumps(&cluster.agent, &expected);
        let log = cluster.agent.log().unwrap();
        assert_eq!(log.matches(KEPT).count(), number, "{from}: {log}");
        assert!(!log.contains("of a snapshot that is"), "{from}: {log}");
    }
    // Its Service is gone: a list says so, and nothing is kept.
    cluster.agent.kill9().unwrap();
    cluster.server.delete(Resource::Services, "default", "kubernetes");
    cluster.world.objects.remove("kubernetes").unwrap();
    cluster.agent.start_again().unwrap();
    cluster.settle();
    cluster.put("kubernetes", &api_server(&[objects::Endpoint::new("192.168.1.10".parse().unwrap(), "x").unready()]));
    cluster.settle();
}
