//! The pool: give it a hypervisor, forges, an image builder, a store and profiles, and it keeps workers ready.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    engine::{Command, Engine, Ledger, Past},
    error::{Error, Result},
    event::EventLog,
    execute::Hands,
    forge::Forge,
    history::History,
    hypervisor::Hypervisor,
    image::ImageBuilder,
    name::{ForgeName, OwnerId, ProfileName, ReservationId, WorkerName},
    plan::Desired,
    policy::{Override, OverridePreview, OverrideRequest, OverrideStatus},
    profile::Profile,
    queue::{EnqueueRequest, Place, Take},
    recorder::Samples,
    reservation::{Reservation, ReserveRequest},
    status::{ProfileStatus, Status},
    store::Store,
    wish::{Adjust, Hold},
};

/// What a pool is made of.
pub struct PoolParts {
    /// Makes the machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Hand out the jobs.
    pub forges: BTreeMap<ForgeName, Arc<dyn Forge>>,
    /// Makes the images.
    pub builder: Arc<dyn ImageBuilder>,
    /// Keeps what must outlive the process.
    pub store: Store,
    /// Takes what happens.
    pub events: EventLog,
    /// Whose everything is. See [`Store::owner`].
    pub owner: OwnerId,
    /// The kinds of runner on offer, in the order they are served.
    pub profiles: Vec<Profile>,
    /// How the pool goes about it.
    pub pace: Pace,
    /// Tells the time.
    pub clock: Clock,
}

/// How a pool goes about its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How often every list is asked, hints or not.
    pub look_every: Duration,
    /// How long a list may take before it counts as failed.
    pub look_limit: Duration,
    /// How many machines and images may be made and unmade at once; as many runners may be marked beside that.
    pub max_actions: usize,
    /// How long retiring or marking a worker may take. Provisioning has the profile's start timeout.
    pub action_limit: Duration,
    /// How long building an image may take.
    pub build_limit: Duration,
    /// How long to wait after a first failure; doubled after each further one.
    pub retry_first: Duration,
    /// How long to wait at most after a failure.
    pub retry_most: Duration,
    /// After how long a machine without record and with a silent guest is retired.
    pub orphan_limit: Duration,
    /// How often a picture of each busy machine is taken, for the flight recorder. Never, if zero.
    pub sample_every: Duration,
}

/// How many earlier events tell a new pool how long things take.
const LEARNT_FROM: u32 = 4_000;

impl Default for Pace {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(5),
            look_limit: Duration::from_secs(20),
            max_actions: 16,
            action_limit: Duration::from_secs(120),
            build_limit: Duration::from_secs(3600),
            retry_first: Duration::from_secs(1),
            retry_most: Duration::from_secs(120),
            orphan_limit: Duration::from_secs(24 * 3600),
            sample_every: Duration::from_secs(60),
        }
    }
}

/// How many commands may wait for the pool's task.
const COMMANDS: usize = 256;

/// A running pool. Dropping it ends the task at once, as a crash would: the machines go on, and the next
/// pool on the same store adopts them.
pub struct Pool {
    status: watch::Receiver<Arc<Status>>,
    commands: mpsc::Sender<Command>,
    events: EventLog,
    store: Store,
    stop: CancellationToken,
    /// Taken by whoever waits for its end first.
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    abort: AbortHandle,
}

/// A machine to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRequest {
    /// The worker it belongs to. It may have a job: its machine is then kept when that is over.
    pub worker: WorkerName,
    /// Until when.
    pub until: Timestamp,
    /// Who asks.
    pub by: String,
    /// What for.
    pub purpose: String,
}

