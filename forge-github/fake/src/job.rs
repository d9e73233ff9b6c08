//! Workflow runs and their jobs: what is queued, who takes it, and how it ends.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    account::{changed, moved},
    contract::Contract,
    exchange::{Addresses, Refusal},
    ids::{commit, node},
    runner::Runner,
    scope::Scope,
    state::State,
    time::seconds,
};

/// How long a job waits for a runner.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_hours(24);
/// How long a job runs on its own hardware.
const LONGEST_RUN: SignedDuration = SignedDuration::from_hours(5 * 24);

/// A job to queue.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// `OWNER/NAME`. It is made if there is none.
    pub repository: String,
    /// What `runs-on` says.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The job's name.
    #[serde(default = "default_name")]
    pub name: String,
    /// The name of the workflow.
    #[serde(default = "default_workflow")]
    pub workflow: String,
    /// What started the run, such as `push` or `pull_request`.
    #[serde(default = "default_event")]
    pub event: String,
    /// Whose doing it is.
    #[serde(default = "default_actor")]
    pub actor: String,
    /// The branch of its commit.
    #[serde(default = "default_branch")]
    pub branch: String,
    /// `OWNER/NAME` of the fork that the commit is from, if it is from one. It is made if there is none.
    #[serde(default)]
    pub fork: Option<String>,
    /// The run that it is a part of; a new one if there is none.
    #[serde(default)]
    pub run: Option<i64>,
    /// Whether it waits for somebody's approval first.
    #[serde(default)]
    pub waiting: bool,
}

fn default_name() -> String {
    "build".to_owned()
}

fn default_workflow() -> String {
    "CI".to_owned()
}

fn default_event() -> String {
    "push".to_owned()
}

fn default_actor() -> String {
    "mona".to_owned()
}

fn default_branch() -> String {
    "main".to_owned()
}

impl JobRequest {
    /// A job of `OWNER/NAME`, for runners with these labels.
    pub fn new<L: Into<String>>(
        repository: impl Into<String>,
        labels: impl IntoIterator<Item = L>,
    ) -> Self {
        Self {
            repository: repository.into(),
            labels: labels.into_iter().map(Into::into).collect(),
            name: default_name(),
            workflow: default_workflow(),
            event: default_event(),
            actor: default_actor(),
            branch: default_branch(),
            fork: None,
            run: None,
            waiting: false,
        }
    }
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobStatus {
    /// For approval.
    Waiting,
    /// For a runner.
    Queued,
    /// On one.
    InProgress,
    /// Over.
    Completed,
}

impl JobStatus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Conclusion {
    /// It did what it should.
    Success,
    /// It did not, or its runner was lost.
    Failure,
    /// Somebody did not want it any more, or nobody took it for a day.
    Cancelled,
}

impl Conclusion {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Success, Self::Failure, Self::Cancelled].into_iter().find(|one| one.name() == name)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: i64,
    pub(crate) run: i64,
    pub(crate) attempt: i64,
    pub(crate) repository: i64,
    pub(crate) name: String,
    pub(crate) labels: Vec<String>,
    pub(crate) status: JobStatus,
    pub(crate) conclusion: Option<Conclusion>,
    pub(crate) created: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) completed: Option<Timestamp>,
    pub(crate) runner: Option<TakenBy>,
    /// The scale set that it is for.
    pub(crate) scale_set: Option<i64>,
    /// The scale set that may acquire it.
    pub(crate) offered: Option<i64>,
    /// When its scale set got it.
    pub(crate) assigned: Option<Timestamp>,
}

/// Who ran a job, remembered when the registration is gone.
#[derive(Debug, Clone)]
pub(crate) struct TakenBy {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) group: i64,
    pub(crate) group_name: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) id: i64,
    pub(crate) number: i64,
    pub(crate) attempt: i64,
    pub(crate) repository: i64,
    pub(crate) head_repository: i64,
    pub(crate) workflow: String,
    pub(crate) event: String,
    pub(crate) actor: String,
    pub(crate) branch: String,
    pub(crate) sha: String,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
}

