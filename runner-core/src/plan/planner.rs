//! What is over is retired, what is unattended attended, what is missing built.

use std::cmp::Reverse;

use super::*;

/// How often a forge is asked to mark a worker before its reservation is taken back.
const MARK_TRIES: u32 = 5;
/// Which part of the time after which a forge removes a runner is left when we do it first.
const LAPSE_MARGIN: u32 = 24;
/// How long a reservation waits for the next try.
const MARK_PATIENCE: Duration = Duration::from_secs(60);

/// The workers of one profile, sorted by phase.
#[derive(Default)]
pub(super) struct Tally<'a> {
    pub(super) starting: u32,
    /// Idle and unreserved, oldest first.
    pub(super) idle: Vec<&'a Worker>,
    /// Reserved, busy or unseen.
    pub(super) taken: u32,
}

impl Tally<'_> {
    pub(super) fn free(&self) -> u32 {
        self.starting + self.idle.len() as u32
    }

    pub(super) fn alive(&self) -> u32 {
        self.free() + self.taken
    }
}

pub(super) struct Planner<'a> {
    pub(super) observed: &'a Observed,
    pub(super) desired: &'a Desired,
    pub(super) now: Timestamp,
    pub(super) plan: Plan,
    /// Of each worker, sorted by name.
    pub(super) phases: Vec<(&'a WorkerName, Phase)>,
    /// The newest image of each profile's recipe.
    images: BTreeMap<&'a ProfileName, &'a Image>,
    pub(super) tallies: BTreeMap<ProfileName, Tally<'a>>,
    pub(super) demand: BTreeMap<ProfileName, Vec<&'a QueuedJob>>,
    /// What is in use, ends included: what is being destroyed still holds its room.
    pub(super) used: Resources,
    /// What will be free when everything that is ending has ended.
    pub(super) ending: Resources,
    /// What waiting jobs need and do not have: workers that nobody waits for must not take it.
    pub(super) set_aside: Resources,
    /// How many workers beside those that are taken each profile gets.
    pub(super) more: BTreeMap<&'a ProfileName, u32>,
    /// What the reservation that is collected for needs and does not have: no other worker must take it.
    pub(super) kept_free: Resources,
}

impl<'a> Planner<'a> {
    pub(super) fn new(observed: &'a Observed, desired: &'a Desired, now: Timestamp) -> Self {
        let timeouts: BTreeMap<&ProfileName, Timeouts> =
            desired.profiles.iter().map(|profile| (&profile.name, profile.timeouts)).collect();
        let (demand, unserved) = demand(observed, desired);
        let mut planner = Self {
            observed,
            desired,
            now,
            plan: Plan::default(),
            phases: Vec::with_capacity(observed.workers.len()),
            images: newest_images(observed, desired),
            tallies: BTreeMap::new(),
            demand,
            used: Resources::default(),
            ending: Resources::default(),
            set_aside: Resources::default(),
            more: BTreeMap::new(),
            kept_free: Resources::default(),
        };
        for job in unserved {
            let why_not = match job.reserved_for.clone() {
                Some(id) => WhyNot::NoReservation { id },
                None => WhyNot::NoProfileServes { labels: job.labels.clone() },
            };
            planner.hold(Subject::Job(job.id.clone()), why_not);
        }
        for worker in observed.workers.values() {
            let profile = worker.profile();
            let timeouts = profile.as_ref().and_then(|p| timeouts.get(p)).copied();
            let phase = worker.phase(&timeouts.unwrap_or_default(), now);
            if let Some(resources) = worker.holds() {
                planner.used.add(resources);
                if matches!(phase, Phase::Over(_)) && planner.hold_of(worker).is_none() {
                    planner.ending.add(resources);
                }
            }
            if let Some(profile) = profile {
                let held = planner.hold_of(worker).is_some();
                let dismissed = desired.dismissals.contains_key(&worker.name);
                let tally = planner.tallies.entry(profile).or_default();
                match phase {
                    Phase::Idle if held => tally.taken += 1,
                    // As good as gone, and replaced at once.
                    Phase::Starting | Phase::Idle if dismissed => tally.taken += 1,
                    Phase::Starting => tally.starting += 1,
                    Phase::Idle => tally.idle.push(worker),
                    Phase::Reserved | Phase::Busy | Phase::Unseen => tally.taken += 1,
                    Phase::Over(_) => (),
                }
            }
            // They come sorted by name.
            planner.phases.push((&worker.name, phase));
        }
        for tally in planner.tallies.values_mut() {
            tally.idle.sort_by_key(|worker| (worker.created_at(), &worker.name));
        }
        planner
    }

