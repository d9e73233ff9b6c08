//! The side of the runner's program: it connects with its JIT configuration, is given a job, says how that
//! ended, and is gone.

use std::time::Duration;

use jiff::SignedDuration;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    job::{Conclusion, JobStatus},
    runner::{Session, read_jit_config},
    state::{Shared, State},
};

/// How long a program that asks for work can be silent before it counts as gone.
const SILENT_IDLE: SignedDuration = SignedDuration::from_mins(2);
/// How long one that works can be. Then its job has failed.
const SILENT_BUSY: SignedDuration = SignedDuration::from_mins(10);

/// Why a runner's program is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// The configuration is none, or its registration is gone: used, removed or too old.
    #[error("the registration has been deleted from the server, or never was")]
    Gone,
    /// Another program is connected with the same registration.
    #[error("a session for this runner already exists")]
    Conflict,
    /// The program is not connected any more, or never was.
    #[error("the session is gone")]
    NoSession,
    /// There is no job to say anything of.
    #[error("the runner has no job")]
    NoJob,
}

/// A job as a runner's program gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AssignedJob {
    /// The job's number.
    pub id: i64,
    /// Its run's.
    pub run_id: i64,
    /// The job's name.
    pub name: String,
    /// `OWNER/NAME`.
    pub repository: String,
    /// What started the run.
    pub event: String,
    /// Such as `refs/heads/main`.
    pub r#ref: String,
    /// The commit.
    pub sha: String,
    /// Whose doing it is.
    pub actor: String,
    /// The workflow's name.
    pub workflow: String,
    /// Where the workflow is from, such as `acme/widgets/.github/workflows/ci.yml@refs/heads/main`.
    pub workflow_ref: String,
}

impl State {
    /// Lets a program in.
    pub(crate) fn connect(&mut self, jit_config: &str) -> Result<String, RunnerError> {
        let now = self.now();
        let (id, credential) = read_jit_config(jit_config).ok_or(RunnerError::Gone)?;
        let runner = self.runners.get_mut(&id).filter(|runner| runner.credential == credential);
        let runner = runner.ok_or(RunnerError::Gone)?;
        if runner.session.is_some() {
            return Err(RunnerError::Conflict);
        }
        let session = Session { id: Uuid::new_v4().to_string() };
        let id = session.id.clone();
        (runner.session, runner.seen) = (Some(session), now);
        Ok(id)
    }

    /// The runner of a session, which shows a sign of life by this.
    pub(crate) fn heard_from(&mut self, session: &str) -> Result<i64, RunnerError> {
        let now = self.now();
        for runner in self.runners.values_mut() {
            if runner.session.as_ref().is_some_and(|one| one.id == session) {
                runner.seen = now;
                return Ok(runner.id);
            }
        }
        Err(RunnerError::NoSession)
    }

    /// The job that the runner has, or now gets.
    pub(crate) fn next_job(&mut self, session: &str) -> Result<Option<AssignedJob>, RunnerError> {
        let runner = self.heard_from(session)?;
        let had = self.runners.get(&runner).and_then(|runner| runner.job);
        let Some(id) = had.or_else(|| self.assign(runner)) else { return Ok(None) };
        Ok(self.describe_job(id))
    }

    fn describe_job(&self, id: i64) -> Option<AssignedJob> {
        let job = self.jobs.get(id)?;
        let run = self.runs.get(&job.run)?;
        let repository = self.repository_by_id(job.repository)?.full_name();
        let branch = format!("refs/heads/{}", run.branch);
        Some(AssignedJob {
            id,
            run_id: run.id,
            name: job.name.clone(),
            event: run.event.clone(),
            sha: run.sha.clone(),
            actor: run.actor.clone(),
            workflow: run.workflow.clone(),
            workflow_ref: format!("{repository}/.github/workflows/ci.yml@{branch}"),
            repository,
            r#ref: branch,
        })
    }

    /// Ends the job of a runner, and the runner with it.
    pub(crate) fn finish_job(
        &mut self,
        session: &str,
        conclusion: Conclusion,
    ) -> Result<(), RunnerError> {
        let runner = self.heard_from(session)?;
        let job = self.runners.get(&runner).and_then(|runner| runner.job);
        self.complete(job.ok_or(RunnerError::NoJob)?, conclusion).map_err(|_| RunnerError::NoJob)
    }

    /// The program says goodbye. A job that it had is left undone.
    pub(crate) fn disconnect(&mut self, session: &str) -> Result<(), RunnerError> {
        let runner = self.heard_from(session)?;
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.session = None;
        }
        Ok(())
    }

    /// Notices who has not been heard of. A job whose runner is lost has failed.
    pub(crate) fn lose_silent_runners(&mut self) {
        let now = self.now();
        let mut failed = Vec::new();
        for runner in self.runners.values_mut() {
            let patience = if runner.job.is_some() { SILENT_BUSY } else { SILENT_IDLE };
            if now.duration_since(runner.seen) > patience {
                runner.session = None;
            }
            if let (None, Some(job)) = (&runner.session, runner.job) {
                failed.push(job);
            }
        }
        for id in failed {
            let started = self.jobs.get(id).filter(|job| job.status == JobStatus::InProgress);
            let started = started.and_then(|job| job.started);
            if started.is_some_and(|started| now.duration_since(started) > SILENT_BUSY) {
                // It was in progress a moment ago.
                let _ = self.complete(id, Conclusion::Failure);
            }
        }
    }
}

impl Shared {
    /// Waits for a job. `None` after `wait`.
    pub(crate) async fn wait_for_job(
        &self,
        session: &str,
        wait: Duration,
    ) -> Result<Option<AssignedJob>, RunnerError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking: what comes meanwhile is not missed.
            changed.as_mut().enable();
            // Looking changes nothing that anyone waits for, unless there is a job.
            let job = self.look().next_job(session)?;
            if job.is_some() {
                self.changed.notify_waiters();
                return Ok(job);
            }
            tokio::select! {
                () = changed => (),
                () = tokio::time::sleep_until(deadline) => return Ok(None),
            }
        }
    }
}
