//! TBD maps
