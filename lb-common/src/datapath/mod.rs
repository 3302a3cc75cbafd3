//! The datapath core.
