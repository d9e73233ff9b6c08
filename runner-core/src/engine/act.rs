//! Plans, begins actions and takes in how they ended.

use tracing::{Instrument, Span};

use super::*;
use crate::recorder::Case;

/// What has a limit of its own for how much of it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Machines and images are made and unmade: takes a while.
    Making,
    /// Runners are marked, promises ended: takes a call at most, which somebody may wait for.
    Marking,
}

impl Lane {
    /// A driver runs as long as its worker does, and has none.
    fn of(step: &Step) -> Option<Self> {
        match step {
            Step::Attach { .. } => None,
            Step::Provision { .. }
            | Step::Retire { .. }
            | Step::Build { .. }
            | Step::DeleteImage { .. } => Some(Self::Making),
            Step::Mark { .. }
            | Step::Unmark { .. }
            | Step::Release { .. }
            | Step::Dequeue { .. }
            | Step::EndOverride => Some(Self::Marking),
        }
    }

    fn of_action(subject: &Subject, action: &Action) -> Self {
        match (subject, action.flight) {
            (Subject::Worker(_) | Subject::Reservation(_), Flight::Touching) => Self::Marking,
            _ => Self::Making,
        }
    }
}

impl Engine {
    pub(super) fn plan_and_act(&mut self) {
        let mut observed = self.observe();
        let now = self.now();
        self.say_phases(&observed, now);
        // Once as a rule: whoever was served does not wait any more.
        for _ in 0..3 {
            if !self.serve_queue(&observed, now) {
                break;
            }
            observed = self.observe();
            self.say_phases(&observed, now);
        }
        observed.needs = self.queue.needs();
        let again = self.queue.asked_again(&observed);
        observed.ended = again.into_iter().map(|ended| ended.reservation.id).collect();
        self.end_wishes(&observed, now);
        let plan = plan::plan(&observed, &self.desired, now);
        self.claim(&plan.claims);
        self.say_held(&plan.held);
        let mut at_work = self.at_work();
        for action in plan.actions {
            if self.actions.contains_key(&action.step.subject()) {
                continue;
            }
            if let Some(lane) = Lane::of(&action.step) {
                let at_work = at_work.entry(lane).or_default();
                if *at_work >= self.pace.max_actions {
                    continue;
                }
                *at_work += 1;
            }
            self.begin(action.step, action.why, &observed);
        }
        // A driver whose worker is gone has nothing left to wait for.
        self.drives.abort_matching(|worker| !observed.workers.contains_key(worker));
        self.held = plan.held;
        self.allotted = plan.allotted;
        self.wake = self.next_wake(now);
        self.after_plan(&observed, now);
        self.publish_status(&observed, now);
        if self.desired.draining && self.is_empty(&observed) {
            for drained in self.drained.drain(..) {
                let _ = drained.send(());
            }
        }
    }

    /// How many actions are in flight of each kind.
    fn at_work(&self) -> BTreeMap<Lane, usize> {
        let mut at_work = BTreeMap::new();
        for (subject, action) in &self.actions {
            if action.ended.is_none() {
                *at_work.entry(Lane::of_action(subject, action)).or_default() += 1;
            }
        }
        at_work
    }

    pub(super) fn is_empty(&self, observed: &Observed) -> bool {
        let seen = observed.hypervisor.blind().is_none()
            && observed.forges.values().all(|forge| forge.sight.blind().is_none());
        seen && observed.workers.is_empty() && self.tasks.is_empty() && self.actions.is_empty()
    }