impl Job {
    pub(crate) fn json(&self, state: &State, addresses: &Addresses) -> Value {
        let name = state.repository_by_id(self.repository).map(|r| r.full_name());
        let name = name.unwrap_or_default();
        let run = state.runs.get(&self.run);
        let (web, api) =
            (format!("{}/{name}", addresses.web), format!("{}/repos/{name}", addresses.api));
        let taken = |field: fn(&TakenBy) -> Value| self.runner.as_ref().map_or(Value::Null, field);
        json!({
            "id": self.id,
            "run_id": self.run,
            "run_attempt": self.attempt,
            "run_url": format!("{api}/actions/runs/{}", self.run),
            "node_id": node("CheckRun", self.id),
            "head_sha": run.map(|run| &run.sha),
            "head_branch": run.map(|run| &run.branch),
            "workflow_name": run.map(|run| &run.workflow),
            "url": format!("{api}/actions/jobs/{}", self.id),
            "html_url": format!("{web}/actions/runs/{}/job/{}", self.run, self.id),
            "check_run_url": format!("{api}/check-runs/{}", self.id),
            "name": self.name,
            "labels": self.labels,
            "status": self.status.name(),
            "conclusion": self.conclusion.map(Conclusion::name),
            "created_at": seconds(self.created),
            "started_at": seconds(self.started.unwrap_or(self.created)),
            "completed_at": self.completed.map(seconds),
            "steps": self.steps(),
            "runner_id": taken(|by| by.id.into()),
            "runner_name": taken(|by| by.name.clone().into()),
            "runner_group_id": taken(|by| by.group.into()),
            "runner_group_name": taken(|by| by.group_name.clone().into()),
        })
    }

    fn steps(&self) -> Value {
        match self.started {
            None => json!([]),
            Some(started) => json!([{
                "name": "Set up job",
                "number": 1,
                "status": if self.completed.is_some() { "completed" } else { "in_progress" },
                "conclusion": self.completed.and(self.conclusion).map(Conclusion::name),
                "started_at": seconds(started),
                "completed_at": self.completed.map(seconds),
            }]),
        }
    }
}

impl Run {
    /// What its jobs say together, of the attempt that counts.
    pub(crate) fn progress(&self, state: &State) -> (JobStatus, Option<Conclusion>) {
        let jobs: Vec<_> = state.jobs_of(self.id, Some(self.attempt)).collect();
        let any = |status| jobs.iter().any(|job| job.status == status);
        if any(JobStatus::InProgress) || (any(JobStatus::Completed) && any(JobStatus::Queued)) {
            return (JobStatus::InProgress, None);
        }
        for status in [JobStatus::Queued, JobStatus::Waiting] {
            if any(status) {
                return (status, None);
            }
        }
        let worst = [Conclusion::Cancelled, Conclusion::Failure];
        let ended =
            |conclusion: &Conclusion| jobs.iter().any(|j| j.conclusion == Some(*conclusion));
        let conclusion = worst.into_iter().find(ended).unwrap_or(Conclusion::Success);
        (JobStatus::Completed, Some(conclusion))
    }

    pub(crate) fn json(&self, state: &State, addresses: &Addresses) -> Value {
        let (status, conclusion) = self.progress(state);
        let repository = state.repository_by_id(self.repository);
        let name = repository.map(|r| r.full_name()).unwrap_or_default();
        let example = Contract::example("workflow-run");
        let example = moved(example, addresses, &["octo-org/octo-repo"], &name);
        let api = format!("{}/repos/{name}/actions/runs/{}", addresses.api, self.id);
        let changes = json!({
            "id": self.id,
            "node_id": node("WorkflowRun", self.id),
            "name": self.workflow,
            "display_title": format!("{} on {}", self.workflow, self.branch),
            "path": ".github/workflows/ci.yml",
            "workflow_id": workflow_id(self.repository, &self.workflow),
            "workflow_url": format!("{}/repos/{name}/actions/workflows/{}", addresses.api, workflow_id(self.repository, &self.workflow)),
            "run_number": self.number,
            "run_attempt": self.attempt,
            "run_started_at": seconds(self.created),
            "event": self.event,
            "head_branch": self.branch,
            "head_sha": self.sha,
            "status": status.name(),
            "conclusion": conclusion.map(Conclusion::name),
            "created_at": seconds(self.created),
            "updated_at": seconds(self.updated),
            "pull_requests": [],
            "referenced_workflows": [],
            "url": api,
            "html_url": format!("{}/{name}/actions/runs/{}", addresses.web, self.id),
            "jobs_url": format!("{api}/jobs"),
            "logs_url": format!("{api}/logs"),
            "artifacts_url": format!("{api}/artifacts"),
            "cancel_url": format!("{api}/cancel"),
            "rerun_url": format!("{api}/rerun"),
            "previous_attempt_url": null,
        });
        let mut run = changed(example, changes);
        run["head_commit"]["id"] = self.sha.clone().into();
        if let Ok(actor) = state.account(&self.actor) {
            run["actor"] = actor.json(addresses);
            run["triggering_actor"] = actor.json(addresses);
        }
        if let Some(repository) = repository {
            run["repository"] = repository.json(state, addresses);
        }
        if let Some(head) = state.repository_by_id(self.head_repository) {
            run["head_repository"] = head.json(state, addresses);
        }
        run
    }
}

