//! Splitting a file into documents before anything is parsed, so that broken YAML ends at the next `---`.
//!
//! Works on lines and bytes. It does not know whether a document is any good, nor whether it is UTF-8.

/// One document of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Document<'a> {
    /// Its text, without a `---` line that carries nothing else.
    pub(super) text: &'a [u8],
    /// Line in the file, from 1, of the first line of `text`.
    pub(super) first_line: u32,
    /// Line in the file, from 1, of its first line with content.
    pub(super) content_line: u32,
}

/// UTF-8's byte order mark, which some editors put at the start of a file (and `cat` into the middle).
const BOM: &[u8] = "\u{feff}".as_bytes();

/// The documents of a file that have any content: not only blank lines, comments, directives and markers.
pub(super) fn split(bytes: &[u8]) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut first_line = 1;
    let mut offset = 0;
    let mut push = |text, first_line| documents.extend(document(text, first_line));
    for (number, line) in (1..).zip(bytes.split_inclusive(|b| *b == b'\n')) {
        let bare = line.strip_prefix(BOM).unwrap_or(line);
        let end = offset + line.len();
        if is_marker(bare, b"---") {
            push(&bytes[start..offset], first_line);
            // What stands behind the marker on its own line is part of the document.
            (start, first_line) = if has_content(bare) { (end - bare.len(), number) } else { (end, number + 1) };
        } else if is_marker(bare, b"...") {
            push(&bytes[start..offset], first_line);
            (start, first_line) = (end, number + 1);
        }
        offset = end;
    }
    push(&bytes[start..], first_line);
    documents
}

/// `---` or `...` at the start of a line, alone or before white space: what YAML takes for a marker. A longer word
/// (`-----BEGIN CERTIFICATE-----`) is none.
fn is_marker(line: &[u8], marker: &[u8]) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
}

fn document(text: &[u8], first_line: u32) -> Option<Document<'_>> {
    let text = text.strip_prefix(BOM).unwrap_or(text);
    let content_line = first_line + u32::try_from(text.split(|b| *b == b'\n').position(has_content)?).ok()?;
    Some(Document { text, first_line, content_line })
}

/// Whether a line is more than a marker, a directive, a comment or blank.
fn has_content(line: &[u8]) -> bool {
    let line = if is_marker(line, b"---") { &line[3..] } else { line };
    !line.starts_with(b"%") && line.trim_ascii_start().first().is_some_and(|b| *b != b'#')
}

#[cfg(test)]
mod tests {
    use super::split;

    #[track_caller]
    fn check(input: &str, expected: &[(u32, u32, &str)]) {
        let found: Vec<_> = split(input.as_bytes())
            .iter()
            .map(|d| (d.first_line, d.content_line, std::str::from_utf8(d.text).unwrap()))
            .collect();
        assert_eq!(found, expected, "{input:?}");
    }

    #[test]
    fn documents_end_at_markers() {
        check("", &[]);
        check("a: 1", &[(1, 1, "a: 1")]);
        check("a: 1\n---\nb: 2\n", &[(1, 1, "a: 1\n"), (3, 3, "b: 2\n")]);
        check("---\r\na: 1\r\n---\r\nb: 2", &[(2, 2, "a: 1\r\n"), (4, 4, "b: 2")]);
        check("a: |\n  x\n---\n  y\n", &[(1, 1, "a: |\n  x\n"), (4, 4, "  y\n")]);
        check("--- {a: 1}\n--- # next\nb: 2", &[(1, 1, "--- {a: 1}\n"), (3, 3, "b: 2")]);
        check("a: 1\n...\nb: 2\n...\n", &[(1, 1, "a: 1\n"), (3, 3, "b: 2\n")]);
        check("---\t\na: 1", &[(2, 2, "a: 1")]);
    }

    #[test]
    fn what_only_looks_like_a_marker_is_content() {
        check("a: |\n  ---\n", &[(1, 1, "a: |\n  ---\n")]);
        check("-----BEGIN\n---x\n", &[(1, 1, "-----BEGIN\n---x\n")]);
        check("- ---\n ---\n", &[(1, 1, "- ---\n ---\n")]);
    }

    #[test]
    fn empty_documents_vanish() {
        check("---\n---\n# note\n\n---\n", &[]);
        check("%YAML 1.2\n---\na: 1\n", &[(3, 3, "a: 1\n")]);
        check("# a\n\n# b\na: 1\n", &[(1, 4, "# a\n\n# b\na: 1\n")]);
    }

    #[test]
    fn byte_order_marks_are_dropped() {
        check("\u{feff}a: 1\n\u{feff}---\n\u{feff}b: 2", &[(1, 1, "a: 1\n"), (3, 3, "b: 2")]);
        check("\u{feff}", &[]);
    }
}
