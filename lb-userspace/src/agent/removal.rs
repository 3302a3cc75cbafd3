//! The datapath was taken away while the agent runs, as `berrylb cleanup` does. The agent says so, is neither healthy nor
//! alive from then on, and answers questions until it is ended; whoever runs it decides whether it starts again. It never
//! puts anything in the datapath's place: that would undo what somebody has just done.

use std::time::Duration;

use tokio::{
    signal::unix::Signal,
    sync::mpsc::Receiver,
    time::{Instant, sleep_until},
};

use super::{state::Agent, status::Question};

/// How often the agent looks: the kernel tells nobody that a pin is gone.
const EVERY: Duration = Duration::from_secs(2);

/// What is said of it, with the next step.
pub(super) const TAKEN_AWAY: &str = "the datapath was taken away while the agent ran, as `berrylb cleanup` does: no Service \
                                     is served on this node. Next step: start the agent again, or end it";

/// Looks from time to time.
pub(super) struct Lookout(Instant);

impl Lookout {
    pub(super) fn new() -> Self {
        Self(Instant::now() + EVERY)
    }

    /// Waits until it is time to look.
    pub(super) async fn next(&mut self) {
        sleep_until(self.0).await;
        self.0 = Instant::now() + EVERY;
    }
}

impl Agent {
    /// Looks whether the datapath is still there; the first time that it is not, says so, and takes away what was attached
    /// meanwhile.
    pub(super) fn is_taken_away(&mut self) -> bool {
        if self.taken_away {
            return true;
        }
        let looked = self.datapath.is_taken_away().map_err(|error| error.to_string());
        self.taken_away = *looked.as_ref().unwrap_or(&false);
        self.note("cannot look whether the datapath is still there", looked.map(drop));
        if self.taken_away {
            self.ready = false;
            tracing::error!("{TAKEN_AWAY}");
            match self.datapath.take_rest_away() {
                Ok(rest) => tracing::debug!("{rest}"),
                Err(error) => tracing::error!("what was attached meanwhile may still be: {error}"),
            }
        }
        self.taken_away
    }

    /// Does nothing but answer until a signal comes.
    pub(super) async fn linger(&mut self, questions: &mut Receiver<Question>, ends: [&mut Signal; 2]) {
        let [terminate, interrupt] = ends;
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                Some(question) = questions.recv() => self.answer(question),
            }
        }
    }
}
