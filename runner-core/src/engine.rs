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
    task::{JoinError, JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::JoinMap};

use crate::{
    changes::Changes,
    error::{Error, Result, Retry, chain},
    event::What,
    execute::Hands,
    history::History,
    name::{ForgeName, JobId, ProfileName, ReservationId, WorkerName},
    observe::{self, Action, Answer, Known, Source, Tick, View, Views},
    plan::{self, Allotment, Backoff, Desired, ForgeView, Held, Observed, Step, Subject, Why},
    policy::{Override, OverridePreview, OverrideRequest, OverrideStatus},
    pool::{HoldRequest, Pace, check_profiles},
    profile::Profile,
    queue::{EnqueueRequest, Place, Take},
    reservation::{Reservation, ReserveRequest},
    resources::Resources,
    status::{BuildState, ProfileStatus, Status, WorkerStatus},
    store::{Promises, Renewal, Wishes},
    wish::{Adjust, Adjustment, Dismissal, Hold},
    worker::{Flight, Phase, Record, Worker},
};

mod act;
mod grant;
mod ledger;
mod look;
mod obey;
mod overriding;
mod queue;
mod reserve;
mod say;
mod serve;

pub(crate) use ledger::Ledger;
use queue::Queue;

/// What the pool's task is asked to do.
pub(crate) enum Command {
    Reserve(ReserveRequest, oneshot::Sender<Result<Reservation>>),
    Release(ReservationId, String, oneshot::Sender<Result<()>>),
    Prolong(ReservationId, Timestamp, oneshot::Sender<Result<Reservation>>),
    Enqueue(EnqueueRequest, oneshot::Sender<Result<Place>>),
    CountElsewhere(ReservationId, u32, oneshot::Sender<Result<Place>>),
    AskAfter(ReservationId, oneshot::Sender<Result<Place>>),
    Take(ReservationId, oneshot::Sender<Result<Take>>),
    AwaitMark(ReservationId, oneshot::Sender<Result<Reservation>>),
    Offer(Vec<Profile>, oneshot::Sender<Result<()>>),
    Adjust(ProfileName, Adjust, String, oneshot::Sender<Result<ProfileStatus>>),
    Hold(HoldRequest, oneshot::Sender<Result<Hold>>),
    Unhold(WorkerName, String, oneshot::Sender<Result<()>>),
    Dismiss(WorkerName, String, bool, oneshot::Sender<Result<()>>),
    Override(OverrideRequest, oneshot::Sender<Result<OverrideStatus>>),
    PreviewOverride(OverrideRequest, oneshot::Sender<Result<OverridePreview>>),
    EndOverride(String, oneshot::Sender<Result<Option<Override>>>),
    Drain(oneshot::Sender<()>),
}

/// How many commands are done, and how many ends taken in, before the next plan.
const AT_ONCE: usize = 256;

/// What an earlier process left.
pub(crate) struct Past {
    pub records: Vec<Record>,
    /// The number of the next worker.
    pub serial: u64,
    pub promises: Promises,
    pub wishes: Wishes,
    pub history: History,
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
    /// The profiles as configured; `desired` has them as adjusted.
    configured: Vec<Profile>,
    adjustments: BTreeMap<ProfileName, Adjustment>,
    /// What `desired` has, for whoever reads the status.
    offered: Arc<[Profile]>,
    publish: watch::Sender<Arc<Status>>,
    /// Whether something was promised that is not shown yet, and how often such things were shown.
    promised: bool,
    shown: watch::Sender<u64>,
    tick: Tick,
    serial: u64,
    records: BTreeMap<WorkerName, Record>,
    queue: Queue,
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
    /// What each profile got in the last plan.
    allotted: BTreeMap<ProfileName, Allotment>,
    /// The last write of the policy override: the next one waits for it.
    override_write: Option<JoinHandle<()>>,
    /// The last job of each worker that had one.
    jobs: BTreeMap<WorkerName, JobId>,
    history: History,
    drained: Vec<oneshot::Sender<()>>,
    /// When the plan may change without anything happening, such as the end of a wait.
    wake: Option<Timestamp>,
}

impl Engine {
    pub fn new(
        hands: Hands,
        pace: Pace,
        desired: Desired,
        past: Past,
        publish: watch::Sender<Arc<Status>>,
    ) -> Self {
        let Past { records, serial, promises, wishes, history } = past;
        let mut desired = desired;
        let holds = wishes.holds.into_iter();
        desired.holds = holds.map(|hold| (hold.worker.clone(), hold)).collect();
        let dismissals = wishes.dismissals.into_iter();
        desired.dismissals = dismissals.map(|asked| (asked.worker.clone(), asked)).collect();
        desired.policy = wishes.policy;
        let adjustments = wishes.adjustments.into_iter();
        let adjustments = adjustments.map(|asked| (asked.profile.clone(), asked)).collect();
        let configured = std::mem::take(&mut desired.profiles);
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
        let mut engine = Self {
            hands,
            pace,
            desired,
            configured,
            adjustments,
            offered: Arc::default(),
            publish,
            promised: false,
            shown: watch::channel(0).0,
            tick: 1,
            serial,
            records: records.into_iter().map(|record| (record.name.clone(), record)).collect(),
            queue: Queue::new(promises, now),
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
            allotted: BTreeMap::new(),
            override_write: None,
            jobs: BTreeMap::new(),
            history,
            drained: Vec::new(),
            wake: None,
        };
        engine.apply_adjustments();
        engine
    }

    /// Runs until `stop`, then until the actions in flight have ended.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut hints = self.hints();
        // Ends with this task, as everything does that a killed process did.
        let mut writer = JoinSet::new();
        writer.spawn(self.hands.ledger.clone().keep(self.hands.store.clone()));
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
                    self.obey_the_rest(&mut inbox).await;
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
                self.take_what_is_ready();
                self.plan_and_act();
            }
        }
        self.drives.shutdown().await;
        while let Some((subject, ended)) = self.tasks.join_next().await {
            self.end_action(subject, ended);
        }
        // What could not be written is told by the next process, which misses it.
        let _ = self.hands.ledger.write([]).await;
    }

    /// Obeys those who asked meanwhile, and those who are about to: they share its plan and its flush of the disk.
    async fn obey_the_rest(&mut self, inbox: &mut mpsc::Receiver<Command>) {
        for _ in 1..AT_ONCE {
            let mut command = inbox.try_recv();
            if command.is_err() {
                tokio::task::yield_now().await;
                command = inbox.try_recv();
            }
            let Ok(command) = command else { break };
            self.obey(command);
        }
        self.show_promises();
    }

    /// Takes in what ended together with what the loop woke for: one plan does for all.
    fn take_what_is_ready(&mut self) {
        for _ in 0..AT_ONCE {
            if let Some((subject, ended)) = self.tasks.try_join_next() {
                self.end_action(subject, ended);
            } else if let Some((source, answer)) = self.looks.try_join_next() {
                self.take_answer(source, answer);
            } else {
                break;
            }
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

    fn say(&mut self, subject: Subject, what: What) {
        let now = self.now();
        self.history.take(now, &subject, &what);
        self.hands.events.record(now, subject, what);
    }
}

/// The failure of a task that panicked.
fn crashed(doing: &'static str, panic: JoinError) -> Error {
    Error::backend("a task of the pool", doing, panic)
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
