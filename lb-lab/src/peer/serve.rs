//! The serving side: a thread for each connection. TCP speaks lines (`WHO n`, `ECHO n` and n bytes, `GET` as HTTP),
//! UDP answers any datagram that starts with a number.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};

use super::{
    answer::{Seen, Serving},
    request::Serve,
    sockets::canonical,
};

/// Binds everything, then serves on threads of its own.
pub(super) fn serve(ask: &Serve) -> Result<Serving> {
    let name: Arc<str> = ask.name.as_str().into();
    let mut serving = Serving { tcp: Vec::new(), udp: Vec::new() };
    let mut start: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for address in &ask.tcp {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on TCP {address}"))?;
        serving.tcp.push(listener.local_addr().context("look at a listening socket")?);
        let name = Arc::clone(&name);
        start.push(Box::new(move || accept(&listener, &name)));
    }
    for address in &ask.udp {
        let socket = UdpSocket::bind(address).with_context(|| format!("receive on UDP {address}"))?;
        serving.udp.push(socket.local_addr().context("look at a receiving socket")?);
        let name = Arc::clone(&name);
        start.push(Box::new(move || datagrams(&socket, &name)));
    }
    for work in start {
        thread::spawn(work);
    }
    Ok(serving)
}

fn accept(listener: &TcpListener, name: &Arc<str>) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                let name = Arc::clone(name);
                // A connection that breaks is the client's to report.
                thread::spawn(move || drop(talk(stream, &name)));
            }
            Err(error) => eprintln!("accept: {error}"),
        }
    }
}

fn talk(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (client, server) = (canonical(stream.peer_addr()?), canonical(stream.local_addr()?));
    let mut input = BufReader::with_capacity(64 << 10, stream.try_clone()?);
    let mut output = stream;
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().split_once(' ') {
            Some(("WHO", token)) => output.write_all(&answer(name, client, server, token)?)?,
            Some(("ECHO", length)) => {
                let length: u64 = length.parse().map_err(io::Error::other)?;
                io::copy(&mut (&mut input).take(length), &mut output)?;
            }
            Some(("GET", _)) => return page(&mut input, &mut output, name),
            Some(_) | None => return Err(io::Error::other(format!("not a question: {line:?}"))),
        }
    }
}

/// The web page: the name, as the story's pods have it.
fn page(input: &mut impl BufRead, output: &mut TcpStream, name: &str) -> io::Result<()> {
    let mut header = String::new();
    while input.read_line(&mut header)? > 0 && header != "\r\n" {
        header.clear();
    }
    let length = name.len() + 1;
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}\n"
    );
    output.write_all(text.as_bytes())
}

fn datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let received = socket.recv_from(&mut buffer).and_then(|(length, client)| {
            let text = std::str::from_utf8(&buffer[..length]).map_err(io::Error::other)?;
            let mut bytes = answer(name, canonical(client), canonical(socket.local_addr()?), text.trim_end())?;
            // The answer is as long as the question, so that both ways are tested with that size.
            bytes.resize(bytes.len().max(length), b' ');
            socket.send_to(&bytes, client)
        });
        if let Err(error) = received {
            eprintln!("UDP: {error}");
        }
    }
}

fn answer(name: &str, client: SocketAddr, server: SocketAddr, token: &str) -> io::Result<Vec<u8>> {
    let token = token.parse().map_err(io::Error::other)?;
    let mut bytes = serde_json::to_vec(&Seen { name: name.into(), client, server, token })?;
    bytes.push(b'\n');
    Ok(bytes)
}
