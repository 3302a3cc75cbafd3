//! Every kind of Service for every kind of client, with real sockets: what must come of it is computed from the rules
//! (`oracle`), and all of it is asked of a whole lab at once (`matrix`). What breaks traffic in mid-flow is here, too.
//!
//! The tests of `oracle_tests` need no privilege, the others root. Labs never meet, so tests may run side by side.

mod cell;
mod churn;
mod clash;
mod flood;
mod flush;
mod masquerade;
mod matrix;
mod oracle;
mod oracle_tests;
mod route;
mod world;
