//! What time it is at a service.

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
/// What lasts at the service (tokens, registrations, rate limits, jobs that nobody hears of) lasts by this clock.
/// What is held or waits for a message waits by tokio's.
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
        {
            let mut ahead = self.ahead.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            *ahead = ahead.saturating_add(SignedDuration::try_from(time).unwrap_or_default());
        }
        self.advanced.notify_waiters();
    }

    /// Ends when somebody lets time pass. Cancel safe.
    pub fn advanced(&self) -> Notified<'_> {
        self.advanced.notified()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_goes_with_tokios_and_can_be_put_forward() {
        let start: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let clock = Clock::starting_at(start);
        let same = clock.clone();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(same.now(), start + Duration::from_secs(5));

        let advanced = same.advanced();
        clock.advance(Duration::from_secs(3600));
        advanced.await;
        assert_eq!(same.now(), start + Duration::from_secs(3605));
    }
}
