//! What time it is at GitHub.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A clock that goes with tokio's, paused or not, and can be put forward. Clones are the same clock.
///
/// What lasts at GitHub (tokens, registrations, rate limits) lasts by this clock. What waits for a message
/// waits by tokio's.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Timestamp,
    origin: Instant,
    ahead: Arc<Mutex<SignedDuration>>,
}

impl Clock {
    /// Starts at `start`.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, origin: Instant::now(), ahead: Arc::default() }
    }

    /// Starts now.
    pub fn system() -> Self {
        Self::starting_at(Timestamp::now())
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        let ahead = *self.ahead.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let passed = SignedDuration::try_from(self.origin.elapsed()).unwrap_or_default();
        self.start.saturating_add(ahead.saturating_add(passed)).unwrap_or(Timestamp::MAX)
    }

    /// Lets time pass without waiting for it.
    pub fn advance(&self, time: Duration) {
        let mut ahead = self.ahead.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *ahead = ahead.saturating_add(SignedDuration::try_from(time).unwrap_or_default());
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// As GitHub writes it: whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// As HTTP writes it.
pub(crate) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
