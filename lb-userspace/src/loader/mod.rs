//! TBD loader
