//! Errors of libraries in one line. Knows none of them.

use std::error::Error;

/// An error with all its causes: many leave theirs out of what they say.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some repeat their cause.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let error = anyhow::anyhow!("refused").context("connect").context("connect: refused, so no list");
        assert_eq!(chain(error.as_ref()), "connect: refused, so no list");
        let error = anyhow::anyhow!("refused").context("connect").context("list");
        assert_eq!(chain(error.as_ref()), "list: connect: refused");
    }
}
