//! Lines out of chunks: an event of a watch is a line, and a chunk ends anywhere.

use super::fault::Fault;

/// No object is larger: etcd takes 1.5 MiB by default, and what the server adds is less than that again.
const LONGEST: usize = 32 << 20;
/// What is kept of a buffer that a large object has blown up.
const KEPT: usize = 64 << 10;

/// What has come and is not taken yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// No line feed between `start` and here.
    searched: usize,
}

impl Lines {
    /// Adds a chunk.
    ///
    /// # Errors
    /// If a line goes on for longer than any object is.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT);
        }
        if self.bytes.len() + chunk.len() > LONGEST {
            return Err(Fault::Garbled(format!("an object of more than {LONGEST} bytes")));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// The next whole line that is not empty, without its line feed.
    pub(super) fn take(&mut self) -> Option<&[u8]> {
        loop {
            let Some(length) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                return None;
            };
            let (start, end) = (self.start, self.searched + length);
            self.start = end + 1;
            self.searched = self.start;
            if start < end {
                return Some(&self.bytes[start..end]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let text = b"one\n\ntwo, longer\nthree\nrest";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for chunk in text.chunks(size) {
                lines.push(chunk).unwrap();
                while let Some(line) = lines.take() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(found, ["one", "two, longer", "three"], "chunks of {size}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LONGEST]).unwrap();
        assert!(lines.push(b"x").is_err());
    }
}
