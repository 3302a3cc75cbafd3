//! The server's thread: accepts connections, in whatever namespace it was put, and ends them when told.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use super::{Shared, call};

/// Serves until [`super::Control::stop`]. Runs on a thread that has entered its namespace.
pub(super) fn run(shared: &Arc<Shared>, listener: StdListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(accept(shared, listener))
}

async fn accept(shared: &Arc<Shared>, listener: StdListener) -> Result<()> {
    let address = listener.local_addr().context("the listener's address")?;
    listener.set_nonblocking(true).context("make the listener non-blocking")?;
    let mut listener = Some(TcpListener::from_std(listener).context("take the listener over")?);
    let mut control = shared.control.subscribe();
    loop {
        let wanted = *control.borrow_and_update();
        if wanted.stop {
            return Ok(());
        }
        if !wanted.listening {
            listener = None;
        } else if listener.is_none() {
            listener = Some(bind(address).await?);
        }
        shared.listening.store(listener.is_some(), Ordering::Release);
        tokio::select! {
            _ = control.changed() => {}
            stream = next(listener.as_ref()) => {
                // A client that has gone again before it was accepted is no error of the server.
                if let Ok(stream) = stream {
                    tokio::spawn(connection(Arc::clone(shared), stream));
                }
            }
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> std::io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// The same address again: connections of the former listener may still hold it for a moment.
async fn bind(address: SocketAddr) -> Result<TcpListener> {
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return Ok(listener);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    TcpListener::bind(address).await.with_context(|| format!("listen at {address} again"))
}

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let mut control = shared.control.subscribe();
    let kills = control.borrow().kills;
    // Lines of a watch are small and wanted at once.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let serve = async {
        let tls = shared.lock().tls.as_ref().map(|tls| tls.acceptor.clone());
        match tls {
            None => speak(&shared, stream).await,
            // A client that does not trust the certificate ends the handshake; that is for it to tell.
            Some(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    speak(&shared, stream).await;
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        _ = control.wait_for(|now| now.stop || now.kills != kills) => {}
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin>(shared: &Arc<Shared>, stream: S) {
    let service = service_fn(|request| call::answer(Arc::clone(shared), request));
    // Connections end in every way here; what a client makes of it is what tests look at.
    let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
