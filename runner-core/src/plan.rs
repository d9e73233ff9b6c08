//! From what is and what should be to what to do: pure, without I/O, clock or randomness.
//!
//! Every action carries its [`Why`], and what is wanted but not done is [held](Held) with its reason:
//! these two are what the event log and `explain` print.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use crate::why::{Why, WhyNot};
use crate::{
    forge::QueuedJob,
    image::{Image, Recipe},
    name::{ForgeName, ImageId, ProfileName, ReservationId, RunnerId, WorkerName},
    policy::Override,
    profile::{Profile, Timeouts},
    queue::{Need, Waiting},
    reservation::Reservation,
    resources::{Capacity, Resources},
    wish::{Dismissal, Hold},
    worker::{Ending, Phase, Worker, is_past},
};

mod allot;
mod numbers;
mod planner;

pub use allot::Allotment;
use planner::Planner;
pub(crate) use planner::newest_images;

/// What is, as far as it could be seen.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Every worker that is recorded or listed anywhere.
    pub workers: BTreeMap<WorkerName, Worker>,
    /// The hypervisor.
    pub hypervisor: Sight,
    /// What the host has, when the hypervisor said so.
    pub capacity: Option<Capacity>,
    /// The forges.
    pub forges: BTreeMap<ForgeName, ForgeView>,
    /// The image builder.
    pub builder: Sight,
    /// Its images.
    pub images: Vec<Image>,
    /// The promises made.
    pub reservations: BTreeMap<ReservationId, Reservation>,
    /// The reservations that wait in the queue.
    pub waiting: BTreeMap<ReservationId, Waiting>,
    /// What those in line need that is not there yet, first come first.
    pub needs: Vec<Need>,
    /// The reservations that ended and that waiting jobs ask for again.
    pub ended: BTreeSet<ReservationId>,
    /// What failed lately and must wait.
    pub backoff: BTreeMap<Subject, Backoff>,
    /// What is being worked on, beside workers.
    pub in_flight: BTreeSet<Subject>,
    /// The number of the next worker.
    pub next_serial: u64,
}

/// What one forge said.
#[derive(Debug, Clone, Default)]
pub struct ForgeView {
    /// Whether it answered.
    pub sight: Sight,
    /// Whether the executor drives its runners.
    pub drives: bool,
    /// Whether its runners can be marked.
    pub reserves: bool,
    /// After how long without a connection it removes a runner by itself. Never, if none.
    pub forgets_after: Option<Duration>,
    /// Its waiting jobs, oldest first.
    pub queued: Vec<QueuedJob>,
}

/// Whether a list could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sight {
    /// It was read in full.
    Seen,
    /// It was not, for this reason.
    Blind(String),
    /// It was not asked yet.
    #[default]
    Unasked,
}

impl Sight {
    /// Why nothing may depend on the list.
    pub fn blind(&self) -> Option<&str> {
        match self {
            Self::Seen => None,
            Self::Blind(reason) => Some(reason),
            Self::Unasked => Some("it has not answered yet"),
        }
    }
}

/// What an action, a failure or an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The pool itself.
    Pool,
    /// One worker.
    Worker(WorkerName),
    /// Making workers of a profile.
    Profile(ProfileName),
    /// Building a profile's image.
    Build(ProfileName),
    /// One image.
    Image(ImageId),
    /// One reservation.
    Reservation(ReservationId),
    /// The policy override.
    Override,
    /// One forge.
    Forge(ForgeName),
    /// The hypervisor.
    Hypervisor,
    /// The image builder.
    Builder,
    /// One job of the local queue.
    Job(crate::name::JobId),
    /// The store.
    Store,
}

