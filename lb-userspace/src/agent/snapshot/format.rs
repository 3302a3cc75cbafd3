//! The bytes of a snapshot: gzip around lines of JSON, a head and then one object on each. `zcat` shows them.
//!
//! ```text
//! {"format":"berrylb objects","version":1,"node":"raspi001","server":"https://192.168.1.10:6443/","written":1764381148,"objects":2}
//! {"Service":{"name":"default/web",…}}
//! {"Node":{"name":"raspi001",…}}
//! ```
//! gzip's own checksum and length (RFC 1952) cover every line, and nothing may follow them: a file that lost a part, or of
//! which a part is another one's, is none. Pure: no file, no clock.

use std::{
    hash::{DefaultHasher, Hasher as _},
    io::{self, BufRead, Read as _, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};

use crate::model::{Object, ObjectRef, Shared};

/// Grows with every change of the lines, those of the model's types included. Others are not read.
const VERSION: u32 = 2;
const FORMAT: &str = "berrylb objects";

/// A line is one object; etcd takes none above 1.5 MiB. Beyond this it is damage, and is not read into memory.
const LONGEST: u64 = 8 << 20;

/// Whose objects they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::agent) struct Identity {
    /// `--node-name`.
    pub(in crate::agent) node: String,
    /// The API server's URL.
    pub(in crate::agent) server: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Head<'a> {
    format: &'a str,
    version: u32,
    node: String,
    server: String,
    /// Seconds since 1970-01-01 UTC.
    written: u64,
    objects: usize,
}

/// As much of a head as all versions have.
#[derive(Deserialize)]
struct AnyHead {
    format: String,
    version: u32,
}

/// What was read.
#[derive(Debug, PartialEq)]
pub(in crate::agent) struct Snapshot {
    /// When it was written, in whole seconds.
    pub(in crate::agent) written: SystemTime,
    /// As the API server had them then.
    pub(in crate::agent) objects: Vec<Object>,
    /// See [`Encoded::digest`].
    pub(in crate::agent) digest: u64,
}

/// Bytes to be written.
#[derive(Debug)]
pub(in crate::agent) struct Encoded {
    pub(in crate::agent) bytes: Vec<u8>,
    /// Equal objects have equal digests. Not stored; it is for comparing within one process.
    pub(in crate::agent) digest: u64,
}

/// Why bytes are not used as a snapshot.
#[derive(Debug, thiserror::Error)]
pub(in crate::agent) enum FormatError {
    /// Not gzip, or no head within.
    #[error("it is no snapshot of berrylb")]
    Other,
    /// Checksum, length or content do not fit.
    #[error("it is damaged or cut off ({0})")]
    Damaged(String),
    /// Of another berrylb.
    #[error("its format is version {found}; this berrylb reads version {VERSION}")]
    Version {
        /// What its head says.
        found: u32,
    },
    /// Of another node.
    #[error("it is of node {found:?}, and this is {wanted:?}")]
    Node {
        /// What its head says.
        found: String,
        /// This one.
        wanted: String,
    },
    /// Of another cluster.
    #[error("its objects are those of {found}, and this agent follows {wanted}")]
    Server {
        /// What its head says.
        found: String,
        /// This one.
        wanted: String,
    },
    /// The file cannot be read any further.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
}

/// Makes the bytes of these objects, the same ones in whatever order they come.
///
/// # Errors
/// None that an object of ours could cause.
pub(in crate::agent) fn encode(
    identity: &Identity,
    written: SystemTime,
    mut objects: Vec<Shared>,
) -> io::Result<Encoded> {
    objects.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
    let Identity { node, server } = identity.clone();
    let seconds = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let head = Head { format: FORMAT, version: VERSION, node, server, written: seconds, objects: objects.len() };
    // Level 1: half the work of the usual one for a tenth more bytes.
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    let mut line = serde_json::to_vec(&head)?;
    line.push(b'\n');
    out.write_all(&line)?;
    let mut digest = DefaultHasher::new();
    for object in objects {
        line.clear();
        serde_json::to_writer(&mut line, &object)?;
        line.push(b'\n');
        digest.write(&line);
        out.write_all(&line)?;
    }
    Ok(Encoded { bytes: out.finish()?, digest: digest.finish() })
}

