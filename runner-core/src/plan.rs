//! From what is and what should be to what to do: pure, without I/O, clock or randomness.
//!
//! Every action carries its [`Why`], and what is wanted but not done is [held](Held) with its reason:
//! these two are what the event log and `explain` print.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::why::{Why, WhyNot};
use crate::{
    forge::QueuedJob,
    image::{Image, Recipe},
    name::{ForgeName, ImageId, ProfileName, ReservationId, RunnerId, WorkerName},
    profile::{Profile, Timeouts},
    reservation::Reservation,
    resources::{Capacity, Resources},
    worker::{Ending, Phase, Worker, is_past},
};

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
    /// End a reservation.
    Release {
        /// The reservation.
        reservation: ReservationId,
    },
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
            Self::Release { reservation } => Subject::Reservation(reservation.clone()),
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
}

/// Decides what to do.
pub fn plan(observed: &Observed, desired: &Desired, now: Timestamp) -> Plan {
    let mut planner = Planner::new(observed, desired, now);
    planner.retire_the_over();
    planner.attend();
    planner.keep_reservations();
    planner.keep_images();
    planner.retire_the_surplus();
    planner.provision();
    let mut plan = planner.plan;
    let mut said = BTreeSet::new();
    plan.held.retain(|held| said.insert(held.subject.clone()));
    plan
}

/// The jobs each profile would run, each job counted once: for the first profile that serves it and has
/// room below its `max`, or else the first that serves it.
pub fn demand<'a>(
    observed: &'a Observed,
    desired: &Desired,
) -> (BTreeMap<ProfileName, Vec<&'a QueuedJob>>, Vec<&'a QueuedJob>) {
    let mut jobs: BTreeMap<ProfileName, Vec<&QueuedJob>> = BTreeMap::new();
    let mut unserved = Vec::new();
    for (name, forge) in &observed.forges {
        for job in &forge.queued {
            if job.reserved_for.as_ref().is_some_and(|id| observed.reservations.contains_key(id)) {
                continue;
            }
            let mut serving = desired.profiles.iter().filter(|p| p.forge == *name && p.serves(job));
            let Some(first) = serving.next() else {
                unserved.push(job);
                continue;
            };
            let has_room = |p: &&Profile| jobs.get(&p.name).map_or(0, Vec::len) < p.max as usize;
            let chosen =
                if has_room(&first) { first } else { serving.find(has_room).unwrap_or(first) };
            jobs.entry(chosen.name.clone()).or_default().push(job);
        }
    }
    (jobs, unserved)
}

/// The workers of one profile, sorted by phase.
#[derive(Default)]
struct Tally<'a> {
    starting: u32,
    /// Idle and unreserved, oldest first.
    idle: Vec<&'a Worker>,
    /// Reserved, busy or unseen.
    taken: u32,
}

impl Tally<'_> {
    fn free(&self) -> u32 {
        self.starting + self.idle.len() as u32
    }

    fn alive(&self) -> u32 {
        self.free() + self.taken
    }
}

struct Planner<'a> {
    observed: &'a Observed,
    desired: &'a Desired,
    now: Timestamp,
    plan: Plan,
    phases: BTreeMap<&'a WorkerName, Phase>,
    tallies: BTreeMap<ProfileName, Tally<'a>>,
    demand: BTreeMap<ProfileName, Vec<&'a QueuedJob>>,
    /// What is in use, ends included: what is being destroyed still holds its room.
    used: Resources,
    /// What will be free when everything that is ending has ended.
    ending: Resources,
    /// What waiting jobs need and do not have: workers that nobody waits for must not take it.
    set_aside: Resources,
}

