//! What time it is at GitLab.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

/// A clock that goes with tokio's, paused or not, and can be put forward. Clones are the same clock.
///
/// What lasts at GitLab (tokens, contacts, artifacts, jobs that nobody hears of) lasts by this clock. A request
/// that is held waits by tokio's.
#[derive(Debug, Clone)]
pub struct Clock {
    start: Timestamp,
    origin: Instant,
    ahead: Arc<Mutex<SignedDuration>>,
    advanced: Arc<Notify>,
}

impl Clock {
    /// Starts at `start`.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, origin: Instant::now(), ahead: Arc::default(), advanced: Arc::default() }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        let ahead = *self.ahead.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let passed = SignedDuration::try_from(self.origin.elapsed()).unwrap_or_default();
        self.start.saturating_add(ahead.saturating_add(passed)).unwrap_or(Timestamp::MAX)
    }

    /// Lets time pass without waiting for it.
    pub fn advance(&self, time: Duration) {
        {
            let mut ahead = self.ahead.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *ahead = ahead.saturating_add(SignedDuration::try_from(time).unwrap_or_default());
        }
        self.advanced.notify_waiters();
    }

    /// Ends when somebody lets time pass.
    pub(crate) fn advanced(&self) -> Notified<'_> {
        self.advanced.notified()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::starting_at(Timestamp::now())
    }
}

/// As GitLab writes it: milliseconds.
pub(crate) fn millis(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