impl Pool {
    /// Starts a pool in a task of its own.
    ///
    /// # Errors
    /// `Invalid` for profiles that break a rule, name a forge that is not there or share a name;
    /// `Unsupported` for a forge that needs guests on a hypervisor that has none; `Backend` when the store
    /// cannot be read.
    pub async fn start(parts: PoolParts) -> Result<Self> {
        check_profiles(&parts.profiles, &parts.forges, &*parts.hypervisor)?;
        let store = parts.store.clone();
        let (records, serial) = store.records().await?;
        let promises = parts.store.promises().await?;
        let desired = Desired {
            profiles: parts.profiles,
            orphan_limit: parts.pace.orphan_limit,
            ..Desired::default()
        };
        let wishes = parts.store.wishes().await?;
        let mut history = History::default();
        history.take_all(&parts.events.latest(LEARNT_FROM).await?);
        let samples = Samples::default();
        let hands = Hands {
            hypervisor: parts.hypervisor,
            forges: Arc::new(parts.forges),
            builder: parts.builder,
            store: parts.store,
            ledger: Ledger::default(),
            events: parts.events.clone(),
            owner: parts.owner,
            clock: parts.clock,
            samples: samples.clone(),
        };
        let (hypervisor, pace) = (hands.hypervisor.clone(), parts.pace);
        let (publish, status) = watch::channel(Arc::new(Status::default()));
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let stop = CancellationToken::new();
        let past = Past { records, serial, promises, wishes, history };
        let engine = Engine::new(hands, pace, desired, past, publish);
        let task = tokio::spawn(engine.run(inbox, stop.clone()));
        if hypervisor.capabilities().screenshot && !pace.sample_every.is_zero() {
            let (status, clock) = (status.clone(), parts.clock);
            tokio::spawn(samples.keep(hypervisor, status, pace.sample_every, clock));
        }
        let abort = task.abort_handle();
        let task = tokio::sync::Mutex::new(Some(task));
        Ok(Self { status, commands, events: parts.events, store, stop, task, abort })
    }

    /// The pool as it was last seen. Never waits.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Tells of every new status.
    pub fn statuses(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// What happened.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Promises idle workers to someone: all that were asked for, or as few as will do, or none. Decided from
    /// memory, durable before it is answered, marked at the forge soon after: [`marked`](Self::marked) waits
    /// for that. Those who wait in the [queue](crate::queue) go first. Asking again for an id that holds
    /// returns it.
    ///
    /// # Errors
    /// `NotFound` for a profile that is not offered, `Exhausted` when too few are idle now, `Invalid` with the
    /// arithmetic for what can never be, `Busy` for an id that waits in the queue, `Backend` when it could not
    /// be made durable at once: ask again with the same id, or release it.
    ///
    /// # Cancel safety
    /// A dropped call may have promised: ask again with the same id, or release it.
    pub async fn reserve(&self, request: ReserveRequest) -> Result<Reservation> {
        self.ask(|answer| Command::Reserve(request, answer)).await?
    }

    /// Waits until the forge keeps a reservation's workers for it, so that a job may ask for it.
    ///
    /// # Errors
    /// `NotFound` for one that does not hold, or ends before that, with the reason: such as a forge that
    /// refused to mark a worker again and again.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn marked(&self, id: &ReservationId) -> Result<Reservation> {
        self.ask(|answer| Command::AwaitMark(id.clone(), answer)).await?
    }

    /// Puts a request into the [queue](crate::queue): it is served as soon as its workers are there and its
    /// turn has come, and workers are made for it. Durable before it is answered. Asking again for an id that
    /// waits returns it as it stands.
    ///
    /// # Errors
    /// `NotFound` for a profile that is not offered, `Invalid` with the arithmetic for what can never be,
    /// `Busy` for an id that was taken already and for a pool that is being emptied, `Exhausted` when
    /// [`ENTRIES`](crate::queue::ENTRIES) wait, `Backend` when it could not be made durable at once.
    ///
    /// # Cancel safety
    /// A dropped call may have enqueued: ask again with the same id, or release it.
    pub async fn enqueue(&self, request: EnqueueRequest) -> Result<Place> {
        self.ask(|answer| Command::Enqueue(request, answer)).await?
    }

