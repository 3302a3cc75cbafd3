//! The command line: one module for each command, and `output` for how they all print.

pub mod output;
pub mod plan;
