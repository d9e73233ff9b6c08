//! Keeps a message session open for as long as it runs, and knows what waits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use runner_core::{Changes, Hint, JobId, ProfileName, Result, error::chain};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    connection::ActionsService,
    error::ServiceError,
    outstanding::{self, AssignedJob, Outstanding},
    progress::{Progress, ProgressStore},
    service::ScaleSetSpec,
    session::Session,
    wire::{JobMessage, Message, Statistics},
};
use crate::demand::{DemandSource, Freshness, Health, Known, SourceKind, Waiting};

/// What can be chosen.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// The scale set. It is made if there is none.
    pub scale_set: ScaleSetSpec,
    /// The profile that it serves.
    pub profile: ProfileName,
    /// Who listens, for people: the host's name, say.
    pub owner: String,
    /// How long one call for messages may take. GitHub keeps it for about 50 s, so this must be longer.
    pub poll_timeout: Duration,
    /// How long a job that a message assigned counts when the statistics do not count it.
    pub assigned_timeout: Duration,
    /// The first wait after a failure. It doubles, up to [`longest_wait`](Self::longest_wait).
    pub first_wait: Duration,
    /// The longest wait after a failure.
    pub longest_wait: Duration,
    /// How long closing the session may take at the end.
    pub closing_timeout: Duration,
}

impl ListenerConfig {
    /// Usual times: a call of 90 s, ten minutes for a job, waits of 1 s to 60 s, 10 s to close.
    pub fn new(scale_set: ScaleSetSpec, profile: ProfileName, owner: impl Into<String>) -> Self {
        Self {
            scale_set,
            profile,
            owner: owner.into(),
            poll_timeout: Duration::from_secs(90),
            assigned_timeout: Duration::from_secs(600),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            closing_timeout: Duration::from_secs(10),
        }
    }
}

/// Knows what a scale set has waiting, while [`run`](Self::run) runs.
pub struct ScaleSetListener {
    pub(super) config: ListenerConfig,
    pub(super) service: ActionsService,
    store: Arc<dyn ProgressStore>,
    capacity: AtomicU32,
    state: Mutex<State>,
    hint: Hint,
}

struct State {
    health: Health,
    scale_set: Option<i64>,
    outstanding: Outstanding,
    /// The last session answered nothing after it was opened, so opening one proves nothing.
    in_doubt: bool,
    /// The message whose offer was refused last, and how often.
    refused: (i64, u32),
}

/// After how many refusals in a row an offer is given up.
const REFUSALS: u32 = 5;

/// Why a session ended.
enum End {
    /// We are told to stop.
    Cancelled,
    /// It is no more, or never was: the next one may be opened after a wait.
    Failed(ServiceError),
}

impl ScaleSetListener {
    /// Does nothing until it [runs](Self::run). Takes no job until it is told a
    /// [capacity](Self::set_capacity).
    pub fn new(
        config: ListenerConfig,
        service: ActionsService,
        store: Arc<dyn ProgressStore>,
    ) -> Self {
        let health = Health::Ill {
            since: service.clock().now(),
            reason: format!("scale set {} has no session yet", config.scale_set.name),
        };
        let outstanding = Outstanding::new(Vec::new(), config.assigned_timeout);
        Self {
            config,
            service,
            store,
            capacity: AtomicU32::new(0),
            state: Mutex::new(State {
                health,
                scale_set: None,
                outstanding,
                in_doubt: false,
                refused: (0, 0),
            }),
            hint: Hint::default(),
        }
    }

    /// How many runners the scale set may have in all. GitHub assigns no more jobs than this. Heard by the
    /// next call for messages, at most a minute from now.
    pub fn set_capacity(&self, runners: u32) {
        self.capacity.store(runners, Ordering::Relaxed);
    }

    /// The scale set's number, once it is known.
    pub fn scale_set(&self) -> Option<i64> {
        self.lock().scale_set
    }

