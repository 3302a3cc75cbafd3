//! The ways to an API server that kubeconfigs write down: kubeadm's, k3s's, by IPv6, with other names and without checks.
//! Each server here speaks TLS and asks who comes.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berrylb::{
    k8s::watch::{self, Access, Event, Hints, Patience, Watches},
    model::Object,
};
use lb_lab::api_server::{ApiConfig, ApiServer, Resource, Verb};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take on a busy machine, waits after failures included.
const LIMIT: Duration = Duration::from_secs(60);

/// A server, and the folder of its client's files.
struct Way {
    server: ApiServer,
    folder: TempDir,
}

impl Way {
    fn new(address: IpAddr, token: Option<&str>) -> Self {
        let config = ApiConfig {
            tls: true,
            token: token.map(str::to_owned),
            client_certificates: token.is_none(),
            ..ApiConfig::default()
        };
        let server = ApiServer::start_at((address, 0).into(), config).unwrap();
        let way = Self { server, folder: tempfile::tempdir().unwrap() };
        way.put("first");
        way
    }

    fn of_ipv4(token: Option<&str>) -> Self {
        Self::new(Ipv4Addr::LOCALHOST.into(), token)
    }

    fn put(&self, name: &str) {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
        });
        self.server.apply(&service.to_string()).unwrap();
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn ca(&self) -> String {
        self.server.ca_pem().unwrap()
    }

    /// Certificate and key.
    fn client(&self) -> (String, String) {
        let pem = self.server.client_pem().unwrap();
        let (certificate, key) = pem.split_at(pem.find("-----BEGIN PRIVATE KEY").unwrap());
        (certificate.to_owned(), key.to_owned())
    }

    /// Writes a kubeconfig with this cluster, beside its server, and this user.
    fn kubeconfig(&self, mut cluster: Value, user: &Value) -> PathBuf {
        if cluster["server"].is_null() {
            cluster["server"] = json!(self.server.url());
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it", "preferences": {},
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        });
        self.write("config", &config.to_string())
    }

    /// Follows the server and does `work` with what it tells.
    fn follow(&self, kubeconfig: PathBuf, work: impl AsyncFnOnce(&mut Watches)) {
        let hints = Hints { kubeconfig: Some(kubeconfig), ..Hints::default() };
        let access = Access::new(hints, |_| None).unwrap();
        let mut patience = Patience::default();
        patience.retry.least = Duration::from_millis(50);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        runtime.block_on(local.run_until(async {
            let mut watches = watch::start(access, patience).await.unwrap();
            work(&mut watches).await;
        }));
    }

    /// Waits until a watch of each resource is open, so that no request is under way.
    async fn all_watched(&self) {
        let wait = async {
            while [Resource::Services, Resource::EndpointSlices, Resource::Nodes]
                .iter()
                .any(|it| self.server.watches(*it) == 0)
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("a watch of each resource");
    }

    /// It works: the first Service comes.
    fn check(&self, cluster: Value, user: &Value) {
        self.follow(self.kubeconfig(cluster, user), async |watches| has_put(watches, "first").await);
    }
}

/// Waits for an event, and gives what the last failure was.
async fn until(watches: &mut Watches, what: &str, wanted: impl Fn(&Event) -> bool) {
    let mut failing = String::new();
    let wait = async {
        loop {
            for event in watches.next().await.events {
                if wanted(&event) {
                    return;
                }
                if let Event::Failing(why) = event {
                    failing = why;
                }
            }
        }
    };
    let waited = tokio::time::timeout(LIMIT, wait).await;
    waited.unwrap_or_else(|_| panic!("never came: {what}; {failing}"));
}

async fn has_put(watches: &mut Watches, name: &str) {
    let puts = |event: &Event| matches!(event, Event::Put(object) if matches!(&**object, Object::Service(s) if s.name.name() == &*name));
    until(watches, name, puts).await;
}

async fn fails(watches: &mut Watches, because: &str) {
    let says = |event: &Event| matches!(event, Event::Failing(why) if why.contains(because));
    until(watches, because, says).await;
}

/// kubeadm's `kubelet.conf`: one file with certificate and key that the kubelet replaces, paths beside the kubeconfig.
#[test]
fn a_kubelets_certificate_is_read_again_when_it_was_replaced() {
    let way = Way::of_ipv4(None);
    let write = || {
        way.write("ca.crt", &way.ca());
        way.write("kubelet-client-current.pem", &way.server.client_pem().unwrap());
    };
    write();
    let pem = "kubelet-client-current.pem";
    let user = json!({"client-certificate": pem, "client-key": pem});
    way.follow(way.kubeconfig(json!({"certificate-authority": "ca.crt"}), &user), async |watches| {
        has_put(watches, "first").await;
        way.server.rotate_ca().unwrap();
        way.server.drop_connections();
        fails(watches, "certificate").await;
        write();
        way.put("second");
        has_put(watches, "second").await;
    });
}

