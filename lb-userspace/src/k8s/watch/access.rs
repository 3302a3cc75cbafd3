//! How the API server is reached: by a kubeconfig, or as a pod of the cluster. Reads files and environment, never the network.
//!
//! A pod that is to make Services work cannot rely on the Service of the API server, which is all that the environment tells
//! it. So the server itself may be named, by a flag or by the kubeconfig of the node's kubelet.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use hyper::Uri;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError},
};

use crate::chain::chain;

/// Where a pod finds its ServiceAccount: a volume that the kubelet keeps up to date.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The way to the server. Read anew for each new connection after a failure, so that changed files count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Access {
    /// `--kubeconfig`; without, the pod's ServiceAccount.
    kubeconfig: Option<PathBuf>,
    /// `--api-server`, in place of whatever else names a server.
    server: Option<Uri>,
    /// `--node-kubeconfig`: of this only the server counts.
    node_kubeconfig: Option<PathBuf>,
    /// What a pod's environment names: the Service.
    environment: Option<Uri>,
    account: PathBuf,
}

/// What an agent is told about where its server is.
#[derive(Clone, Debug, Default)]
pub struct Hints<'a> {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--api-server`.
    pub server: Option<&'a str>,
    /// `--node-kubeconfig`.
    pub node_kubeconfig: Option<PathBuf>,
}

/// Why there is no way to the server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// `--api-server` is no URL of a server.
    #[error("--api-server {text}: {cause}; give a URL such as https://192.168.1.10:6443")]
    Server {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Nothing names a server.
    #[error(
        "no source of Services: --from, --kubeconfig and --api-server are not given; {node_kubeconfig}; and this is no pod of \
         a cluster (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set); give one of the flags"
    )]
    NoServer {
        /// What became of `--node-kubeconfig`.
        node_kubeconfig: String,
    },
    /// Both kinds of kubeconfig are given.
    #[error(
        "--kubeconfig names the server and who asks, --node-kubeconfig only the server, for a pod with its ServiceAccount: \
         give one of them"
    )]
    TwoKubeconfigs,
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig {path}: {cause}")]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The pod's ServiceAccount is not there.
    #[error(
        "cannot read {path}: {cause}; a pod needs its ServiceAccount's token (automountServiceAccountToken), and \
         outside of a cluster --kubeconfig names the way to the API server"
    )]
    Account {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl Access {
    /// From the flags, and from the environment beside them. `variable` reads the environment.
    ///
    /// # Errors
    /// If no server can be named, or not as a URL.
    pub fn new(hints: Hints<'_>, variable: impl Fn(&str) -> Option<String>) -> Result<Self, AccessError> {
        let Hints { kubeconfig, server, node_kubeconfig } = hints;
        if kubeconfig.is_some() && node_kubeconfig.is_some() {
            return Err(AccessError::TwoKubeconfigs);
        }
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let environment = match set("KUBERNETES_SERVICE_HOST").zip(set("KUBERNETES_SERVICE_PORT")) {
            // An IPv6 address stands in brackets in a URL, but not in the environment.
            Some((host, port)) if host.contains(':') => Some(server_url(&format!("https://[{host}]:{port}"))?),
            Some((host, port)) => Some(server_url(&format!("https://{host}:{port}"))?),
            None => None,
        };
        let server = server.map(server_url).transpose()?;
        let access = Self { kubeconfig, server, node_kubeconfig, environment, account: ACCOUNT.into() };
        if access.kubeconfig.is_none() {
            // A file that comes later is no reason to end now, if there is another way.
            access.servers()?;
        }
        Ok(access)
    }

    /// All that a connection needs, and what it is to be called. With several servers, attempts (counted from 0) take turns.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub(super) async fn config(&self, attempt: u32) -> Result<(Config, String), AccessError> {
        let Some(path) = &self.kubeconfig else {
            let mut servers = self.servers()?;
            let turn = usize::try_from(attempt).unwrap_or(0) % servers.len();
            let server = servers.swap_remove(turn);
            let name = server.to_string();
            return Ok((self.account_config(server.uri)?, name));
        };
        let failed = |error: KubeconfigError| AccessError::Kubeconfig { path: path.clone(), cause: cause(&error) };
        let mut read = Kubeconfig::read_from(path).map_err(failed)?;
        if let Some(proxy) = take_proxy(&mut read) {
            let cause = format!("proxy-url {proxy} is not supported: name the server itself, and no proxy-url");
            return Err(AccessError::Kubeconfig { path: path.clone(), cause });
        }
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(read, &options).await.map_err(failed)?;
        config.proxy_url = None;
        if let Some(server) = &self.server {
            config.cluster_url = server.clone();
        }
        if config.accept_invalid_certs || config.cluster_url.scheme_str() != Some("https") {
            config.root_cert = NO_ROOTS;
        }
        // As it was read: by now the file may name another one.
        let server =
            Server { uri: config.cluster_url.clone(), origin: self.server.is_none().then(|| by_kubeconfig(path)) };
        Ok((config, server.to_string()))
    }

    /// URL of the server that is tried first.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub async fn server_url(&self) -> Result<String, AccessError> {
        Ok(self.config(0).await?.0.cluster_url.to_string())
    }

    /// The servers that a ServiceAccount may be shown to, in the order in which they are tried; never none.
    fn servers(&self) -> Result<Vec<Server>, AccessError> {
        if let Some(uri) = &self.server {
            return Ok(vec![Server { uri: uri.clone(), origin: None }]);
        }
        let mut servers = Vec::new();
        let node_kubeconfig = match &self.node_kubeconfig {
            None => "--node-kubeconfig is not given".to_owned(),
            Some(path) => match server_of(path) {
                Ok(uri) => {
                    servers.push(Server { uri, origin: Some(format!("by --node-kubeconfig {}", path.display())) });
                    String::new()
                }
                Err(cause) => format!("--node-kubeconfig {} names none: {cause}", path.display()),
            },
        };
        if let Some(uri) = &self.environment {
            let mut origin = "by KUBERNETES_SERVICE_HOST, a Service".to_owned();
            if self.node_kubeconfig.is_some() && servers.is_empty() {
                origin = format!("{origin}; {node_kubeconfig}");
            }
            servers.push(Server { uri: uri.clone(), origin: Some(origin) });
        }
        if servers.is_empty() { Err(AccessError::NoServer { node_kubeconfig }) } else { Ok(servers) }
    }

    fn account_config(&self, server: Uri) -> Result<Config, AccessError> {
        let secure = server.scheme_str() == Some("https");
        let mut config = Config::new(server);
        // The file counts, and is read again every minute; no certificate of ours beside it.
        config.root_cert = NO_ROOTS;
        // A token is nothing for a connection that anybody on the way could read.
        if secure {
            let (token, roots) = (self.account.join("token"), self.account.join("ca.crt"));
            for path in [&token, &roots] {
                if let Err(cause) = std::fs::metadata(path) {
                    return Err(AccessError::Account { path: path.clone(), cause });
                }
            }
            config.auth_info.token_file = Some(token.to_string_lossy().into_owned());
            config.root_cert_file = Some(roots);
        }
        Ok(config)
    }
}

