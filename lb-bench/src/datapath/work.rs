//! The work that is measured, with both ends in one thread. Each operation is one closed loop: the client acts, the kernel
//! carries it through by soft interrupts of the same processor, the server acts, and so back. Nothing waits for anybody, so
//! the time of an operation is the processor time of all that it took: both ends' system calls, both stacks, and what is
//! between.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Bytes of a question and of its answer.
const MESSAGE: usize = 64;
/// Bytes of one operation of [`Work::Bulk`].
pub(super) const BULK: usize = 64 << 10;
/// After so long without an answer something is lost.
const LIMIT: Duration = Duration::from_secs(5);

/// What one operation is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    /// A TCP connection, one question, one answer, end. The client ends it first, so what is left of it (`TIME_WAIT`) is at
    /// the client, who knows which ports are free again. A server would refuse ports that translation gives to others.
    Crr,
    /// A question and an answer on a TCP connection that is kept.
    Rr,
    /// A connected UDP socket, one question, one answer: what a resolver does.
    UdpNew,
    /// A question and an answer by an unconnected UDP socket that is kept.
    Udp,
    /// [`BULK`] bytes on a TCP connection that is kept.
    Bulk,
    /// As [`Self::Crr`], begun 1,000 times a second.
    CrrPaced,
    /// As [`Self::Rr`], begun 5,000 times a second.
    RrPaced,
    /// A UDP socket that is connected and closed: system calls only.
    Socket,
}

impl Work {
    /// As scenarios are named.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Crr => "crr",
            Self::Rr => "rr",
            Self::UdpNew => "udp-new",
            Self::Udp => "udp",
            Self::Bulk => "bulk",
            Self::CrrPaced => "crr-1k",
            Self::RrPaced => "rr-5k",
            Self::Socket => "socket",
        }
    }

    /// Whether it is TCP's.
    pub(super) const fn is_tcp(self) -> bool {
        matches!(self, Self::Crr | Self::Rr | Self::Bulk | Self::CrrPaced | Self::RrPaced)
    }

    /// Time from the begin of an operation to that of the next; `None`: as soon as the one before is done.
    pub(super) const fn pace(self) -> Option<Duration> {
        match self {
            Self::CrrPaced => Some(Duration::from_millis(1)),
            Self::RrPaced => Some(Duration::from_micros(200)),
            Self::Crr | Self::Rr | Self::UdpNew | Self::Udp | Self::Bulk | Self::Socket => None,
        }
    }
}

/// The server's socket, to be opened where the server is.
pub(super) enum Server {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Server {
    pub(super) fn open(work: Work, at: SocketAddr) -> io::Result<Self> {
        if work.is_tcp() {
            return TcpListener::bind(at).map(Self::Tcp);
        }
        let socket = UdpSocket::bind(at)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self::Udp(socket))
    }
}

/// Both ends, ready for operations.
pub(super) enum Ends {
    Crr { server: TcpListener, to: SocketAddr },
    Rr { client: TcpStream, server: TcpStream },
    Bulk { client: TcpStream, server: TcpStream, buffer: Vec<u8> },
    UdpNew { server: UdpSocket, to: SocketAddr },
    Udp { server: UdpSocket, client: UdpSocket, to: SocketAddr },
    Socket { to: SocketAddr },
}

