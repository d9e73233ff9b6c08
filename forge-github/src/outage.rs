//! Whether GitHub can be used at the moment, and if not, why. Nothing is decided by it: it is for people.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use runner_core::error::chain;

use crate::{demand::Health, error::ApiError};

/// Remembers how the last calls went.
pub(crate) struct Outage {
    host: String,
    health: Mutex<Health>,
}

impl Outage {
    pub fn new(host: String) -> Self {
        Self { host, health: Mutex::new(Health::Well) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn health(&self) -> Health {
        self.state().clone()
    }

    /// A call was answered by GitHub itself.
    pub fn well(&self, now: Timestamp) {
        let before = std::mem::replace(&mut *self.state(), Health::Well);
        if let Health::Ill { since, .. } = before {
            let seconds = now.duration_since(since).as_secs();
            tracing::info!(host = self.host, seconds, "GitHub can be used again.");
        }
    }

    /// A call failed for a reason that is not its own.
    pub fn ill(&self, now: Timestamp, error: &ApiError) {
        let reason = chain(error);
        let mut state = self.state();
        let since = match &*state {
            Health::Ill { since, .. } => *since,
            Health::Well => {
                let host = &self.host;
                match error {
                    ApiError::Limited { .. } => {
                        tracing::warn!(host, reason, "GitHub wants fewer calls.");
                    }
                    ApiError::Credentials { .. } => {
                        tracing::error!(host, reason, "There are no credentials for GitHub.");
                    }
                    _ => tracing::warn!(host, reason, "GitHub cannot be used."),
                }
                now
            }
        };
        *state = Health::Ill { since, reason };
    }
}