impl Subject {
    /// A word for counters and filters: what it is, without its name. Never changes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Worker(_) => "worker",
            Self::Profile(_) => "profile",
            Self::Build(_) => "build",
            Self::Image(_) => "image",
            Self::Reservation(_) => "reservation",
            Self::Override => "override",
            Self::Forge(_) => "forge",
            Self::Hypervisor => "hypervisor",
            Self::Builder => "builder",
            Self::Job(_) => "job",
            Self::Store => "store",
        }
    }
}

/// A subject that failed and must wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// When it may be tried again.
    pub not_before: Timestamp,
    /// How often it failed in a row.
    pub failures: u32,
    /// The last failure, in words.
    pub error: String,
}

/// What should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// The kinds of runner on offer, in the order they are served.
    pub profiles: Vec<Profile>,
    /// Make nothing new and retire what is idle.
    pub draining: bool,
    /// After how long a machine without a record is retired although its guest says nothing.
    pub orphan_limit: Duration,
    /// The profiles that are paused, and who paused them.
    pub paused: BTreeMap<ProfileName, String>,
    /// The workers whose machines are kept.
    pub holds: BTreeMap<WorkerName, Hold>,
    /// The workers that are to go when they have no job.
    pub dismissals: BTreeMap<WorkerName, Dismissal>,
    /// What holds for a while instead of the profiles' numbers.
    pub policy: Option<Override>,
}

/// One planned step and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// The step.
    pub step: Step,
    /// Its reason.
    pub why: Why,
}

/// What can be done. The executor carries these out and chooses nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the record, register, create.
    Provision {
        /// The new worker.
        worker: WorkerName,
        /// What it is made for.
        profile: Box<Profile>,
        /// What it boots.
        image: Box<Image>,
    },
    /// Unmake a worker, in this order.
    Retire {
        /// The worker.
        worker: WorkerName,
        /// Its forge, where one is known.
        forge: Option<ForgeName>,
        /// What to do, one after the other; the first failure ends it.
        order: Vec<Unmake>,
    },
    /// Run the driver beside a worker.
    Attach {
        /// The worker.
        worker: WorkerName,
        /// Its forge.
        forge: ForgeName,
        /// Its registration.
        runner: RunnerId,
    },
    /// Mark a runner with its reservation at the forge.
    Mark {
        /// The worker.
        worker: WorkerName,
        /// Its forge.
        forge: ForgeName,
        /// Its registration.
        runner: RunnerId,
        /// The reservation.
        reservation: ReservationId,
    },
    /// Take a mark away.
    Unmark {
        /// The worker.
        worker: WorkerName,
        /// Its forge.
        forge: ForgeName,
        /// Its registration.
        runner: RunnerId,
    },
    /// End a reservation; of one that waits, give back what is kept for it.
    Release {
        /// The reservation.
        reservation: ReservationId,
    },
    /// Give up a reservation that waits.
    Dequeue {
        /// What it would have been called.
        reservation: ReservationId,
    },
    /// End the policy override.
    EndOverride,
    /// Build an image.
    Build {
        /// From this.
        recipe: Recipe,
    },
    /// Delete an image.
    DeleteImage {
        /// This one.
        image: ImageId,
    },
}

/// A part of retiring a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmake {
    /// Remove the registration, unless it has a job.
    Deregister(RunnerId),
    /// Remove the registration of a machine that is dead, whatever it had.
    Abandon(RunnerId),
    /// Destroy the instance.
    Destroy,
    /// Remove the record.
    Forget,
}

impl Step {
    /// What the step is about: at most one step a subject is in flight.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Provision { worker, .. }
            | Self::Retire { worker, .. }
            | Self::Attach { worker, .. }
            | Self::Mark { worker, .. }
            | Self::Unmark { worker, .. } => Subject::Worker(worker.clone()),
            Self::Release { reservation } | Self::Dequeue { reservation } => {
                Subject::Reservation(reservation.clone())
            }
            Self::EndOverride => Subject::Override,
            Self::Build { recipe } => Subject::Build(recipe.profile.clone()),
            Self::DeleteImage { image } => Subject::Image(image.clone()),
        }
    }

    /// A word for tables, logs and counters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Provision { .. } => "provision",
            Self::Retire { .. } => "retire",
            Self::Attach { .. } => "attach",
            Self::Mark { .. } => "mark",
            Self::Unmark { .. } => "unmark",
            Self::Release { .. } => "release",
            Self::Dequeue { .. } => "dequeue",
            Self::EndOverride => "end",
            Self::Build { .. } => "build",
            Self::DeleteImage { .. } => "delete image",
        }
    }
}

