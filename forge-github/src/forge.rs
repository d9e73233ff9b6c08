//! GitHub as a forge.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use runner_core::{
    Changes, Error, Forge, Label, ProfileName, ReservationId, Result, RunnerId,
    forge::{ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec, RunnerStatus},
};
use serde::Serialize;
use tokio::{sync::Semaphore, task::AbortHandle, time::Instant};

use crate::{
    breaker::{Breaker, BreakerFigures},
    budget::{BudgetFigures, Priority},
    client::Client,
    config::{GithubConfig, GithubPace, GithubProfile},
    demand::{Health, Note, SourceKind, Waiting, merge::Demand},
    error::{Explain, backend, number},
    groups::Groups,
    jobs::PollSource,
    labels, mark,
    runners::{GithubRunner, Removal},
    scope::Scope,
    view::View,
};

mod register;

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
    /// Held by whoever lists, so that the others wait for that instead of listing too.
    listing: Semaphore,
}

/// One source of demand, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceFigures {
    /// Which way of knowing.
    pub kind: SourceKind,
    /// The only profile it speaks of, where there is one.
    pub profile: Option<ProfileName>,
    /// Whether it can be relied upon.
    pub health: Health,
}

/// A forge in numbers and words, for metrics and the dashboard.
#[derive(Debug, Clone, Serialize)]
pub struct GithubFigures {
    /// Whether GitHub can be used at the moment.
    pub health: Health,
    /// What was spent, and what is left.
    pub budget: BudgetFigures,
    /// Who tells what waits.
    pub sources: Vec<SourceFigures>,
    /// Who is asked for each profile at the moment, if anybody could be.
    pub active: BTreeMap<ProfileName, Option<SourceKind>>,
    /// The profiles whose runners die before they come online.
    pub breaker: BTreeMap<ProfileName, BreakerFigures>,
    /// Registrations that share their name with another, and will be removed.
    pub ghosts: usize,
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

    /// What an operator may want to know about demand: which source took over why, and what GitHub said about
    /// jobs that wait for long. The last 200, oldest first.
    pub fn notes(&self) -> Vec<Note> {
        self.inner.demand.notes()
    }

