//! The reasons for what is done and what is not, in words.

use std::{collections::BTreeSet, fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    name::{Label, ProfileName, ReservationId, WorkerName},
    resources::Shortage,
    worker::Ending,
};

/// Why something is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Provision: more jobs wait than workers are ready or on their way.
    JobsWait {
        /// How many wait.
        queued: u32,
        /// How many workers are ready or on their way.
        free: u32,
    },
    /// Provision: fewer workers are ready or on their way than should be.
    BelowMinIdle {
        /// How many there are.
        free: u32,
        /// How many there should be.
        min_idle: u32,
    },
    /// Provision: a policy override asks for more workers than are ready or on their way.
    Overridden {
        /// Who asked for the override.
        by: String,
        /// How many workers it asks for.
        wanted: u32,
        /// How many it gets.
        granted: u32,
    },
    /// Provision: more workers are waited for by reservations than are ready or on their way.
    ReservationsWait {
        /// How many are waited for.
        needed: u32,
        /// How many workers are ready or on their way.
        free: u32,
    },
    /// Retire: its life is over.
    Over(Ending),
    /// Retire: a machine without a record, silent for longer than the orphan limit.
    SilentOrphan,
    /// Retire: its runner was offline for so long that its forge is about to remove it, or has done so.
    Lapses {
        /// After how long its forge does.
        after: Duration,
    },
    /// Retire: more workers are idle than wanted.
    Surplus {
        /// How many are ready or on their way.
        idle: u32,
        /// How many are wanted.
        wanted: u32,
    },
    /// Retire, end the policy override: its profile is not offered any more.
    ProfileRemoved,
    /// Retire: the pool is being emptied.
    Draining,
    /// Retire: a waiting job of another profile needs the room.
    MakesRoom {
        /// The profile of the job.
        for_profile: ProfileName,
    },
    /// Retire: its profile gives way to a policy override.
    GivesWay {
        /// Who asked for the override.
        to: String,
    },
    /// Retire: its profile is paused.
    Paused,
    /// Retire: someone asked for it.
    Asked {
        /// Who.
        by: String,
    },
    /// Attach: no driver attends to the runner.
    Unattended,
    /// Mark: it is promised to a reservation that the forge does not know of yet.
    Promised,
    /// Unmark: the forge knows of a promise that does not hold any more.
    NotPromised,
    /// Release, end the policy override: its time is over.
    Expired,
    /// Release, end the policy override: none of its workers is left.
    Spent,
    /// Release: its forge does not mark one of its workers.
    NotMarked {
        /// The worker.
        worker: WorkerName,
        /// How often that was tried.
        tries: u32,
        /// What the forge said, in words.
        error: String,
    },
    /// Dequeue: nobody asked after it for so long.
    NobodyAsks {
        /// How long.
        patience: Duration,
    },
    /// Build: the profile has no image of its recipe.
    NoImage,
    /// Build: the image is older than this.
    ImageTooOld(Duration),
    /// Delete an image: there is a newer one and no worker uses it.
    Superseded,
    /// Delete an image: no profile boots it and no worker uses it.
    ImageOfNoProfile,
}

impl Why {
    /// A word for counters and filters: the reason without its numbers. Never changes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::JobsWait { .. } => "jobs_wait",
            Self::BelowMinIdle { .. } => "below_min_idle",
            Self::Overridden { .. } => "overridden",
            Self::ReservationsWait { .. } => "reservations_wait",
            Self::Over(ending) => ending.kind(),
            Self::SilentOrphan => "silent_orphan",
            Self::Lapses { .. } => "lapses",
            Self::Surplus { .. } => "surplus",
            Self::ProfileRemoved => "profile_removed",
            Self::Draining => "draining",
            Self::MakesRoom { .. } => "makes_room",
            Self::GivesWay { .. } => "gives_way",
            Self::Paused => "paused",
            Self::Asked { .. } => "asked",
            Self::Unattended => "unattended",
            Self::Promised => "promised",
            Self::NotPromised => "not_promised",
            Self::Expired => "expired",
            Self::Spent => "spent",
            Self::NotMarked { .. } => "not_marked",
            Self::NobodyAsks { .. } => "nobody_asks",
            Self::NoImage => "no_image",
            Self::ImageTooOld(_) => "image_too_old",
            Self::Superseded => "superseded",
            Self::ImageOfNoProfile => "image_of_no_profile",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JobsWait { queued, free } => {
                write!(f, "jobs waiting: {queued}, workers ready or on their way: {free}")
            }
            Self::BelowMinIdle { free, min_idle } => {
                write!(f, "workers ready or on their way: {free}, to keep ready: {min_idle}")
            }
            Self::Overridden { by, wanted, granted } => {
                write!(f, "the policy override of {by} asks for {wanted} and gets {granted}")
            }
            Self::ReservationsWait { needed, free } => write!(
                f,
                "waited for by reservations: {needed}, workers ready or on their way: {free}"
            ),
            Self::Over(ending) => ending.fmt(f),
            Self::SilentOrphan => f.write_str(
                "no record explains this machine and its guest has been silent too long",
            ),
            Self::Lapses { after } => write!(
                f,
                "its runner was offline for so long that its forge removes it: after {} s",
                after.as_secs()
            ),
            Self::Surplus { idle, wanted } => {
                write!(f, "workers ready or on their way: {idle}, wanted: {wanted}")
            }
            Self::ProfileRemoved => f.write_str("its profile is not offered any more"),
            Self::Draining => f.write_str("the pool is being emptied"),
            Self::MakesRoom { for_profile } => {
                write!(f, "a waiting job of profile {for_profile} needs its room")
            }
            Self::GivesWay { to } => {
                write!(f, "its profile gives way to the policy override of {to}")
            }
            Self::Paused => f.write_str("its profile is paused"),
            Self::Asked { by } => write!(f, "{by} asked for it"),
            Self::Unattended => f.write_str("no driver attends to it"),
            Self::Promised => f.write_str("it is reserved and the forge does not know yet"),
            Self::NotPromised => f.write_str("its reservation does not hold any more"),
            Self::Expired => f.write_str("its time is over"),
            Self::Spent => f.write_str("none of its workers is left"),
            Self::NotMarked { worker, tries, error } => {
                write!(f, "its forge did not mark worker {worker}, tried {tries} times: {error}")
            }
            Self::NobodyAsks { patience } => {
                write!(f, "nobody asked after it for {} s", patience.as_secs())
            }
            Self::NoImage => f.write_str("there is no image of the profile's recipe"),
            Self::ImageTooOld(limit) => {
                write!(f, "the image is older than {} s", limit.as_secs())
            }
            Self::Superseded => f.write_str("there is a newer image and no worker uses this one"),
            Self::ImageOfNoProfile => f.write_str("no profile boots it and no worker uses it"),
        }
    }
}

