//! The datapath's debug log: records that the programs write into a ring buffer, brought to `tracing`. With the log
//! level off there is no such code in the programs, no ring worth the name, and nothing here runs.

use aya_log::EbpfLogger;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use super::{
    datapath::Datapath,
    error::{Error, Result, chain},
};

/// aya-log's ring buffer in the object.
pub(super) const RING: &str = "AYA_LOGS";

/// aya-log counts levels from 1 (error) to 5 (trace); 0 is off.
pub(super) fn level_number(level: Option<tracing::Level>) -> u8 {
    match level {
        None => 0,
        Some(tracing::Level::ERROR) => 1,
        Some(tracing::Level::WARN) => 2,
        Some(tracing::Level::INFO) => 3,
        Some(tracing::Level::DEBUG) => 4,
        Some(tracing::Level::TRACE) => 5,
    }
}

/// Forwards records until it is dropped.
#[derive(Debug)]
pub struct LogForwarder {
    task: JoinHandle<()>,
}

impl Drop for LogForwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Datapath {
    /// Starts forwarding the programs' log to `tracing` (target `datapath`), on the current tokio runtime. `None` if
    /// the datapath was loaded without a log.
    ///
    /// # Errors
    /// If the object has no ring buffer for it or it cannot be watched.
    pub fn forward_logs(&mut self) -> Result<Option<LogForwarder>> {
        if self.log_level().is_none() {
            return Ok(None);
        }
        let logger = EbpfLogger::init_with_logger(self.ebpf_mut(), ToTracing)
            .map_err(|error| Error::Object(format!("datapath log: {}", chain(&error))))?;
        // SAFETY: the logger owns its ring buffer's descriptor, always names that one, and closes it when it is dropped,
        // which is after `AsyncFd` has deregistered it.
        let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
            .map_err(|error| Error::kernel("watch the datapath log's ring buffer")(error.into()))?;
        let task = tokio::spawn(async move {
            loop {
                match logger.readable_mut().await {
                    Ok(mut ready) => {
                        ready.get_inner_mut().flush();
                        ready.clear_ready();
                    }
                    Err(error) => {
                        tracing::warn!("the datapath log ends: {error}");
                        return;
                    }
                }
            }
        });
        Ok(Some(LogForwarder { task }))
    }
}

/// aya-log speaks to the `log` facade; the agent has only `tracing`.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let (message, file, line) = (record.args(), record.file(), record.line());
        match record.level() {
            log::Level::Error => tracing::error!(target: "datapath", file, line, "{message}"),
            log::Level::Warn => tracing::warn!(target: "datapath", file, line, "{message}"),
            log::Level::Info => tracing::info!(target: "datapath", file, line, "{message}"),
            log::Level::Debug => tracing::debug!(target: "datapath", file, line, "{message}"),
            log::Level::Trace => tracing::trace!(target: "datapath", file, line, "{message}"),
        }
    }

    fn flush(&self) {}
}
