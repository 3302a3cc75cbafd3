//! Why an agent's settings cannot be used, in words for whoever gave them.

use std::{io, path::PathBuf};

use crate::k8s::watch::AccessError;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The config file cannot be read.
    #[error("cannot read the config file {path}: {error}; check --config")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The config file does not say what it should.
    #[error(
        "config file {path}: {error}; its keys are the long flags of `berrylb agent --help`, without dashes in front"
    )]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Why, with line and column.
        error: String,
    },
    /// Neither files nor a way to the API server.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The host does not tell its name.
    #[error("cannot read this host's name: {0}; give --node-name")]
    HostName(io::Error),
    /// A setting goes beyond what the datapath can do.
    #[error("{0}")]
    OutOfReach(String),
}