    /// What the service counted last.
    pub fn statistics(&self) -> Statistics {
        self.lock().outstanding.statistics()
    }

    /// Listens until `cancel`, whatever fails meanwhile; then closes the session, so that the next listener
    /// need not wait for its end.
    ///
    /// Exactly one call may run at a time for one scale set, of all processes: the service refuses a second
    /// session, for which this says so and keeps trying.
    ///
    /// # Cancel safety
    /// May be dropped or killed at any moment: the next call closes the session that is left, and goes on
    /// with what was written down. `cancel` is quicker for whoever comes next.
    pub async fn run(&self, cancel: &CancellationToken) {
        let mut wait = self.config.first_wait;
        while !cancel.is_cancelled() {
            let began_well = match self.listen(cancel).await {
                (_, End::Cancelled) => return,
                (opened, End::Failed(error)) => {
                    self.fell_ill(&error);
                    wait = error.wait().unwrap_or(wait);
                    opened
                }
            };
            if began_well {
                wait = self.config.first_wait;
            }
            pause(wait, cancel).await;
            wait = (wait * 2).min(self.config.longest_wait);
        }
    }

    /// One session, from before its opening to its end, and whether it got as far as a first answer.
    async fn listen(&self, cancel: &CancellationToken) -> (bool, End) {
        // Not dropped at once, as a session that nobody has written down stays open.
        let too_late = async {
            cancel.cancelled().await;
            tokio::time::sleep(self.config.closing_timeout).await;
        };
        let (mut session, mut progress) = tokio::select! {
            opened = self.open() => match opened {
                Err(error) => return (false, End::Failed(error)),
                Ok(opened) => opened,
            },
            () = too_late => return (false, End::Cancelled),
        };
        let (heard, end) = self.follow(&mut session, &mut progress, cancel).await;
        match end {
            End::Cancelled => self.close(&session, &mut progress).await,
            End::Failed(_) => self.lock().in_doubt = !heard,
        }
        (heard, end)
    }

    async fn open(&self) -> Result<(Session, Progress), ServiceError> {
        let scale_set = self.service.ensure(&self.config.scale_set).await?.id;
        let mut progress = match self.store.load().await? {
            Some(progress) if progress.scale_set == scale_set => progress,
            _ => Progress { scale_set, ..Progress::default() },
        };
        if let Some(left) = progress.session.take() {
            Session::close(&self.service, scale_set, &left).await?;
        }
        let (session, statistics) =
            Session::open(&self.service, scale_set, &self.config.owner).await?;
        progress.session = Some(session.id().to_owned());
        if let Err(error) = self.store.save(&progress).await {
            // Nobody would find it again.
            let _ = Session::close(&self.service, scale_set, session.id()).await;
            return Err(error.into());
        }
        info!(scale_set, name = self.config.scale_set.name, ?statistics, "Listening for jobs.");
        let mut state = self.lock();
        state.scale_set = Some(scale_set);
        let jobs = progress.assigned.clone();
        state.outstanding.resume(jobs);
        state.outstanding.count(statistics, self.service.clock().now());
        let in_doubt = state.in_doubt;
        drop(state);
        if !in_doubt {
            self.is_well();
        }
        Ok((session, progress))
    }

