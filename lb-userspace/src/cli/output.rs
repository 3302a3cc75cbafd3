//! How commands show things: the state document in four formats, and tables for everything else.
//!
//! Writes to whatever it is given and never decides what to show. Colour is the caller's choice, by
//! [`stdout_colour`]; the machine formats never carry it.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::plan::{
    compare::ranges_text,
    state::{Action, Backend, BackendState, Frontend, State},
};

/// Value of `-o`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON, indented by two spaces.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// For people.
    #[must_use]
    pub const fn is_table(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// `-o`, for commands that list things.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct OutputArgs {
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// Whether standard output wants colour: it is a terminal, and `NO_COLOR` is not set.
#[must_use]
pub fn stdout_colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Prints the state document. Equal states give equal bytes.
///
/// # Errors
/// If `out` cannot be written.
pub fn print_state(state: &State, format: Format, colour: bool, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Json => print_json(state, out),
        Format::Yaml => print_yaml(state, out),
        Format::Table | Format::Wide => {
            let wide = format == Format::Wide;
            frontend_table(&state.frontends, wide).print(colour, out)?;
            if !state.health_checks.is_empty() {
                let mut table = Table::new(&["HEALTH CHECK", "PORT", "LOCAL ENDPOINTS"]);
                for check in &state.health_checks {
                    table.row(vec![
                        Cell::new(check.service.to_string()),
                        Cell::new(check.port.to_string()).right(),
                        Cell::new(check.local_endpoints.to_string()).right(),
                    ]);
                }
                writeln!(out)?;
                table.print(colour, out)?;
            }
            Ok(())
        }
    }
}

/// Prints any value as JSON, indented by two spaces, with a newline at the end.
///
/// # Errors
/// If `out` cannot be written, or the value has no JSON form.
pub fn print_json(value: &impl Serialize, mut out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Prints any value as YAML.
///
/// # Errors
/// If `out` cannot be written, or the value has no YAML form.
pub fn print_yaml(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    let text = serde_yaml::to_string(value).map_err(io::Error::other)?;
    out.write_all(text.as_bytes())?;
    if text.ends_with('\n') { Ok(()) } else { writeln!(out) }
}

/// The frontends as a table, one line each; wide adds ranges, affinity and every backend's address.
#[must_use]
pub fn frontend_table(frontends: &[Frontend], wide: bool) -> Table {
    let mut headers = vec!["ADDRESS", "PORT", "PROTO", "SCOPE", "SERVICE", "PORT NAME", "TYPE", "ACTION"];
    headers.push("BACKENDS");
    if wide {
        headers.extend(["DRAINING", "ALGORITHM", "AFFINITY", "SOURCE RANGES"]);
    }
    let mut table = Table::new(&headers);
    for f in frontends {
        let mut cells = vec![
            Cell::new(f.address.to_string()),
            Cell::new(f.port.to_string()).right(),
            Cell::new(f.protocol.as_str()),
            Cell::new(f.scope.as_str()),
            Cell::new(f.service.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string)),
            Cell::new(f.port_name.as_deref().map_or("?", |name| if name.is_empty() { "-" } else { name })),
            Cell::new(f.kind.as_str()),
            action_cell(f),
            Cell::new(if wide { backend_list(&f.backends) } else { backend_count(f) }),
        ];
        if wide {
            cells.push(Cell::new(backend_list(&f.draining)));
            cells.push(Cell::new(f.algorithm.as_str()));
            cells.push(Cell::new(f.affinity_seconds.map_or_else(|| "-".to_owned(), |s| format!("{s}s"))));
            cells.push(Cell::new(ranges_text(f)));
        }
        table.row(cells);
    }
    table
}

/// `address:port`, with brackets where IPv6 needs them.
#[must_use]
pub fn socket_text(address: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn action_cell(f: &Frontend) -> Cell {
    let cell = Cell::new(f.action.as_str());
    match f.action {
        Action::Forward if f.backends.iter().all(|b| b.state == BackendState::Active) => cell.good(),
        Action::Forward => cell.warn(),
        Action::Reject => cell.bad(),
        Action::Drop => cell.dim(),
    }
}

fn backend_count(f: &Frontend) -> String {
    let list = |count: usize, what: &str| if count > 0 { format!("{count}{what}") } else { String::new() };
    let terminating = f.backends.iter().filter(|b| b.state == BackendState::Terminating).count();
    let parts = [
        list(f.backends.len() - terminating, ""),
        list(terminating, " terminating"),
        list(f.draining.len(), " draining"),
    ];
    let text = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" + ");
    if text.is_empty() { "-".to_owned() } else { text }
}