/// Why something that is wanted is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhyNot {
    /// A list that the decision depends on is missing.
    Unseen {
        /// Which, and why.
        reason: String,
    },
    /// The host is full.
    NoRoom {
        /// Of what there is too little.
        shortage: Shortage,
        /// Whether it would fit on an empty host.
        ever: bool,
    },
    /// The profile has as many workers as it may have.
    AtMax {
        /// How many.
        max: u32,
    },
    /// A policy override gets fewer workers of the profile than it asks for.
    Allotted {
        /// How many it asks for.
        wanted: u32,
        /// How many it gets.
        granted: u32,
        /// Why no more.
        short: Box<WhyNot>,
    },
    /// The profile gives way to a policy override.
    GivesWay {
        /// Who asked for the override.
        to: String,
        /// Until when it holds.
        until: Timestamp,
        /// How many workers are left to the profile.
        granted: u32,
    },
    /// The image is not built yet.
    NoImage,
    /// The profile is paused.
    Paused {
        /// Who paused it.
        by: String,
    },
    /// Someone wants the machine kept.
    KeptFor {
        /// Who.
        by: String,
        /// What for.
        purpose: String,
        /// Until when.
        until: Timestamp,
    },
    /// The last try failed and the next one must wait.
    BackingOff {
        /// Until when.
        until: Timestamp,
        /// Why the last try failed.
        error: String,
    },
    /// The job asks for a reservation that is not there and is not remembered.
    NoReservation {
        /// Which.
        id: ReservationId,
    },
    /// No profile offers what the job asks for.
    NoProfileServes {
        /// What it asks for.
        labels: BTreeSet<Label>,
    },
}

impl WhyNot {
    /// The reason after a sentence that says already what is missing.
    pub(crate) fn in_short(&self) -> String {
        match self {
            Self::NoRoom { shortage, .. } => shortage.to_string(),
            other => other.to_string(),
        }
    }

    /// A word for counters and filters: the reason without its numbers. Never changes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unseen { .. } => "unseen",
            Self::NoRoom { ever: true, .. } => "no_room",
            Self::NoRoom { ever: false, .. } => "never_fits",
            Self::AtMax { .. } => "at_max",
            Self::Allotted { .. } => "allotted",
            Self::GivesWay { .. } => "gives_way",
            Self::NoImage => "no_image",
            Self::Paused { .. } => "paused",
            Self::KeptFor { .. } => "kept_for",
            Self::BackingOff { .. } => "backing_off",
            Self::NoReservation { .. } => "no_reservation",
            Self::NoProfileServes { .. } => "no_profile_serves",
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen { reason } => f.write_str(reason),
            Self::NoRoom { shortage, ever: true } => write!(f, "no room: {shortage}"),
            Self::NoRoom { shortage, ever: false } => {
                write!(f, "it can never fit on this host: {shortage}")
            }
            Self::AtMax { max } => write!(f, "the profile has all of its {max} workers"),
            Self::Allotted { wanted, granted, short } => {
                write!(f, "wanted {wanted}, got {granted}: {}", short.in_short())
            }
            Self::GivesWay { to, until, granted } => write!(
                f,
                "the profile gives way to the policy override of {to} until {until:.0}, \
                 which leaves it {granted}"
            ),
            Self::NoImage => f.write_str("its image is not built yet"),
            Self::Paused { by } => write!(f, "the profile is paused by {by}"),
            Self::KeptFor { by, purpose, until } => {
                write!(f, "it is kept for {by} until {until:.0}: {purpose}")
            }
            Self::BackingOff { until, error } => {
                write!(f, "the last try failed ({error}), the next one is at {until:.0}")
            }
            Self::NoReservation { id } => {
                write!(
                    f,
                    "it asks for reservation {id}, which is not there: make it, or cancel the job"
                )
            }
            Self::NoProfileServes { labels } if labels.is_empty() => {
                f.write_str("no profile of that name is offered")
            }
            Self::NoProfileServes { labels } => {
                let labels: Vec<&str> = labels.iter().map(Label::as_str).collect();
                write!(f, "no profile offers all of: {}", labels.join(", "))
            }
        }
    }
}