/// Something wanted that is not done now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What waits.
    pub subject: Subject,
    /// What for.
    pub why_not: WhyNot,
}

/// What to do now, and what not, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To do now, in this order.
    pub actions: Vec<Action>,
    /// Wanted, and not done.
    pub held: Vec<Held>,
    /// How many workers each profile on offer gets of those it would have, paused ones left out.
    pub allotted: BTreeMap<ProfileName, Allotment>,
    /// What the policy override has now that it had not claimed before.
    pub claims: BTreeMap<ProfileName, BTreeSet<WorkerName>>,
}

/// Decides what to do.
pub fn plan(observed: &Observed, desired: &Desired, now: Timestamp) -> Plan {
    let mut planner = Planner::new(observed, desired, now);
    planner.allot();
    planner.retire_the_over();
    planner.attend();
    planner.keep_reservations();
    planner.keep_the_override();
    planner.keep_images();
    planner.retire_the_dismissed();
    planner.retire_the_surplus();
    planner.provision();
    let mut plan = planner.plan;
    let mut said = BTreeSet::new();
    plan.held.retain(|held| said.insert(held.subject.clone()));
    plan
}

/// The jobs each profile would run, each job counted once: for the first profile that serves it and has
/// room below its `max`, or else the first that serves it. Then the jobs that nothing serves. Those of
/// reservations are in neither.
pub fn demand<'a>(
    observed: &'a Observed,
    desired: &Desired,
) -> (BTreeMap<ProfileName, Vec<&'a QueuedJob>>, Vec<&'a QueuedJob>) {
    let mut jobs: BTreeMap<ProfileName, Vec<&QueuedJob>> = BTreeMap::new();
    let mut unserved = Vec::new();
    for (name, forge) in &observed.forges {
        for job in &forge.queued {
            // It runs on the workers of its reservation only; what those lack stands in line.
            if let Some(id) = &job.reserved_for {
                let is_held = observed.reservations.contains_key(id);
                if !is_held && !observed.waiting.contains_key(id) && !observed.ended.contains(id) {
                    unserved.push(job);
                }
                continue;
            }
            let mut serving = desired.profiles.iter().filter(|p| p.forge == *name && p.serves(job));
            let Some(first) = serving.next() else {
                unserved.push(job);
                continue;
            };
            let has_room = |p: &&Profile| {
                !desired.paused.contains_key(&p.name)
                    && jobs.get(&p.name).map_or(0, Vec::len) < p.max as usize
            };
            let chosen =
                if has_room(&first) { first } else { serving.find(has_room).unwrap_or(first) };
            jobs.entry(chosen.name.clone()).or_default().push(job);
        }
    }
    (jobs, unserved)
}

impl Why {
    /// Whether the worker failed before it was of any use: the profile is then tried less often.
    pub fn is_start_failure(&self, worker: &Worker) -> bool {
        let never_online = worker.last_online.is_none() && worker.record.is_some();
        let ending = match self {
            Self::Over(ending) => ending,
            Self::Lapses { .. } => return never_online,
            _ => return false,
        };
        match ending {
            Ending::StartTimedOut(_) => true,
            Ending::Stopped(_) | Ending::Vanished => never_online,
            Ending::RunnerGone
            | Ending::NeverRegistered
            | Ending::LostContact(_)
            | Ending::Orphan
            | Ending::Ghost
            | Ending::Retiring => false,
        }
    }
}