impl Ends {
    /// To be called where the client is.
    pub(super) fn open(work: Work, server: Server, to: SocketAddr) -> io::Result<Self> {
        Ok(match (work, server) {
            (Work::Crr | Work::CrrPaced, Server::Tcp(server)) => Self::Crr { server, to },
            (Work::Rr | Work::RrPaced | Work::Bulk, Server::Tcp(server)) => {
                let client = TcpStream::connect_timeout(&to, LIMIT)?;
                let (server, _) = server.accept()?;
                client.set_nodelay(true)?;
                server.set_nodelay(true)?;
                client.set_read_timeout(Some(LIMIT))?;
                server.set_read_timeout(Some(LIMIT))?;
                if work == Work::Bulk {
                    Self::Bulk { client, server, buffer: vec![0; BULK] }
                } else {
                    Self::Rr { client, server }
                }
            }
            (Work::UdpNew, Server::Udp(server)) => Self::UdpNew { server, to },
            (Work::Udp, Server::Udp(server)) => {
                let client = client(to)?;
                client.set_read_timeout(Some(LIMIT))?;
                Self::Udp { server, client, to }
            }
            (Work::Socket, Server::Udp(_)) => Self::Socket { to },
            (Work::Crr | Work::CrrPaced | Work::Rr | Work::RrPaced | Work::Bulk, Server::Udp(_))
            | (Work::UdpNew | Work::Udp | Work::Socket, Server::Tcp(_)) => {
                return Err(io::Error::other("the server is of another transport"));
            }
        })
    }

    /// One operation. `number` makes its question another one than that before it, so that an old answer shows.
    ///
    /// # Errors
    /// The kernel's, or the answer is to another question.
    pub(super) fn operate(&mut self, number: u64) -> io::Result<()> {
        let question = question(number);
        match self {
            Self::Crr { server, to } => {
                let mut client = TcpStream::connect(*to)?;
                let (mut server, _) = server.accept()?;
                turn(&mut client, &mut server, &question)?;
                drop(client);
                if server.read(&mut [0; 1])? != 0 {
                    return Err(io::Error::other("more than the question came"));
                }
                Ok(())
            }
            Self::Rr { client, server } => turn(client, server, &question),
            Self::Bulk { client, server, buffer } => {
                client.write_all(buffer)?;
                server.read_exact(buffer)
            }
            Self::UdpNew { server, to } => {
                let client = client(*to)?;
                client.connect(*to)?;
                client.send(&question)?;
                echo(server)?;
                let mut answer = [0; MESSAGE];
                let length = client.recv(&mut answer)?;
                compare(&question, &answer[..length])
            }
            Self::Udp { server, client, to } => {
                client.send_to(&question, *to)?;
                echo(server)?;
                let mut answer = [0; MESSAGE];
                let (length, from) = client.recv_from(&mut answer)?;
                if from != *to {
                    return Err(io::Error::other(format!("the answer came from {from}")));
                }
                compare(&question, &answer[..length])
            }
            Self::Socket { to } => client(*to)?.connect(*to),
        }
    }
}

fn client(to: SocketAddr) -> io::Result<UdpSocket> {
    match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

fn question(number: u64) -> [u8; MESSAGE] {
    let mut question = [b'.'; MESSAGE];
    question[..8].copy_from_slice(&number.to_ne_bytes());
    question
}

fn turn(client: &mut TcpStream, server: &mut TcpStream, question: &[u8]) -> io::Result<()> {
    let mut bytes = [0; MESSAGE];
    client.write_all(question)?;
    server.read_exact(&mut bytes)?;
    server.write_all(&bytes)?;
    client.read_exact(&mut bytes)?;
    compare(question, &bytes)
}

fn echo(server: &UdpSocket) -> io::Result<()> {
    let mut bytes = [0; MESSAGE];
    let (length, from) = server.recv_from(&mut bytes)?;
    server.send_to(&bytes[..length], from).map(drop)
}

fn compare(question: &[u8], answer: &[u8]) -> io::Result<()> {
    if question == answer { Ok(()) } else { Err(io::Error::other("the answer is to another question")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_works_on_loopback() {
        for work in
            [Work::Crr, Work::Rr, Work::UdpNew, Work::Udp, Work::Bulk, Work::CrrPaced, Work::RrPaced, Work::Socket]
        {
            let server = Server::open(work, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let to = match &server {
                Server::Tcp(socket) => socket.local_addr().unwrap(),
                Server::Udp(socket) => socket.local_addr().unwrap(),
            };
            let mut ends = Ends::open(work, server, to).unwrap();
            (0..20).for_each(|number| ends.operate(number).unwrap_or_else(|error| panic!("{work:?}: {error}")));
        }
    }
}
