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

#[cfg(test)]
mod tests {
    use crate::agent::AgentArgs;

    #[test]
    fn what_is_wrong_in_the_config_file_is_said_once_and_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yaml");
        for (text, cause) in [("log-level: info\nmax-flow: 3\n", "`max-flow`"), ("max-flows: many\n", "invalid u32")] {
            std::fs::write(&config, text).unwrap();
            let args = AgentArgs { config: Some(config.clone()), ..AgentArgs::default() };
            let error = args.settle().unwrap_err().to_string();
            assert_eq!(error.matches(cause).count(), 1, "{error}");
            assert!(error.contains("line ") && error.contains("column "), "{error}");
            assert!(error.matches("socket-lb-skip-netns").count() <= 1 && error.lines().count() == 1, "{error}");
        }
    }
}
