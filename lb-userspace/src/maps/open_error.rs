//! Why pinned maps cannot be used, with the next step.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why the pinned maps could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no such pin.
    #[error("no map is pinned at {path}: no agent has run here, or it ran with another --bpffs")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no such pin, but there are others beside it.
    #[error(
        "no map is pinned at {path}, though others are beside it: somebody has removed that pin. `berrylb verify --repair` has \
         the running agent pin its map again; if none runs, start it"
    )]
    Lost {
        /// Where it should be.
        path: PathBuf,
    },
    /// The pin is another kind of map than this version wants.
    #[error(
        "map {map} at {path} has {what} {found}, wanted {wanted}: another program or version made it; remove it with \
         `berrylb cleanup`"
    )]
    Wrong {
        /// Its name.
        map: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Which property.
        what: &'static str,
        /// As it is.
        found: u32,
        /// As it should be.
        wanted: u32,
    },
    /// The kernel refused.
    #[error("cannot open map {map} at {path}: {error}{}", next_step(.error))]
    Io {
        /// Its name.
        map: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
}

fn next_step(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { "; run this as root" } else { "" }
}
