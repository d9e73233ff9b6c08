//! GitHub as a forge.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use runner_core::{
    Changes, Error, Forge, JobId, ProfileName, ReservationId, Result, RunnerId,
    forge::{ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec, RunnerStatus},
};
use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};

use crate::{
    breaker::Breaker,
    budget::Priority,
    client::Client,
    config::{GithubConfig, GithubPace, GithubProfile},
    demand::{Known, Note, Waiting, merge::Demand},
    error::{Explain, backend, number},
    groups::Groups,
    jobs::PollSource,
    labels,
    runners::{self, GithubRunner, Removal},
    scope::Scope,
    view::View,
};

mod figures;
mod register;
mod reserve;
mod strays;

use strays::Strays;

pub use figures::{GithubFigures, SourceFigures};

/// How old a list may be to confirm that what GitHub does not know is gone.
const CONFIRMS: Duration = Duration::from_secs(60);

/// The runners of one owner, in one scope of one GitHub.
///
/// # Errors
/// Each call of [`Forge`] may fail with `Unauthorized`, which says what to grant where; `RateLimited`; and
/// `Backend`, when GitHub is down or what answers is not GitHub. It goes on by itself when that is over.
pub struct GithubForge {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

struct Inner {
    client: Client,
    config: GithubConfig,
    demand: Demand,
    groups: Groups,
    breaker: Breaker,
    view: Mutex<View>,
    strays: Strays,
    /// Held by whoever lists, so that the others wait for that instead of listing too.
    listing: Semaphore,
}

impl GithubForge {
    /// A forge. It sees to what is due from time to time in tasks that end with it.
    ///
    /// # Errors
    /// `Invalid` for names that a runner's name at GitHub has no room for.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(client: Client, mut config: GithubConfig) -> Result<Self> {
        config.check()?;
        if let (Scope::Repository(name), true) =
            (client.place().scope(), config.repositories.is_empty())
        {
            config.repositories.push(name.clone());
        }
        let pace = config.pace;
        let poll =
            PollSource::new(client.clone(), config.repositories.clone(), pace.demand.poll_every);
        let demand = Demand::new(
            config.demand(),
            config.sources.clone(),
            Arc::new(poll),
            pace.demand,
            *client.clock(),
        );
        let inner = Arc::new(Inner {
            view: Mutex::new(View::new(config.owner.clone())),
            breaker: Breaker::new(config.breaker),
            client,
            config,
            demand,
            groups: Groups::default(),
            strays: Strays::default(),
            listing: Semaphore::new(1),
        });
        let mut tasks = Vec::new();
        for index in 0..inner.demand.sources().len() {
            let inner = inner.clone();
            let listen = async move { inner.demand.listen(index).await };
            tasks.push(tokio::spawn(listen).abort_handle());
        }
        let hinted = inner.clone();
        let hear = async move {
            let mut changes = hinted.demand.changes();
            loop {
                changes.next().await;
                hinted.view().hinted = true;
            }
        };
        tasks.push(tokio::spawn(hear).abort_handle());
        let tended = inner.clone();
        let tend = async move {
            loop {
                tended.demand.tend().await;
                tended.reap(pace).await;
                tended.remove_strays(Instant::now()).await;
                tokio::time::sleep(pace.tend_every).await;
            }
        };
        tasks.push(tokio::spawn(tend).abort_handle());
        Ok(Self { inner, tasks })
    }

    /// The client it uses.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Every job that waits, with what is known about where it comes from.
    ///
    /// # Errors
    /// As [`Forge::queued_jobs`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn waiting(&self) -> Result<Vec<Waiting>> {
        self.inner.demand.queued().await
    }

    /// What a job is, where any source of demand heard of it. From memory, at once.
    pub fn job(&self, id: &JobId) -> Option<Known> {
        self.inner.demand.job(id)
    }

    /// What an operator may want to know about demand: which source took over why, and what GitHub said about
    /// jobs that wait for long. The last 200, oldest first.
    pub fn notes(&self) -> Vec<Note> {
        self.inner.demand.notes()
    }
}

impl Drop for GithubForge {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Inner {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn profile(&self, name: &ProfileName) -> Option<&GithubProfile> {
        self.config.profiles.get(name)
    }

    /// How old the list may be at the moment.
    fn patience(&self) -> Duration {
        let pace = self.config.pace;
        let view = self.view();
        if view.hinted || view.is_starting() || !self.demand.hints() {
            pace.list_every
        } else {
            pace.list_quietly_every
        }
    }

    /// Makes sure that the list is at most so old.
    async fn look(&self, patience: Duration) -> Result<()> {
        let fresh = |inner: &Self, now: Instant| {
            inner.view().began().is_some_and(|began| now < began + patience)
        };
        if fresh(self, Instant::now()) {
            return Ok(());
        }
        let asked = Instant::now();
        let _turn = self.listing.acquire().await; // It is never closed.
        if self.view().began().is_some_and(|began| began >= asked) || fresh(self, Instant::now()) {
            return Ok(());
        }
        let began = Instant::now();
        self.view().hinted = false;
        let list = self.client.runners(Priority::Look).await;
        let doing = format!("list the runners of {}", self.client.place().scope());
        let list = match list.explain(&doing, &self.client) {
            Ok(list) => list,
            Err(error) => {
                self.view().hinted = true;
                return Err(error);
            }
        };
        list.iter()
            .filter(|runner| runner.is_online() || runner.busy)
            .for_each(|runner| self.breaker.came_online(runner.id));
        self.view().take(list, began);
        Ok(())
    }

