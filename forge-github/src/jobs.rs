//! Demand by asking: queued jobs of the configured repositories.
//!
//! A look costs two calls for each repository and one for each run that is under way; those that did not
//! change since the last look are answered 304, which is free of the hourly limit.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use runner_core::{Changes, Hint, JobId, Result};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    budget::Priority,
    client::Client,
    demand::{DemandSource, Freshness, Health, JobFact, JobStatus, Known, SourceKind, Waiting},
    error::{Answer, ApiError, Explain},
    list::{self, Item},
    scope::RepositoryName,
};

/// How many pages of runs, or of a run's jobs, are read. GitHub shows no more than 1000 runs, and a pool that
/// has a thousand jobs waiting knows enough.
const MOST_PAGES: usize = 10;
/// How many runs are asked about at once.
const AT_ONCE: usize = 4;
/// Which runs may have a job that waits for a runner.
const OPEN: [&str; 2] = ["queued", "in_progress"];

#[derive(Deserialize)]
struct Run {
    id: u64,
}

impl Item for Run {
    const LIST: &'static str = "workflow_runs";
    fn number(&self) -> u64 {
        self.id
    }
}

#[derive(Deserialize)]
struct Job {
    id: u64,
    run_id: u64,
    #[serde(default)]
    run_attempt: Option<u32>,
    name: String,
    #[serde(default)]
    workflow_name: Option<String>,
    status: String,
    labels: Vec<String>,
    created_at: Timestamp,
    #[serde(default)]
    runner_name: Option<String>,
}

impl Item for Job {
    const LIST: &'static str = "jobs";
    fn number(&self) -> u64 {
        self.id
    }
}

impl Job {
    fn fact(self, repository: &RepositoryName) -> JobFact {
        let title = match self.workflow_name {
            Some(workflow) if workflow != self.name => format!("{workflow} / {}", self.name),
            _ => self.name,
        };
        JobFact {
            number: self.id,
            run: self.run_id,
            attempt: self.run_attempt.unwrap_or(1),
            repository: repository.clone(),
            title,
            status: JobStatus::of(&self.status),
            labels: self.labels,
            queued_at: self.created_at,
            runner: self.runner_name.filter(|name| !name.is_empty()),
        }
    }
}

impl Client {
    /// Every job of a repository's runs that are under way, whatever its status.
    pub(crate) async fn open_jobs(&self, repository: &RepositoryName) -> Answer<Vec<JobFact>> {
        let mut runs = BTreeMap::new();
        for status in OPEN {
            let path = format!("/repos/{repository}/actions/runs?status={status}");
            let found: Vec<Run> = list::most(self, &path, Priority::Poll, MOST_PAGES).await?;
            runs.extend(found.into_iter().map(|run| (run.id, ())));
        }
        let jobs = stream::iter(runs.into_keys()).map(|run| async move {
            let path = format!("/repos/{repository}/actions/runs/{run}/jobs?filter=latest");
            let jobs: Answer<Vec<Job>> = list::most(self, &path, Priority::Poll, MOST_PAGES).await;
            match jobs {
                // A run that was deleted meanwhile has no jobs.
                Err(error) if error.status() == Some(http::StatusCode::NOT_FOUND) => Ok(Vec::new()),
                jobs => jobs,
            }
        });
        let jobs: Vec<Vec<Job>> = jobs.buffered(AT_ONCE).try_collect().await?;
        Ok(jobs.into_iter().flatten().map(|job| job.fact(repository)).collect())
    }

