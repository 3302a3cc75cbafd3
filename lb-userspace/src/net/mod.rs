//! TBD net