    fn reported(&self, name: runner_core::WorkerName, runner: GithubRunner) -> Runner {
        let reserved_for = labels::reserved_for(runner.labels.iter().map(|label| &*label.name));
        let status = match (runner.busy, runner.is_online()) {
            (true, _) => RunnerStatus::Busy(self.demand.job_of(&runner.name)),
            (false, true) => RunnerStatus::Idle,
            (false, false) => RunnerStatus::Offline,
        };
        Runner { id: runner_id(runner.id), name, status, reserved_for }
    }

    /// Removes a runner whose machine may live. What a source of demand heard does not tell that its job is
    /// over, as names can be used twice and deliveries be of others' making: that takes a list, too.
    async fn deregister(&self, id: u64) -> Result<()> {
        if self.was_told_over(id) && self.recent_list_lacks(id) {
            self.is_gone(id);
            return Ok(());
        }
        self.remove(id).await
    }

    /// Removes a runner whose machine is dead: no word about its job can do harm any more. That it is over is
    /// believed once. If the runner is to be removed again, it was still listed, and GitHub is told to.
    async fn abandon(&self, id: u64) -> Result<()> {
        if self.was_told_over(id) && self.view().believe(id) {
            self.is_gone(id);
            return Ok(());
        }
        self.remove(id).await
    }

    /// GitHub removed a runner by itself, as it does after its job.
    fn is_gone(&self, id: u64) {
        self.breaker.came_online(id);
        self.view().removed(id, Instant::now());
    }

    /// Removes a runner, if GitHub says that it has no job.
    async fn remove(&self, id: u64) -> Result<()> {
        let doing = format!("remove runner {id}");
        match self.client.remove_runner(id).await.explain(&doing, &self.client)? {
            Removal::Removed => self.breaker.removed(id, Instant::now()),
            Removal::Busy => return Err(Error::busy(format!("runner {id}"))),
            Removal::Unknown => {
                self.confirm_gone(id).await?;
                self.breaker.gone(id, Instant::now());
            }
        }
        self.view().removed(id, Instant::now());
        Ok(())
    }

    /// Whether somebody heard that the runner's job is over.
    fn was_told_over(&self, id: u64) -> bool {
        let name = self.view().name(id).map(str::to_owned);
        name.is_some_and(|name| self.demand.is_over(&name))
    }

    fn recent_list_lacks(&self, id: u64) -> bool {
        let view = self.view();
        view.get(id).is_none()
            && view.began().is_some_and(|began| Instant::now() < began + CONFIRMS)
    }

    /// GitHub says "not found" also to whoever may not see a thing any more. That a runner is gone takes a
    /// list that lacks it.
    async fn confirm_gone(&self, id: u64) -> Result<()> {
        if self.recent_list_lacks(id) {
            return Ok(());
        }
        self.view().settled(id);
        self.look(Duration::ZERO).await?;
        if self.view().get(id).is_none() {
            return Ok(());
        }
        let why = "GitHub lists it, and says that it does not exist";
        Err(backend(format!("remove runner {id}"), why))
    }

    /// Removes registrations that share their name with a better one, and have been offline for long enough.
    async fn reap(&self, pace: GithubPace) {
        let now = Instant::now();
        let due: Vec<u64> = {
            let view = self.view();
            let is_due = |(id, since): (&u64, &Instant)| {
                let offline = view.get(*id).is_some_and(|r| !r.busy && !r.is_online());
                (offline && *since + pace.ghost_grace <= now).then_some(*id)
            };
            view.hidden.iter().filter_map(is_due).collect()
        };
        for id in due {
            match self.remove(id).await {
                Ok(()) => tracing::info!(id, "Removed a registration that nothing belongs to."),
                Err(error) => {
                    let error = runner_core::error::chain(&error);
                    tracing::debug!(id, error, "A registration that nothing belongs to stays.");
                }
            }
        }
    }
}

#[async_trait]
impl Forge for GithubForge {
    fn capabilities(&self) -> ForgeCapabilities {
        ForgeCapabilities {
            changes: self.inner.demand.hints(),
            guest_pulls: true,
            reserves: true,
            forgets_after: Some(runners::FORGETS_AFTER),
        }
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        self.inner.register(spec).await
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        match number(id.as_str()) {
            Some(id) => self.inner.deregister(id).await,
            None => Ok(()), // GitHub never gave it.
        }
    }

    async fn abandon(&self, id: &RunnerId) -> Result<()> {
        match number(id.as_str()) {
            Some(id) => self.inner.abandon(id).await,
            None => Ok(()),
        }
    }

    async fn runners(&self) -> Result<Vec<Runner>> {
        let inner = &self.inner;
        inner.look(inner.patience()).await?;
        let ours = inner.view().ours(Instant::now());
        Ok(ours.into_iter().map(|(name, runner)| inner.reported(name, runner)).collect())
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        Ok(self.inner.demand.queued().await?.into_iter().map(|waiting| waiting.job).collect())
    }

    fn changes(&self) -> Changes {
        match self.inner.demand.hints() {
            true => self.inner.demand.changes(),
            false => Changes::never(),
        }
    }

    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        self.inner.reserve(id, reservation).await
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        self.inner.release(id).await
    }
}

fn runner_id(number: u64) -> RunnerId {
    RunnerId::new(number.to_string()).expect("a number is a valid id")
}
