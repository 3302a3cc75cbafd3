//! Names for the tables that packets and sockets insert into.

use crate::datapath::FlowTable;

/// The tables that the datapath inserts into.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Table {
    /// `flows`.
    Flows,
    /// `embryos`.
    Embryos,
    /// `frags`.
    Frags,
    /// `sock_revnat`.
    Socks,
    /// `affinity`.
    Affinity,
}

impl From<FlowTable> for Table {
    fn from(table: FlowTable) -> Self {
        match table {
            FlowTable::Flows => Self::Flows,
            FlowTable::Embryos => Self::Embryos,
            FlowTable::Frags => Self::Frags,
        }
    }
}
