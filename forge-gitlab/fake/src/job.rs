//! Jobs, and what becomes of them.

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    artifact::Artifact,
    ids::{JobId, PipelineId, ProjectId, RunnerId, UserId, random_text},
    job_spec::JobSpec,
    state::State,
    time::millis,
    trace::Trace,
};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits for other jobs.
    Created,
    /// It waits for somebody to start it.
    Manual,
    /// It waits for a runner.
    Pending,
    /// A runner has it.
    Running,
    /// Somebody cancelled it, and its runner is given time to end it well.
    Canceling,
    /// It went well.
    Success,
    /// It did not.
    Failed,
    /// Somebody cancelled it.
    Canceled,
    /// It will not run, because of what became of others.
    Skipped,
}

impl Status {
    /// As GitLab calls it, such as `running`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Manual => "manual",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Skipped => "skipped",
        }
    }

    /// Whether nothing will change any more, unless somebody tries again.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Canceled | Self::Skipped)
    }

    /// Whether a runner has it.
    pub fn is_at_work(self) -> bool {
        matches!(self, Self::Running | Self::Canceling)
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) project: ProjectId,
    pub(crate) pipeline: PipelineId,
    pub(crate) user: UserId,
    pub(crate) spec: JobSpec,
    pub(crate) status: Status,
    pub(crate) token: String,
    pub(crate) created: Timestamp,
    pub(crate) queued: Option<Timestamp>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    /// When its runner was last heard of.
    pub(crate) heard: Timestamp,
    pub(crate) runner: Option<RunnerId>,
    pub(crate) system_id: Option<String>,
    /// What its runner said that it can.
    pub(crate) features: BTreeSet<String>,
    /// Where its runner listens for whoever wants a terminal.
    pub(crate) session_url: Option<String>,
    /// Whether it was handed out and waits for its runner's word that it runs it.
    pub(crate) offered: bool,
    pub(crate) failure_reason: Option<String>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) trace: Trace,
    pub(crate) trace_is_wrong: bool,
    pub(crate) artifacts: Vec<Artifact>,
    pub(crate) keep_alives: u32,
    pub(crate) updates: Vec<Value>,
    /// Of the final ones, how many were answered with 202.
    pub(crate) storing_answers: u32,
    pub(crate) watched: bool,
    pub(crate) erased: Option<Timestamp>,
    /// Whether somebody tried again, so that another job has its place.
    pub(crate) retried: bool,
}

/// A job as GitLab knows it, at one time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// Its name within its pipeline.
    pub name: String,
    /// What it is a part of.
    pub pipeline: PipelineId,
    /// Where it is in its life.
    pub status: Status,
    /// Why it failed, as GitLab has it. [`JobView::updates`] has what the runner said.
    pub failure_reason: Option<String>,
    /// What its script ended with, if its runner said so.
    pub exit_code: Option<i64>,
    /// Who took it.
    pub runner: Option<RunnerId>,
    /// On which machine.
    pub system_id: Option<String>,
    /// What opens it, as long as it runs.
    pub token: String,
    /// What it said.
    pub trace: Bytes,
    /// Of how many bytes the pieces were that came.
    pub trace_pieces: Vec<usize>,
    /// Whether its runner gave a checksum or a size that is not that of the trace.
    pub trace_is_wrong: bool,
    /// What it left.
    pub artifacts: Vec<Artifact>,
    /// How often its runner said that it still runs.
    pub keep_alives: u32,
    /// All updates of its runner, without the token, in order.
    pub updates: Vec<Value>,
    /// What its runner said that it can, such as `cancel_gracefully`.
    pub features: BTreeSet<String>,
    /// Whether somebody looks at its trace, so that it comes more often.
    pub watched: bool,
}

impl JobView {
    /// What it said, as text.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.trace).into_owned()
    }
}

