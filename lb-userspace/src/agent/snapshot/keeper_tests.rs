//! When a snapshot is written, with a clock of its own.

use super::*;

const INTERVAL: Duration = Duration::from_secs(60);

fn written(digest: u64, bytes: Option<usize>) -> Result<Written, WriteError> {
    Ok(Written { digest, bytes })
}

/// A keeper that has something to write at `now`.
fn due(keeper: &mut Keeper, version: u64, now: Instant) -> Option<Duration> {
    keeper.changed(version, now);
    keeper.at().map(|at| at - now)
}

#[test]
fn a_burst_is_one_write_and_a_minute_passes_before_the_next() {
    let (mut keeper, start) = (Keeper::new(INTERVAL), Instant::now());
    assert_eq!(keeper.at(), None);
    assert_eq!(due(&mut keeper, 1, start), Some(SETTLE));
    assert_eq!(due(&mut keeper, 2, start + SETTLE / 2), Some(SETTLE / 2), "later changes put it off no further");
    let now = start + SETTLE;
    keeper.start(2, SystemTime::now(), now);
    assert_eq!(due(&mut keeper, 3, now), None, "one at a time");
    assert_eq!(keeper.finish(written(7, Some(100)), now), None);
    assert_eq!((keeper.kept, keeper.digest), (Some(2), Some(7)));
    assert_eq!(due(&mut keeper, 2, now), None, "what is on the disk");
    assert_eq!(due(&mut keeper, 3, now), Some(INTERVAL));
    keeper.start(3, SystemTime::now(), now + INTERVAL);
    keeper.finish(written(8, Some(100)), now + INTERVAL);
    let later = now + 3 * INTERVAL;
    assert_eq!(due(&mut keeper, 4, later), Some(SETTLE), "after a quiet time it goes soon");
}

#[test]
fn a_short_interval_waits_no_longer_than_itself() {
    let now = Instant::now();
    assert_eq!(due(&mut Keeper::new(Duration::from_secs(1)), 1, now), Some(Duration::from_secs(1)));
    assert_eq!(due(&mut Keeper::new(Duration::ZERO), 1, now), Some(Duration::ZERO));
}

#[test]
fn the_time_of_what_is_on_the_disk_is_that_of_the_last_real_write() {
    let (mut keeper, now) = (Keeper::new(INTERVAL), Instant::now());
    let old = SystemTime::now() - Duration::from_secs(999);
    keeper.found(&Snapshot { written: old, objects: Vec::new(), digest: 7 });
    assert_eq!((keeper.written(), keeper.digest), (Some(old), Some(7)));
    keeper.start(1, SystemTime::now(), now);
    keeper.finish(written(7, None), now);
    assert_eq!(keeper.written(), Some(old), "it was not written again");
    let new = SystemTime::now();
    keeper.start(2, new, now);
    keeper.finish(written(8, Some(10)), now);
    assert_eq!(keeper.written(), Some(new));
    keeper.found(&Snapshot { written: old, objects: Vec::new(), digest: 7 });
    assert_eq!((keeper.written(), keeper.digest), (Some(new), Some(8)), "what is read late is old");
}

#[test]
fn a_failure_is_told_once_and_tried_again_ever_more_seldom() {
    let (mut keeper, mut now) = (Keeper::new(INTERVAL), Instant::now());
    let full = || Err(WriteError::example(libc::ENOSPC));
    let mut waits = Vec::new();
    let mut told = Vec::new();
    keeper.changed(1, now);
    for _ in 0..9 {
        keeper.start(1, SystemTime::now(), now);
        told.extend(keeper.finish(full(), now));
        assert_eq!(due(&mut keeper, 2, now), keeper.at().map(|at| at - now), "a change does not hurry it");
        let wait = keeper.at().unwrap() - now;
        waits.push(wait.as_secs());
        now += wait;
    }
    assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    assert!(told.len() == 1 && told[0].contains("No space left"), "{told:?}");
    assert_eq!((keeper.failures(), keeper.problem().is_some()), (9, true));

    keeper.start(2, SystemTime::now(), now);
    let other = keeper.finish(Err(WriteError::example(libc::EROFS)), now).unwrap();
    assert!(other.contains("Read-only"), "another cause is told: {other}");
    keeper.start(2, SystemTime::now(), now);
    assert_eq!(keeper.finish(written(1, Some(5)), now).unwrap(), "the snapshot is written again");
    assert_eq!((keeper.problem(), keeper.failures()), (None, 10));
    assert_eq!(due(&mut keeper, 3, now), Some(INTERVAL));
}