    /// The end of the next wait that the plan depends on: a backoff, a hold, a reservation or an entry.
    pub(super) fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        let backoffs = self.backoff.values().map(|backoff| backoff.not_before);
        let reservations = self.queue.wakes();
        let holds = self.desired.holds.values().map(|hold| hold.until);
        let policy = self.desired.policy.iter().map(|policy| policy.until);
        backoffs.chain(reservations).chain(holds).chain(policy).filter(|at| *at > now).min()
    }

    pub(super) fn begin(&mut self, step: Step, why: Why, observed: &Observed) {
        let subject = step.subject();
        self.say(
            subject.clone(),
            What::Decided { action: step.word().to_owned(), why: why.clone() },
        );
        let hands = self.hands.clone();
        let (flight, forge) = match &step {
            Step::Provision { profile, .. } => (Flight::Making, Some(profile.forge.clone())),
            Step::Retire { worker, forge, .. } => {
                if let Some(worker) = observed.workers.get(worker)
                    && why.is_start_failure(worker)
                    && let Some(profile) = worker.profile()
                {
                    self.back_off(Subject::Profile(profile), why.to_string(), None);
                }
                (Flight::Unmaking, forge.clone())
            }
            Step::Attach { worker, forge, runner } => {
                let (worker, forge, runner) = (worker.clone(), forge.clone(), runner.clone());
                let (span, key) = (span_of(&subject), worker.clone());
                let drive = async move { hands.drive(&worker, &forge, &runner).await };
                self.drives.spawn(key, drive.instrument(span));
                return;
            }
            Step::Release { reservation } => {
                self.begin_release(reservation, &why);
                (Flight::Touching, None)
            }
            Step::Dequeue { reservation } => {
                self.begin_dequeue(reservation);
                (Flight::Touching, None)
            }
            Step::EndOverride => {
                self.desired.policy = None;
                // One that stays in the store ends again at the next start.
                self.write_override();
                return;
            }
            Step::Mark { forge, .. } | Step::Unmark { forge, .. } => {
                (Flight::Touching, Some(forge.clone()))
            }
            Step::Build { .. } | Step::DeleteImage { .. } => (Flight::Touching, None),
        };
        if let Step::Provision { worker, profile, image } = &step {
            let record = Record {
                name: worker.clone(),
                profile: profile.name.clone(),
                forge: profile.forge.clone(),
                image: image.id.clone(),
                resources: profile.resources.clone(),
                created_at: self.now(),
                runner: None,
            };
            self.serial = self.serial.max(observed.next_serial).saturating_add(1);
            let highest = worker.parts().map_or(0, |(_, serial)| serial);
            self.serial = self.serial.max(highest.saturating_add(1));
            self.records.insert(worker.clone(), record);
        }
        self.actions.insert(subject.clone(), Action::begun(flight, forge));
        let limit = self.limit_of(&step);
        let mut record = match &step {
            Step::Provision { worker, .. } => self.records.get(worker).cloned(),
            _ => None,
        };
        let serial = self.serial;
        let case = match &step {
            Step::Retire { worker, .. } => observed.workers.get(worker).and_then(|worker| {
                let job = self.jobs.get(&worker.name).cloned();
                Case::of(worker, job, why.to_string(), self.now())
            }),
            _ => None,
        };
        let span = span_of(&subject);
        let task = async move {
            let began = Instant::now();
            let work = act(&hands, &step, record.as_mut(), serial, case);
            let result = within(limit, "finish in time", work).await;
            Ended { step, record, result, took: began.elapsed() }
        };
        self.tasks.spawn(subject, task.instrument(span));
    }

    pub(super) fn limit_of(&self, step: &Step) -> Duration {
        match step {
            Step::Provision { profile, .. } => profile.timeouts.start,
            Step::Build { .. } => self.pace.build_limit,
            _ => self.pace.action_limit,
        }
    }

    pub(super) fn end_action(&mut self, subject: Subject, ended: Result<Ended, JoinError>) {
        let Ended { step, record, result, took } = match ended {
            Ok(ended) => ended,
            Err(panic) => {
                let error = chain(&crashed("finish", panic));
                let retry_at = self.back_off(subject.clone(), error.clone(), None);
                let action = "act".to_owned();
                self.say(subject.clone(), What::Failed { action, error, retry_at });
                self.settle(subject);
                return;
            }
        };
        let action = step.word().to_owned();
        if let Some(record) = record {
            self.records.insert(record.name.clone(), record);
        }
        match result {
            Ok(()) => {
                if let Step::Retire { worker, .. } = &step {
                    self.records.remove(worker);
                    // A forge may list for a while what it has removed: do not hurry to remove it again.
                    let reason = "it was retired and is listed still".to_owned();
                    self.back_off(subject.clone(), reason, None);
                } else {
                    self.backoff.remove(&subject);
                }
                if let Step::Mark { reservation, .. } = &step
                    && let Some(action) = self.actions.get_mut(&subject)
                {
                    action.marked = Some(reservation.clone());
                }
                if let Step::Build { recipe } = &step {
                    // What failed may have failed for want of it.
                    self.backoff.remove(&Subject::Profile(recipe.profile.clone()));
                }
                self.say(subject.clone(), What::Done { action, took });
            }
            Err(error) => {
                let blamed = match &step {
                    Step::Provision { profile, .. } => Subject::Profile(profile.name.clone()),
                    _ => subject.clone(),
                };
                let retry_at = self.back_off(blamed, chain(&error), Some(error.retry()));
                let error = chain(&error);
                self.say(subject.clone(), What::Failed { action, error, retry_at });
            }
        }
        self.settle(subject);
    }

    /// Marks an action as ended and asks the lists that will show what it did.
    pub(super) fn settle(&mut self, subject: Subject) {
        self.tick += 1;
        let mut forge = None;
        if let Some(action) = self.actions.get_mut(&subject) {
            action.ended = Some(self.tick);
            forge = action.forge.clone();
        }
        match subject {
            Subject::Build(_) | Subject::Image(_) => self.look(Source::Builder),
            _ => {
                self.look(Source::Hypervisor);
                if let Some(forge) = forge {
                    self.look(Source::Forge(forge));
                }
            }
        }
    }

    pub(super) fn end_drive(&mut self, worker: WorkerName, ended: Result<Result<()>, JoinError>) {
        let forge = self.records.get(&worker).map(|record| record.forge.clone());
        let subject = Subject::Worker(worker);
        let result = ended.unwrap_or_else(|panic| Err(crashed("attend", panic)));
        match result {
            Ok(()) => drop(self.backoff.remove(&subject)),
            Err(error) => {
                let retry_at = self.back_off(subject.clone(), chain(&error), Some(error.retry()));
                let (action, error) = ("attend to".to_owned(), chain(&error));
                self.say(subject.clone(), What::Failed { action, error, retry_at });
            }
        }
        // What the driver did is not on the lists yet. An action in flight settles by itself.
        if self.actions.get(&subject).is_none_or(|action| action.ended.is_some()) {
            self.actions.insert(subject.clone(), Action::begun(Flight::Touching, forge));
            self.settle(subject);
        }
    }

    /// Lets a subject wait, longer each time. Returns until when.
    pub(super) fn back_off(
        &mut self,
        subject: Subject,
        error: String,
        retry: Option<Retry>,
    ) -> Timestamp {
        let failures = self.backoff.get(&subject).map_or(0, |backoff| backoff.failures);
        let doubled = self.pace.retry_first.saturating_mul(1 << failures.min(20));
        let wait = match retry {
            Some(Retry::After(wait)) => wait,
            Some(Retry::Never) => self.pace.retry_most,
            Some(Retry::Later) | None => doubled.min(self.pace.retry_most),
        };
        let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::from_hours(1));
        let not_before = self.now().saturating_add(wait).unwrap_or(Timestamp::MAX);
        self.backoff.insert(subject, Backoff { not_before, failures: failures + 1, error });
        not_before
    }
}

