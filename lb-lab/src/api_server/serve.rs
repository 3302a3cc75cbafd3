//! The server's thread: accepts connections, in whatever namespace it was put, and ends them when told.

use std::{
    net::{Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    os::fd::AsFd as _,
    sync::{Arc, atomic::Ordering},
};

use anyhow::{Context as _, Result};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

use super::{Shared, call};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// An address that stays the server's while nobody listens there: the system gives a free port away at once, to another
/// server or as the source of a connection, even to one that wants to reach the server.
pub(super) struct Place {
    address: SocketAddr,
    _holder: Socket,
}

impl Place {
    /// Takes the address, a free port for port 0.
    pub(super) fn take(address: SocketAddr) -> Result<Self> {
        let holder = Self::socket(address)?;
        let address = holder.local_addr()?.as_socket().context("an address of another kind")?;
        Ok(Self { address, _holder: holder })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens there, once the listener before is dropped.
    pub(super) fn listen(&self) -> Result<StdListener> {
        let socket = Self::socket(self.address)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    }

    /// Several sockets of one user may share an address like this; those that do not listen get no connection.
    fn socket(address: SocketAddr) -> Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    }
}

/// Serves until [`super::Control::stop`]. Runs on a thread that has entered its namespace.
pub(super) fn run(shared: &Arc<Shared>, place: &Place, listener: StdListener) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(accept(shared, place, listener))
}

async fn accept(shared: &Arc<Shared>, place: &Place, listener: StdListener) -> Result<()> {
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
            let again = place.listen().with_context(|| format!("listen at {} again", place.address))?;
            listener = Some(TcpListener::from_std(again).context("take the listener over")?);
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

async fn connection(shared: Arc<Shared>, stream: TcpStream) {
    let mut control = shared.control.subscribe();
    let kills = control.borrow().kills;
    // Lines of a watch are small and wanted at once.
    let (Ok(()), Ok(socket)) = (stream.set_nodelay(true), stream.as_fd().try_clone_to_owned()) else { return };
    let mut peer = Peer { socket: Arc::new(socket.into()), certified: false };
    let serve = async {
        let tls = shared.lock().tls.as_ref().map(|tls| tls.acceptor.clone());
        match tls {
            None => speak(&shared, peer, stream).await,
            // A client that does not trust the certificate ends the handshake; that is for it to tell.
            Some(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    peer.certified = stream.get_ref().1.peer_certificates().is_some();
                    speak(&shared, peer, stream).await;
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        _ = control.wait_for(|now| now.stop || now.kills != kills) => {}
    }
}

/// Who is at the other end.
#[derive(Clone)]
pub(super) struct Peer {
    socket: Arc<StdStream>,
    /// It has shown a certificate of the server's authority.
    pub(super) certified: bool,
}

impl Peer {
    /// Nothing more comes from the server, which still takes what the client sends.
    pub(super) fn half_close(&self) {
        // A client that has gone by itself is not disturbed.
        let _gone = self.socket.shutdown(Shutdown::Write);
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin>(shared: &Arc<Shared>, peer: Peer, stream: S) {
    let service = service_fn(|request| call::answer(Arc::clone(shared), peer.clone(), request));
    // Connections end in every way here; what a client makes of it is what tests look at.
    let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
