//! The loop: wait for something, look, plan, act. It waits in `select!` and works in tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::discriminant,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::SelectAll};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinError,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::JoinMap};

use crate::{
    changes::Changes,
    error::{Error, Result, Retry, chain},
    event::What,
    execute::Hands,
    name::{ForgeName, ProfileName, ReservationId, WorkerName},
    observe::{self, Action, Answer, Known, Source, Tick, View, Views},
    plan::{self, Backoff, Desired, ForgeView, Held, Observed, Step, Subject, Why},
    pool::{Pace, check_profiles},
    profile::Profile,
    reservation::{Reservation, ReserveRequest},
    resources::Resources,
    status::{ProfileStatus, Status, WorkerStatus},
    store::Renewal,
    worker::{Flight, Phase, Record, Worker},
};

/// What the pool's task is asked to do.
pub(crate) enum Command {
    Reserve(ReserveRequest, oneshot::Sender<Result<Reservation>>),
    Release(ReservationId, oneshot::Sender<Result<()>>),
    Offer(Vec<Profile>, oneshot::Sender<Result<()>>),
    Drain(oneshot::Sender<()>),
}

/// How an action ended.
struct Ended {
    step: Step,
    /// Of a provisioned worker: with its registration, if there is one.
    record: Option<Record>,
    result: Result<()>,
    took: Duration,
}

pub(crate) struct Engine {
    hands: Hands,
    pace: Pace,
    desired: Desired,
    publish: watch::Sender<Arc<Status>>,
    tick: Tick,
    serial: u64,
    records: BTreeMap<WorkerName, Record>,
    reservations: BTreeMap<ReservationId, Reservation>,
    /// Actions in flight, and those that ended too lately for the lists to show it.
    actions: BTreeMap<Subject, Action>,
    backoff: BTreeMap<Subject, Backoff>,
    last_online: BTreeMap<WorkerName, Timestamp>,
    views: Views,
    /// The lists being asked: since when, and whether each must be asked again afterwards.
    looking: BTreeMap<Source, (Tick, bool)>,
    looks: JoinMap<Source, Answer>,
    tasks: JoinMap<Subject, Ended>,
    drives: JoinMap<WorkerName, Result<()>>,
    /// What was last published, for reservations and for saying what changed.
    workers: BTreeMap<WorkerName, (Phase, Timestamp)>,
    held: Vec<Held>,
    drained: Vec<oneshot::Sender<()>>,
    /// When the plan may change without anything happening, such as the end of a wait.
    wake: Option<Timestamp>,
}

impl Engine {
    pub fn new(
        hands: Hands,
        pace: Pace,
        desired: Desired,
        records: Vec<Record>,
        serial: u64,
        reservations: Vec<Reservation>,
        publish: watch::Sender<Arc<Status>>,
    ) -> Self {
        // A runner that was registered may have been online for long: give it time to show again.
        let now = hands.clock.now();
        let registered = records.iter().filter(|record| record.runner.is_some());
        let last_online = registered.map(|record| (record.name.clone(), now)).collect();
        let forges = hands.forges.iter();
        let views = Views {
            host: View::default(),
            forges: forges.map(|(n, f)| (n.clone(), (f.clone(), View::default()))).collect(),
            images: View::default(),
        };
        Self {
            hands,
            pace,
            desired,
            publish,
            tick: 1,
            serial,
            records: records.into_iter().map(|record| (record.name.clone(), record)).collect(),
            reservations: reservations.into_iter().map(|r| (r.id.clone(), r)).collect(),
            actions: BTreeMap::new(),
            backoff: BTreeMap::new(),
            last_online,
            views,
            looking: BTreeMap::new(),
            looks: JoinMap::new(),
            tasks: JoinMap::new(),
            drives: JoinMap::new(),
            workers: BTreeMap::new(),
            held: Vec::new(),
            drained: Vec::new(),
            wake: None,
        }
    }

