//! What people ask of a running pool, on top of its configuration: durable, attributed, and undone as easily.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    name::{ProfileName, WorkerName},
    profile::Profile,
};

/// A worker whose machine is kept, whatever becomes of its job, until a time.
///
/// While it holds, the machine is neither destroyed nor counted as free; its room stays taken. Emptying the
/// pool ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The worker.
    pub worker: WorkerName,
    /// Who asked.
    pub by: String,
    /// What for.
    pub purpose: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// A worker that is to go as soon as it has no job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dismissal {
    /// The worker.
    pub worker: WorkerName,
    /// Who asked.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Whether its reservation may end first: someone was in it, so it is not for anyone's job any more.
    #[serde(default)]
    pub after_reservation: bool,
}

/// What one profile has instead of what is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    /// The profile.
    pub profile: ProfileName,
    /// Instead of [`Profile::min_idle`].
    pub min_idle: Option<u32>,
    /// Instead of [`Profile::max`].
    pub max: Option<u32>,
    /// Whether it makes no workers and retires idle ones; jobs that run go on, jobs that wait wait.
    pub paused: bool,
    /// Who asked last.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

/// What to adjust; what is none stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjust {
    /// The new `min_idle`; `Some(None)` is the configured one again.
    pub min_idle: Option<Option<u32>>,
    /// The new `max`; `Some(None)` is the configured one again.
    pub max: Option<Option<u32>>,
    /// Whether to pause.
    pub paused: Option<bool>,
}

impl Adjustment {
    /// No adjustment yet.
    pub(crate) fn none(profile: ProfileName, by: String, since: Timestamp) -> Self {
        Self { profile, min_idle: None, max: None, paused: false, by, since }
    }

    /// Whether everything is as configured.
    pub fn is_none(&self) -> bool {
        self.min_idle.is_none() && self.max.is_none() && !self.paused
    }

    /// What `profile` is with it. A `min_idle` above `max` is lowered to it.
    pub fn apply(&self, profile: &Profile) -> Profile {
        let mut adjusted = profile.clone();
        adjusted.max = self.max.unwrap_or(profile.max);
        adjusted.min_idle = self.min_idle.unwrap_or(profile.min_idle).min(adjusted.max);
        adjusted
    }

    /// What follows from another wish.
    ///
    /// # Errors
    /// `Invalid` for a `max` of 0 (pause instead) and a `min_idle` above `max`.
    pub(crate) fn adjusted(mut self, adjust: &Adjust, profile: &Profile) -> Result<Self> {
        self.min_idle = adjust.min_idle.unwrap_or(self.min_idle);
        self.max = adjust.max.unwrap_or(self.max);
        self.paused = adjust.paused.unwrap_or(self.paused);
        let max = self.max.unwrap_or(profile.max);
        if max == 0 {
            let what = format!("max of profile {}", profile.name);
            return Err(Error::invalid(what, "it must be at least 1; pause it to have none"));
        }
        if let Some(min_idle) = self.min_idle.filter(|min_idle| *min_idle > max) {
            let what = format!("min_idle of profile {}", profile.name);
            return Err(Error::invalid(what, format!("{min_idle} is above max = {max}")));
        }
        Ok(self)
    }

    /// The difference to `old`, in words.
    pub(crate) fn difference(&self, old: &Self, profile: &Profile) -> String {
        let mut parts = Vec::new();
        let mut number = |name: &str, old: Option<u32>, new: Option<u32>, configured: u32| {
            if old != new {
                let said = |value: Option<u32>| match value {
                    Some(value) => value.to_string(),
                    None => format!("{configured} as configured"),
                };
                parts.push(format!("{name} {} -> {}", said(old), said(new)));
            }
        };
        number("min_idle", old.min_idle, self.min_idle, profile.min_idle);
        number("max", old.max, self.max, profile.max);
        match (old.paused, self.paused) {
            (false, true) => parts.push("paused".to_owned()),
            (true, false) => parts.push("resumed".to_owned()),
            _ => (),
        }
        if parts.is_empty() { "nothing new".to_owned() } else { parts.join(", ") }
    }
}