/// Without any, the machine's would be loaded, and in an image that holds nothing but the agent there are none.
const NO_ROOTS: Option<Vec<Vec<u8>>> = Some(Vec::new());

/// The proxy of the current context's cluster. The environment's are not looked at: a node's own way to its API server
/// is not one of those, and the agent may well inherit them. kube would take them where a cluster names none, so each
/// gets a name here that nobody uses.
fn take_proxy(config: &mut Kubeconfig) -> Option<String> {
    let context = config.contexts.iter().find(|context| Some(&context.name) == config.current_context.as_ref());
    let current = context.and_then(|context| context.context.as_ref()).map(|context| context.cluster.clone());
    let mut found = None;
    for named in &mut config.clusters {
        let Some(cluster) = &mut named.cluster else { continue };
        let proxy = cluster.proxy_url.replace("http://none.invalid".to_owned()).filter(|url| !url.is_empty());
        if Some(&named.name) == current.as_ref() {
            found = proxy;
        }
    }
    found
}

/// As it is now: files are read.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.server, &self.kubeconfig) {
            (Some(server), _) => write!(f, "{server}"),
            (None, Some(path)) => match server_of(path) {
                Ok(uri) => write!(f, "{}", Server { uri, origin: Some(by_kubeconfig(path)) }),
                // What is wrong with it is told by whoever makes a connection.
                Err(_) => write!(f, "the server of {}", path.display()),
            },
            (None, None) => match self.servers() {
                Ok(servers) => {
                    let names: Vec<String> = servers.iter().map(Server::to_string).collect();
                    f.write_str(&names.join(", or else "))
                }
                Err(error) => write!(f, "no server ({error})"),
            },
        }
    }
}