    /// Runs until `stop`, then until the actions in flight have ended.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut hints = self.hints();
        let mut renewals = self.hands.store.renewals();
        let renewal = renewals.borrow_and_update().clone();
        self.say_renewed(&renewal);
        let mut ticker = tokio::time::interval(self.pace.look_every);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = self.wake_up();
            let plan = tokio::select! {
                // In this order: what was asked first, then what ended, then what may have changed.
                biased;
                () = stop.cancelled() => break,
                Some(command) = inbox.recv() => {
                    self.obey(command);
                    true
                }
                Ok(()) = renewals.changed() => {
                    let renewal = renewals.borrow_and_update().clone();
                    self.say_renewed(&renewal);
                    self.write_again();
                    false
                }
                Some((subject, ended)) = self.tasks.join_next() => {
                    self.end_action(subject, ended);
                    true
                }
                Some((worker, ended)) = self.drives.join_next() => {
                    self.end_drive(worker, ended);
                    true
                }
                Some((source, answer)) = self.looks.join_next() => {
                    self.take_answer(source, answer);
                    true
                }
                _ = ticker.tick() => {
                    self.look_everywhere();
                    false
                }
                () = wake => true,
                Some(source) = hints.next() => {
                    self.look(source);
                    false
                }
            };
            if plan {
                self.plan_and_act();
            }
        }
        self.drives.shutdown().await;
        while let Some((subject, ended)) = self.tasks.join_next().await {
            self.end_action(subject, ended);
        }
    }

    /// The hints of all traits as one stream.
    fn hints(&self) -> SelectAll<futures::stream::BoxStream<'static, Source>> {
        let stream = |changes: Changes, source: Source| {
            futures::stream::unfold((changes, source), |(mut changes, source)| async move {
                changes.next().await;
                Some((source.clone(), (changes, source)))
            })
            .boxed()
        };
        let mut all = SelectAll::new();
        all.push(stream(self.hands.hypervisor.changes(), Source::Hypervisor));
        for (name, forge) in self.hands.forges.iter() {
            all.push(stream(forge.changes(), Source::Forge(name.clone())));
        }
        all
    }

    /// Sleeps until the plan may change by itself.
    fn wake_up(&self) -> impl Future<Output = ()> + use<> {
        let wait = self.wake.map(|at| {
            let wait = at.duration_since(self.hands.clock.now());
            Duration::try_from(wait).unwrap_or_default()
        });
        async move {
            match wait {
                Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(1))).await,
                None => std::future::pending().await,
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.hands.clock.now()
    }

    fn say(&self, subject: Subject, what: What) {
        self.hands.events.record(self.now(), subject, what);
    }

    // Looking.

    fn look_everywhere(&mut self) {
        self.look(Source::Hypervisor);
        self.look(Source::Builder);
        let forges: Vec<ForgeName> = self.hands.forges.keys().cloned().collect();
        for forge in forges {
            self.look(Source::Forge(forge));
        }
    }

    /// Asks for one list; if it is being asked already, once more when that is answered.
    fn look(&mut self, source: Source) {
        if let Some((_, again)) = self.looking.get_mut(&source) {
            *again = true;
            return;
        }
        self.tick += 1;
        self.looking.insert(source.clone(), (self.tick, false));
        let (hands, limit) = (self.hands.clone(), self.pace.look_limit);
        match &source {
            Source::Hypervisor => {
                let recorded: BTreeSet<WorkerName> = self.records.keys().cloned().collect();
                self.looks.spawn(source, async move {
                    let ask = observe::ask_hypervisor(&*hands.hypervisor, &recorded);
                    Answer::Hypervisor(within(limit, "list the instances", ask).await)
                });
            }
            Source::Forge(name) => {
                let forge = hands.forges[name].clone();
                self.looks.spawn(source, async move {
                    let ask = observe::ask_forge(&*forge);
                    Answer::Forge(within(limit, "list the runners and jobs", ask).await)
                });
            }
            Source::Builder => {
                self.looks.spawn(source, async move {
                    let ask = observe::ask_builder(&*hands.builder);
                    Answer::Builder(within(limit, "list the images", ask).await)
                });
            }
        }
    }

    /// Takes a list in.
    fn take_answer(&mut self, source: Source, answer: Result<Answer, JoinError>) {
        let Some((began, again)) = self.looking.remove(&source) else {
            return;
        };
        let answer = answer.unwrap_or_else(|panic| source.failed(crashed("list", panic)));
        let (subject, sight) = match (&source, answer) {
            (Source::Forge(name), Answer::Forge(answer)) => {
                let view = self.views.forges.get_mut(name);
                let sight = view.and_then(|(_, view)| view.take(answer, began));
                (Subject::Forge(name.clone()), sight)
            }
            (_, Answer::Hypervisor(answer)) => {
                (Subject::Hypervisor, self.views.host.take(answer, began))
            }
            (_, Answer::Builder(answer)) => {
                (Subject::Builder, self.views.images.take(answer, began))
            }
            (_, Answer::Forge(_)) => return,
        };
        match sight {
            Some(plan::Sight::Blind(reason)) => self.say(subject, What::Blind { reason }),
            Some(_) => self.say(subject, What::Sighted),
            None => (),
        }
        if again {
            self.look(source);
        }
    }

    fn observe(&mut self) -> Observed {
        let now = self.now();
        let driven: BTreeSet<WorkerName> = self.drives.keys().cloned().collect();
        let known = Known {
            records: &self.records,
            reservations: &self.reservations,
            actions: &self.actions,
            driven: &driven,
            last_online: &mut self.last_online,
        };
        let workers = self.views.join(known, now);
        let views = &self.views;
        self.actions.retain(|subject, action| !views.show(subject, action));
        let is_stale = |b: &Backoff| b.not_before.duration_since(now).as_secs() < -3600;
        self.backoff.retain(|_, backoff| !is_stale(backoff));
        let highest =
            workers.keys().filter_map(|name| name.parts()).map(|(_, serial)| serial).max();
        self.serial = self.serial.max(highest.map_or(1, |serial| serial.saturating_add(1)));
        Observed {
            workers,
            hypervisor: self.views.host.sight.clone(),
            capacity: (self.views.host.sight == plan::Sight::Seen)
                .then(|| self.views.host.seen.capacity.clone()),
            forges: self
                .views
                .forges
                .iter()
                .map(|(n, (f, v))| (n.clone(), view_of(&**f, v)))
                .collect(),
            builder: self.views.images.sight.clone(),
            images: self.views.images.seen.clone(),
            reservations: self.reservations.clone(),
            backoff: self.backoff.clone(),
            in_flight: self.actions.keys().cloned().collect(),
            next_serial: self.serial,
        }
    }

    // Planning and acting.

    fn plan_and_act(&mut self) {
        let observed = self.observe();
        let now = self.now();
        self.say_phases(&observed, now);
        let plan = plan::plan(&observed, &self.desired, now);
        self.say_held(&plan.held);
        for action in plan.actions {
            let is_drive = matches!(action.step, Step::Attach { .. });
            if self.actions.contains_key(&action.step.subject())
                || (!is_drive && self.tasks.len() >= self.pace.max_actions)
            {
                continue;
            }
            self.begin(action.step, action.why, &observed);
        }
        // A driver whose worker is gone has nothing left to wait for.
        self.drives.abort_matching(|worker| !observed.workers.contains_key(worker));
        self.held = plan.held;
        self.wake = self.next_wake(&observed, now);
        self.publish_status(&observed, now);
        if self.desired.draining && self.is_empty(&observed) {
            for drained in self.drained.drain(..) {
                let _ = drained.send(());
            }
        }
    }

    fn is_empty(&self, observed: &Observed) -> bool {
        let seen = observed.hypervisor.blind().is_none()
            && observed.forges.values().all(|forge| forge.sight.blind().is_none());
        seen && observed.workers.is_empty() && self.tasks.is_empty() && self.actions.is_empty()
    }

    /// The end of the next wait that the plan depends on: a backoff, a timeout or a reservation.
    fn next_wake(&self, observed: &Observed, now: Timestamp) -> Option<Timestamp> {
        let backoffs = self.backoff.values().map(|backoff| backoff.not_before);
        let reservations = observed.reservations.values().map(|reservation| reservation.until);
        backoffs.chain(reservations).filter(|at| *at > now).min()
    }

    fn begin(&mut self, step: Step, why: Why, observed: &Observed) {
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
                self.drives.spawn(worker.clone(), async move {
                    hands.drive(&worker, &forge, &runner).await
                });
                return;
            }
            Step::Release { reservation } => {
                self.reservations.remove(reservation);
                (Flight::Touching, None)
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
        self.actions.insert(subject.clone(), Action { flight, forge, ended: None });
        let limit = self.limit_of(&step);
        let mut record = match &step {
            Step::Provision { worker, .. } => self.records.get(worker).cloned(),
            _ => None,
        };
        let serial = self.serial;
        self.tasks.spawn(subject, async move {
            let began = Instant::now();
            let work = act(&hands, &step, record.as_mut(), serial);
            let result = within(limit, "finish in time", work).await;
            Ended { step, record, result, took: began.elapsed() }
        });
    }

    fn limit_of(&self, step: &Step) -> Duration {
        match step {
            Step::Provision { profile, .. } => profile.timeouts.start,
            Step::Build { .. } => self.pace.build_limit,
            _ => self.pace.action_limit,
        }
    }

    fn end_action(&mut self, subject: Subject, ended: Result<Ended, JoinError>) {
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
                self.backoff.remove(&subject);
                if let Step::Retire { worker, .. } = &step {
                    self.records.remove(worker);
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
    fn settle(&mut self, subject: Subject) {
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

    fn end_drive(&mut self, worker: WorkerName, ended: Result<Result<()>, JoinError>) {
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
            let action = Action { flight: Flight::Touching, forge, ended: None };
            self.actions.insert(subject.clone(), action);
            self.settle(subject);
        }
    }

    /// Lets a subject wait, longer each time. Returns until when.
    fn back_off(&mut self, subject: Subject, error: String, retry: Option<Retry>) -> Timestamp {
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

    // Commands.

    fn obey(&mut self, command: Command) {
        match command {
            Command::Reserve(request, answer) => self.reserve(request, answer),
            Command::Release(id, answer) => {
                self.reservations.remove(&id);
                let store = self.hands.store.clone();
                tokio::spawn(async move {
                    let _ = answer.send(store.remove_reservation(id).await);
                });
            }
            Command::Offer(profiles, answer) => {
                let check = check_profiles(&profiles, &self.hands.forges, &*self.hands.hypervisor);
                if check.is_ok() {
                    self.desired.profiles = profiles;
                }
                let _ = answer.send(check);
            }
            Command::Drain(answer) => {
                self.desired.draining = true;
                self.drained.push(answer);
            }
        }
    }

    /// Decides from memory; answers when it is durable.
    fn reserve(&mut self, request: ReserveRequest, answer: oneshot::Sender<Result<Reservation>>) {
        let decided = match self.reservations.get(&request.id) {
            Some(held) => Ok(held.clone()),
            None => self.choose(&request),
        };
        let reservation = match decided {
            Ok(reservation) => reservation,
            Err(error) => return drop(answer.send(Err(error))),
        };
        self.reservations.insert(reservation.id.clone(), reservation.clone());
        let what = What::Reserved {
            owner: reservation.owner.clone(),
            purpose: reservation.purpose.clone(),
            workers: reservation.workers.len() as u32,
        };
        self.say(Subject::Reservation(reservation.id.clone()), what);
        let store = self.hands.store.clone();
        tokio::spawn(async move {
            // If it cannot be made durable it holds in memory until its time is over, and its asker,
            // who was told of the failure, may ask again.
            let written = store.put_reservation(reservation.clone()).await;
            let _ = answer.send(written.map(|()| reservation));
        });
    }

    fn choose(&self, request: &ReserveRequest) -> Result<Reservation> {
        if !self.desired.profiles.iter().any(|profile| profile.name == request.profile) {
            return Err(Error::not_found(format!("profile {}", request.profile)));
        }
        if request.count == 0 {
            return Err(Error::invalid("count", "reserve at least one worker"));
        }
        let promised: BTreeSet<&WorkerName> =
            self.reservations.values().flat_map(|held| &held.workers).collect();
        let is_free = |name: &WorkerName, phase: &Phase| {
            *phase == Phase::Idle
                && !promised.contains(name)
                && !self.actions.contains_key(&Subject::Worker(name.clone()))
                && self.records.get(name).is_some_and(|record| record.profile == request.profile)
        };
        let mut free: Vec<(&Timestamp, &WorkerName)> = self
            .workers
            .iter()
            .filter(|(name, (phase, _))| is_free(name, phase))
            .map(|(name, (_, since))| (since, name))
            .collect();
        free.sort();
        if free.len() < request.count as usize {
            return Err(Error::Exhausted {
                resource: format!("idle workers of profile {}", request.profile),
                needed: request.count.to_string(),
                available: free.len().to_string(),
            });
        }
        let chosen = free.into_iter().take(request.count as usize);
        Ok(Reservation {
            id: request.id.clone(),
            profile: request.profile.clone(),
            owner: request.owner.clone(),
            purpose: request.purpose.clone(),
            since: self.now(),
            until: request.until,
            workers: chosen.map(|(_, name)| name.clone()).collect(),
        })
    }

    // Saying.

    fn say_renewed(&self, renewal: &Renewal) {
        if renewal.count > 0 {
            self.say(Subject::Store, What::Note { text: renewal.reason.clone() });
        }
    }

    /// Writes what is in memory into a store that was begun anew.
    fn write_again(&self) {
        let (store, serial) = (self.hands.store.clone(), self.serial);
        let records: Vec<Record> = self.records.values().cloned().collect();
        let reservations: Vec<Reservation> = self.reservations.values().cloned().collect();
        let owner = self.hands.owner.clone();
        tokio::spawn(async move {
            let write = async {
                store.owner(owner).await?;
                for record in records {
                    store.put_record(record, serial).await?;
                }
                for reservation in reservations {
                    store.put_reservation(reservation).await?;
                }
                Ok::<(), Error>(())
            };
            if let Err(error) = write.await {
                let error = chain(&error);
                tracing::error!(
                    error,
                    "The new store could not be filled; the next write retries."
                );
            }
        });
    }

    fn say_phases(&mut self, observed: &Observed, now: Timestamp) {
        let mut workers = BTreeMap::new();
        for worker in observed.workers.values() {
            let phase = worker.phase(&self.timeouts_of(worker), now);
            let before = self.workers.get(&worker.name);
            let since = match before {
                Some((old, since)) if *old == phase => *since,
                _ => {
                    let subject = Subject::Worker(worker.name.clone());
                    self.say(subject, What::Phase { phase: phase.clone() });
                    now
                }
            };
            let was_online =
                matches!(before, Some((Phase::Idle | Phase::Reserved | Phase::Busy, _)));
            if let (Phase::Idle | Phase::Busy, false, Some(profile)) =
                (&phase, was_online, worker.profile())
            {
                // The profile's machines work: try it at full speed again.
                self.backoff.remove(&Subject::Profile(profile));
            }
            workers.insert(worker.name.clone(), (phase, since));
        }
        self.workers = workers;
    }

    fn timeouts_of(&self, worker: &Worker) -> crate::profile::Timeouts {
        let name = worker.profile();
        let profile =
            self.desired.profiles.iter().find(|profile| Some(&profile.name) == name.as_ref());
        profile.map(|profile| profile.timeouts).unwrap_or_default()
    }

    /// Says what is held anew, by kind: numbers that change in it are not news.
    fn say_held(&self, held: &[Held]) {
        let same = |a: &Held, b: &Held| {
            a.subject == b.subject && discriminant(&a.why_not) == discriminant(&b.why_not)
        };
        for new in held.iter().filter(|new| !self.held.iter().any(|old| same(old, new))) {
            self.say(new.subject.clone(), What::Held(new.why_not.clone()));
        }
        for old in self.held.iter().filter(|old| !held.iter().any(|new| new.subject == old.subject))
        {
            self.say(old.subject.clone(), What::Freed);
        }
    }

    fn publish_status(&self, observed: &Observed, now: Timestamp) {
        let (demand, _) = plan::demand(observed, &self.desired);
        let mut profiles: BTreeMap<ProfileName, ProfileStatus> = BTreeMap::new();
        for profile in &self.desired.profiles {
            let status = ProfileStatus {
                min_idle: profile.min_idle,
                max: profile.max,
                queued: demand.get(&profile.name).map_or(0, Vec::len) as u32,
                offered: true,
                ..ProfileStatus::default()
            };
            profiles.insert(profile.name.clone(), status);
        }
        let mut used = Resources::default();
        let mut workers = Vec::with_capacity(observed.workers.len());
        for worker in observed.workers.values() {
            if let Some(resources) = worker.holds() {
                used.add(resources);
            }
            let (phase, since) = self.workers[&worker.name].clone();
            if let Some(profile) = worker.profile() {
                profiles.entry(profile).or_default().count(&phase);
            }
            let recorded = worker.record.as_ref().map(|record| record.image.clone());
            workers.push(WorkerStatus {
                name: worker.name.clone(),
                profile: worker.profile(),
                forge: worker.forge().cloned(),
                runner: worker.runner_id(),
                image: recorded.or_else(|| Some(worker.instance.seen()?.image.clone())),
                phase,
                since,
                created_at: worker.created_at(),
                job: worker.job().cloned(),
                reservation: worker.reservation.clone(),
                instance: worker.instance.seen().cloned(),
            });
        }
        let forges = observed.forges.iter();
        self.publish.send_replace(Arc::new(Status {
            at: Some(now),
            profiles,
            workers,
            forges: forges.clone().map(|(name, view)| (name.clone(), view.sight.clone())).collect(),
            hypervisor: observed.hypervisor.clone(),
            builder: observed.builder.clone(),
            capacity: observed.capacity.clone(),
            used,
            queued: forges.map(|(name, view)| (name.clone(), view.queued.clone())).collect(),
            images: observed.images.clone(),
            reservations: self.reservations.values().cloned().collect(),
            held: self.held.clone(),
            backoff: self.backoff.iter().map(|(s, b)| (s.clone(), b.clone())).collect(),
            draining: self.desired.draining,
            in_flight: self.tasks.len() as u32,
        }));
    }
}

fn view_of(forge: &dyn crate::Forge, view: &View<observe::ForgeAnswer>) -> ForgeView {
    let capabilities = forge.capabilities();
    ForgeView {
        sight: view.sight.clone(),
        drives: !capabilities.guest_pulls,
        reserves: capabilities.reserves,
        queued: view.seen.queued.clone(),
    }
}

/// Carries out one step.
async fn act(hands: &Hands, step: &Step, record: Option<&mut Record>, serial: u64) -> Result<()> {
    match step {
        Step::Provision { profile, image, .. } => {
            // The engine wrote the record down in memory before this task began.
            let record = record.expect("a provision step has its record");
            hands.provision(record, serial, profile, (**image).clone()).await
        }
        Step::Retire { worker, forge, order } => hands.retire(worker, forge.as_ref(), order).await,
        Step::Attach { worker, forge, runner } => hands.drive(worker, forge, runner).await,
        Step::Mark { forge, runner, reservation, .. } => {
            hands.mark(forge, runner, reservation).await
        }
        Step::Unmark { forge, runner, .. } => hands.unmark(forge, runner).await,
        Step::Release { reservation } => hands.release(reservation).await,
        Step::Build { recipe } => hands.build(recipe).await,
        Step::DeleteImage { image } => hands.delete_image(image).await,
    }
}

/// The failure of a task that panicked.
fn crashed(doing: &'static str, panic: JoinError) -> Error {
    Error::backend("a task of the pool", doing, panic)
}

impl Source {
    fn failed(&self, error: Error) -> Answer {
        match self {
            Self::Hypervisor => Answer::Hypervisor(Err(error)),
            Self::Forge(_) => Answer::Forge(Err(error)),
            Self::Builder => Answer::Builder(Err(error)),
        }
    }
}

/// Gives `work` a deadline.
async fn within<T>(
    limit: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", limit.as_secs_f64());
        Err(Error::backend("pool", doing, std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
    })
}
