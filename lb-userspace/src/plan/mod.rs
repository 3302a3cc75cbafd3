//! From the model to the desired state. Pure: no clock, no I/O, no kernel.

pub mod state;
