//! A kind of runner on offer.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    forge::QueuedJob,
    hypervisor::Network,
    image::Recipe,
    name::{ForgeName, Label, ProfileName},
    resources::{Resources, Shortage},
};

/// A kind of runner on offer: what it is made of, how many, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: ProfileName,
    /// Whose jobs it runs.
    pub forge: ForgeName,
    /// What it offers to jobs, beside its own name.
    pub labels: BTreeSet<Label>,
    /// What its instances boot.
    pub recipe: Recipe,
    /// What one instance takes.
    pub resources: Resources,
    /// What its instances can reach.
    pub network: Network,
    /// How many idle workers to keep ready, while there is room.
    pub min_idle: u32,
    /// How many workers there may be at once, busy ones included.
    pub max: u32,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// After how long an image is built anew, while the old one serves on. Never, if none.
    pub image_max_age: Option<Duration>,
    /// How many of its newest images are kept, the one that serves included. Those of an earlier recipe
    /// serve again when that is back.
    #[serde(default = "one")]
    pub images_kept: u32,
}

fn one() -> u32 {
    1
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the decision to provision until the runner is online.
    pub start: Duration,
    /// How long a runner that was online may be offline without a job.
    pub offline: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { start: Duration::from_secs(120), offline: Duration::from_secs(120) }
    }
}

impl Profile {
    /// A profile on `forge` with one idle worker, two at most, and default timeouts.
    pub fn new(forge: ForgeName, recipe: Recipe, resources: Resources) -> Self {
        Self {
            name: recipe.profile.clone(),
            forge,
            labels: BTreeSet::new(),
            recipe,
            resources,
            network: Network::default(),
            min_idle: 1,
            max: 2,
            timeouts: Timeouts::default(),
            image_max_age: None,
            images_kept: one(),
        }
    }

    /// Whether workers of this profile may run `job`, leaving reservations aside.
    pub fn serves(&self, job: &QueuedJob) -> bool {
        if job.profile.as_ref().is_some_and(|wanted| *wanted != self.name) {
            return false;
        }
        if job.profile.is_none() && job.labels.is_empty() && job.reserved_for.is_none() {
            return false;
        }
        self.offers(&job.labels)
    }

    /// Whether each of `labels` is one of ours, or our name.
    pub fn offers(&self, labels: &BTreeSet<Label>) -> bool {
        labels.iter().all(|wanted| {
            wanted.as_str().eq_ignore_ascii_case(self.name.as_str())
                || self.labels.iter().any(|label| label.matches(wanted))
        })
    }

    /// Checks what can be checked without a host.
    ///
    /// # Errors
    /// `Invalid` naming the field and the rule.
    pub fn check(&self) -> Result<()> {
        let refuse = |field: &str, reason: &str| {
            Err(Error::invalid(format!("{field} of profile {}", self.name), reason))
        };
        if self.recipe.profile != self.name {
            return refuse("recipe", "it is for another profile");
        }
        if self.max == 0 {
            return refuse("max", "it must be at least 1");
        }
        if self.min_idle > self.max {
            return refuse("min_idle", "it must not be above max");
        }
        if self.resources.vcpus == 0 {
            return refuse("vcpus", "it must be at least 1");
        }
        if self.resources.memory_mib == 0 && self.resources.huge_memory_mib == 0 {
            return refuse("memory", "it must be at least 1 MiB");
        }
        if self.images_kept == 0 {
            return refuse("images kept", "it must be at least 1: the one that serves");
        }
        if self.timeouts.start.is_zero() {
            return refuse("start timeout", "it must be above zero");
        }
        Ok(())
    }

    /// Why not even one instance would fit on an empty host of this capacity, if so.
    pub fn never_fits(&self, capacity: &Resources) -> Option<Shortage> {
        capacity.shortage(&Resources::default(), &self.resources)
    }
}
