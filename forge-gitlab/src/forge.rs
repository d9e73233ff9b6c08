//! GitLab as a forge: workers register here, and take the jobs that GitLab gives to the profile's runner.
//!
//! GitLab tells nobody which jobs wait for a runner: one has to ask for a job, and then has it. So for each
//! profile this asks for as many jobs as there are workers free for them, and a little
//! [ahead](crate::Limits::ahead), keeps GitLab informed that they live, and offers them to the pool as
//! waiting, for which it makes machines. A job that access rules refuse never gets that far.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::SignedDuration;
use runner_core::{
    Changes, Clock, Error, Forge, Guest, Hint, ProfileName, ReservationId, Result, RunnerId,
    error::chain,
    forge::{
        ForgeCapabilities, QueuedJob, Registration, Runner as Listed, RunnerSpec, RunnerStatus,
    },
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{
    client::Client,
    config::GitlabConfig,
    driver, files,
    job::{LiveJob, Progress, Wish},
    news::News,
    operate::Paused,
    poll,
    runners::{self, Tokens},
    state::{Row, Runner, State},
    terms::Terms,
    trace,
    update::{Reason, Verdict},
};

/// One GitLab. Clones share it.
///
/// It works in the background from [`GitlabForge::open`] until its last clone is dropped: what is in hand
/// then is on disk, and goes on with the next one that is opened on the same directory.
#[derive(Clone)]
pub struct GitlabForge {
    pub(crate) inner: Arc<Inner>,
    /// Ends the background with the last clone.
    pub(crate) background: Arc<Background>,
}

/// What works for a forge until its last clone is dropped.
pub(crate) struct Background {
    inner: Arc<Inner>,
    tasks: Mutex<JoinSet<()>>,
    /// The profiles for which somebody asks for jobs.
    asked: Mutex<BTreeSet<ProfileName>>,
}

impl Background {
    fn begin(inner: Arc<Inner>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(runners::administer(inner.clone()));
        let background = Self { inner, tasks: Mutex::new(tasks), asked: Mutex::default() };
        background.ask_for_all();
        background
    }

    /// Has jobs asked for of every profile that is new.
    pub(crate) fn ask_for_all(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for profile in &self.inner.terms().profiles {
            if asked.insert(profile.profile.clone()) {
                tasks.spawn(poll::poll(self.inner.clone(), profile.profile.clone()));
            }
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let mut attendants = self.inner.attendants.lock().unwrap_or_else(PoisonError::into_inner);
        attendants.abort_all();
    }
}

pub(crate) struct Inner {
    /// As it was opened. What of it may change since is in `terms`.
    pub config: GitlabConfig,
    pub terms: watch::Sender<Arc<Terms>>,
    pub client: Client,
    pub clock: Clock,
    pub system_id: String,
    pub hint: Hint,
    /// There may be room for a job that was none before.
    pub room: Notify,
    pub tokens: Tokens,
    pub paused: watch::Sender<Paused>,
    pub news: News,
    state: Mutex<State>,
    pub health: Mutex<BTreeMap<ProfileName, Health>>,
    /// Those who attend to jobs.
    attendants: Mutex<JoinSet<()>>,
    /// Nobody else works in the directory. Let go with the last task that does.
    _lock: std::fs::File,
}

/// How it is going with a profile's runner at GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It has no token yet.
    Unregistered,
    /// GitLab answers.
    Well,
    /// GitLab does not answer, or not as it should: in words, why. Jobs in hand go on.
    Troubled(String),
}

impl GitlabForge {
    /// Opens it as its directory has it and begins to ask for jobs. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Invalid` for a configuration that cannot work or is not safe, `Busy` while another forge has the
    /// directory, `Backend` when that cannot be used. GitLab itself need not be there.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(config: GitlabConfig, clock: Clock) -> Result<Self> {
        config.check()?;
        for dir in ["", "tokens", "runners", "jobs", "cache"] {
            files::make_dir(&config.state_dir.join(dir))?;
        }
        let lock = files::hold(&config.state_dir).await?;
        let state = State::load(&config.state_dir, config.limits.trace_bytes)?;
        let inner = Arc::new(Inner {
            terms: watch::channel(Arc::new(Terms::new(&config)?)).0,
            client: Client::new(&config)?,
            clock,
            system_id: files::system_id(&config.state_dir)?,
            hint: Hint::default(),
            room: Notify::new(),
            tokens: Tokens::load(&config)?,
            paused: watch::channel(Paused::default()).0,
            news: News::default(),
            state: Mutex::new(state),
            health: Mutex::default(),
            attendants: Mutex::default(),
            config,
            _lock: lock,
        });
        let jobs: Vec<Arc<LiveJob>> = inner.state().jobs.values().cloned().collect();
        for job in jobs {
            inner.take_up(&job)?;
            inner.attend(job);
        }
        let background = Arc::new(Background::begin(inner.clone()));
        Ok(Self { inner, background })
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock leaves the state half-changed when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn terms(&self) -> Arc<Terms> {
        self.terms.borrow().clone()
    }

    pub(crate) fn set_health(&self, profile: &ProfileName, health: Health) {
        let mut all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.insert(profile.clone(), health.clone());
        if before.as_ref() == Some(&health) {
            return;
        }
        let was_troubled = matches!(before, Some(Health::Troubled(_)));
        match health {
            Health::Troubled(why) => {
                // Other words for the same trouble are no news.
                if !was_troubled {
                    self.news.tell(format!("it gives no jobs to profile {profile}: {why}"));
                }
                tracing::warn!(%profile, why, "GitLab gives no jobs.");
            }
            Health::Well => {
                if was_troubled {
                    self.news.tell(format!("it is asked for jobs of profile {profile} again"));
                }
                tracing::info!(%profile, "GitLab is asked for jobs.");
            }
            Health::Unregistered => (),
        }
    }

    /// A job of a predecessor whose worker is not there any more.
    fn take_up(&self, job: &LiveJob) -> Result<()> {
        let progress = job.progress();
        let lost =
            progress.worker.is_some_and(|worker| !self.state().runners.contains_key(&worker));
        if lost && progress.verdict.is_none() {
            self.give_back(
                job,
                "the service was restarted, and its machine is not there any more",
            )?;
        }
        Ok(())
    }

    /// Lets a job wait again whose worker is gone, or ends it if it had begun.
    pub(crate) fn give_back(&self, job: &LiveJob, why: &str) -> Result<()> {
        job.change(|progress, text| {
            if progress.verdict.is_some() {
                return;
            }
            if progress.started_at.is_none() {
                if progress.at.take().is_some() {
                    text.line("The machine did not get ready: waiting for another");
                }
                progress.worker = None;
                return;
            }
            // What a successor finds broken was broken off with its predecessor.
            let reason =
                if job.inherited { Reason::RunnerInterrupted } else { Reason::RunnerSystemFailure };
            end(progress, text, Verdict::Failed { reason, exit_code: None }, Some(why));
        })
    }

    /// Takes charge of a job: tells GitLab of it until its end is known there.
    pub(crate) fn attend(self: &Arc<Self>, job: Arc<LiveJob>) {
        let inner = self.clone();
        let mut attendants = self.attendants.lock().unwrap_or_else(PoisonError::into_inner);
        while attendants.try_join_next().is_some() {}
        attendants.spawn(async move {
            let keep_alive = inner.config.limits.keep_alive;
            let tell = trace::attend(&inner.client, &job, keep_alive);
            tokio::join!(tell, inner.end_what_waits_in_vain(&job));
            if let Err(error) = job.forget() {
                tracing::error!(
                    job = job.id(),
                    error = chain(&error),
                    "A job could not be removed."
                );
            }
            inner.state().jobs.remove(&job.id());
            inner.room.notify_waiters();
            inner.hint.hint();
        });
    }

    /// Ends a job that no worker has, when GitLab wants it ended or it has waited for too long.
    async fn end_what_waits_in_vain(&self, job: &LiveJob) {
        let (mut wishes, mut news) = (job.wishes(), job.news());
        let limit = self.config.limits.wait;
        loop {
            let progress = job.progress();
            if progress.verdict.is_some() {
                return;
            }
            let waited = self.clock.now().duration_since(progress.received_at);
            let left = SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX) - waited;
            let why = match job.wish() {
                _ if progress.worker.is_some() => None,
                Wish::Cancel | Wish::Abort(_) => Some((Reason::UnknownFailure, "canceled")),
                Wish::Run if left <= SignedDuration::ZERO => {
                    Some((Reason::RunnerSystemFailure, "no machine was free for it in time"))
                }
                Wish::Run => None,
            };
            if let Some((reason, why)) = why {
                let ended = job.change(|progress, text| {
                    // It may have been given to a worker in this moment.
                    if progress.worker.is_none() {
                        end(progress, text, Verdict::Failed { reason, exit_code: None }, Some(why));
                    }
                });
                if let Err(error) = ended {
                    tracing::error!(
                        job = job.id(),
                        error = chain(&error),
                        "A job could not be ended."
                    );
                }
                self.hint.hint();
            }
            let left = Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1));
            tokio::select! {
                _ = wishes.changed() => (),
                _ = news.changed() => (),
                () = tokio::time::sleep(left) => (),
            }
        }
    }

    /// Lets only the jobs of a reservation have a worker, or all again; on disk first.
    fn mark(&self, id: &RunnerId, reservation: Option<&ReservationId>) -> Result<()> {
        let mut state = self.state();
        let Some(runner) = state.runner_mut(id) else {
            return Err(Error::not_found(format!("runner {id}")));
        };
        let held = runner.row.reserved_for.as_ref();
        if held == reservation {
            return Ok(());
        }
        if reservation.is_some() && (held.is_some() || runner.job.is_some()) {
            return Err(Error::busy(format!("runner {id}")));
        }
        let row = Row { reserved_for: reservation.cloned(), ..runner.row.clone() };
        files::write_json(&Row::path(&self.config.state_dir, &row.name), &row)?;
        runner.row = row;
        let handed = state.hand_out();
        drop(state);
        self.hint.hint();
        handed
    }

    /// The job of a worker is over: the worker is, too.
    pub(crate) fn end_runner(&self, runner: &Row) -> Result<()> {
        files::remove(&Row::path(&self.config.state_dir, &runner.name))?;
        if let Some(runner) = self.state().runners.remove(&runner.name) {
            runner.wake.notify_one();
        }
        self.room.notify_waiters();
        self.hint.hint();
        Ok(())
    }
}

