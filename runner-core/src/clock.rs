//! What time it is: a value that is passed in, so that tests can make a year pass in a second.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Tells the time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock(Option<(Timestamp, Instant)>);

impl Clock {
    /// The host's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// Starts at `start` and goes on with tokio's clock, paused or not.
    pub fn following_tokio(start: Timestamp) -> Self {
        Self(Some((start, Instant::now())))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match self.0 {
            None => Timestamp::now(),
            Some((start, origin)) => {
                let passed = SignedDuration::try_from(origin.elapsed());
                start
                    .saturating_add(passed.unwrap_or(SignedDuration::MAX))
                    .unwrap_or(Timestamp::MAX)
            }
        }
    }
}