/// A server, and who names it; a flag needs no mention.
struct Server {
    uri: Uri,
    origin: Option<String>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} (named {origin})", self.uri),
            None => write!(f, "{}", self.uri),
        }
    }
}

fn by_kubeconfig(path: &Path) -> String {
    format!("by --kubeconfig {}", path.display())
}

/// Why a kubeconfig is no good. Whoever tells it names the file; kube would do so as well, in quotes within quotes.
fn cause(error: &KubeconfigError) -> String {
    let file = std::error::Error::source(error).and_then(|source| source.downcast_ref::<LoadDataError>());
    match (error, file) {
        (KubeconfigError::ReadConfig(cause, _), _) => format!("cannot read it: {cause}"),
        (_, Some(LoadDataError::ReadFile(cause, path))) => {
            format!("cannot read {}, which it names: {cause}", path.display())
        }
        _ => chain(error),
    }
}

/// The server of a kubeconfig's current context, or why there is none.
fn server_of(path: &Path) -> Result<Uri, String> {
    let read = Kubeconfig::read_from(path).map_err(|error| cause(&error))?;
    let current = read.current_context.as_deref().ok_or("it has no current-context")?;
    let context = read.contexts.iter().find(|named| named.name == current).and_then(|named| named.context.as_ref());
    let cluster = context.ok_or_else(|| format!("it has no context {current}"))?.cluster.clone();
    let named = read.clusters.iter().find(|named| named.name == cluster).and_then(|named| named.cluster.as_ref());
    let server = named.and_then(|cluster| cluster.server.as_deref());
    let server = server.ok_or_else(|| format!("its cluster {cluster} has no server"))?;
    server_url(server).map_err(|error| error.to_string())
}

