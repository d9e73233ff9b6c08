//! Policy overrides: for a while, some profiles have other numbers than are configured, all of them at once,
//! and the other profiles give way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    name::{ProfileName, WorkerName},
    plan::{Action, Allotment, Held},
    profile::Profile,
    worker::Worker,
};

/// How long an override holds at most, where nobody says.
pub const USUAL_LENGTH: Duration = Duration::from_secs(6 * 3600);

/// How many workers some profiles are to have for a while. There is one at a time.
///
/// The other profiles give way to it, but no worker that is busy or reserved does. It ends at its time, when
/// someone ends it, or when every worker it was to have was there and is gone again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// How many workers each of these profiles is to have, beside those that were busy or reserved for
    /// someone else when it began.
    pub counts: BTreeMap<ProfileName, u32>,
    /// Who asked.
    pub by: String,
    /// What for.
    pub purpose: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// The workers that it had so far: never more of a profile than its count.
    #[serde(default)]
    pub claimed: BTreeMap<ProfileName, BTreeSet<WorkerName>>,
}

/// What to override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideRequest {
    /// How many workers each of these profiles is to have.
    pub counts: BTreeMap<ProfileName, u32>,
    /// Who asks.
    pub by: String,
    /// What for.
    pub purpose: String,
    /// Until when, at most.
    pub until: Timestamp,
}

/// An override, and what comes of it at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideStatus {
    /// The override.
    pub policy: Override,
    /// What each profile on offer gets while it holds, paused ones left out.
    pub allotted: BTreeMap<ProfileName, Allotment>,
}

/// What would come of an override, as the pool is at this moment. Nothing of it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverridePreview {
    /// The override, and what each profile would get.
    pub status: OverrideStatus,
    /// What the pool would do at once.
    pub actions: Vec<Action>,
    /// What it would want and not do, and why.
    pub held: Vec<Held>,
}

impl Override {
    /// What follows from a wish.
    ///
    /// # Errors
    /// `NotFound` for a profile that is not offered; `Invalid` for a wish that names none, asks for no
    /// worker, is over already or asks for a profile that is paused.
    pub(crate) fn new(
        request: OverrideRequest,
        offered: &[Profile],
        paused: &BTreeMap<ProfileName, String>,
        now: Timestamp,
    ) -> Result<Self> {
        let OverrideRequest { counts, by, purpose, until } = request;
        let refuse = |reason: &str| Err(Error::invalid("the policy override", reason));
        for name in counts.keys() {
            if !offered.iter().any(|profile| profile.name == *name) {
                return Err(Error::not_found(format!("profile {name}")));
            }
        }
        if counts.is_empty() {
            return refuse("it names no profile; say how many workers each of some is to have");
        }
        if counts.values().all(|count| *count == 0) {
            return refuse("it asks for no worker; pause a profile to have none of it");
        }
        if until <= now {
            return refuse("its end is in the past");
        }
        let is_paused = |name: &&ProfileName| paused.contains_key(*name);
        if let Some(name) = counts.keys().find(is_paused) {
            let by = &paused[name];
            return refuse(&format!("profile {name} is paused by {by}; resume it first"));
        }
        Ok(Self { counts, by, purpose, since: now, until, claimed: BTreeMap::new() })
    }

    /// What it asks for, in words.
    pub(crate) fn words(&self) -> String {
        let counts = self.counts.iter().map(|(name, count)| format!("{name} = {count}"));
        counts.collect::<Vec<_>>().join(", ")
    }

    /// Whether `worker` is one of those it had.
    pub(crate) fn has(&self, worker: &Worker) -> bool {
        self.claimed.values().any(|had| had.contains(&worker.name))
    }

    /// Adds workers that it has now. Returns whether any is new.
    pub(crate) fn claim(&mut self, claims: &BTreeMap<ProfileName, BTreeSet<WorkerName>>) -> bool {
        let mut is_news = false;
        for (profile, workers) in claims {
            let claimed = self.claimed.entry(profile.clone()).or_default();
            for worker in workers {
                is_news |= claimed.insert(worker.clone());
            }
        }
        is_news
    }
}
