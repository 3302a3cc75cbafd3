//! The agent's listening sockets. They only ask the loop; nothing here changes anything. One question has the loop mend
//! what differs: it takes a POST, on the socket that only root may open.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use hyper::{Method, StatusCode};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use super::{
    api,
    http::{self, Answer},
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

/// Serves /healthz (ready) and /livez (alive).
///
/// # Errors
/// If the address cannot be listened on.
pub(super) async fn health(addr: SocketAddr, asker: Asker) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).await?;
    let bound = listener.local_addr()?;
    tokio::task::spawn_local(http::serve(listener, move |path| {
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
    }));
    Ok(bound)
}

/// Serves /metrics.
///
/// # Errors
/// If the address cannot be listened on.
pub(super) async fn metrics(addr: SocketAddr, asker: Asker) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).await?;
    let bound = listener.local_addr()?;
    tokio::task::spawn_local(http::serve(listener, move |path| {
        let asker = asker.clone();
        async move {
            if path != "/metrics" {
                return not_found(&path);
            }
            match ask(&asker, Question::Metrics).await {
                Some(body) => Answer {
                    content_type: "text/plain; version=0.0.4; charset=utf-8",
                    ..Answer::text(StatusCode::OK, body)
                },
                None => stuck(),
            }
        }
    }));
    Ok(bound)
}

/// Serves the API on a Unix socket that only root may open; a dead agent's socket is replaced.
///
/// # Errors
/// If the socket cannot be made, or anything but a dead agent's socket is in its place.
pub(super) fn api(path: &Path, asker: Asker) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    remove_dead_socket(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    tokio::task::spawn_local(http::serve_all(listener, move |method, path| {
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
    }));
    Ok(())
}

/// Removes the socket of an agent that has ended. A living one keeps its own, and nothing else is removed.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket is there"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn not_found(path: &str) -> Answer {
    Answer::text(StatusCode::NOT_FOUND, format!("nothing at {path}\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener as StdListener;

    use super::*;

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        remove_dead_socket(&path).expect("nothing there");

        let listener = StdListener::bind(&path).unwrap();
        assert_eq!(remove_dead_socket(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists(), "a living agent keeps its socket");
        drop(listener);
        remove_dead_socket(&path).expect("dead");
        assert!(!path.exists());

        fs::write(&path, "text").unwrap();
        assert_eq!(remove_dead_socket(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }
}
