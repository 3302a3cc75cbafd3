//! How the API server is reached: by a kubeconfig, or as a pod of the cluster. Reads files and environment, never the network.

use std::{fmt, path::PathBuf};

use hyper::Uri;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where a pod finds its ServiceAccount: a volume that the kubelet keeps up to date.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The way to the server. Read anew for each new connection after a failure, so that changed files count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Access {
    /// `--kubeconfig`; without, the pod's ServiceAccount.
    kubeconfig: Option<PathBuf>,
    /// `--api-server`, in place of the kubeconfig's server or the environment's.
    server: Option<Uri>,
    account: PathBuf,
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
    /// Neither flags nor environment name a server.
    #[error(
        "no source of Services: --from, --kubeconfig and --api-server are not given, and this is no pod of a cluster \
         (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set); give one of the flags"
    )]
    NoServer,
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
    /// From the flags, and from the environment where they leave it to it. `variable` reads the environment.
    ///
    /// # Errors
    /// If no server is named, or not as a URL.
    pub fn new(
        kubeconfig: Option<PathBuf>,
        server: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, AccessError> {
        let server = match server {
            Some(text) => Some(server_url(text)?),
            None if kubeconfig.is_some() => None,
            None => {
                let set = |name| variable(name).filter(|value| !value.is_empty());
                let host = set("KUBERNETES_SERVICE_HOST").zip(set("KUBERNETES_SERVICE_PORT"));
                let (host, port) = host.ok_or(AccessError::NoServer)?;
                // An IPv6 address stands in brackets in a URL, but not in the environment.
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                Some(server_url(&format!("https://{host}:{port}"))?)
            }
        };
        Ok(Self { kubeconfig, server, account: ACCOUNT.into() })
    }

    /// All that a connection needs.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub(super) async fn config(&self) -> Result<Config, AccessError> {
        match &self.kubeconfig {
            Some(path) => {
                let failed = |cause: &dyn std::error::Error| AccessError::Kubeconfig {
                    path: path.clone(),
                    cause: super::fault::chain(cause),
                };
                let read = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
                let options = KubeConfigOptions::default();
                let mut config =
                    Config::from_custom_kubeconfig(read, &options).await.map_err(|error| failed(&error))?;
                if let Some(server) = &self.server {
                    config.cluster_url = server.clone();
                }
                if let Some(proxy) = &config.proxy_url {
                    let cause =
                        format!("goes through a proxy ({proxy}), which is not supported; name the server itself");
                    return Err(AccessError::Kubeconfig { path: path.clone(), cause });
                }
                Ok(config)
            }
            None => self.account_config(),
        }
    }

    /// The server's URL, wherever it is written.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub async fn server_url(&self) -> Result<String, AccessError> {
        Ok(self.config().await?.cluster_url.to_string())
    }

    fn account_config(&self) -> Result<Config, AccessError> {
        let server = self.server.clone().ok_or(AccessError::NoServer)?;
        let secure = server.scheme_str() == Some("https");
        let mut config = Config::new(server);
        // A token is nothing for a connection that anybody on the way could read.
        if secure {
            let (token, roots) = (self.account.join("token"), self.account.join("ca.crt"));
            for path in [&token, &roots] {
                if let Err(cause) = std::fs::metadata(path) {
                    return Err(AccessError::Account { path: path.clone(), cause });
                }
            }
            config.auth_info.token_file = Some(token.to_string_lossy().into_owned());
            // The file counts, and is read again every minute; no certificate of ours beside it.
            config.root_cert = Some(Vec::new());
            config.root_cert_file = Some(roots);
        }
        Ok(config)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.server, &self.kubeconfig) {
            (Some(server), _) => write!(f, "{server}"),
            (None, Some(path)) => write!(f, "the server of {}", path.display()),
            (None, None) => f.write_str("no server"),
        }
    }
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
        let access = Access::new(None, given, variable).map_err(|error| error.to_string())?;
        Ok(access.to_string())
    }

    #[test]
    fn a_server_comes_from_the_flag_or_the_environment() {
        assert_eq!(server(None, "10.96.0.1", "443").unwrap(), "https://10.96.0.1:443/");
        assert_eq!(server(None, "fd00::1", "443").unwrap(), "https://[fd00::1]:443/");
        assert_eq!(server(Some("https://pi:6443"), "10.96.0.1", "443").unwrap(), "https://pi:6443/");
        assert!(server(None, "", "443").unwrap_err().contains("--kubeconfig"));
        for bad in ["pi:6443", "/run/x", "ftp://pi", "https://"] {
            assert!(server(Some(bad), "", "").unwrap_err().contains("https://192.168.1.10:6443"), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_named() {
        let missing = Access::new(Some("nowhere/config".into()), None, none).unwrap();
        let error = missing.config().await.unwrap_err().to_string();
        assert!(error.contains("--kubeconfig nowhere/config") && error.contains("No such file"), "{error}");

        let folder = tempfile::tempdir().unwrap();
        let mut pod = Access::new(None, Some("https://pi"), none).unwrap();
        pod.account = folder.path().into();
        let error = pod.config().await.unwrap_err().to_string();
        assert!(error.contains("/token") && error.contains("automountServiceAccountToken"), "{error}");
    }

    #[tokio::test]
    async fn the_server_of_a_kubeconfig_can_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n\
                    clusters: [{name: a, cluster: {server: 'https://one:6443'}}]\nusers: [{name: a, user: {token: x}}]\n";
        std::fs::write(&path, text).unwrap();
        for (flag, expected) in [(None, "https://one:6443/"), (Some("https://two:6443"), "https://two:6443/")] {
            let config = Access::new(Some(path.clone()), flag, none).unwrap().config().await.unwrap();
            assert_eq!(config.cluster_url.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn no_token_goes_over_a_plain_connection() {
        let config = Access::new(None, Some("http://127.0.0.1:1"), none).unwrap().config().await.unwrap();
        assert!(config.auth_info.token_file.is_none());
    }
}
