//! The life of the DaemonSet's pod on a node: started, ready, serving, upgraded, uninstalled.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant},
};

use lb_lab::{
    Folder, Host as _, Lab, Node, Peer, Pod,
    api_server::{ApiConfig, ApiServer, Resource},
    objects::{self, Endpoint, Port, Service},
    peer::{Open, Ping, TcpAsk},
};
use serde_json::Value;

use crate::{
    container::{Cluster, Container, seccomp},
    daemonset::DaemonSet,
    host::HostFolders,
    tools,
};

const VIP: &str = "10.111.197.69:8080";
const TOKEN: &str = "a-token";

/// The agent's file of the last good objects, in its folder on the node.
const SNAPSHOT: &str = "objects.json.gz";

/// The API server is waited for 3 s before a snapshot counts; the rest is for a busy machine.
const SERVES_LIMIT: Duration = Duration::from_secs(20);

/// A cluster with the story's Service, whose node raspi002 has the image and no agent yet.
struct World {
    host: HostFolders,
    account: PathBuf,
    server: ApiServer,
    client: Pod,
    pods: Vec<(Pod, Peer)>,
    _unpacked: tempfile::TempDir,
    rootfs: PathBuf,
    _folder: Folder,
    lab: Lab,
}

impl World {
    /// The API server listens at this address of the node raspi002.
    fn new(api: SocketAddr, has_bpffs: bool) -> Self {
        let lab = Lab::story().unwrap();
        let node = lab.node("raspi002");
        let host = HostFolders::new(node, lab.dir(), has_bpffs);
        let config = ApiConfig { tls: true, token: Some(TOKEN.into()), ..ApiConfig::default() };
        let server = ApiServer::start_in(node.netns(), api, config).unwrap();
        server.apply(&objects::nodes(&lab)).unwrap();
        let folder = Folder::create(&lab.dir().join("account")).unwrap();
        let account = folder.path().to_owned();
        fs::write(account.join("token"), TOKEN).unwrap();
        fs::write(account.join("ca.crt"), server.ca_pem().unwrap()).unwrap();

        let pod = |node: &str, name: &str| {
            let pod = lab.node(node).add_pod(name).unwrap();
            let serving = pod.serve(&[80]).unwrap();
            (pod, serving)
        };
        let pods = vec![pod("raspi002", "sample-1"), pod("raspi003", "sample-2"), pod("raspi003", "sample-3")];
        let service = Service::new("sample", &[vip().ip()], &[Port::tcp("http", vip().port(), 80)]);
        let endpoints: Vec<Endpoint> = pods.iter().map(|(pod, _)| Endpoint::v4(pod)).collect();
        server.apply(&format!("{service}---\n{}", service.slice(&endpoints))).unwrap();
        let client = node.add_pod("client").unwrap();
        let (unpacked, rootfs) = tools::unpack();
        Self { host, account, server, client, pods, _unpacked: unpacked, rootfs, _folder: folder, lab }
    }

    fn node(&self) -> &Node {
        self.lab.node("raspi002")
    }

    /// Runs the container of a manifest until it says that it is ready.
    fn run(&self, set: &DaemonSet, api_service: SocketAddr, name: &str, ready: &str) -> Result<Container, String> {
        let mut container = self.start(set, api_service, name, |_| {});
        container.wait_for(ready)?;
        Ok(container)
    }

    fn start(&self, set: &DaemonSet, api_service: SocketAddr, name: &str, edit: impl FnOnce(&mut Value)) -> Container {
        let cluster = Cluster { account: &self.account, api_service };
        Container::start(self.node(), set, &self.host, &cluster, (name, &self.rootfs), edit)
    }