    /// Takes message after message. A failure that leaves the session alive is waited out here.
    async fn follow(
        &self,
        session: &mut Session,
        progress: &mut Progress,
        cancel: &CancellationToken,
    ) -> (bool, End) {
        let (mut heard, mut refreshed) = (false, false);
        let mut wait = self.config.first_wait;
        let mut owed = None;
        loop {
            let result = match owed {
                Some(message) => self.acknowledge(session, message, &mut owed).await,
                None => {
                    let capacity = self.capacity.load(Ordering::Relaxed);
                    let patience = self.config.poll_timeout;
                    let poll = session.poll(progress.last_message, capacity, patience);
                    match until(cancel, poll).await {
                        None => return (heard, End::Cancelled),
                        // From here on nothing is dropped half done.
                        Some(Ok(Some(message))) => {
                            let taken = self.take(session, progress, &message).await;
                            taken.map(|()| owed = Some(message.id))
                        }
                        Some(Ok(None)) => Ok(()),
                        Some(Err(error)) => Err(error),
                    }
                }
            };
            match result {
                Ok(()) => {
                    (heard, refreshed) = (true, false);
                    wait = self.config.first_wait;
                    self.is_well();
                }
                // Once: a token that is refused right after it was made is no matter of age.
                Err(error) if error.is_expired_token() && !refreshed => {
                    refreshed = true;
                    match session.refresh().await {
                        Ok(Some(statistics)) => self.count(statistics),
                        Ok(None) => {}
                        Err(error) => return (heard, End::Failed(error)),
                    }
                }
                Err(error) if error.is_expired_token() || error.is_session_gone() => {
                    return (heard, End::Failed(error));
                }
                Err(error) => {
                    self.fell_ill(&error);
                    let asked = error.wait();
                    pause(asked.unwrap_or(wait), cancel).await;
                    wait = (wait * 2).min(self.config.longest_wait);
                }
            }
        }
    }

    /// Processes a message and writes down that it is. Only then may it be acknowledged.
    async fn take(
        &self,
        session: &Session,
        progress: &mut Progress,
        message: &Message,
    ) -> Result<(), ServiceError> {
        if message.id <= progress.last_message {
            return Ok(());
        }
        self.acquire(session, message).await?;
        let assigned = self.hear(message);
        let next = Progress { last_message: message.id, assigned, ..progress.clone() };
        self.store.save(&next).await?;
        *progress = next;
        Ok(())
    }

    /// Gives what is outstanding then.
    fn hear(&self, message: &Message) -> Vec<AssignedJob> {
        let mut state = self.lock();
        state.outstanding.apply(message, self.service.clock().now());
        let assigned = state.outstanding.jobs();
        drop(state);
        self.hint.hint();
        assigned
    }

