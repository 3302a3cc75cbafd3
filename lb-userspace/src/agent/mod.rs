//! TBD agent