/// What log lines of an action on `subject` carry: the worker's name.
fn span_of(subject: &Subject) -> Span {
    match subject {
        Subject::Worker(worker) => tracing::error_span!("action", %worker),
        other => tracing::error_span!("action", subject = %other),
    }
}

/// Carries out one step.
async fn act(
    hands: &Hands,
    step: &Step,
    record: Option<&mut Record>,
    serial: u64,
    case: Option<Case>,
) -> Result<()> {
    match step {
        Step::Provision { profile, image, .. } => {
            // The engine wrote the record down in memory before this task began.
            let record = record.expect("a provision step has its record");
            hands.provision(record, serial, profile, (**image).clone()).await
        }
        Step::Retire { worker, forge, order } => {
            hands.retire(worker, forge.as_ref(), order, case).await
        }
        Step::Attach { worker, forge, runner } => hands.drive(worker, forge, runner).await,
        Step::Mark { forge, runner, reservation, .. } => {
            hands.mark(forge, runner, reservation).await
        }
        Step::Unmark { forge, runner, .. } => hands.unmark(forge, runner).await,
        // Done in memory when it began.
        Step::Release { .. } | Step::Dequeue { .. } => hands.written().await,
        // It was over when it began.
        Step::EndOverride => Ok(()),
        Step::Build { recipe } => hands.build(recipe).await,
        Step::DeleteImage { image } => hands.delete_image(image).await,
    }
}