/// Reads a snapshot of this identity, and keeps the objects that `keep` wants. Memory: those, and one line.
///
/// # Errors
/// If it is none, is not whole, or is another node's or cluster's. Nothing of it is to be used then.
pub(in crate::agent) fn decode(
    input: impl BufRead,
    identity: &Identity,
    keep: impl Fn(&ObjectRef) -> bool,
) -> Result<Snapshot, FormatError> {
    let mut lines = Lines { input: io::BufReader::new(GzDecoder::new(input)), line: Vec::new() };
    let first = match lines.next() {
        Ok(first) => first.to_vec(),
        Err(FormatError::Damaged(_)) => return Err(FormatError::Other),
        Err(error) => return Err(error),
    };
    let head = match read_head(&first, identity) {
        Ok(head) => head,
        Err(error) => {
            // A flipped bit is not taken for another node's name.
            lines.drain()?;
            return Err(error);
        }
    };
    let mut objects = Vec::new();
    let mut digest = DefaultHasher::new();
    for number in 0..head.objects {
        let line = lines.next()?;
        digest.write(line);
        let object: Object = serde_json::from_slice(line)
            .map_err(|error| FormatError::Damaged(format!("object {}: {error}", number + 1)))?;
        if keep(&object.key()) {
            objects.push(object);
        }
    }
    if lines.drain()? > 0 {
        return Err(FormatError::Damaged(format!("more than its {} objects", head.objects)));
    }
    let written = UNIX_EPOCH.checked_add(Duration::from_secs(head.written)).unwrap_or(UNIX_EPOCH);
    Ok(Snapshot { written, objects, digest: digest.finish() })
}

fn read_head<'a>(line: &'a [u8], identity: &Identity) -> Result<Head<'a>, FormatError> {
    let any: AnyHead = serde_json::from_slice(line).map_err(|_| FormatError::Other)?;
    if any.format != FORMAT {
        return Err(FormatError::Other);
    }
    if any.version != VERSION {
        return Err(FormatError::Version { found: any.version });
    }
    let head: Head<'_> =
        serde_json::from_slice(line).map_err(|error| FormatError::Damaged(format!("head: {error}")))?;
    let Identity { node, server } = identity;
    if head.node != *node {
        return Err(FormatError::Node { found: head.node, wanted: node.clone() });
    }
    if head.server != *server {
        return Err(FormatError::Server { found: head.server, wanted: server.clone() });
    }
    Ok(head)
}

/// Lines of what was compressed.
struct Lines<R: BufRead> {
    input: io::BufReader<GzDecoder<R>>,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line, with its end.
    fn next(&mut self) -> Result<&[u8], FormatError> {
        self.line.clear();
        (&mut self.input).take(LONGEST).read_until(b'\n', &mut self.line).map_err(unreadable)?;
        if self.line.last() != Some(&b'\n') {
            return Err(FormatError::Damaged("a line does not end".to_owned()));
        }
        Ok(&self.line)
    }

    /// Reads to the end, which shows whether everything before was whole; gives the bytes that there still were.
    fn drain(&mut self) -> Result<u64, FormatError> {
        let left = io::copy(&mut self.input, &mut io::sink()).map_err(unreadable)?;
        let behind = self.input.get_mut().get_mut().fill_buf().map_err(FormatError::Io)?;
        if behind.is_empty() { Ok(left) } else { Err(FormatError::Damaged("something follows its end".to_owned())) }
    }
}

/// What gzip says of its content, and what the file system says of the file.
fn unreadable(error: io::Error) -> FormatError {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    if matches!(error.kind(), InvalidInput | InvalidData | UnexpectedEof) {
        FormatError::Damaged(error.to_string())
    } else {
        FormatError::Io(error)
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