fn seconds(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<f64> {
    Some(to?.duration_since(from?).as_secs_f64())
}

impl Job {
    pub(crate) fn view(&self) -> JobView {
        JobView {
            id: self.id,
            name: self.spec.name.clone(),
            pipeline: self.pipeline,
            status: self.status,
            failure_reason: self.failure_reason.clone(),
            exit_code: self.exit_code,
            runner: self.runner,
            system_id: self.system_id.clone(),
            token: self.token.clone(),
            trace: self.trace.content(),
            trace_pieces: self.trace.pieces.clone(),
            trace_is_wrong: self.trace_is_wrong,
            artifacts: self.artifacts.clone(),
            keep_alives: self.keep_alives,
            updates: self.updates.clone(),
            features: self.features.clone(),
            watched: self.watched,
        }
    }

    /// Whether its pipeline goes on when it fails.
    pub(crate) fn may_fail(&self) -> bool {
        let code = self.exit_code.and_then(|code| i32::try_from(code).ok());
        self.spec.allow_failure
            || code.is_some_and(|code| self.spec.allow_failure_exit_codes.contains(&code))
    }

    /// As its project tells of it.
    pub(crate) fn json(&self, state: &State, base: &str) -> Value {
        let now = state.now();
        let mut job = self.brief_json(state, base);
        let project = state.projects.get(&self.project);
        job["web_url"] = format!(
            "{base}/{}/-/jobs/{}",
            project.map_or("", |project| project.path.as_str()),
            self.id
        )
        .into();
        job["project"] = json!({ "ci_job_token_scope_enabled": false });
        let runner = self.runner.and_then(|id| state.runners.get(&id));
        job["runner"] = runner.map(|runner| runner.brief_json(now)).into();
        let managers = runner.map(|runner| runner.managers_json(now)).unwrap_or_default();
        let mut managers = managers.into_iter();
        let system_id = self.system_id.as_deref();
        job["runner_manager"] =
            managers.find(|manager| manager["system_id"].as_str() == system_id).into();
        job["tag_list"] = json!(self.spec.tags);
        let artifacts: Vec<_> = self.artifacts.iter().map(Artifact::json).collect();
        job["artifacts"] = artifacts.into();
        let archive = self.archive(now);
        job["artifacts_file"] = archive.map(Artifact::brief_json).into();
        let end = archive.and_then(|archive| archive.expires);
        job["artifacts_expire_at"] = end.map(millis).into();
        job
    }

    /// As its runner's list tells of it, but for the project.
    pub(crate) fn brief_json(&self, state: &State, base: &str) -> Value {
        let end = self.finished.or(self.started.map(|_| state.now()));
        let user = state.users.get(&self.user);
        json!({
            "id": self.id,
            "status": self.status.name(),
            "stage": self.spec.stage,
            "name": self.spec.name,
            "ref": self.spec.git.reference,
            "tag": self.spec.git.tag,
            "coverage": null,
            "allow_failure": self.spec.allow_failure,
            "created_at": millis(self.created),
            "started_at": self.started.map(millis),
            "finished_at": self.finished.map(millis),
            "erased_at": self.erased.map(millis),
            "duration": seconds(self.started, end),
            "queued_duration": seconds(self.queued, self.started.or(Some(state.now()))),
            "failure_reason": self.failure_reason,
            "user": user.map(|user| user.json(base)),
            "commit": {
                "id": self.spec.git.sha,
                "short_id": self.spec.git.sha.chars().take(8).collect::<String>(),
            },
            "pipeline": state.pipelines.get(&self.pipeline).map(|pipeline| pipeline.brief_json(state, base)),
            "web_url": format!("{base}/-/jobs/{}", self.id),
        })
    }
}

impl State {
    pub(crate) fn add_job(
        &mut self,
        project: ProjectId,
        pipeline: PipelineId,
        user: UserId,
        spec: JobSpec,
    ) -> JobId {
        let id = JobId(self.next_id());
        let now = self.now();
        let job = Job {
            id,
            project,
            pipeline,
            user,
            spec,
            status: Status::Created,
            token: format!("glcbt-64_{}", random_text(20)),
            created: now,
            queued: None,
            started: None,
            finished: None,
            heard: now,
            runner: None,
            system_id: None,
            features: BTreeSet::new(),
            session_url: None,
            offered: false,
            failure_reason: None,
            exit_code: None,
            trace: Trace::default(),
            trace_is_wrong: false,
            artifacts: Vec::new(),
            keep_alives: 0,
            updates: Vec::new(),
            storing_answers: 0,
            watched: false,
            erased: None,
            retried: false,
        };
        self.jobs.insert(id, job);
        id
    }

    /// Lets runners have it.
    pub(crate) fn enqueue(&mut self, id: JobId) {
        let now = self.now();
        if let Some(job) = self.jobs.get_mut(&id) {
            job.status = Status::Pending;
            job.queued = Some(now);
            job.heard = now;
            job.offered = false;
            job.runner = None;
            job.system_id = None;
        }
        self.wake_runners_for(id);
    }

    pub(crate) fn start(&mut self, id: JobId) {
        let now = self.now();
        if let Some(job) = self.jobs.get_mut(&id) {
            job.status = Status::Running;
            job.offered = false;
            job.started = Some(now);
            job.heard = now;
        }
    }

    pub(crate) fn succeed(&mut self, id: JobId) {
        self.end(id, Status::Success, None, None);
    }

    pub(crate) fn fail(&mut self, id: JobId, reason: &str, exit_code: Option<i64>) {
        self.end(id, Status::Failed, Some(reason), exit_code);
    }

    /// Ends a job. One that was being cancelled is cancelled then, whatever became of it.
    fn end(&mut self, id: JobId, status: Status, reason: Option<&str>, code: Option<i64>) {
        let now = self.now();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.status.is_over() {
            return;
        }
        let canceled = job.status == Status::Canceling;
        job.status = if canceled { Status::Canceled } else { status };
        job.failure_reason = reason.filter(|_| !canceled).map(str::to_owned);
        job.exit_code = code;
        job.finished = Some(now);
        job.offered = false;
        let pipeline = job.pipeline;
        self.advance(pipeline);
    }

    /// Cancels a job: at once, or by asking a runner that can end it well. `false` when it is over.
    pub(crate) fn cancel(&mut self, id: JobId, force: bool) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let graceful = job.features.contains("cancel_gracefully");
        match job.status {
            Status::Running if graceful && !force => job.status = Status::Canceling,
            Status::Canceling if !force => (),
            status if status.is_over() => return false,
            _ => self.end(id, Status::Canceled, None, None),
        }
        true
    }

    /// Forgets a job. Its runner is told that it may not, and not why.
    pub(crate) fn delete_job(&mut self, id: JobId) -> bool {
        let Some(job) = self.jobs.remove(&id) else { return false };
        if let Some(pipeline) = self.pipelines.get_mut(&job.pipeline) {
            pipeline.jobs.retain(|other| *other != id);
        }
        true
    }

    /// Forgets what a job said and left.
    pub(crate) fn erase(&mut self, id: JobId) -> bool {
        let now = self.now();
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        job.erased = Some(now);
        job.trace = Trace::default();
        job.artifacts.clear();
        true
    }

    /// Does what time does to jobs.
    pub(crate) fn end_forgotten_jobs(&mut self) {
        let now = self.now();
        let silent = |job: &Job, limit: std::time::Duration| {
            SignedDuration::try_from(limit)
                .is_ok_and(|limit| now.duration_since(job.heard) >= limit)
        };
        let stuck = self.settings.stuck_after;
        let commit = self.settings.commit_timeout;
        let is_stuck = |job: &&Job| job.status.is_at_work() && silent(job, stuck);
        let stuck: Vec<_> = self.jobs.values().filter(is_stuck).map(|job| job.id).collect();
        let is_lost = |job: &&Job| job.offered && silent(job, commit);
        let lost: Vec<_> = self.jobs.values().filter(is_lost).map(|job| job.id).collect();
        for id in stuck {
            self.fail(id, "stuck_or_timeout_failure", None);
        }
        for id in lost {
            self.enqueue(id);
        }
    }
}