/// Writes the end of a job.
pub(crate) fn end(
    progress: &mut Progress,
    text: &mut crate::job::Text,
    verdict: Verdict,
    why: Option<&str>,
) {
    let line = match (&verdict, why) {
        (Verdict::Success, _) => "\x1b[32;1mJob succeeded\x1b[0;m".to_owned(),
        (_, Some(why)) => format!("\x1b[31;1mERROR: Job failed: {why}\x1b[0;m"),
        (Verdict::Failed { exit_code: Some(code), .. }, None) => {
            format!("\x1b[31;1mERROR: Job failed: exit code {code}\x1b[0;m")
        }
        (Verdict::Failed { .. }, None) => "\x1b[31;1mERROR: Job failed\x1b[0;m".to_owned(),
    };
    text.line(line);
    progress.verdict = Some(verdict);
}

#[async_trait]
impl Forge for GitlabForge {
    fn capabilities(&self) -> ForgeCapabilities {
        ForgeCapabilities { changes: true, reserves: true, ..ForgeCapabilities::default() }
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        let inner = &self.inner;
        let row =
            Row { name: spec.name.clone(), profile: spec.profile.clone(), reserved_for: None };
        let mut state = inner.state();
        if state.runners.get(&spec.name).is_some_and(|runner| runner.job.is_some()) {
            return Err(Error::busy(format!("runner {}", spec.name)));
        }
        files::write_json(&Row::path(&inner.config.state_dir, &spec.name), &row)?;
        let runner =
            state.runners.entry(spec.name.clone()).or_insert_with(|| Runner::new(row.clone()));
        runner.row = row;
        runner.leaving = false;
        let id = runner.id();
        drop(state);
        inner.room.notify_waiters();
        inner.hint.hint();
        Ok(Registration { id, secret: None })
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        let row = {
            let mut state = self.inner.state();
            let Some(runner) = state.runner_mut(id) else { return Ok(()) };
            if runner.job.is_some() {
                return Err(Error::busy(format!("runner {id}")));
            }
            runner.leaving = true;
            runner.row.clone()
        };
        self.inner.end_runner(&row)
    }

