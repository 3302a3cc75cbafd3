//! How long the watches wait for what. The defaults are for real servers; tests that live through many failures have
//! shorter ones.

use std::time::Duration;

use super::Backoff;

/// Waits of the watches.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a TCP connection.
    pub connect: Duration,
    /// From a request to the head of its answer. An API server gives up on a list after 60 s (`--request-timeout`).
    pub head: Duration,
    /// For a part of a list.
    pub list: Duration,
    /// For a part of a list that comes as a stream: a server that ignores the parameters never sends its end.
    pub stream: Duration,
    /// For anything in a watch. Bookmarks come every minute or so, but nothing promises them: without any, a list now
    /// and then is the price.
    pub watch: Duration,
    /// A watch that ends sooner, and without an event, did not work.
    pub useful: Duration,
    /// The API server's own Service is made again by its controller, which looks every 10 s
    /// (`pkg/controlplane/controller/kubernetesservice`). Until then it is not taken as gone.
    pub confirm: Duration,
    /// Before an empty list is asked for again.
    pub empty: Duration,
    /// A server that forbids what it allowed before may just have started, and know no rights so far; then it is told.
    pub rights: Duration,
    /// Before another attempt.
    pub retry: Backoff,
    /// A server that failed for so long is listed again rather than gone on from: its storage may have been restored
    /// from a backup meanwhile and have come to the version that is known by another history.
    pub outage: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(65),
            list: Duration::from_secs(30),
            stream: Duration::from_secs(15),
            watch: Duration::from_secs(240),
            useful: Duration::from_secs(1),
            confirm: Duration::from_secs(15),
            empty: Duration::from_millis(500),
            rights: Duration::from_secs(5),
            // client-go's bounds are 0.8 s and 30 s (`tools/cache/reflector.go`).
            retry: Backoff { least: Duration::from_millis(500), most: Duration::from_secs(30) },
            outage: Duration::from_secs(10),
        }
    }
}
