//! A real control plane on a machine of a lab: etcd, kube-apiserver, kube-controller-manager, and kubectl to talk to them.
//! Whoever wants it has their binaries in one folder; nothing here fetches any.
//!
//! There is no scheduler and no kubelet: [`Kubelets`] plays both with the lab's pods.

mod kubelets;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rcgen::KeyPair;
use serde_json::{Value, json};

pub use self::kubelets::Kubelets;
use crate::{Command, Host, Place, Process, config, patience::limit};

/// The programs that the folder has to hold.
pub const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

/// How long a part may take until it answers, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(120);
const PORT: u16 = 6443;
/// Of the user `admin`, who may do anything.
const ADMIN_TOKEN: &str = "lab-admin";
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

/// A running control plane. Dropping it kills its parts.
#[derive(Debug)]
pub struct ControlPlane {
    place: Place,
    binaries: PathBuf,
    folder: PathBuf,
    address: IpAddr,
    parts: Vec<(&'static str, Process)>,
}

impl ControlPlane {
    /// Starts one at an address of `machine` from the programs in the folder `binaries`, and waits until it answers and has
    /// its namespaces.
    ///
    /// # Errors
    /// A program is missing or does not start; the message holds its log.
    pub fn start(machine: &impl Host, address: IpAddr, binaries: &Path) -> Result<Self> {
        for name in PROGRAMS {
            let program = binaries.join(name);
            if !program.is_file() {
                bail!("{} is missing: the folder has to hold {}", program.display(), PROGRAMS.join(", "));
            }
        }
        let folder = machine.dir().join("kubernetes");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let place = machine.place().clone();
        let mut this = Self { place, binaries: binaries.into(), folder, address, parts: Vec::new() };
        this.write_keys()?;
        this.start_etcd()?;
        this.start_api_server()?;
        this.start_controllers()?;
        // Made by the API server and by the controllers: now all of them work.
        this.wait_for("the namespace's service account", |it| {
            it.kubectl(["get", "serviceaccount", "default", "--namespace", "default"]).ok().map(drop)
        })?;
        Ok(this)
    }

    /// Where the API server answers, as an address that nodes reach.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", SocketAddr::new(self.address, PORT))
    }

    /// kubectl on the control plane's machine, as somebody who may do anything.
    #[must_use]
    pub fn kubectl(&self, args: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Command {
        let command = self.place.command(self.binaries.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig("admin")).args(args)
    }

    /// `kubectl apply` of YAML or JSON; by the server, as one who takes over from others what is in conflict.
    ///
    /// # Errors
    /// The server refuses an object.
    pub fn apply(&self, objects: &str) -> Result<()> {
        let args = ["apply", "--server-side", "--force-conflicts", "--filename", "-"];
        self.kubectl(args).input(objects).ok().map(drop)
    }

    /// What `kubectl get` prints as JSON.
    ///
    /// # Errors
    /// It fails.
    pub fn get<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let text = self.kubectl(["get", "--output", "json"]).args(args).ok()?;
        serde_json::from_str(&text).context("parse what kubectl printed")
    }