/// A workflow's number: it is nothing but the name that its runs have in common.
pub(crate) fn workflow_id(repository: i64, name: &str) -> i64 {
    name.bytes().fold(repository, |id, byte| (id * 31 + i64::from(byte)) % 100_000_007)
}

impl State {
    pub(crate) fn jobs_of(&self, run: i64, attempt: Option<i64>) -> impl Iterator<Item = &Job> {
        let of_attempt = move |job: &&Job| attempt.is_none_or(|attempt| job.attempt == attempt);
        self.jobs.of_run(run).filter(of_attempt)
    }

    /// A run of a repository.
    pub(crate) fn run(&self, repository: i64, id: i64) -> Result<&Run, Refusal> {
        let run = self.runs.get(&id).filter(|run| run.repository == repository);
        run.ok_or_else(Refusal::not_found)
    }

    /// Queues a job, and makes all that it needs.
    pub(crate) fn enqueue(&mut self, request: JobRequest) -> Result<(i64, i64), Refusal> {
        let split = |name: &str| {
            let parts = name.split_once('/');
            let parts = parts.map(|(owner, name)| (owner.to_owned(), name.to_owned()));
            parts.ok_or_else(|| Refusal::invalid(format!("{name:?} is not OWNER/NAME")))
        };
        let (owner, name) = split(&request.repository)?;
        let repository = self.add_repository(&owner, &name).id;
        let head_repository = match &request.fork {
            None => repository,
            Some(fork) => {
                let (owner, name) = split(fork)?;
                let head = self.add_repository(&owner, &name);
                head.fork = true;
                head.id
            }
        };
        if self.account(&request.actor).is_err() {
            self.add_account(&request.actor, true, None);
        }
        let now = self.now();
        let (run, attempt) = match request.run {
            Some(run) => (run, self.run(repository, run)?.attempt),
            None => {
                let id = self.next_id();
                let mut before =
                    self.runs.values().rev().filter(|run| run.repository == repository);
                let number = before.next().map_or(0, |run| run.number);
                let run = Run {
                    id,
                    number: number + 1,
                    attempt: 1,
                    repository,
                    head_repository,
                    workflow: request.workflow,
                    event: request.event,
                    actor: request.actor,
                    branch: request.branch,
                    sha: commit(id),
                    created: now,
                    updated: now,
                };
                self.runs.insert(id, run);
                (id, 1)
            }
        };
        let id = self.next_id();
        let waiting = request.waiting;
        let job = Job {
            id,
            run,
            attempt,
            repository,
            name: request.name,
            labels: request.labels,
            status: if waiting { JobStatus::Waiting } else { JobStatus::Queued },
            conclusion: None,
            created: now,
            started: None,
            completed: None,
            runner: None,
            scale_set: None,
            offered: None,
            assigned: None,
        };
        self.jobs.add(job);
        self.tell_of_job(id);
        Ok((run, id))
    }

    /// Lets a job that waited for approval go on.
    pub(crate) fn approve(&mut self, id: i64) -> Result<(), Refusal> {
        let job = self.jobs.get_mut(id).ok_or_else(Refusal::not_found)?;
        if job.status == JobStatus::Waiting {
            job.status = JobStatus::Queued;
            self.tell_of_job(id);
        }
        Ok(())
    }

    /// Gives the oldest job that fits to a runner that is free.
    pub(crate) fn assign(&mut self, runner: i64) -> Option<i64> {
        let now = self.now();
        let taker = self.runners.get(&runner).filter(|runner| runner.job.is_none())?;
        let id = self.jobs.queued().find(|job| self.may_take(taker, job))?.id;
        let by = TakenBy {
            id: taker.id,
            name: taker.name.clone(),
            group: taker.group,
            group_name: self.group_name(&taker.scope, taker.group).to_owned(),
        };
        let job = self.jobs.get_mut(id)?;
        job.status = JobStatus::InProgress;
        job.started = Some(now);
        job.runner = Some(by);
        self.runners.get_mut(&runner)?.job = Some(id);
        self.tell_of_job(id);
        Some(id)
    }