    async fn abandon(&self, id: &RunnerId) -> Result<()> {
        let (row, job) = {
            let mut state = self.inner.state();
            let Some(runner) = state.runner_mut(id) else { return Ok(()) };
            runner.leaving = true;
            let row = runner.row.clone();
            let job = state.job_of(&row.name);
            (row, job)
        };
        if let Some(job) = job {
            self.inner.give_back(&job, "its machine died")?;
        }
        self.inner.end_runner(&row)?;
        self.inner.state().hand_out()
    }

    async fn runners(&self) -> Result<Vec<Listed>> {
        let state = self.inner.state();
        let listed = |runner: &Runner| Listed {
            id: runner.id(),
            name: runner.row.name.clone(),
            status: match (runner.job.and_then(|job| state.jobs.get(&job)), runner.idle) {
                (Some(job), _) => RunnerStatus::Busy(Some(job.job_id())),
                (None, true) => RunnerStatus::Idle,
                (None, false) => RunnerStatus::Offline,
            },
            reserved_for: runner.row.reserved_for.clone(),
        };
        Ok(state.runners.values().map(listed).collect())
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        Ok(self.inner.state().waiting().into_iter().map(|job| job.as_queued()).collect())
    }

    fn changes(&self) -> Changes {
        self.inner.hint.changes()
    }

    async fn drive(&self, id: &RunnerId, guest: Arc<dyn Guest>) -> Result<()> {
        driver::drive(&self.inner, id, guest).await
    }

    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        self.inner.mark(id, Some(reservation))
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        match self.inner.mark(id, None) {
            Err(error) if error.is_not_found() => Ok(()),
            released => released,
        }
    }
}