impl<'a> Planner<'a> {
    fn new(observed: &'a Observed, desired: &'a Desired, now: Timestamp) -> Self {
        let timeouts: BTreeMap<&ProfileName, Timeouts> =
            desired.profiles.iter().map(|profile| (&profile.name, profile.timeouts)).collect();
        let (demand, unserved) = demand(observed, desired);
        let mut planner = Self {
            observed,
            desired,
            now,
            plan: Plan::default(),
            phases: BTreeMap::new(),
            tallies: BTreeMap::new(),
            demand,
            used: Resources::default(),
            ending: Resources::default(),
            set_aside: Resources::default(),
        };
        for job in unserved {
            let why_not = WhyNot::NoProfileServes { labels: job.labels.clone() };
            planner.hold(Subject::Job(job.id.clone()), why_not);
        }
        for worker in observed.workers.values() {
            let profile = worker.profile();
            let timeouts = profile.as_ref().and_then(|p| timeouts.get(p)).copied();
            let phase = worker.phase(&timeouts.unwrap_or_default(), now);
            if let Some(resources) = worker.holds() {
                planner.used.add(resources);
                if matches!(phase, Phase::Over(_)) {
                    planner.ending.add(resources);
                }
            }
            if let Some(profile) = profile {
                let tally = planner.tallies.entry(profile).or_default();
                match phase {
                    Phase::Starting => tally.starting += 1,
                    Phase::Idle => tally.idle.push(worker),
                    Phase::Reserved | Phase::Busy | Phase::Unseen => tally.taken += 1,
                    Phase::Over(_) => (),
                }
            }
            planner.phases.insert(&worker.name, phase);
        }
        for tally in planner.tallies.values_mut() {
            tally.idle.sort_by_key(|worker| (worker.created_at(), worker.name.clone()));
        }
        planner
    }

    fn act(&mut self, step: Step, why: Why) {
        self.plan.actions.push(Action { step, why });
    }

    fn hold(&mut self, subject: Subject, why_not: WhyNot) {
        self.plan.held.push(Held { subject, why_not });
    }

    /// Whether `subject` failed lately; says so if it did.
    fn is_backing_off(&mut self, subject: &Subject) -> bool {
        let Some(backoff) = self.observed.backoff.get(subject) else {
            return false;
        };
        if backoff.not_before <= self.now {
            return false;
        }
        let why_not =
            WhyNot::BackingOff { until: backoff.not_before, error: backoff.error.clone() };
        self.hold(subject.clone(), why_not);
        true
    }

    fn retire_the_over(&mut self) {
        let observed = self.observed;
        for worker in observed.workers.values().filter(|worker| worker.in_flight.is_none()) {
            let why = match &self.phases[&worker.name] {
                // Its driver asks for the machine by name, and ends the job when it is really gone.
                Phase::Over(Ending::Vanished) if self.is_lost(worker) => continue,
                Phase::Over(ending) => Why::Over(ending.clone()),
                Phase::Unseen if self.is_overdue_orphan(worker) => Why::SilentOrphan,
                Phase::Unseen => {
                    self.hold_unseen(worker);
                    continue;
                }
                Phase::Starting | Phase::Idle | Phase::Reserved | Phase::Busy => continue,
            };
            self.retire(worker, why);
        }
    }

    /// Whether a pushed job runs on a machine that the list lacks.
    fn is_lost(&self, worker: &Worker) -> bool {
        let forge = worker.forge().and_then(|name| self.observed.forges.get(name));
        let drives = forge.is_some_and(|forge| forge.drives);
        drives && worker.instance.is_absent() && worker.job().is_some()
    }

    /// A machine without record whose guest has said nothing for very long, while all lists were whole.
    fn is_overdue_orphan(&self, worker: &Worker) -> bool {
        let is_orphan = worker.record.is_none() && worker.runner.is_absent();
        let created_at = worker.created_at().filter(|_| is_orphan);
        created_at.is_some_and(|at| is_past(at, self.desired.orphan_limit, self.now))
    }

    fn hold_unseen(&mut self, worker: &Worker) {
        let forge = worker.forge().and_then(|name| self.observed.forges.get(name));
        let reason = match (self.observed.hypervisor.blind(), forge.and_then(|f| f.sight.blind())) {
            (Some(reason), _) => format!("the hypervisor cannot be seen: {reason}"),
            (None, Some(reason)) => format!("its forge cannot be seen: {reason}"),
            (None, None) if worker.record.is_none() => {
                "no record explains it and its guest does not say whether it works".to_owned()
            }
            (None, None) => return,
        };
        self.hold(Subject::Worker(worker.name.clone()), WhyNot::Unseen { reason });
    }

