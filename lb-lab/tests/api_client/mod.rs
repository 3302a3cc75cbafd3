//! A client that reads HTTP/1.1 by hand: heads, lengths, chunks, and how a connection ended.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use flate2::read::GzDecoder;
use lb_lab::api_server::ApiServer;
use serde_json::Value;

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The head of an answer.
pub(crate) struct Head {
    pub(crate) code: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// An answer that is being read.
pub(crate) struct Client {
    stream: TcpStream,
    pub(crate) head: Head,
    bytes: Vec<u8>,
    /// What the chunks read so far hold, from the first unread line on.
    text: Vec<u8>,
    chunks: usize,
    /// `Some(true)`: by the last chunk.
    end: Option<bool>,
}

/// A Service with these labels (YAML).
pub(crate) fn service(name: &str, labels: &str) -> String {
    let labels = if labels.starts_with('{') { labels.to_owned() } else { format!("{{{labels}}}") };
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, labels: {labels}}}, spec: {{clusterIP: 10.96.0.9}}}}"
    )
}

/// A selector as a query string has it.
pub(crate) fn labels(selector: &str) -> String {
    selector.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn send(server: &ApiServer, method: &str, path: &str, fields: &[&str], body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: api\r\n{fields}Content-Length: {length}\r\n\r\n{body}").unwrap();
    stream
}

impl Client {
    /// Sends a GET and reads the head of the answer.
    pub(crate) fn open(server: &ApiServer, path: &str) -> Self {
        Self::read_head(send(server, "GET", path, &[], ""))
    }

    /// A GET and its document.
    pub(crate) fn get(server: &ApiServer, path: &str) -> (Head, Value) {
        Self::fetch(server, "GET", path, &[], "")
    }

    /// A request and the document of its answer.
    pub(crate) fn fetch(server: &ApiServer, method: &str, path: &str, fields: &[&str], body: &str) -> (Head, Value) {
        let mut client = Self::read_head(send(server, method, path, fields, body));
        let length: usize = client.head.get("content-length").expect("a whole answer has a length").parse().unwrap();
        while client.bytes.len() < length {
            assert!(client.more(), "the answer is short");
        }
        let mut text = Vec::new();
        match client.head.get("content-encoding") {
            Some("gzip") => drop(GzDecoder::new(&client.bytes[..]).read_to_end(&mut text).unwrap()),
            _ => text = client.bytes,
        }
        (client.head, serde_json::from_slice(&text).unwrap())
    }

    /// All bytes of an answer until the connection ends.
    pub(crate) fn raw(server: &ApiServer, path: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        send(server, "GET", path, &[], "").read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Whether nothing comes for so long, and the connection stays open.
    pub(crate) fn is_silent(server: &ApiServer, path: &str, time: Duration) -> bool {
        quiet(&mut send(server, "GET", path, &[], ""), time)
    }

    pub(crate) fn head(bytes: &[u8]) -> Head {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let code = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let fields = lines.filter_map(|line| line.split_once(": "));
        Head { code, fields: fields.map(|(k, v)| (k.to_lowercase(), v.to_owned())).collect() }
    }

    fn read_head(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed in the head");
            bytes.push(byte[0]);
        }
        let head = Self::head(&bytes);
        Self { stream, head, bytes: Vec::new(), text: Vec::new(), chunks: 0, end: None }
    }

    /// Reads on; false at the end of the connection.
    fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(n) => {
                self.bytes.extend(&buffer[..n]);
                n > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next line of a watch; None when it has ended.
    pub(crate) fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            if self.end.is_some() {
                return None;
            }
            if !self.chunk() && !self.more() {
                self.end = Some(false);
            }
        }
    }

    /// Takes a whole chunk if there is one.
    fn chunk(&mut self) -> bool {
        let Some(at) = self.bytes.windows(2).position(|pair| pair == b"\r\n") else { return false };
        let length = usize::from_str_radix(std::str::from_utf8(&self.bytes[..at]).unwrap(), 16).unwrap();
        if self.bytes.len() < at + 2 + length + 2 {
            return false;
        }
        self.text.extend(&self.bytes[at + 2..at + 2 + length]);
        self.bytes.drain(..at + 2 + length + 2);
        if length == 0 {
            self.end = Some(true)
        } else {
            self.chunks += 1
        }
        true
    }

    /// Chunks so far.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether a watch that has ended did so by its last chunk.
    pub(crate) fn ended_well(&self) -> bool {
        self.end == Some(true)
    }

    /// What came after the last whole line.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.text
    }

    /// Whether nothing comes for so long.
    pub(crate) fn nothing_for(&mut self, time: Duration) -> bool {
        self.bytes.is_empty() && self.text.is_empty() && quiet(&mut self.stream, time)
    }
}

fn quiet(stream: &mut TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    let error = stream.read(&mut [0]).map_err(|error| error.kind());
    matches!(error, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}