    /// The forge in numbers and words.
    pub fn figures(&self) -> GithubFigures {
        let inner = &self.inner;
        let sources = inner.demand.sources().iter().map(|source| SourceFigures {
            kind: source.kind(),
            profile: source.profile().cloned(),
            health: source.health(),
        });
        GithubFigures {
            health: inner.client.health(),
            budget: inner.client.figures(),
            sources: sources.collect(),
            active: inner.demand.active(),
            breaker: inner.breaker.figures(Instant::now()),
            ghosts: inner.view().hidden.len(),
        }
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

    /// Removes a runner, if GitHub says that it has no job.
    async fn remove(&self, id: u64) -> Result<()> {
        if self.is_over(id) {
            return Ok(());
        }
        let doing = format!("remove runner {id}");
        match self.client.remove_runner(id).await.explain(&doing, &self.client)? {
            Removal::Removed => self.breaker.removed(id, Instant::now()),
            Removal::Busy => return Err(Error::busy(format!("runner {id}"))),
            Removal::Unknown => {
                self.confirm_gone(id).await?;
                self.breaker.came_online(id);
            }
        }
        self.view().removed(id, Instant::now());
        Ok(())
    }

    /// Whether GitHub said that the runner's job is over, and no longer lists it: then it removed it itself.
    fn is_over(&self, id: u64) -> bool {
        let name = {
            let view = self.view();
            if view.began().is_none() || view.get(id).is_some() {
                return false;
            }
            view.name(id).map(str::to_owned)
        };
        name.is_some_and(|name| self.demand.is_over(&name))
    }

    /// GitHub says "not found" also to whoever may not see a thing any more. That a runner is gone takes a
    /// list that lacks it.
    async fn confirm_gone(&self, id: u64) -> Result<()> {
        let lacks = |inner: &Self| inner.view().get(id).is_none();
        let recent = |inner: &Self| {
            inner.view().began().is_some_and(|began| Instant::now() < began + CONFIRMS)
        };
        if recent(self) && lacks(self) {
            return Ok(());
        }
        self.look(Duration::ZERO).await?;
        if lacks(self) {
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

    /// What a runner offers that is not reserved.
    fn labels(&self, profile: &ProfileName, labels: &BTreeSet<Label>) -> Vec<String> {
        let mut all: Vec<String> = labels.iter().map(ToString::to_string).collect();
        if !all.iter().any(|label| label.eq_ignore_ascii_case(profile.as_str())) {
            all.push(profile.to_string());
        }
        all
    }

    /// A runner as it is known, or else asked for.
    async fn known(&self, id: u64) -> Result<GithubRunner> {
        let recent = self.view().began().is_some_and(|began| Instant::now() < began + CONFIRMS);
        if let Some(runner) = self.view().get(id).cloned().filter(|_| recent) {
            return Ok(runner);
        }
        let doing = format!("look at runner {id}");
        let runner = self.client.runner(id).await.explain(&doing, &self.client)?;
        runner.ok_or_else(|| Error::not_found(format!("runner {id}")))
    }
}

#[async_trait]
impl Forge for GithubForge {
    fn capabilities(&self) -> ForgeCapabilities {
        ForgeCapabilities { changes: self.inner.demand.hints(), guest_pulls: true, reserves: true }
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        self.inner.register(spec).await
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        match number(id.as_str()) {
            Some(id) => self.inner.remove(id).await,
            None => Ok(()), // GitHub never gave it.
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
        let (inner, not_found) = (&self.inner, || Error::not_found(format!("runner {id}")));
        if reservation.as_str().bytes().any(|b| b.is_ascii_uppercase()) {
            let reason = "GitHub does not keep the case of labels, so use lower-case letters";
            return Err(Error::invalid(format!("reservation {reservation}"), reason));
        }
        let number = number(id.as_str()).ok_or_else(not_found)?;
        let runner = inner.known(number).await?;
        let marked = labels::reserved_for(runner.labels.iter().map(|label| &*label.name));
        match marked {
            Some(marked) if marked == *reservation => return Ok(()),
            Some(_) => return Err(Error::busy(format!("runner {id}"))),
            None if runner.busy => return Err(Error::busy(format!("runner {id}"))),
            None => {}
        }
        let now = inner.client.clock().now();
        let marks = labels::marks(reservation, &inner.config.owner, now);
        inner.put_labels(number, marks.into()).await?.then_some(()).ok_or_else(not_found)
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        let inner = &self.inner;
        let Some(number) = number(id.as_str()) else { return Ok(()) };
        let runner = match inner.known(number).await {
            Err(error) if error.is_not_found() => return Ok(()),
            runner => runner?,
        };
        let is_marked =
            labels::reserved_for(runner.labels.iter().map(|label| &*label.name)).is_some();
        if !is_marked || runner.busy {
            return Ok(()); // The mark of a busy runner goes with it.
        }
        let worker = mark::worker(&runner.name, &inner.config.owner);
        let profile = worker.and_then(|worker| worker.parts()).map(|(profile, _)| profile);
        let Some(profile) = profile else { return Ok(()) };
        let own = inner.profile(&profile).map(|own| own.labels.clone()).unwrap_or_default();
        inner.put_labels(number, inner.labels(&profile, &own)).await.map(|_| ())
    }
}

impl Inner {
    async fn put_labels(&self, id: u64, labels: Vec<String>) -> Result<bool> {
        let doing = format!("label runner {id}");
        let done = self.client.set_labels(id, &labels).await.explain(&doing, &self.client)?;
        if done {
            self.view().labelled(id, labels, Instant::now());
        }
        Ok(done)
    }
}

fn runner_id(number: u64) -> RunnerId {
    RunnerId::new(number.to_string()).expect("a number is a valid id")
}