    /// Changes an object's `status`, as whoever owns it does: a JSON merge patch.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn set_status(&self, namespace: &str, kind: &str, name: &str, status: &Value) -> Result<()> {
        let patch = json!({ "status": status }).to_string();
        let args = ["patch", kind, name, "--namespace", namespace, "--subresource", "status", "--type", "merge"];
        self.kubectl(args).args(["--patch", &patch]).ok().map(drop)
    }

    /// A kubeconfig with a token of this service account, for this long.
    ///
    /// # Errors
    /// There is no such account.
    pub fn account(&self, namespace: &str, name: &str, lifetime: Duration) -> Result<PathBuf> {
        let lifetime = format!("{}s", lifetime.as_secs());
        let token = self.kubectl(["create", "token", name, "--namespace", namespace, "--duration", &lifetime]).ok()?;
        self.write_kubeconfig(&format!("{namespace}-{name}"), token.trim())
    }

    /// `SIGKILL` to the API server.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_api_server(&mut self) -> Result<()> {
        self.part("kube-apiserver")?.kill()
    }

    /// Starts the API server after [`Self::kill_api_server`], and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_api_server_again(&mut self) -> Result<()> {
        self.parts.retain(|(name, _)| *name != "kube-apiserver");
        self.start_api_server()
    }

    fn part(&mut self, wanted: &str) -> Result<&mut Process> {
        let part = self.parts.iter_mut().find(|(name, _)| *name == wanted);
        part.map(|(_, process)| process).with_context(|| format!("{wanted} does not run"))
    }

    fn start_etcd(&mut self) -> Result<()> {
        let command = self.program("etcd").arg("--data-dir").arg(self.folder.join("etcd"));
        let clients = ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD];
        let peers = ["--listen-peer-urls", ETCD_PEERS, "--initial-advertise-peer-urls", ETCD_PEERS];
        self.launch("etcd", command.args(clients).args(peers))?;
        let health = format!("{ETCD}/health");
        self.wait_for("etcd", |it| it.place.command("curl").args(["-sSf", "-m", "2", &health]).ok().map(drop))
    }

    fn start_api_server(&mut self) -> Result<()> {
        let address = self.address.to_string();
        let ranges = format!("{},{}", config::SERVICE_NETWORK, config::SERVICE_NETWORK6);
        let command = self.program("kube-apiserver").args(["--etcd-servers", ETCD, "--authorization-mode", "RBAC"]);
        let command = command.arg("--allow-privileged");
        let command = command.args(["--bind-address", &address, "--advertise-address", &address]);
        let command = command.args(["--secure-port", &PORT.to_string(), "--service-cluster-ip-range", &ranges]);
        let command = command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        let command = command.arg("--service-account-signing-key-file").arg(self.folder.join("accounts.key"));
        let command = command.arg("--service-account-key-file").arg(self.folder.join("accounts.pub"));
        let command = command.arg("--token-auth-file").arg(self.folder.join("tokens.csv"));
        let command = command.arg("--cert-dir").arg(&self.folder);
        self.launch("kube-apiserver", command)?;
        self.wait_for("kube-apiserver", |it| {
            // The certificate that it makes for itself bears the authority's behind it.
            it.write_kubeconfig("admin", ADMIN_TOKEN)?;
            it.kubectl(["get", "--raw", "/readyz"]).ok().map(drop)
        })
    }

    fn start_controllers(&mut self) -> Result<()> {
        let command = self.program("kube-controller-manager").arg("--kubeconfig").arg(self.kubeconfig("admin"));
        let command = command.arg("--service-account-private-key-file").arg(self.folder.join("accounts.key"));
        let command = command.arg("--root-ca-file").arg(self.authority());
        // Nobody beats here for the nodes: what looks after their health would say that they are gone.
        let controllers = "*,-node-lifecycle-controller,-taint-eviction-controller,-node-ipam-controller";
        let command = command.args(["--controllers", controllers, "--leader-elect=false"]);
        self.launch("kube-controller-manager", command.args(["--bind-address", "127.0.0.1"]))
    }

    fn launch(&mut self, name: &'static str, command: Command) -> Result<()> {
        self.parts.push((name, command.spawn(name)?));
        Ok(())
    }

    fn program(&self, name: &str) -> Command {
        self.place.command(self.binaries.join(name)).current_dir(&self.folder)
    }

    fn wait_for(&mut self, what: &str, mut attempt: impl FnMut(&Self) -> Result<()>) -> Result<()> {
        let (start, limit) = (Instant::now(), limit(START_LIMIT));
        loop {
            for (name, process) in &mut self.parts {
                if let Some(status) = process.status()? {
                    bail!("{name} ended with {status}\n{}", tail(&process.err()?));
                }
            }
            let Err(error) = attempt(self) else { return Ok(()) };
            if start.elapsed() > limit {
                let last = self.parts.last().map(|(_, process)| process.err()).transpose()?.unwrap_or_default();
                return Err(error.context(format!("wait for {what} for {limit:?}\n{}", tail(&last))));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn write_keys(&self) -> Result<()> {
        let key = KeyPair::generate().context("key of service accounts")?;
        self.write("accounts.key", &key.serialize_pem())?;
        self.write("accounts.pub", &key.public_key_pem())?;
        self.write("tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,system:masters\n")).map(drop)
    }

    fn authority(&self) -> PathBuf {
        self.folder.join("apiserver.crt")
    }

    fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.kubeconfig"))
    }

    fn write_kubeconfig(&self, user: &str, token: &str) -> Result<PathBuf> {
        let cluster = json!({ "server": self.url(), "certificate-authority": self.authority() });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": user } }],
            "clusters": [{ "name": "lab", "cluster": cluster }],
            "users": [{ "name": user, "user": { "token": token } }],
        });
        self.write(&format!("{user}.kubeconfig"), &config.to_string())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("set permissions of {}", path.display()))?;
        Ok(path)
    }
}

/// The last lines of a log.
fn tail(log: &str) -> &str {
    let start = log.rmatch_indices('\n').nth(30).map_or(0, |(at, _)| at + 1);
    &log[start..]
}