    fn retire(&mut self, worker: &Worker, why: Why) {
        if self.is_backing_off(&Subject::Worker(worker.name.clone())) {
            return;
        }
        let dead = matches!(&why, Why::Over(ending) if ending.machine_is_dead());
        let mut order = Vec::new();
        if dead {
            order.push(Unmake::Destroy);
            order.extend(worker.runner_id().map(Unmake::Abandon));
        } else {
            order.extend(worker.runner_id().map(Unmake::Deregister));
            order.push(Unmake::Destroy);
        }
        if worker.record.is_some() {
            order.push(Unmake::Forget);
        }
        let forge = worker.forge().cloned();
        self.act(Step::Retire { worker: worker.name.clone(), forge, order }, why);
    }

    /// Sees that every runner of a driven forge has its driver, and every mark is as it should be.
    fn attend(&mut self) {
        for worker in self.observed.workers.values().filter(|worker| worker.in_flight.is_none()) {
            let (Some(runner), Some(forge_name)) = (worker.runner.seen(), worker.forge()) else {
                continue;
            };
            let Some(forge) = self.observed.forges.get(forge_name) else {
                continue;
            };
            let phase = &self.phases[&worker.name];
            let alive = worker.instance.seen().is_some() && !matches!(phase, Phase::Over(_));
            if !(alive || self.is_lost(worker)) || worker.record.is_none() {
                continue;
            }
            let subject = Subject::Worker(worker.name.clone());
            let (worker_name, forge_name) = (worker.name.clone(), forge_name.clone());
            let runner_id = runner.id.clone();
            if forge.drives && !worker.driven {
                if !self.is_backing_off(&subject) {
                    let step =
                        Step::Attach { worker: worker_name, forge: forge_name, runner: runner_id };
                    self.act(step, Why::Unattended);
                }
                continue;
            }
            if !forge.reserves || runner.reserved_for == worker.reservation {
                continue;
            }
            let may_mark = *phase == Phase::Reserved && runner.reserved_for.is_none();
            match &worker.reservation {
                Some(reservation) if may_mark => {
                    if !self.is_backing_off(&subject) {
                        let step = Step::Mark {
                            worker: worker_name,
                            forge: forge_name,
                            runner: runner_id,
                            reservation: reservation.clone(),
                        };
                        self.act(step, Why::Promised);
                    }
                }
                None if *phase == Phase::Idle => {
                    if !self.is_backing_off(&subject) {
                        let step = Step::Unmark {
                            worker: worker_name,
                            forge: forge_name,
                            runner: runner_id,
                        };
                        self.act(step, Why::NotPromised);
                    }
                }
                _ => (),
            }
        }
    }

    fn keep_reservations(&mut self) {
        let observed = self.observed;
        for reservation in observed.reservations.values() {
            let subject = Subject::Reservation(reservation.id.clone());
            if observed.in_flight.contains(&subject) {
                continue;
            }
            let lives = |name: &WorkerName| match self.phases.get(name) {
                None | Some(Phase::Over(_)) => false,
                Some(_) => true,
            };
            let why = if !reservation.workers.iter().any(lives) {
                Why::Spent
            } else if reservation.until <= self.now {
                Why::Expired
            } else {
                continue;
            };
            if !self.is_backing_off(&subject) {
                self.act(Step::Release { reservation: reservation.id.clone() }, why);
            }
        }
    }

    fn keep_images(&mut self) {
        if let Some(reason) = self.observed.builder.blind() {
            let reason = reason.to_owned();
            self.hold(Subject::Builder, WhyNot::Unseen { reason });
            return;
        }
        let (observed, desired) = (self.observed, self.desired);
        for profile in desired.profiles.iter().filter(|_| !desired.draining) {
            let subject = Subject::Build(profile.name.clone());
            let why = match self.image_of(profile) {
                None => Why::NoImage,
                Some(image) => match profile.image_max_age {
                    Some(limit) if is_past(image.built_at, limit, self.now) => {
                        Why::ImageTooOld(limit)
                    }
                    _ => continue,
                },
            };
            if !observed.in_flight.contains(&subject) && !self.is_backing_off(&subject) {
                self.act(Step::Build { recipe: profile.recipe.clone() }, why);
            }
        }
        self.delete_images();
    }

