//! TBD model