    /// Takes what a message offers. GitHub Enterprise Server offers jobs; github.com assigns them at once.
    async fn acquire(&self, session: &Session, message: &Message) -> Result<(), ServiceError> {
        let request = |job: &JobMessage| match job {
            JobMessage::Available(job) => Some(job.runner_request_id),
            _ => None,
        };
        let offered: Vec<i64> = message.jobs.iter().filter_map(request).collect();
        if offered.is_empty() {
            return Ok(());
        }
        match session.acquire(&offered).await {
            Ok(acquired) => debug!(?offered, ?acquired, "Acquired jobs."),
            // What comes behind must not wait for it for ever.
            Err(error) if error.is_final() && self.is_refused_again(message.id) => {
                warn!(
                    ?offered,
                    error = chain(&error),
                    "Jobs that were on offer are not to be had."
                );
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether what a message offers was refused so often that it is not to be had. Once proves nothing: what is not
    /// taken is never offered again.
    fn is_refused_again(&self, message: i64) -> bool {
        let mut state = self.lock();
        let times = if state.refused.0 == message { state.refused.1 + 1 } else { 1 };
        state.refused = (message, times);
        times >= REFUSALS
    }

    /// Pays what is `owed`, or finds that it cannot be paid.
    async fn acknowledge(
        &self,
        session: &Session,
        message: i64,
        owed: &mut Option<i64>,
    ) -> Result<(), ServiceError> {
        match session.acknowledge(message).await {
            Ok(()) => {}
            // It comes again, and is known then.
            Err(error) if error.is_final() => {
                warn!(message, error = chain(&error), "A message cannot be acknowledged.");
            }
            Err(error) => return Err(error),
        }
        *owed = None;
        Ok(())
    }

    async fn close(&self, session: &Session, progress: &mut Progress) {
        let closing = async {
            Session::close(&self.service, progress.scale_set, session.id()).await?;
            progress.session = None;
            self.store.save(progress).await?;
            Ok::<_, ServiceError>(())
        };
        let name = &self.config.scale_set.name;
        let reason = format!("the listener of scale set {name} was stopped");
        match tokio::time::timeout(self.config.closing_timeout, closing).await {
            Ok(Ok(())) => info!(scale_set = name, "Closed the session."),
            Ok(Err(error)) => {
                warn!(scale_set = name, error = chain(&error), "The session is left open.");
            }
            Err(_) => warn!(scale_set = name, "The session is left open: no answer in time."),
        }
        self.set_ill(reason);
    }

    fn count(&self, statistics: Statistics) {
        self.lock().outstanding.count(statistics, self.service.clock().now());
        self.hint.hint();
    }

    fn is_well(&self) {
        let was = std::mem::replace(&mut self.lock().health, Health::Well);
        if let Health::Ill { since, .. } = was {
            info!(scale_set = self.config.scale_set.name, %since, "The scale set can be heard.");
            self.hint.hint();
        }
    }

    fn fell_ill(&self, error: &ServiceError) {
        let name = &self.config.scale_set.name;
        let reason = if error.is_session_conflict() {
            format!(
                "another session of scale set {name} is open: another listener runs, or one was killed and \
                 GitHub will take it for dead within minutes ({})",
                chain(error)
            )
        } else {
            format!("scale set {name} cannot be heard: {}", chain(error))
        };
        self.set_ill(reason);
    }

    /// `since` is when it fell ill, whatever its illness is now.
    fn set_ill(&self, reason: String) {
        let mut state = self.lock();
        let since = match &state.health {
            Health::Ill { since, reason: known } if *known == reason => {
                debug!(%since, reason, "Still.");
                return;
            }
            Health::Ill { since, .. } => *since,
            Health::Well => self.service.clock().now(),
        };
        warn!(scale_set = self.config.scale_set.name, reason, "The scale set is silent.");
        state.health = Health::Ill { since, reason };
        drop(state);
        self.hint.hint();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl DemandSource for ScaleSetListener {
    fn kind(&self) -> SourceKind {
        SourceKind::ScaleSet
    }

    fn profile(&self) -> Option<&ProfileName> {
        Some(&self.config.profile)
    }

    fn health(&self) -> Health {
        self.lock().health.clone()
    }

    /// Fails for [`Freshness::Now`] when the service does not say its statistics.
    async fn queued(&self, freshness: Freshness) -> Result<Vec<Waiting>> {
        let scale_set = self.scale_set();
        if let (Freshness::Now, Some(scale_set)) = (freshness, scale_set)
            && let Some(statistics) = self.service.statistics(scale_set).await?
        {
            self.count(statistics);
        }
        let now: Timestamp = self.service.clock().now();
        Ok(self.lock().outstanding.waiting(&self.config.profile, now))
    }

    fn job_of(&self, runner: &str) -> Option<JobId> {
        let request = self.lock().outstanding.job_of(runner)?;
        Some(outstanding::id(&self.config.profile, &request.to_string()))
    }

    fn is_over(&self, runner: &str) -> bool {
        self.lock().outstanding.is_over(runner)
    }

    fn job(&self, id: &JobId) -> Option<Known> {
        self.lock().outstanding.job(&self.config.profile, id)
    }

    fn changes(&self) -> Changes {
        self.hint.changes()
    }
}

/// What `work` gives, or nothing if `cancel` comes first.
async fn until<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    cancel.run_until_cancelled(work).await
}

/// Up to half as much again, so that those who fell together do not rise together.
async fn pause(wait: Duration, cancel: &CancellationToken) {
    let wait = wait.mul_f64(rand::random_range(1.0..1.5));
    let _ = until(cancel, tokio::time::sleep(wait)).await;
}