    fn may_take(&self, runner: &Runner, job: &Job) -> bool {
        if runner.scale_set != job.scale_set || job.scale_set.is_some() != job.assigned.is_some() {
            return false;
        }
        // A scale set's runners have no labels: the set was chosen already.
        let fits = runner.scale_set.is_some() || runner.has(&job.labels);
        fits && self.opens(&runner.scope, runner.group, job.repository)
    }

    /// Whether a group of runners is for a repository.
    pub(crate) fn opens(&self, scope: &Scope, group: i64, repository: i64) -> bool {
        let Some(repository) = self.repository_by_id(repository) else { return false };
        let owner = self.account(&repository.owner).ok();
        let id = match scope {
            Scope::Repository { .. } => return *scope == repository.scope(),
            Scope::Organisation(login) => {
                let owned = login.eq_ignore_ascii_case(&repository.owner);
                owned.then_some(repository.id)
            }
            Scope::Enterprise(slug) => {
                let part = |of: &&String| of.eq_ignore_ascii_case(slug);
                owner.filter(|o| o.enterprise.as_ref().filter(part).is_some()).map(|o| o.id)
            }
        };
        let group = self.groups.iter().find(|g| g.scope == *scope && g.id == group);
        let (Some(id), Some(group)) = (id, group) else { return false };
        let seen = match group.visibility.as_str() {
            "selected" => group.selected.contains(&id),
            "private" => repository.private,
            _ => true,
        };
        seen && (repository.private || group.public)
    }

    /// Ends a job, and with it the registration of the runner that took it.
    pub(crate) fn complete(&mut self, id: i64, conclusion: Conclusion) -> Result<(), Refusal> {
        let now = self.now();
        let job = self.jobs.get_mut(id).ok_or_else(Refusal::not_found)?;
        if job.status == JobStatus::Completed {
            return Err(Refusal::conflict("The job is already completed"));
        }
        job.status = JobStatus::Completed;
        job.conclusion = Some(conclusion);
        job.completed = Some(now);
        let (run, runner) = (job.run, job.runner.as_ref().map(|by| by.id));
        self.jobs.close(id);
        if let Some(run) = self.runs.get_mut(&run) {
            run.updated = now;
        }
        if let Some(runner) = runner {
            self.runners.remove(&runner);
        }
        self.tell_of_job(id);
        Ok(())
    }

    /// Cancels all of a run that is not over.
    pub(crate) fn cancel(&mut self, run: i64) -> Result<(), Refusal> {
        let open: Vec<_> = self
            .jobs_of(run, None)
            .filter(|job| job.status != JobStatus::Completed)
            .map(|job| job.id)
            .collect();
        if open.is_empty() {
            return Err(Refusal::conflict("Cannot cancel a workflow run that is completed."));
        }
        open.into_iter().try_for_each(|id| self.complete(id, Conclusion::Cancelled))
    }

    /// Runs jobs of a run again, as a new attempt.
    pub(crate) fn rerun(&mut self, run: i64, wanted: impl Fn(&Job) -> bool) -> Result<(), Refusal> {
        let attempt = self.runs.get(&run).ok_or_else(Refusal::not_found)?.attempt;
        let jobs: Vec<_> = self.jobs_of(run, Some(attempt)).cloned().collect();
        if jobs.iter().any(|job| job.status != JobStatus::Completed) {
            return Err(Refusal::forbidden("This workflow run is already running"));
        }
        let now = self.now();
        if let Some(run) = self.runs.get_mut(&run) {
            run.attempt += 1;
            run.updated = now;
        }
        for old in jobs.into_iter().filter(wanted) {
            let id = self.next_id();
            let job = Job {
                id,
                attempt: attempt + 1,
                status: JobStatus::Queued,
                conclusion: None,
                created: now,
                started: None,
                completed: None,
                runner: None,
                scale_set: None,
                offered: None,
                assigned: None,
                ..old
            };
            self.jobs.add(job);
            self.tell_of_job(id);
        }
        Ok(())
    }

    /// Ends what has waited or run for too long.
    pub(crate) fn end_old_jobs(&mut self) {
        let now = self.now();
        let over = |job: &Job| match job.status {
            JobStatus::Queued if now.duration_since(job.created) > LONGEST_WAIT => {
                Some((job.id, Conclusion::Cancelled))
            }
            JobStatus::InProgress
                if job.started.is_some_and(|started| now.duration_since(started) > LONGEST_RUN) =>
            {
                Some((job.id, Conclusion::Cancelled))
            }
            _ => None,
        };
        let over: Vec<_> = self.jobs.open().filter_map(over).collect();
        for (id, conclusion) in over {
            // It was not over a moment ago.
            let _ = self.complete(id, conclusion);
        }
    }
}