    /// Deletes what no profile would boot and no worker has booted.
    fn delete_images(&mut self) {
        // A worker may boot an image that only a list we cannot see would show.
        if self.observed.hypervisor.blind().is_some() {
            return;
        }
        let (observed, desired) = (self.observed, self.desired);
        let mut kept: BTreeSet<&ImageId> =
            desired.profiles.iter().filter_map(|p| self.image_of(p)).map(|i| &i.id).collect();
        for worker in observed.workers.values() {
            kept.extend(worker.record.as_ref().map(|record| &record.image));
            kept.extend(worker.instance.seen().map(|instance| &instance.image));
        }
        for image in observed.images.iter().filter(|image| !kept.contains(&image.id)) {
            let subject = Subject::Image(image.id.clone());
            let profile = desired.profiles.iter().find(|p| p.name == image.recipe.profile);
            let why = match profile {
                None => Why::ImageOfNoProfile,
                Some(profile) if self.image_of(profile).is_some() => Why::Superseded,
                Some(_) => continue,
            };
            if !observed.in_flight.contains(&subject) && !self.is_backing_off(&subject) {
                self.act(Step::DeleteImage { image: image.id.clone() }, why);
            }
        }
    }

    /// The newest image of the profile's recipe.
    fn image_of(&self, profile: &Profile) -> Option<&'a Image> {
        let images = self.observed.images.iter().filter(|image| image.recipe == profile.recipe);
        images.max_by_key(|image| (image.built_at, image.id.clone()))
    }

    /// How many unreserved workers a profile should have ready or on their way.
    fn wanted(&self, profile: &Profile) -> u32 {
        if self.desired.draining {
            return 0;
        }
        let queued = self.demand.get(&profile.name).map_or(0, Vec::len) as u32;
        profile.min_idle.max(queued).min(profile.max)
    }

    fn retire_the_surplus(&mut self) {
        let desired = self.desired;
        let tallies = std::mem::take(&mut self.tallies);
        for (name, tally) in &tallies {
            let profile = desired.profiles.iter().find(|profile| profile.name == *name);
            let (wanted, max, why) = match profile {
                None => (0, 0, Why::ProfileRemoved),
                Some(_) if desired.draining => (0, 0, Why::Draining),
                Some(profile) => {
                    let wanted = self.wanted(profile);
                    (wanted, profile.max, Why::Surplus { idle: tally.free(), wanted })
                }
            };
            let over_max = tally.alive().saturating_sub(max);
            let surplus = tally.free().saturating_sub(wanted).max(over_max) as usize;
            for worker in tally.idle.iter().take(surplus) {
                self.retire(worker, why.clone());
            }
        }
        self.tallies = tallies;
    }

    /// Makes workers: first for jobs that wait, then for those that will come.
    fn provision(&mut self) {
        let desired = self.desired;
        if desired.draining {
            return;
        }
        let mut serial = self.observed.next_serial;
        let mut planned: BTreeMap<&ProfileName, u32> = BTreeMap::new();
        for for_jobs in [true, false] {
            for profile in &desired.profiles {
                let queued = self.demand.get(&profile.name).map_or(0, Vec::len) as u32;
                let goal = if for_jobs { queued.min(profile.max) } else { self.wanted(profile) };
                let none = Tally::default();
                let tally = self.tallies.get(&profile.name).unwrap_or(&none);
                let planned = planned.entry(&profile.name).or_default();
                let (free, alive) = (tally.free() + *planned, tally.alive() + *planned);
                let missing = goal.saturating_sub(free);
                if missing == 0 {
                    continue;
                }
                let why = if for_jobs {
                    Why::JobsWait { queued, free }
                } else {
                    Why::BelowMinIdle { free, min_idle: profile.min_idle }
                };
                let possible = missing.min(profile.max.saturating_sub(alive));
                if possible < missing && for_jobs {
                    let why_not = WhyNot::AtMax { max: profile.max };
                    self.hold(Subject::Profile(profile.name.clone()), why_not);
                }
                *planned += self.provision_some(profile, possible, &mut serial, why, for_jobs);
            }
        }
    }

    /// Makes up to `count` workers of `profile`; returns how many.
    fn provision_some(
        &mut self,
        profile: &'a Profile,
        count: u32,
        serial: &mut u64,
        why: Why,
        for_jobs: bool,
    ) -> u32 {
        if count == 0 {
            return 0;
        }
        let subject = Subject::Profile(profile.name.clone());
        let forge = self.observed.forges.get(&profile.forge);
        let blind = match (self.observed.hypervisor.blind(), forge) {
            (Some(reason), _) => Some(format!("the hypervisor cannot be seen: {reason}")),
            (None, None) => Some(format!("there is no forge {}", profile.forge)),
            (None, Some(forge)) => forge
                .sight
                .blind()
                .map(|reason| format!("forge {} cannot be seen: {reason}", profile.forge)),
        };
        if let Some(reason) = blind {
            self.hold(subject, WhyNot::Unseen { reason });
            return 0;
        }
        let Some(image) = self.image_of(profile) else {
            self.hold(subject, WhyNot::NoImage);
            return 0;
        };
        if self.is_backing_off(&subject) {
            return 0;
        }
        let Some(capacity) = &self.observed.capacity else {
            return 0;
        };
        for made in 0..count {
            let mut used = self.used.clone();
            if !for_jobs {
                used.add(&self.set_aside);
            }
            if let Some(shortage) = capacity.shortage(&used, &profile.resources) {
                let ever = profile.never_fits(capacity).is_none();
                self.hold(subject, WhyNot::NoRoom { shortage, ever });
                if for_jobs && ever {
                    self.set_aside.add(&profile.resources);
                    self.make_room(profile, capacity);
                }
                return made;
            }
            self.used.add(&profile.resources);
            let step = Step::Provision {
                worker: WorkerName::of(&profile.name, *serial),
                profile: Box::new(profile.clone()),
                image: Box::new(image.clone()),
            };
            *serial += 1;
            self.act(step, why.clone());
        }
        count
    }

    /// Retires idle workers of other profiles, oldest first, when that alone lets a waiting job start.
    fn make_room(&mut self, profile: &Profile, capacity: &Capacity) {
        let mut used = self.used.clone();
        used.take_away(&self.ending);
        if capacity.shortage(&used, &profile.resources).is_none() {
            return; // What is ending will do.
        }
        let retiring: BTreeSet<WorkerName> = self
            .plan
            .actions
            .iter()
            .filter_map(|action| match &action.step {
                Step::Retire { worker, .. } => Some(worker.clone()),
                _ => None,
            })
            .collect();
        for worker in &retiring {
            let worker = &self.observed.workers[worker];
            if let (Some(resources), Phase::Idle) = (worker.holds(), &self.phases[&worker.name]) {
                used.take_away(resources);
            }
        }
        let mut spare: Vec<&Worker> = Vec::new();
        for (name, tally) in self.tallies.iter().filter(|(name, _)| **name != profile.name) {
            let queued = self.demand.get(name).map_or(0, Vec::len);
            let spared = tally.free() as usize - queued.min(tally.free() as usize);
            let idle = tally.idle.iter().filter(|worker| !retiring.contains(&worker.name));
            spare.extend(idle.take(spared));
        }
        spare.sort_by_key(|worker| worker.created_at());
        let mut chosen = Vec::new();
        for worker in spare {
            if capacity.shortage(&used, &profile.resources).is_none() {
                break;
            }
            if let Some(resources) = worker.holds() {
                used.take_away(resources);
                chosen.push(worker);
            }
        }
        if capacity.shortage(&used, &profile.resources).is_some() {
            return;
        }
        for worker in chosen {
            if let Some(resources) = worker.holds() {
                self.ending.add(resources);
            }
            self.retire(worker, Why::MakesRoom { for_profile: profile.name.clone() });
        }
    }
}

impl Why {
    /// Whether the worker failed before it was of any use: the profile is then tried less often.
    pub fn is_start_failure(&self, worker: &Worker) -> bool {
        let Self::Over(ending) = self else {
            return false;
        };
        let never_online = worker.last_online.is_none() && worker.record.is_some();
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
