//! The agent's listening sockets. They only ask the loop; nothing here changes anything. One question has the loop mend
//! what differs: it takes a POST, on the socket that only root may open.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, anyhow};
use hyper::{Method, StatusCode};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use super::{
    api,
    config::Settings,
    http::{self, Answer},
    metrics::TableReader,
    status::{Question, Repair, Status},
};

/// Where questions to the loop go.
pub(super) type Asker = mpsc::Sender<Question>;

/// How long the loop may take to answer before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn ask<T>(asker: &Asker, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        asker.send(question(sender)).await.ok()?;
        receiver.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
}

pub(super) fn stuck() -> Answer {
    Answer::text(StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not answer\n".to_owned())
}

/// The agent's sockets: taken, and not answering yet.
#[derive(Debug)]
pub(super) struct Listeners {
    health: Option<TcpListener>,
    metrics: Option<TcpListener>,
    api: ApiSocket,
}

/// The Unix socket; its file goes when it does.
#[derive(Debug)]
struct ApiSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl http::Accept for ApiSocket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.listener.next().await
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // Whoever took it away was faster; what cannot be removed is taken for a dead agent's by the next one.
        let _gone = fs::remove_file(&self.path);
    }
}

impl Listeners {
    /// Takes the addresses and the path that the settings name. Nothing of the datapath is needed, so that an agent that
    /// cannot have them ends before it has touched the node.
    ///
    /// # Errors
    /// If one of them cannot be had; it names the flag.
    pub(super) async fn bind(settings: &Settings) -> Result<Self> {
        let path = &settings.api_socket;
        let api = bind_api(path).await.map_err(|error| refused(path.display(), &error, "give another --api-socket"))?;
        Ok(Self {
            api,
            health: bind_tcp(settings.healthz, "/healthz", "give another --healthz, or off").await?,
            metrics: bind_tcp(settings.metrics, "/metrics", "give another --metrics, or off").await?,
        })
    }

    /// Answers from now on, by asking the loop.
    ///
    /// # Errors
    /// If the kernel does not tell where a socket listens.
    pub(super) fn serve(self, asker: &Asker, tables: TableReader) -> io::Result<()> {
        if let Some(listener) = self.health {
            tracing::info!("health on http://{}/healthz", listener.local_addr()?);
            tokio::task::spawn_local(health(listener, asker.clone()));
        }
        if let Some(listener) = self.metrics {
            tracing::info!("metrics on http://{}/metrics", listener.local_addr()?);
            tokio::task::spawn_local(metrics(listener, asker.clone(), tables));
        }
        tokio::task::spawn_local(api(self.api, asker.clone()));
        Ok(())
    }
}

fn refused(what: impl fmt::Display, error: &io::Error, next: &str) -> anyhow::Error {
    anyhow!("cannot serve {what}: {error}; {next}")
}

async fn bind_tcp(addr: Option<SocketAddr>, what: &str, next: &str) -> Result<Option<TcpListener>> {
    let Some(addr) = addr else { return Ok(None) };
    let bound = TcpListener::bind(addr).await;
    bound.map(Some).map_err(|error| refused(format_args!("{what} on {addr}"), &error, next))
}

/// A Unix socket that only root may open. A dead agent's is replaced; a living one's is not, nor is any other file.
///
/// # Errors
/// If the place is taken, or the socket cannot be made.
async fn bind_api(path: &Path) -> io::Result<ApiSocket> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Ok(_) => match UnixStream::connect(path).await {
            // Nobody listens: its agent is dead.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Would block: so many wait for an answer that there is no room for one more.
            Ok(_) => return Err(another_agent()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(another_agent()),
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    let socket = ApiSocket { listener, path: path.to_owned() };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

fn another_agent() -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there")
}

/// Serves /healthz (ready) and /livez (alive).
async fn health(listener: TcpListener, asker: Asker) {
    http::serve(listener, move |path| {
        let asker = asker.clone();
        async move {
            let good: fn(&Status) -> bool = match path.as_str() {
                "/healthz" => Status::is_healthy,
                "/livez" => Status::is_alive,
                _ => return not_found(&path),
            };
            let Some(status) = ask::<Status>(&asker, Question::Status).await else { return stuck() };
            Answer::json(if good(&status) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &status)
        }
    })
    .await;
}

fn failed() -> Answer {
    let text = "reading the tables failed; the log says how\n".to_owned();
    Answer::text(StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// Serves /metrics.
async fn metrics(listener: TcpListener, asker: Asker, tables: TableReader) {
    http::serve(listener, move |path| {
        let (asker, tables) = (asker.clone(), tables.clone());
        async move {
            if path != "/metrics" {
                return not_found(&path);
            }
            let Some(reading) = tables.read().await else { return failed() };
            let asked = ask(&asker, |sender| Question::Metrics(reading, sender)).await;
            let Some(metrics) = asked else { return stuck() };
            let Some(body) = metrics.write().await else { return failed() };
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            Answer { content_type, ..Answer::text(StatusCode::OK, body) }
        }
    })
    .await;
}

/// Serves names and `verify`.
async fn api(socket: ApiSocket, asker: Asker) {
    http::serve_all(socket, move |method, path| {
        let asker = asker.clone();
        async move {
            let repair = match (&method, path.as_str()) {
                (&Method::GET, api::PATH) => {
                    let answer = ask(&asker, Question::Names).await;
                    return answer.map_or_else(stuck, |answer| Answer::json(StatusCode::OK, &answer));
                }
                (&Method::GET, api::VERIFY) => Repair::No,
                (&Method::POST, api::VERIFY) => Repair::Yes,
                _ => return not_found(&path),
            };
            match ask(&asker, |sender| Question::Verify(repair, sender)).await {
                Some(Ok(verdict)) => Answer::json(StatusCode::OK, &verdict),
                Some(Err(reason)) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, reason),
                None => stuck(),
            }
        }
    })
    .await;
}

fn not_found(path: &str) -> Answer {
    Answer::text(StatusCode::NOT_FOUND, format!("nothing at {path}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_dead_agents_socket_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/agent.sock");
        let living = bind_api(&path).await.expect("nothing is there");
        let error = bind_api(&path).await.expect_err("an agent listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(living);
        assert!(!path.exists(), "an agent that ends takes its socket with it");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("nothing is there"));
        assert!(path.exists(), "that of one that was killed stays");
        let _socket = bind_api(&path).await.expect("its agent is dead");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);

        let file = folder.path().join("notes");
        fs::write(&file, "precious").expect("written");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        for taken in [&file, &link] {
            let error = bind_api(taken).await.expect_err("no socket");
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read_to_string(&link).expect("both are there"), "precious");
    }
}
