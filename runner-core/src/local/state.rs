//! What is alive of the local queue, in memory: which job waits, which runner has which.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::{Notify, watch};

use super::{
    job::{InputFile, Job, JobState},
    rows::RunnerRow,
};
use crate::{
    clock::Clock,
    name::{JobId, RunnerId, WorkerName},
};

#[derive(Default)]
pub(super) struct State {
    /// Jobs that are not over.
    pub(super) jobs: BTreeMap<JobId, Live>,
    /// Those of them that wait: higher priority first, then in the order of submission.
    pub(super) waiting: BTreeSet<(std::cmp::Reverse<i32>, u64, JobId)>,
    pub(super) runners: BTreeMap<WorkerName, LocalRunner>,
}

/// A job that is not over.
pub(super) struct Live {
    pub(super) job: Job,
    pub(super) inputs: Arc<Vec<InputFile>>,
    /// Nobody has tried to start its command since it was handed out, which was in this process.
    pub(super) untouched: bool,
    /// Tells whoever follows it that there is news.
    pub(super) news: watch::Sender<()>,
}

pub(super) struct LocalRunner {
    pub(super) row: RunnerRow,
    /// Its guest answers and its driver waits for a job.
    pub(super) idle: bool,
    /// It is being deregistered and takes no job any more.
    pub(super) leaving: bool,
    /// Wakes its driver.
    pub(super) wake: Arc<Notify>,
}

impl LocalRunner {
    pub(super) fn new(row: RunnerRow) -> Self {
        Self { row, idle: false, leaving: false, wake: Arc::new(Notify::new()) }
    }

    pub(super) fn is(&self, id: &RunnerId) -> bool {
        self.row.name.as_str() == id.as_str()
    }

    pub(super) fn can_take(&self, job: &Job) -> bool {
        let spec = &job.spec;
        let offers = |wanted: &crate::Label| {
            wanted.as_str().eq_ignore_ascii_case(self.row.profile.as_str())
                || self.row.labels.iter().any(|label| label.matches(wanted))
        };
        self.idle
            && !self.leaving
            && self.row.job.is_none()
            && self.row.reserved_for == spec.reserved_for
            && spec.profile.as_ref().is_none_or(|profile| *profile == self.row.profile)
            && spec.labels.iter().all(offers)
    }
}

impl State {
    pub(super) fn add(&mut self, job: Job, inputs: Arc<Vec<InputFile>>) {
        if job.state == JobState::Queued {
            self.waiting.insert(order(&job));
        }
        let live = Live { job, inputs, untouched: false, news: watch::channel(()).0 };
        self.jobs.insert(live.job.id.clone(), live);
    }

    /// Gives a waiting job to a ready runner, if there is one for it.
    pub(super) fn hand_out(&mut self, id: &JobId, clock: &Clock) {
        let Some(job) = self.jobs.get(id).map(|live| &live.job) else {
            return;
        };
        let ready = self.runners.values().find(|runner| runner.can_take(job));
        if let Some(name) = ready.map(|runner| runner.row.name.clone()) {
            self.assign(id.clone(), &name, clock);
        }
    }

    /// Gives the first waiting job that it can take to a runner.
    pub(super) fn find_job_for(&mut self, name: &WorkerName, clock: &Clock) {
        let Some(runner) = self.runners.get(name) else {
            return;
        };
        let takes = |(_, _, id): &&(_, _, JobId)| runner.can_take(&self.jobs[id].job);
        if let Some((_, _, id)) = self.waiting.iter().find(takes).cloned() {
            self.assign(id, name, clock);
        }
    }

    /// In memory only: the runner's driver, which this wakes, makes it durable before it does anything.
    pub(super) fn assign(&mut self, id: JobId, name: &WorkerName, clock: &Clock) {
        let (Some(live), Some(runner)) = (self.jobs.get_mut(&id), self.runners.get_mut(name))
        else {
            return;
        };
        self.waiting.remove(&order(&live.job));
        live.job.state = JobState::Running;
        live.job.worker = Some(name.clone());
        live.job.assigned_at = Some(clock.now());
        live.untouched = true;
        runner.row.job = Some(id);
        runner.wake.notify_one();
    }

    /// Takes an assignment back that could not be made durable.
    pub(super) fn unassign(&mut self, id: &JobId, name: &WorkerName) {
        if let Some(runner) = self.runners.get_mut(name) {
            runner.row.job = None;
            runner.idle = false;
        }
        if let Some(live) = self.jobs.get_mut(id) {
            live.job.state = JobState::Queued;
            live.job.worker = None;
            live.job.assigned_at = None;
            self.waiting.insert(order(&live.job));
        }
    }
}

pub(super) fn order(job: &Job) -> (std::cmp::Reverse<i32>, u64, JobId) {
    (std::cmp::Reverse(job.spec.priority), job.number, job.id.clone())
}
