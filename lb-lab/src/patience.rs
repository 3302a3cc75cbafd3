//! How long the lab waits. Its limits are for a machine that is busy; where one is slower than that by far, as an
//! emulator is, they are all made longer by one factor. A limit only ends what hangs: nothing waits longer for being
//! allowed to.

use std::{env, sync::OnceLock, time::Duration};

/// Names how many times longer every limit is: a whole number from 1 on. Unset: once.
pub const VARIABLE: &str = "BERRYLB_LAB_PATIENCE";

/// The limit that is in force where `usual` is meant for any ordinary machine.
///
/// # Panics
/// If [`VARIABLE`] is set to something else than a whole number from 1 on.
#[must_use]
pub fn limit(usual: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    usual.saturating_mul(*FACTOR.get_or_init(|| match env::var(VARIABLE) {
        Ok(text) => parse(&text).unwrap_or_else(|| panic!("{VARIABLE}={text} is no whole number from 1 on")),
        Err(env::VarError::NotPresent) => 1,
        Err(error) => panic!("{VARIABLE}: {error}"),
    }))
}

/// [`limit`] in milliseconds.
///
/// # Panics
/// As [`limit`].
#[must_use]
pub fn limit_ms(usual: u64) -> u64 {
    u64::try_from(limit(Duration::from_millis(usual)).as_millis()).unwrap_or(u64::MAX)
}

fn parse(text: &str) -> Option<u32> {
    text.parse().ok().filter(|factor| *factor > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_a_whole_number_from_one_on() {
        assert_eq!([parse("1"), parse("20")], [Some(1), Some(20)]);
        assert_eq!([parse("0"), parse("-1"), parse("1.5"), parse("")], [None; 4]);
    }
}
