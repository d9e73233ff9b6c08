//! What the pool publishes after every look: reads never wait for the loop.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    forge::QueuedJob,
    history::Usual,
    hypervisor::Instance,
    image::Image,
    name::{ForgeName, ImageId, JobId, ProfileName, ReservationId, RunnerId, WorkerName},
    plan::{Backoff, Held, Sight, Subject},
    policy::OverrideStatus,
    profile::Profile,
    queue::Place,
    reservation::{Ended, Reservation},
    resources::{Capacity, Resources},
    wish::{Adjustment, Dismissal, Hold},
    worker::Phase,
};

/// The pool at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// When; none before the first look.
    pub at: Option<Timestamp>,
    /// The kinds of runner on offer.
    pub profiles: BTreeMap<ProfileName, ProfileStatus>,
    /// Those on offer in full, as adjusted, in the order they are served.
    #[serde(skip)]
    pub offered: Arc<[Profile]>,
    /// The workers, ended ones included until they are gone.
    pub workers: Vec<WorkerStatus>,
    /// The forges: whether each can be seen.
    pub forges: BTreeMap<ForgeName, Sight>,
    /// Whether the hypervisor can be seen.
    pub hypervisor: Sight,
    /// Whether the images can be seen.
    pub builder: Sight,
    /// What the host has, when known.
    pub capacity: Option<Capacity>,
    /// What is in use.
    pub used: Resources,
    /// The jobs that wait, by forge.
    pub queued: BTreeMap<ForgeName, Vec<QueuedJob>>,
    /// The images.
    pub images: Vec<Image>,
    /// The promises made.
    pub reservations: Vec<Reservation>,
    /// The reservations that wait, in the order in which they are served.
    #[serde(default)]
    pub queue: Vec<Place>,
    /// Reservations that ended, and that waiting jobs ask for again.
    #[serde(default)]
    pub ended: Vec<Ended>,
    /// The policy override, while there is one, and what comes of it.
    #[serde(default)]
    pub policy: Option<OverrideStatus>,
    /// What is wanted and not done, and why.
    pub held: Vec<Held>,
    /// What failed lately.
    pub backoff: Vec<(Subject, Backoff)>,
    /// Whether the pool is being emptied.
    pub draining: bool,
    /// How many actions are in flight.
    pub in_flight: u32,
}

/// One profile at one moment: how many workers in each phase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileStatus {
    /// Not online yet.
    pub starting: u32,
    /// Ready for a job.
    pub idle: u32,
    /// Promised.
    pub reserved: u32,
    /// With a job.
    pub busy: u32,
    /// Undecided for want of a list.
    pub unseen: u32,
    /// Being retired.
    pub over: u32,
    /// How many to keep ready.
    pub min_idle: u32,
    /// How many there may be.
    pub max: u32,
    /// How many jobs wait for it.
    pub queued: u32,
    /// Whether it is on offer, rather than only having workers left.
    pub offered: bool,
    /// What it has instead of what is configured.
    #[serde(default)]
    pub adjustment: Option<Adjustment>,
    /// How long things took lately.
    #[serde(default)]
    pub usual: Usual,
    /// When the image was built that its next workers boot; none while there is none.
    #[serde(default)]
    pub image_built_at: Option<Timestamp>,
    /// How the build of its next image goes.
    #[serde(default)]
    pub build: BuildState,
}

/// How the build of a profile's next image goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildState {
    /// None is due.
    #[default]
    Resting,
    /// It is being built. The old image, if there is one, serves on.
    Building,
    /// The last try failed. The old image, if there is one, serves on.
    Failed {
        /// Why.
        error: String,
        /// When the next try may come.
        retry_at: Timestamp,
    },
}

/// One worker at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: WorkerName,
    /// Its profile, if anything tells.
    pub profile: Option<ProfileName>,
    /// Its forge, if anything tells.
    pub forge: Option<ForgeName>,
    /// Its registration.
    pub runner: Option<RunnerId>,
    /// What it booted.
    pub image: Option<ImageId>,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when, as far as this process saw it.
    pub since: Timestamp,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Its job, where the forge tells; of one that is over, its last.
    pub job: Option<JobId>,
    /// The reservation that holds it.
    pub reservation: Option<ReservationId>,
    /// The reservation that its forge keeps it for.
    #[serde(default)]
    pub marked: Option<ReservationId>,
    /// The machine, as listed.
    pub instance: Option<Instance>,
    /// Who wants its machine kept, and until when.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// Who wants it to go.
    #[serde(default)]
    pub dismissal: Option<Dismissal>,
}

impl ProfileStatus {
    /// Counts a worker in.
    pub fn count(&mut self, phase: &Phase) {
        *match phase {
            Phase::Starting => &mut self.starting,
            Phase::Idle => &mut self.idle,
            Phase::Reserved => &mut self.reserved,
            Phase::Busy => &mut self.busy,
            Phase::Unseen => &mut self.unseen,
            Phase::Over(_) => &mut self.over,
        } += 1;
    }
}