/// `/etc/rancher/k3s/k3s.yaml`: all in one file, and the key as SEC 1 has it.
#[test]
fn k3s_writes_everything_into_its_file() {
    let way = Way::of_ipv4(None);
    let (certificate, key) = way.client();
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let pkcs8 = STANDARD.decode(body).unwrap();
    // Of a key on P-256, PKCS 8 is a head of 27 bytes and an octet string of the key as SEC 1 has it.
    assert_eq!((pkcs8[27], usize::from(pkcs8[28])), (4, pkcs8.len() - 29));
    let sec1 =
        format!("-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----\n", STANDARD.encode(&pkcs8[29..]));
    let user =
        json!({"client-certificate-data": STANDARD.encode(certificate), "client-key-data": STANDARD.encode(sec1)});
    way.check(json!({"certificate-authority-data": STANDARD.encode(way.ca())}), &user);
}

#[test]
fn a_server_at_an_ipv6_address() {
    let way = Way::new(Ipv6Addr::LOCALHOST.into(), Some("one"));
    assert!(way.server.url().starts_with("https://[::1]:"), "{}", way.server.url());
    way.check(json!({"certificate-authority-data": STANDARD.encode(way.ca())}), &json!({"token": "one"}));
}

#[test]
fn no_certificate_is_checked_if_the_file_says_so() {
    let way = Way::of_ipv4(Some("one"));
    way.check(json!({"insecure-skip-tls-verify": true}), &json!({"token": "one"}));
}

#[test]
fn the_servers_name_in_its_certificate_may_be_given() {
    let way = Way::of_ipv4(Some("one"));
    let named = |name: &str| json!({"certificate-authority-data": STANDARD.encode(way.ca()), "tls-server-name": name});
    way.check(named("kubernetes.default.svc"), &json!({"token": "one"}));
    let other = way.kubeconfig(named("another.example"), &json!({"token": "one"}));
    way.follow(other, async |watches| fails(watches, "certificate").await);
}

/// A file counts before a token beside it, as for client-go; what an editor puts behind it is none of it.
#[test]
fn a_token_file_is_read_for_each_request() {
    let way = Way::of_ipv4(Some("one"));
    way.write("token", "one\n");
    let user = json!({"tokenFile": "token", "token": "older"});
    let cluster = json!({"certificate-authority-data": STANDARD.encode(way.ca())});
    way.follow(way.kubeconfig(cluster, &user), async |watches| {
        has_put(watches, "first").await;
        // A request that is on its way still carries the old token, so each resource's watch has to be open.
        way.all_watched().await;
        way.server.set_token(Some("two"));
        way.write("token", "two\n");
        drop(way.server.take_seen());
        way.server.drop_connections();
        way.put("second");
        has_put(watches, "second").await;
        let refused = way.server.take_seen().into_iter().filter(|seen| seen.code == Some(401)).count();
        assert_eq!(refused, 0, "the new token is used at once");
    });
}

#[test]
fn a_program_may_give_the_token() {
    let way = Way::of_ipv4(Some("one"));
    let script = way.write(
        "token.sh",
        "#!/bin/sh\necho '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {\"token\": \"one\"}}'\n",
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let exec = |command: &str| {
        let version = "client.authentication.k8s.io/v1";
        json!({"exec": {"apiVersion": version, "command": command, "interactiveMode": "Never"}})
    };
    let cluster = json!({"certificate-authority-data": STANDARD.encode(way.ca())});
    way.check(cluster.clone(), &exec("./token.sh"));
    let missing = way.kubeconfig(cluster, &exec("./missing.sh"));
    way.follow(missing, async |watches| fails(watches, "unable to run auth exec").await);
}

#[test]
fn a_refusal_names_the_missing_rule() {
    let way = Way::of_ipv4(Some("one"));
    way.server.forbid(Verb::Watch, Resource::EndpointSlices);
    let cluster = json!({"certificate-authority-data": STANDARD.encode(way.ca())});
    way.follow(way.kubeconfig(cluster, &json!({"token": "one"})), async |watches| {
        fails(watches, "cannot watch resource \"endpointslices\" in API group \"discovery.k8s.io\"").await;
        way.server.heal();
        until(watches, "working", |event| *event == Event::Working).await;
    });
}

/// A node's agent may inherit a proxy that its API server is not behind.
#[test]
fn proxies_of_the_environment_are_not_asked() {
    const PROXY: &str = "HTTPS_PROXY";
    if std::env::var_os(PROXY).is_none() {
        let itself = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "proxies_of_the_environment_are_not_asked", "--nocapture"])
            .env(PROXY, "http://127.0.0.1:9")
            .output()
            .unwrap();
        assert!(itself.status.success(), "{}", String::from_utf8_lossy(&itself.stderr));
        return;
    }
    let way = Way::of_ipv4(Some("one"));
    let ca = STANDARD.encode(way.ca());
    way.check(json!({"certificate-authority-data": ca}), &json!({"token": "one"}));
    let proxied = json!({"certificate-authority-data": ca, "proxy-url": "http://127.0.0.1:9"});
    let kubeconfig = Some(way.kubeconfig(proxied, &json!({"token": "one"})));
    let access = Access::new(Hints { kubeconfig, ..Hints::default() }, |_| None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(watch::start(access, Patience::default())).unwrap_err().to_string();
    assert!(error.contains("proxy-url http://127.0.0.1:9"), "{error}");
}