fn server_url(text: &str) -> Result<Uri, AccessError> {
    let bad = |cause: &str| AccessError::Server { text: text.to_owned(), cause: cause.to_owned() };
    let uri: Uri = text.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(&error.to_string()))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("https" | "http"), Some(_)) => Ok(uri),
        _ => Err(bad("not a URL with https:// (or, without a token, http://) and a host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn server(given: Option<&str>, host: &'static str, port: &'static str) -> Result<String, String> {
        let variable = |name: &str| Some(if name.ends_with("HOST") { host } else { port }.to_owned());
        let hints = Hints { server: given, ..Hints::default() };
        let access = Access::new(hints, variable).map_err(|error| error.to_string())?;
        Ok(access.to_string())
    }

    fn kubeconfig(server: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {{server: '{server}'}}}}]\nusers: [{{name: a, user: {{token: x}}}}]\n"
        )
    }

    #[test]
    fn a_server_comes_from_the_flag_or_the_environment() {
        let told = " (named by KUBERNETES_SERVICE_HOST, a Service)";
        assert_eq!(server(None, "10.96.0.1", "443").unwrap(), format!("https://10.96.0.1:443/{told}"));
        assert_eq!(server(None, "fd00::1", "443").unwrap(), format!("https://[fd00::1]:443/{told}"));
        assert_eq!(server(Some("https://pi:6443"), "10.96.0.1", "443").unwrap(), "https://pi:6443/");
        assert!(server(None, "", "443").unwrap_err().contains("--kubeconfig"));
        for bad in ["pi:6443", "/run/x", "ftp://pi", "https://"] {
            assert!(server(Some(bad), "", "").unwrap_err().contains("https://192.168.1.10:6443"), "{bad}");
        }
    }

    /// An account as the kubelet gives it to a pod.
    fn account(folder: &Path) -> PathBuf {
        for (name, text) in [("token", "t"), ("ca.crt", "c")] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        folder.into()
    }

    #[tokio::test]
    async fn the_kubeconfig_of_the_node_names_a_server_and_the_environment_is_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet.conf");
        std::fs::write(&path, kubeconfig("https://one:6443")).unwrap();
        let in_pod = |name: &str| Some(if name.ends_with("HOST") { "10.96.0.1" } else { "443" }.to_owned());
        let hints = |server| Hints { server, node_kubeconfig: Some(path.clone()), kubeconfig: None };
        let new = |server: Option<&'static str>| {
            let mut access = Access::new(hints(server), in_pod).unwrap();
            access.account = account(folder.path());
            access
        };

        let access = new(None);
        let text = access.to_string();
        assert!(text.starts_with("https://one:6443/ (named by --node-kubeconfig "), "{text}");
        assert!(text.contains(", or else https://10.96.0.1:443/"), "{text}");
        for (attempt, server) in [(0, "https://one:6443/"), (1, "https://10.96.0.1:443/"), (2, "https://one:6443/")] {
            let (config, name) = access.config(attempt).await.unwrap();
            assert_eq!(config.cluster_url.to_string(), server);
            assert!(name.starts_with(server), "{name}");
            // Who asks is the pod, never the kubelet.
            assert!(config.auth_info.token.is_none() && config.auth_info.token_file.is_some());
        }
        let (config, _) = new(Some("https://two:6443")).config(1).await.unwrap();
        assert_eq!(config.cluster_url.to_string(), "https://two:6443/");

        // What the file says by now counts; what is wrong with it is told.
        for (content, cause) in [("", "current-context"), (kubeconfig("pi:6443").as_str(), "not a URL")] {
            std::fs::write(&path, content).unwrap();
            let (config, name) = access.config(0).await.unwrap();
            assert_eq!(config.cluster_url.to_string(), "https://10.96.0.1:443/");
            assert!(name.contains("kubelet.conf names none") && name.contains(cause), "{name}");
        }
        let error = Access::new(hints(None), none).unwrap_err().to_string();
        assert!(error.contains("kubelet.conf names none") && error.contains("KUBERNETES_SERVICE_HOST"), "{error}");
        let both = Hints { kubeconfig: Some("x".into()), ..hints(None) };
        assert!(matches!(Access::new(both, none), Err(AccessError::TwoKubeconfigs)));
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        let hints = Hints { kubeconfig: Some("nowhere/config".into()), ..Hints::default() };
        let error = Access::new(hints, none).unwrap().config(0).await.unwrap_err().to_string();
        assert_eq!(error, "--kubeconfig nowhere/config: cannot read it: No such file or directory (os error 2)");

        let folder = tempfile::tempdir().unwrap();
        let hints = Hints { server: Some("https://pi"), ..Hints::default() };
        let mut pod = Access::new(hints, none).unwrap();
        pod.account = folder.path().into();
        let error = pod.config(0).await.unwrap_err().to_string();
        assert!(error.contains("/token") && error.contains("automountServiceAccountToken"), "{error}");
    }

    #[tokio::test]
    async fn the_server_of_a_kubeconfig_can_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, kubeconfig("https://one:6443")).unwrap();
        for (server, expected) in [(None, "https://one:6443/"), (Some("https://two:6443"), "https://two:6443/")] {
            let hints = Hints { kubeconfig: Some(path.clone()), server, node_kubeconfig: None };
            let access = Access::new(hints, none).unwrap();
            let (config, name) = access.config(0).await.unwrap();
            assert_eq!(config.cluster_url.to_string(), expected);
            // A failure names the server, and the file if that named it.
            let by =
                if server.is_none() { format!(" (named by --kubeconfig {})", path.display()) } else { String::new() };
            assert_eq!(name, format!("{expected}{by}"));
            assert_eq!(access.to_string(), name);
        }
        std::fs::remove_file(&path).unwrap();
        let hints = Hints { kubeconfig: Some(path.clone()), ..Hints::default() };
        assert_eq!(Access::new(hints, none).unwrap().to_string(), format!("the server of {}", path.display()));
    }

    /// A file that the kubeconfig names is told by its own path, once.
    #[tokio::test]
    async fn a_file_that_the_kubeconfig_names_and_that_is_missing_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let cluster = "{certificate-authority: ca.crt, server: ";
        std::fs::write(&path, kubeconfig("https://one:6443").replace("{server: ", cluster)).unwrap();
        let hints = Hints { kubeconfig: Some(path.clone()), ..Hints::default() };
        let error = Access::new(hints, none).unwrap().config(0).await.unwrap_err().to_string();
        let ca = folder.path().join("ca.crt");
        assert!(error.contains(&format!(": cannot read {}, which it names: No such file", ca.display())), "{error}");
    }

    #[tokio::test]
    async fn no_token_goes_over_a_plain_connection() {
        let hints = Hints { server: Some("http://127.0.0.1:1"), ..Hints::default() };
        let (config, _) = Access::new(hints, none).unwrap().config(0).await.unwrap();
        assert!(config.auth_info.token_file.is_none());
    }
}
