//! One HTTP request with a connection of its own: what `curl` does, less its options.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    time::Duration,
};

use super::{
    answer::{Cause, Failure, Step},
    sockets::failure,
    tcp::connect,
};

/// The body of `/`, without white space around it.
pub(super) fn get(to: SocketAddr, timeout: Duration) -> Result<String, Failure> {
    let socket = connect(to, false, None, timeout)?;
    let request = format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    (&socket).write_all(request.as_bytes()).map_err(|error| failure(Step::Send, &error))?;
    let mut bytes = Vec::new();
    (&socket).read_to_end(&mut bytes).map_err(|error| failure(Step::Receive, &error))?;
    let text = String::from_utf8_lossy(&bytes);
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") && !body.trim().is_empty() => Ok(body.trim().into()),
        None if text.is_empty() => Err(Failure { step: Step::Receive, cause: Cause::Closed }),
        Some(_) | None => Err(Failure { step: Step::Receive, cause: Cause::Wrong(text.into_owned()) }),
    }
}
