//! Many different questions at a time.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    answer::Answers,
    request::{Batch, Question},
    session::Stop,
    tcp, udp,
};

/// Runs a [`Batch`]. What was not asked because of a stop has no exchanges.
pub(super) fn batch(ask: &Batch, stop: &Stop) -> Vec<Answers> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(vec![Answers(Vec::new()); ask.questions.len()]);
    let work = || {
        while !stop.asked() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(question) = ask.questions.get(index) else { return };
            let answers = match question {
                Question::Tcp(ask) => tcp::ask(ask, stop),
                Question::Udp(ask) => udp::ask(ask, stop),
                Question::Big(ask) => Answers(vec![tcp::big(ask)]),
            };
            all.lock().unwrap_or_else(PoisonError::into_inner)[index] = answers;
        }
    };
    thread::scope(|scope| {
        for _ in 0..ask.workers {
            scope.spawn(work);
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}
