//! The agent's listening sockets. They only ask the loop; nothing here changes anything. One question has the loop mend
//! what differs: it takes a POST, on the socket that only root may open.

use std::{fs, io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

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
/// If the socket cannot be made.
pub(super) fn api(path: &Path, asker: Asker) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
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

fn not_found(path: &str) -> Answer {
    Answer::text(StatusCode::NOT_FOUND, format!("nothing at {path}\n"))
}
