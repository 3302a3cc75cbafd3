//! berrylb
fn main() {}