fn backend_list(backends: &[Backend]) -> String {
    let mark = |b: &Backend| match b.state {
        BackendState::Active => "",
        BackendState::Terminating => "(terminating)",
    };
    let text = backends.iter().map(|b| format!("{}{}", socket_text(b.address, b.port), mark(b)));
    let text = text.collect::<Vec<_>>().join(",");
    if text.is_empty() { "-".to_owned() } else { text }
}

/// What a cell says about health; shown as colour on a terminal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    Dim,
}

/// One cell of a [`Table`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// A plain cell, to the left. Control characters, which could move a terminal's cursor, are shown escaped.
    pub fn new(text: impl Into<String>) -> Self {
        let text: String = text.into();
        let clean = text.chars().all(|c| !c.is_control());
        Self { text: if clean { text } else { text.escape_debug().to_string() }, tone: Tone::Plain, right: false }
    }

    /// In good health.
    #[must_use]
    pub fn good(self) -> Self {
        Self { tone: Tone::Good, ..self }
    }

    /// Worth a look.
    #[must_use]
    pub fn warn(self) -> Self {
        Self { tone: Tone::Warn, ..self }
    }

    /// Traffic is affected.
    #[must_use]
    pub fn bad(self) -> Self {
        Self { tone: Tone::Bad, ..self }
    }

    /// Of little interest.
    #[must_use]
    pub fn dim(self) -> Self {
        Self { tone: Tone::Dim, ..self }
    }

    /// To the right, as numbers are.
    #[must_use]
    pub fn right(self) -> Self {
        Self { right: true, ..self }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// Aligned columns under headers. The last column is never padded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(headers: &[&str]) -> Self {
        Self { headers: headers.iter().map(|h| (*h).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it does not have one cell for each header.
    pub fn row(&mut self, cells: Vec<Cell>) -> &mut Self {
        assert_eq!(cells.len(), self.headers.len(), "one cell for each header");
        self.rows.push(cells);
        self
    }

    /// Prints headers and rows.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn print(&self, colour: bool, out: &mut dyn Write) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].width());
            cells.chain([self.headers[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headers.len()).map(width).collect();
        let right = |column: usize| self.rows.first().is_some_and(|row| row[column].right);
        let headers = self.headers.iter().enumerate().map(|(column, text)| Cell {
            text: text.clone(),
            tone: Tone::Plain,
            right: right(column),
        });
        print_row(&headers.collect::<Vec<_>>(), &widths, false, out)?;
        self.rows.iter().try_for_each(|row| print_row(row, &widths, colour, out))
    }
}

fn print_row(cells: &[Cell], widths: &[usize], colour: bool, out: &mut dyn Write) -> io::Result<()> {
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let last = column + 1 == cells.len();
        let padding = " ".repeat(width - cell.width());
        let (on, off) = match cell.tone {
            _ if !colour => ("", ""),
            Tone::Plain => ("", ""),
            Tone::Good => ("\x1b[32m", "\x1b[0m"),
            Tone::Warn => ("\x1b[33m", "\x1b[0m"),
            Tone::Bad => ("\x1b[31m", "\x1b[0m"),
            Tone::Dim => ("\x1b[2m", "\x1b[0m"),
        };
        if column > 0 {
            out.write_all(b"   ")?;
        }
        if cell.right {
            write!(out, "{padding}{on}{}{off}", cell.text)?;
        } else if last {
            write!(out, "{on}{}{off}", cell.text)?;
        } else {
            write!(out, "{on}{}{off}{padding}", cell.text)?;
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(table: &Table, colour: bool, expected: &str) {
        let mut out = Vec::new();
        table.print(colour, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", "PORT", "STATE"]);
        table.row(vec![Cell::new("default/web"), Cell::new("80").right(), Cell::new("ok").good()]);
        table.row(vec![Cell::new("é\u{1b}"), Cell::new("30080").right(), Cell::new("out of order").bad()]);
        check(
            &table,
            false,
            "NAME           PORT   STATE\ndefault/web      80   ok\né\\u{1b}       30080   out of order\n",
        );
        check(
            &table,
            true,
            "NAME           PORT   STATE\ndefault/web      80   \u{1b}[32mok\u{1b}[0m\né\\u{1b}       30080   \u{1b}[31mout of \
             order\u{1b}[0m\n",
        );
        check(&Table::new(&["NAME", "PORT"]), true, "NAME   PORT\n");
    }
}
