//! Keeps `flow_filter` of use: looks every five seconds how full it is, and makes it anew, beside the loop, where that gains
//! something. A look reads 32 KiB of memory and takes microseconds. Without an agent the filter fills up, and packets without
//! a flow cost again what two look-ups in vain cost.

use std::{path::Path, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use crate::maps::{BpfFilter, OpenError, StoreError, Wear, renew, wear};

/// How often it is looked at: it takes 2,000 new flows a second to fill nearly half of it meanwhile.
const EVERY: Duration = Duration::from_secs(5);
/// The same while it is not asked.
const SOON: Duration = Duration::from_secs(2);

/// What [`renew`] gave, and how long it took.
pub(super) struct Renewed {
    maps: BpfFilter,
    used: Result<usize, StoreError>,
    took: Duration,
}

/// When the next look is, and what the last ones showed.
pub(super) struct FilterKeeper {
    /// `None` while it is made anew.
    maps: Option<BpfFilter>,
    /// Places that were left when it was last made anew.
    kept: usize,
    at: Instant,
    /// Why it could not be made anew, as it was logged.
    told: Option<String>,
    sender: mpsc::UnboundedSender<Renewed>,
    renewed: mpsc::UnboundedReceiver<Renewed>,
}

impl FilterKeeper {
    /// For the maps that are pinned in the folder `dir`, one ABI version's.
    ///
    /// # Errors
    /// If they cannot be opened.
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        let (sender, renewed) = mpsc::unbounded_channel();
        Ok(Self { maps: Some(BpfFilter::open(dir)?), kept: 0, at: Instant::now(), told: None, sender, renewed })
    }

    /// When to call [`Self::look`].
    pub(super) fn at(&self) -> Option<Instant> {
        self.maps.is_some().then_some(self.at)
    }

    /// Looks, and begins to make it anew if that is due; [`Self::renewed`] tells. `trusted`: whether all programs that write to the flow
    /// tables are known to mark this filter, asked only while programs do not ask it.
    pub(super) fn look(&mut self, trusted: impl FnOnce() -> bool) {
        self.at = Instant::now() + EVERY;
        let Some(maps) = &self.maps else { return };
        match wear(maps, self.kept) {
            Wear::Good(_) => return,
            Wear::Unasked if !trusted() => {
                self.at = Instant::now() + SOON;
                return;
            }
            Wear::Unasked | Wear::Worn(_) => {}
        }
        let Some(mut maps) = self.maps.take() else { return };
        let sender = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            let start = Instant::now();
            let used = renew(&mut maps);
            // A loop that has ended looks no more.
            let _ended = sender.send(Renewed { maps, used, took: start.elapsed() });
        });
    }

    /// Waits until it was made anew. Cancel-safe.
    pub(super) async fn renewed(&mut self) -> Option<Renewed> {
        self.renewed.recv().await
    }

    /// Takes what [`Self::renewed`] gave.
    pub(super) fn finish(&mut self, Renewed { maps, used, took }: Renewed) {
        self.maps = Some(maps);
        let error = match used {
            Ok(used) => {
                tracing::debug!(used, millis = took.as_millis(), "the filter of flows was made anew");
                self.kept = used;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if error != self.told {
            match &error {
                Some(error) => tracing::warn!(
                    "packets without a flow cost more than they need: the filter in front of the flows cannot be made \
                     anew: {error}; tried again every {} s",
                    EVERY.as_secs()
                ),
                None => tracing::info!("the filter in front of the flows could be made anew"),
            }
            self.told = error;
        }
    }
}
