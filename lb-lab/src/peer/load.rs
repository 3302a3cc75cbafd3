//! What runs for a while: a held connection, and load.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    answer::{Held, Load},
    http,
    request::{Hold, HttpLoad, Transport},
    session::{Sockets, Stop},
    udp,
};

/// How many failures of a load are kept in full.
const KEPT_FAILURES: usize = 50;

/// Runs a [`Hold`].
pub(super) fn hold(ask: &Hold, stop: &Stop) -> Held {
    let start = Instant::now();
    let end = start + Duration::from_millis(ask.duration_ms);
    let mut held = Held {
        pings: 0,
        names: BTreeMap::new(),
        log: Vec::new(),
        failures: Vec::new(),
        longest_gap_micros: 0,
        elapsed_ms: 0,
    };
    let mut sockets = Sockets::default();
    let mut last_answer = start;
    match sockets.open(&ask.open).id {
        Err(failure) => held.failures.push((0, failure)),
        Ok(id) => {
            while Instant::now() < end && !stop.asked() {
                let began = since_1970();
                let exchange = sockets.ping(id, None, Duration::from_millis(ask.timeout_ms));
                match exchange.map(|exchange| exchange.result) {
                    Some(Ok(seen)) => {
                        held.pings += 1;
                        held.log.push((began, seen.name.clone()));
                        *held.names.entry(seen.name).or_default() += 1;
                        held.longest_gap_micros = held.longest_gap_micros.max(super::tcp::micros(last_answer));
                        last_answer = Instant::now();
                    }
                    Some(Err(failure)) => {
                        held.failures.push((millis(start), failure));
                        if ask.open.transport == Transport::Tcp {
                            break;
                        }
                    }
                    None => break,
                }
                thread::sleep(Duration::from_millis(ask.interval_ms));
            }
        }
    }
    held.elapsed_ms = millis(start);
    held
}

/// Runs an [`HttpLoad`].
pub(super) fn http_load(ask: &HttpLoad, stop: &Stop) -> Load {
    let start = Instant::now();
    let end = start + Duration::from_millis(ask.duration_ms);
    let timeout = Duration::from_millis(ask.timeout_ms);
    let begun = AtomicU64::new(0);
    let total = Mutex::new(Load::default());
    let work = || {
        let mut own = Load::default();
        while Instant::now() < end && !stop.asked() {
            if ask.requests.is_some_and(|limit| begun.fetch_add(1, Ordering::Relaxed) >= limit) {
                break;
            }
            let asked = Instant::now();
            let began = since_1970();
            let answer = match ask.transport {
                Transport::Tcp => http::get(ask.to, timeout),
                Transport::Udp => udp::get(ask.to, timeout),
            };
            match answer {
                Ok(name) => {
                    if ask.log {
                        own.log.push((began, name.clone()));
                    }
                    *own.names.entry(name).or_default() += 1;
                    own.slowest_micros = own.slowest_micros.max(super::tcp::micros(asked));
                }
                Err(failure) => {
                    own.failed += 1;
                    if own.failures.len() < KEPT_FAILURES {
                        own.failures.push((millis(start), failure));
                    }
                }
            }
            thread::sleep(Duration::from_millis(ask.pause_ms));
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, count) in own.names {
            *total.names.entry(name).or_default() += count;
        }
        total.failed += own.failed;
        total.failures.extend(own.failures);
        total.log.extend(own.log);
        total.slowest_micros = total.slowest_micros.max(own.slowest_micros);
    };
    thread::scope(|scope| {
        for _ in 0..ask.workers {
            scope.spawn(work);
        }
    });
    let mut load = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    load.failures.sort_by_key(|(when, _)| *when);
    load.failures.truncate(KEPT_FAILURES);
    load.elapsed_ms = millis(start);
    load
}

/// The clock that processes share, in milliseconds.
fn since_1970() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
