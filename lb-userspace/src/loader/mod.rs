//! TBD loader

pub mod object;