    /// How an entry of the queue stands. Asking keeps it from being given up.
    ///
    /// # Errors
    /// `NotFound` for one that does not wait: it was taken, released, or given up.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ask_after(&self, id: &ReservationId) -> Result<Place> {
        self.ask(|answer| Command::AskAfter(id.clone(), answer)).await?
    }

    /// Takes what an entry of the queue waited for, if it is ready: its workers are promised and marked, and
    /// its time begins now. Otherwise says how it stands, and keeps it from being given up. What was taken
    /// may be taken again, in case the answer was lost.
    ///
    /// # Errors
    /// `NotFound` for one that neither waits nor holds, `Backend` when it could not be made durable at once:
    /// take it again.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn take(&self, id: &ReservationId) -> Result<Take> {
        self.ask(|answer| Command::Take(id.clone(), answer)).await?
    }

    /// Ends a promise, or the wait for one; its workers are free again. Fine when there is none.
    ///
    /// # Errors
    /// `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn release(&self, id: &ReservationId) -> Result<()> {
        self.release_because(id, "it was released").await
    }

    /// As [`release`](Self::release), for a reason that whoever asks after it later is told.
    ///
    /// # Errors
    /// `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn release_because(&self, id: &ReservationId, why: &str) -> Result<()> {
        self.ask(|answer| Command::Release(id.clone(), why.to_owned(), answer)).await?
    }

    /// Has a reservation hold until a time, unless it holds for longer anyway.
    ///
    /// # Errors
    /// `NotFound` for one that does not hold, `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn prolong(&self, id: &ReservationId, until: Timestamp) -> Result<Reservation> {
        self.ask(|answer| Command::Prolong(id.clone(), until, answer)).await?
    }

    /// Says how many of an entry's workers others have promised, such as another pool: it needs so many fewer
    /// here, and can be taken as soon as it needs none that it does not have. Saying less than before gives it
    /// its place in the line back.
    ///
    /// # Errors
    /// `NotFound` for one that does not wait, `Busy` for one whose workers are promised here, `Invalid` for more
    /// than it asked for, `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn count_elsewhere(&self, id: &ReservationId, workers: u32) -> Result<Place> {
        self.ask(|answer| Command::CountElsewhere(id.clone(), workers, answer)).await?
    }

    /// Offers these profiles from now on. Workers of a profile that is not offered any more are retired
    /// when they are idle.
    ///
    /// # Errors
    /// As [`start`](Self::start); the old profiles then stay.
    pub async fn offer(&self, profiles: Vec<Profile>) -> Result<()> {
        self.ask(|answer| Command::Offer(profiles, answer)).await?
    }

    /// Changes how many workers of a profile there are, or pauses it, until it is changed again: also over a
    /// restart and over [`offer`](Self::offer). Returns the profile as it will be.
    ///
    /// # Errors
    /// `NotFound` for a profile that is not offered, `Invalid` for numbers that cannot be, `Backend` when it
    /// could not be made durable (it then holds until the process ends).
    ///
    /// # Cancel safety
    /// A dropped call may have changed it: repeat it to be sure.
    pub async fn adjust(
        &self,
        profile: &ProfileName,
        adjust: Adjust,
        by: &str,
    ) -> Result<ProfileStatus> {
        let (profile, by) = (profile.clone(), by.to_owned());
        self.ask(|answer| Command::Adjust(profile, adjust, by, answer)).await?
    }

    /// Gives some profiles other numbers for a while, all of them at once; the other profiles give way, but
    /// no worker that is busy or reserved does. Holds over a restart, until it ends by itself: at its time,
    /// or when all its workers were there and are gone. Returns what each profile gets.
    ///
    /// # Errors
    /// `Busy` while there is one already, or the pool is being emptied; `NotFound` for a profile that is not
    /// offered; `Invalid` for one that names no profile, asks for no worker, is over or asks for a paused
    /// profile; `Backend` when it could not be made durable (it then holds until the process ends).
    ///
    /// # Cancel safety
    /// A dropped call may have begun it: [`status`](Self::status) tells.
    pub async fn override_policy(&self, request: OverrideRequest) -> Result<OverrideStatus> {
        self.ask(|answer| Command::Override(request, answer)).await?
    }

    /// What would come of an override. Nothing of it is done.
    ///
    /// # Errors
    /// As [`override_policy`](Self::override_policy).
    pub async fn preview_override(&self, request: OverrideRequest) -> Result<OverridePreview> {
        self.ask(|answer| Command::PreviewOverride(request, answer)).await?
    }

    /// Ends the override, and returns it. Fine when there is none.
    ///
    /// # Errors
    /// `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn end_override(&self, by: &str) -> Result<Option<Override>> {
        let by = by.to_owned();
        self.ask(|answer| Command::EndOverride(by, answer)).await?
    }

    /// Keeps a machine, whatever becomes of its job, until a time. Asking again replaces the earlier hold.
    ///
    /// # Errors
    /// `NotFound` for a worker without a machine, `Busy` for one that is being retired already, `Invalid`
    /// for a time that is over, `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// A dropped call may hold: repeat it, or [`unhold`](Self::unhold).
    pub async fn hold(&self, request: HoldRequest) -> Result<Hold> {
        self.ask(|answer| Command::Hold(request, answer)).await?
    }

    /// Ends a hold; the machine goes when its life is over. Fine when there is none.
    ///
    /// # Errors
    /// `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn unhold(&self, worker: &WorkerName, by: &str) -> Result<()> {
        let (worker, by) = (worker.clone(), by.to_owned());
        self.ask(|answer| Command::Unhold(worker, by, answer)).await?
    }

    /// Retires a worker that has no job, held or reserved as it may be. One that gets a job meanwhile keeps
    /// it and goes afterwards.
    ///
    /// # Errors
    /// `NotFound`, `Busy` for one that runs a job, `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// A dropped call may have asked: repeat it to be sure.
    pub async fn retire(&self, worker: &WorkerName, by: &str) -> Result<()> {
        let (worker, by) = (worker.clone(), by.to_owned());
        self.ask(|answer| Command::Dismiss(worker, by, false, answer)).await?
    }

    /// Retires a reserved worker when its reservation ends, in which someone was: no job is to find what was
    /// done there. Whoever lets someone in asks this first, so that it holds whatever dies meanwhile. Does
    /// nothing for a worker that is not reserved.
    ///
    /// # Errors
    /// `NotFound`, `Backend` when it could not be made durable.
    ///
    /// # Cancel safety
    /// A dropped call may have asked: repeat it to be sure.
    pub async fn retire_afterwards(&self, worker: &WorkerName, by: &str) -> Result<()> {
        let (worker, by) = (worker.clone(), by.to_owned());
        self.ask(|answer| Command::Dismiss(worker, by, true, answer)).await?
    }

    /// What the flight recorder kept of ended workers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes nothing new, retires what is idle, lets jobs finish, and returns when no worker is left.
    ///
    /// # Errors
    /// `Backend` when the pool has ended.
    ///
    /// # Cancel safety
    /// Dropping it leaves the pool draining.
    pub async fn drain(&self) -> Result<()> {
        self.ask(Command::Drain).await
    }

    /// Stops planning, lets actions in flight finish and leaves the machines running, for the next pool on
    /// the same store to adopt. Whoever asks the pool for something afterwards gets an error.
    ///
    /// # Cancel safety
    /// Dropping it leaves the pool stopping; call it again to wait.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            let _ = running.await;
            *task = None;
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let gone = || Error::backend("pool", "answer", std::io::Error::other("it has ended"));
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// Checks profiles against each other, the forges and the hypervisor.
pub(crate) fn check_profiles(
    profiles: &[Profile],
    forges: &BTreeMap<ForgeName, Arc<dyn Forge>>,
    hypervisor: &dyn Hypervisor,
) -> Result<()> {
    for (index, profile) in profiles.iter().enumerate() {
        profile.check()?;
        if profiles[..index].iter().any(|other| other.name == profile.name) {
            let what = format!("profile {}", profile.name);
            return Err(Error::invalid(what, "there are two of that name"));
        }
        let Some(forge) = forges.get(&profile.forge) else {
            let names: Vec<&str> = forges.keys().map(ForgeName::as_str).collect();
            let what = format!("forge {} of profile {}", profile.forge, profile.name);
            return Err(Error::invalid(what, format!("use one of: {}", names.join(", "))));
        };
        if !forge.capabilities().guest_pulls && !hypervisor.capabilities().guest {
            let what = format!("forge {}, which needs guests, on this hypervisor", profile.forge);
            return Err(Error::unsupported(what));
        }
    }
    Ok(())
}