    /// The phase of a worker, unless there is none of that name.
    pub(super) fn phase_of(&self, name: &WorkerName) -> Option<&Phase> {
        let at = self.phases.binary_search_by(|(other, _)| (*other).cmp(name)).ok()?;
        Some(&self.phases[at].1)
    }

    pub(super) fn act(&mut self, step: Step, why: Why) {
        self.plan.actions.push(Action { step, why });
    }

    pub(super) fn hold(&mut self, subject: Subject, why_not: WhyNot) {
        self.plan.held.push(Held { subject, why_not });
    }

    /// Why the machine of a worker is to be kept, if it is.
    pub(super) fn hold_of(&self, worker: &Worker) -> Option<&'a Hold> {
        let desired = self.desired;
        let hold = desired.holds.get(&worker.name).filter(|_| !desired.draining)?;
        (hold.until > self.now && worker.instance.seen().is_some()).then_some(hold)
    }

    /// Whether `subject` failed lately; says so if it did.
    pub(super) fn is_backing_off(&mut self, subject: &Subject) -> bool {
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

    pub(super) fn retire_the_over(&mut self) {
        let observed = self.observed;
        // Both are sorted by name.
        for (at, worker) in observed.workers.values().enumerate() {
            if worker.in_flight.is_some() {
                continue;
            }
            let why = match &self.phases[at].1 {
                // Its driver asks for the machine by name, and ends the job when it is really gone.
                Phase::Over(Ending::Vanished) if self.is_lost(worker) => continue,
                Phase::Over(Ending::RunnerGone) => {
                    self.lapse_of(worker).unwrap_or(Why::Over(Ending::RunnerGone))
                }
                Phase::Over(ending) => Why::Over(ending.clone()),
                Phase::Unseen if self.is_overdue_orphan(worker) => Why::SilentOrphan,
                Phase::Unseen => {
                    self.hold_unseen(worker);
                    continue;
                }
                Phase::Starting => match self.lapse_of(worker) {
                    Some(why) => why,
                    None => continue,
                },
                Phase::Idle | Phase::Reserved | Phase::Busy => continue,
            };
            self.retire(worker, why);
        }
    }

    /// That the forge of a worker whose runner is not connected is about to remove it, or has done so.
    fn lapse_of(&self, worker: &Worker) -> Option<Why> {
        let after = self.observed.forges.get(worker.forge()?)?.forgets_after?;
        let since = worker.last_online.or(worker.created_at())?;
        is_past(since, after - after / LAPSE_MARGIN, self.now).then_some(Why::Lapses { after })
    }

    /// Retires whom someone asked to go, as soon as no job runs there.
    pub(super) fn retire_the_dismissed(&mut self) {
        for (at, worker) in self.observed.workers.values().enumerate() {
            let Some(dismissal) = self.desired.dismissals.get(&worker.name) else { continue };
            let phase = &self.phases[at].1;
            let may_go = match phase {
                Phase::Starting | Phase::Idle => true,
                Phase::Reserved => !dismissal.after_reservation,
                Phase::Busy | Phase::Unseen | Phase::Over(_) => false,
            };
            if worker.in_flight.is_none() && may_go {
                self.retire(worker, Why::Asked { by: dismissal.by.clone() });
            }
        }
    }

    /// Whether a pushed job runs on a machine that the list lacks.
    pub(super) fn is_lost(&self, worker: &Worker) -> bool {
        let forge = worker.forge().and_then(|name| self.observed.forges.get(name));
        let drives = forge.is_some_and(|forge| forge.drives);
        drives && worker.instance.is_absent() && worker.job().is_some()
    }

    /// A machine without record whose guest has said nothing for very long, while all lists were whole.
    pub(super) fn is_overdue_orphan(&self, worker: &Worker) -> bool {
        let is_orphan = worker.record.is_none() && worker.runner.is_absent();
        let created_at = worker.created_at().filter(|_| is_orphan);
        created_at.is_some_and(|at| is_past(at, self.desired.orphan_limit, self.now))
    }

    pub(super) fn hold_unseen(&mut self, worker: &Worker) {
        let forge = worker.forge().and_then(|name| self.observed.forges.get(name));
        let reason = match (self.observed.hypervisor.blind(), forge.and_then(|f| f.sight.blind())) {
            (Some(reason), _) => format!("the hypervisor cannot be seen: {reason}"),
            (None, Some(reason)) => format!("its forge cannot be seen: {reason}"),
            (None, None) if worker.record.is_none() && worker.guest_busy == Some(false) => {
                "no record explains it and its forge lists no runner for it: it is watched"
                    .to_owned()
            }
            (None, None) if worker.record.is_none() => {
                "no record explains it and its guest does not say whether it works".to_owned()
            }
            (None, None) => return,
        };
        self.hold(Subject::Worker(worker.name.clone()), WhyNot::Unseen { reason });
    }

    pub(super) fn retire(&mut self, worker: &Worker, why: Why) {
        if let Some(hold) = self.hold_of(worker) {
            let Hold { by, purpose, until, .. } = hold.clone();
            let why_not = WhyNot::KeptFor { by, purpose, until };
            self.hold(Subject::Worker(worker.name.clone()), why_not);
            return;
        }
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
    pub(super) fn attend(&mut self) {
        for (at, worker) in self.observed.workers.values().enumerate() {
            if worker.in_flight.is_some() {
                continue;
            }
            let (Some(runner), Some(forge_name)) = (worker.runner.seen(), worker.forge()) else {
                continue;
            };
            let Some(forge) = self.observed.forges.get(forge_name) else {
                continue;
            };
            let phase = &self.phases[at].1;
            let alive = worker.instance.seen().is_some() && !matches!(phase, Phase::Over(_));
            if !(alive || self.is_lost(worker)) || worker.record.is_none() {
                continue;
            }
            let unattended = forge.drives && !worker.driven;
            let mismarked = forge.reserves && runner.reserved_for != worker.reservation;
            if !unattended && !mismarked {
                continue;
            }
            let subject = Subject::Worker(worker.name.clone());
            let (worker_name, forge_name) = (worker.name.clone(), forge_name.clone());
            let runner_id = runner.id.clone();
            if unattended {
                if !self.is_backing_off(&subject) {
                    let step =
                        Step::Attach { worker: worker_name, forge: forge_name, runner: runner_id };
                    self.act(step, Why::Unattended);
                }
                continue;
            }
            let (step, why) = match &worker.reservation {
                Some(reservation) if *phase == Phase::Reserved && runner.reserved_for.is_none() => {
                    let reservation = reservation.clone();
                    let (worker, forge, runner) = (worker_name, forge_name, runner_id);
                    (Step::Mark { worker, forge, runner, reservation }, Why::Promised)
                }
                // Of another reservation, if it has one.
                _ if matches!(phase, Phase::Idle | Phase::Reserved) => {
                    let (worker, forge, runner) = (worker_name, forge_name, runner_id);
                    (Step::Unmark { worker, forge, runner }, Why::NotPromised)
                }
                _ => continue,
            };
            if !self.is_backing_off(&subject) {
                self.act(step, why);
            }
        }
    }

    pub(super) fn keep_reservations(&mut self) {
        let observed = self.observed;
        for waiting in observed.waiting.values() {
            let entry = &waiting.entry;
            let subject = Subject::Reservation(entry.id.clone());
            if observed.in_flight.contains(&subject) {
                continue;
            }
            if waiting.until() <= self.now {
                let why = Why::NobodyAsks { patience: entry.patience };
                self.act(Step::Dequeue { reservation: entry.id.clone() }, why);
            } else if let Some(why) = self.not_marked(&entry.kept) {
                self.act(Step::Release { reservation: entry.id.clone() }, why);
            }
        }
        for reservation in observed.reservations.values() {
            let subject = Subject::Reservation(reservation.id.clone());
            if observed.in_flight.contains(&subject) {
                continue;
            }
            let lives = |name: &WorkerName| match self.phase_of(name) {
                None | Some(Phase::Over(_)) => false,
                Some(_) => true,
            };
            let is_given_up = |step: &Step| step.subject() == subject;
            if self.plan.actions.iter().any(|action| is_given_up(&action.step)) {
                continue;
            }
            // What it lacks is on its way.
            let lacks = observed.needs.iter().any(|need| need.id == reservation.id);
            let why = if !lacks && !reservation.workers.iter().any(lives) {
                Why::Spent
            } else if reservation.until <= self.now {
                Why::Expired
            } else if let Some(why) = self.not_marked(&reservation.workers) {
                why
            } else {
                continue;
            };
            if !self.is_backing_off(&subject) {
                self.act(Step::Release { reservation: reservation.id.clone() }, why);
            }
        }
    }

    /// Why the forge is not asked any more to mark one of these workers, if so.
    fn not_marked(&self, workers: &BTreeSet<WorkerName>) -> Option<Why> {
        let soon = SignedDuration::try_from(MARK_PATIENCE).unwrap_or(SignedDuration::MAX);
        workers.iter().find_map(|name| {
            let worker = self.observed.workers.get(name)?;
            let forge = self.observed.forges.get(worker.forge()?)?;
            let runner = worker.runner.seen()?;
            let is_unmarked = forge.reserves && runner.reserved_for != worker.reservation;
            if !is_unmarked || self.phase_of(name) != Some(&Phase::Reserved) {
                return None;
            }
            let backoff = self.observed.backoff.get(&Subject::Worker(name.clone()))?;
            let is_far = backoff.not_before.duration_since(self.now) > soon;
            (backoff.failures >= MARK_TRIES || is_far).then(|| Why::NotMarked {
                worker: name.clone(),
                tries: backoff.failures,
                error: backoff.error.clone(),
            })
        })
    }

    pub(super) fn keep_images(&mut self) {
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
    pub(super) fn delete_images(&mut self) {
        // A worker may boot an image that only a list we cannot see would show.
        if self.observed.hypervisor.blind().is_some() {
            return;
        }
        let (observed, desired) = (self.observed, self.desired);
        let current: BTreeSet<&ImageId> = self.images.values().map(|image| &image.id).collect();
        if observed.images.iter().all(|image| current.contains(&image.id)) {
            return;
        }
        let mut kept = current.clone();
        for profile in &desired.profiles {
            let of_it = observed.images.iter().filter(|image| image.recipe.profile == profile.name);
            let mut of_it: Vec<&Image> = of_it.collect();
            // The one that serves, then the newest.
            of_it.sort_by_key(|image| {
                Reverse((current.contains(&image.id), image.built_at, &image.id))
            });
            kept.extend(of_it.iter().take(profile.images_kept as usize).map(|image| &image.id));
        }
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
    pub(super) fn image_of(&self, profile: &Profile) -> Option<&'a Image> {
        self.images.get(&profile.name).copied()
    }
}

/// The newest image of each profile's recipe.
pub(crate) fn newest_images<'a>(
    observed: &'a Observed,
    desired: &'a Desired,
) -> BTreeMap<&'a ProfileName, &'a Image> {
    let recipes: BTreeMap<&ProfileName, &Recipe> =
        desired.profiles.iter().map(|profile| (&profile.name, &profile.recipe)).collect();
    let mut newest: BTreeMap<&ProfileName, &Image> = BTreeMap::new();
    for image in &observed.images {
        let profile = &image.recipe.profile;
        if recipes.get(profile).is_none_or(|recipe| **recipe != image.recipe) {
            continue;
        }
        let age = |image: &Image| (image.built_at, image.id.clone());
        let kept = newest.entry(profile).or_insert(image);
        if age(image) > age(kept) {
            *kept = image;
        }
    }
    newest
}