    /// What GitHub says about one job now. None if there is no such job (any more).
    pub(crate) async fn job(
        &self,
        repository: &RepositoryName,
        number: u64,
    ) -> Answer<Option<JobFact>> {
        let path = format!("/repos/{repository}/actions/jobs/{number}");
        let job: Answer<Job> = self.get(&path, Priority::Poll, "the job").await;
        match job {
            Ok(job) => Ok(Some(job.fact(repository))),
            Err(ApiError::Status(said))
                if said.from_github && said.status == http::StatusCode::NOT_FOUND =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Asks GitHub what waits.
pub struct PollSource {
    client: Client,
    repositories: Vec<RepositoryName>,
    every: Duration,
    hint: Hint,
    state: Mutex<State>,
    /// Held by whoever looks, so that the others wait for that instead of looking too.
    looking: tokio::sync::Semaphore,
}

struct State {
    health: Health,
    last: Option<Look>,
}

struct Look {
    began: Instant,
    facts: BTreeMap<u64, JobFact>,
}

impl PollSource {
    /// Asks about these repositories, at most once in `every`.
    pub fn new(client: Client, repositories: Vec<RepositoryName>, every: Duration) -> Self {
        let state = Mutex::new(State { health: Health::Well, last: None });
        let looking = tokio::sync::Semaphore::new(1);
        Self { client, repositories, every, hint: Hint::default(), state, looking }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks, unless somebody did so since `after`. What is in the answer is what GitHub said then.
    ///
    /// # Errors
    /// As [`DemandSource::queued`].
    pub async fn look(&self, after: Instant) -> Result<Vec<JobFact>> {
        let fresh = |source: &Self| {
            let state = source.state();
            let last = state.last.as_ref().filter(|look| look.began >= after)?;
            Some(last.facts.values().cloned().collect())
        };
        let turn = self.looking.acquire().await; // It is never closed.
        if let Some(facts) = fresh(self) {
            return Ok(facts);
        }
        let began = Instant::now();
        let mut facts = Vec::new();
        for repository in &self.repositories {
            let doing = format!("list the queued jobs of {repository}");
            match self.client.open_jobs(repository).await {
                Ok(found) => facts.extend(found),
                Err(error) => {
                    let place = self.client.place();
                    let needs = needs(repository);
                    let error = error.explain(&doing, place.host(), &needs);
                    let (reason, now) =
                        (runner_core::error::chain(&error), self.client.clock().now());
                    let mut state = self.state();
                    let since = match state.health {
                        Health::Ill { since, .. } => since,
                        Health::Well => now,
                    };
                    state.health = Health::Ill { since, reason };
                    return Err(error);
                }
            }
        }
        drop(turn);
        let by_number: BTreeMap<u64, JobFact> =
            facts.into_iter().map(|fact| (fact.number, fact)).collect();
        let mut state = self.state();
        state.health = Health::Well;
        let facts = by_number.values().cloned().collect();
        let before = state.last.replace(Look { began, facts: by_number });
        let changed = before
            .is_none_or(|before| state.last.as_ref().is_some_and(|now| now.facts != before.facts));
        drop(state);
        if changed {
            self.hint.hint();
        }
        Ok(facts)
    }

    /// What GitHub says about one job now; None if there is no such job (any more).
    ///
    /// # Errors
    /// As [`DemandSource::queued`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ask(&self, repository: &RepositoryName, number: u64) -> Result<Option<JobFact>> {
        let fact = self.client.job(repository, number).await;
        fact.explain(&format!("ask about job {number} of {repository}"), &self.client)
    }
}

fn needs(repository: &RepositoryName) -> String {
    format!(
        "a fine-grained token or App with the repository permission \"Actions: read\" on {repository}, or a \
         classic token with the scope repo"
    )
}

#[async_trait]
impl DemandSource for PollSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Poll
    }

    fn health(&self) -> Health {
        self.state().health.clone()
    }

    async fn queued(&self, freshness: Freshness) -> Result<Vec<Waiting>> {
        let now = Instant::now();
        let after = match freshness {
            Freshness::Now => now,
            Freshness::Usual => now.checked_sub(self.every).unwrap_or(now),
        };
        let facts = self.look(after).await?;
        let queued = facts.iter().filter(|fact| fact.status == JobStatus::Queued);
        Ok(queued.filter_map(JobFact::waiting).collect())
    }

    fn job_of(&self, runner: &str) -> Option<JobId> {
        let state = self.state();
        let mut facts = state.last.as_ref()?.facts.values();
        let is_its = |fact: &&JobFact| {
            fact.status == JobStatus::InProgress && fact.runner.as_deref() == Some(runner)
        };
        facts.find(is_its).map(JobFact::id)
    }

    fn job(&self, id: &JobId) -> Option<Known> {
        let number = id.as_str().parse().ok()?;
        self.state().last.as_ref()?.facts.get(&number).map(JobFact::known)
    }

    fn is_over(&self, runner: &str) -> bool {
        let state = self.state();
        let Some(last) = &state.last else { return false };
        last.facts.values().any(|fact| {
            fact.status == JobStatus::Completed && fact.runner.as_deref() == Some(runner)
        })
    }

    /// A later word on a job that the last look saw. One that it did not see is seen by the next.
    fn learn(&self, fact: &JobFact) {
        if let Some(last) = &mut self.state().last
            && let Some(known) = last.facts.get_mut(&fact.number)
        {
            *known = fact.clone();
        }
    }

    fn forget(&self, number: u64) {
        if let Some(last) = &mut self.state().last {
            last.facts.remove(&number);
        }
    }

    fn changes(&self) -> Changes {
        self.hint.changes()
    }
}