    fn served(&self) -> Vec<String> {
        let answers = self.client.ask(TcpAsk { count: 40, ..TcpAsk::to(vip()) }).unwrap();
        let mut names: Vec<String> = answers.all().iter().map(|answer| answer.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn http(&self, port: u16, path: &str) -> String {
        let url = format!("http://127.0.0.1:{port}{path}");
        self.node().command("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).ok().unwrap()
    }

    /// Programs that tc knows of on the node's devices.
    fn attached(&self) -> Value {
        let text = self.node().command("bpftool").args(["-j", "net", "show"]).ok().unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn vip() -> SocketAddr {
    VIP.parse().unwrap()
}

/// The Service of the API server: nobody serves it here, as on a node without kube-proxy.
fn unserved() -> SocketAddr {
    (Ipv4Addr::new(10, 96, 0, 1), 443).into()
}

/// From the pod's start to its removal; the agent's start is printed, as it is measured on whatever runs beside it.
fn life(manifest: &str, api: SocketAddr, api_service: SocketAddr, prepare: impl FnOnce(&World)) {
    let world = World::new(api, true);
    prepare(&world);
    let set = DaemonSet::read(manifest);
    let begun = Instant::now();
    let first = world.run(&set, api_service, "first", "ready").unwrap();
    eprintln!("{manifest}: from runc to ready {} ms", begun.elapsed().as_millis());
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let (port, path) = set.probe(kind);
        assert_eq!(world.http(port, &path), "200", "{kind} at {port}{path}");
    }
    assert_eq!(world.served(), ["sample-1", "sample-2", "sample-3"]);
    let listed = first.exec(&["/berrylb", "service", "list"]);
    assert!(listed.contains("default/sample"), "{listed}");
    assert_eq!(world.host.pins(), ["berrylb"]);
    let seen = world.server.take_seen();
    let refused: Vec<_> = seen.iter().filter(|seen| seen.code != Some(200) && seen.code != Some(422)).collect();
    assert!(
        seen.iter().any(|seen| seen.resource == Some(Resource::EndpointSlices)) && refused.is_empty(),
        "{refused:?}"
    );

    // Upgrade: the old pod ends, a connection and new ones go on, the new pod adopts.
    let mut held = world.client.peer().unwrap();
    let id = held.ask(Open::tcp(vip())).unwrap().id.unwrap();
    let before = held.ask(Ping::new(id)).unwrap().result.unwrap();
    assert_eq!(first.terminate(), 0);
    assert_eq!(world.served(), ["sample-1", "sample-2", "sample-3"], "without an agent");
    let begun = Instant::now();
    let second = world.run(&set, api_service, "second", "ready").unwrap();
    eprintln!("{manifest}: the next one adopts, from runc to ready {} ms", begun.elapsed().as_millis());
    let after = held.ask(Ping::new(id)).unwrap().result.unwrap();
    assert_eq!(before.name, after.name);
    assert_eq!(world.served(), ["sample-1", "sample-2", "sample-3"]);
    let log = fs::read_to_string(second.process.err_path()).unwrap();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("\"ERROR\"") || line.contains("\"WARN\"")).collect();
    assert!(told.is_empty(), "{told:#?}");
    assert_eq!(second.terminate(), 0);

    // Uninstall.
    assert_eq!(world.host.kept(), [SNAPSHOT]);
    let uninstall = DaemonSet::read("berrylb-uninstall.yaml");
    let cleaner = world.run(&uninstall, api_service, "uninstall", "done; waiting for SIGTERM").unwrap();
    assert_eq!(cleaner.terminate(), 0);
    assert_eq!(world.host.pins(), Vec::<String>::new());
    assert_eq!(world.host.kept(), Vec::<String>::new());
    let left = world.attached();
    assert!(
        left[0]["tc"].as_array().is_none_or(Vec::is_empty) && left[0]["xdp"].as_array().is_none_or(Vec::is_empty),
        "{left}"
    );
    let asked = world.client.ask(TcpAsk { timeout_ms: 300, ..TcpAsk::to(vip()) }).unwrap();
    assert!(asked.0[0].result.is_err(), "nobody serves the Service any more: {asked:?}");
    // The pods themselves are as they were.
    let (pod, _) = &world.pods[0];
    let direct = world.client.ask(TcpAsk::to((IpAddr::from(pod.ip4()), 80).into())).unwrap();
    assert_eq!(direct.all()[0].name, "sample-1");
}

/// At the address that the environment names.
fn served_api() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 6443).into()
}

#[test]
fn base() {
    life("berrylb.yaml", served_api(), served_api(), |_| {});
}

#[test]
fn hardened() {
    life("berrylb-hardened.yaml", served_api(), served_api(), |_| {});
}

#[test]
fn kube_proxy_coexist() {
    life("berrylb-kube-proxy-coexist.yaml", served_api(), served_api(), |_| {});
}

/// k3s' address on every node.
#[test]
fn k3s() {
    life("berrylb-k3s.yaml", (Ipv4Addr::LOCALHOST, 6444).into(), unserved(), |_| {});
}

/// The kubelet's kubeconfig leads to the server, the environment to nobody.
#[test]
fn kubeadm() {
    life("berrylb-kubeadm.yaml", (Ipv4Addr::LOCALHOST, 6443).into(), unserved(), |world| {
        let path = world.host.of("/etc/kubernetes/kubelet.conf");
        fs::write(path, world.server.kubeconfig(None)).unwrap();
    });
}

/// After a boot the node has the snapshot and no maps. It serves by that while the API server is away, and then follows it.
#[test]
fn a_node_that_boots_serves_before_it_hears_the_api_server() {
    for manifest in ["berrylb.yaml", "berrylb-hardened.yaml"] {
        let world = World::new(served_api(), true);
        let set = DaemonSet::read(manifest);
        assert_eq!(world.run(&set, served_api(), "first", "ready").unwrap().terminate(), 0);
        // What a boot takes away; the variable would take the snapshot as well.
        let uninstall = DaemonSet::read("berrylb-uninstall.yaml");
        let mut boot = world.start(&uninstall, served_api(), "boot", |config| {
            let variables = config["process"]["env"].as_array_mut().unwrap();
            variables.retain(|variable| !variable.as_str().unwrap().starts_with("BERRYLB_STATE_DIR="));
        });
        boot.wait_for("done; waiting for SIGTERM").unwrap();
        assert_eq!(boot.terminate(), 0);
        assert_eq!((world.host.pins(), world.host.kept()), (vec![], vec![SNAPSHOT.to_owned()]));

        world.server.refuse();
        let mut agent = world.start(&set, served_api(), "second", |_| {});
        let begun = Instant::now();
        while world.client.ask(TcpAsk { timeout_ms: 300, ..TcpAsk::to(vip()) }).unwrap().0[0].result.is_err() {
            assert!(begun.elapsed() < SERVES_LIMIT, "{manifest}: {}", agent.process.err().unwrap());
        }
        assert_eq!(world.served(), ["sample-1", "sample-2", "sample-3"]);
        let (port, path) = set.probe("readinessProbe");
        assert_eq!(world.http(port, &path), "503", "{manifest}");
        world.server.listen_again();
        agent.wait_for("ready").unwrap();
        assert_eq!(world.http(port, &path), "200");
        assert_eq!(agent.terminate(), 0);
    }
}

/// The agent mounts a bpffs for the node, so the pins outlive its container.
#[test]
fn a_node_without_bpffs_gets_one_that_stays() {
    let world = World::new(served_api(), false);
    let set = DaemonSet::read("berrylb.yaml");
    let first = world.run(&set, served_api(), "first", "ready").unwrap();
    assert_eq!(first.terminate(), 0);
    assert_eq!(world.host.pins(), ["berrylb"]);
    assert_eq!(world.served(), ["sample-1", "sample-2", "sample-3"]);
    // The hardened one may not mount; it takes what is there by now, and what it holds.
    let set = DaemonSet::read("berrylb-hardened.yaml");
    let second = world.run(&set, served_api(), "second", "ready").unwrap();
    assert_eq!(second.terminate(), 0);
}

/// With a seccomp profile that knows no CAP_BPF (containerd before 1.7, CRI-O) the hardened pod says what is in its way.
#[test]
fn a_profile_that_forbids_bpf_is_named() {
    let world = World::new(served_api(), true);
    let set = DaemonSet::read("berrylb-hardened.yaml");
    let strict = |config: &mut Value| {
        let names: Vec<String> =
            serde_json::from_value(config["process"]["capabilities"]["effective"].clone()).unwrap();
        config["linux"]["seccomp"] = seccomp(&names, false);
    };
    let error = world.start(&set, served_api(), "first", strict).wait_for("ready").unwrap_err();
    assert!(error.contains("seccomp"), "{error}");
}
