//! Which workers and jobs there are, and which worker has which job: in memory, and on disk before.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use runner_core::{ProfileName, ReservationId, Result, RunnerId, WorkerName};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{files, job::LiveJob};

/// A worker as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub name: WorkerName,
    pub profile: ProfileName,
    /// Whose jobs alone it takes.
    #[serde(default)]
    pub reserved_for: Option<ReservationId>,
}

pub(crate) struct Runner {
    pub row: Row,
    pub job: Option<u64>,
    /// Its guest answers and its driver waits for a job.
    pub idle: bool,
    /// It is being deregistered and takes no job any more.
    pub leaving: bool,
    /// Wakes its driver.
    pub wake: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct State {
    pub runners: BTreeMap<WorkerName, Runner>,
    /// Jobs that GitLab has not been told the end of.
    pub jobs: BTreeMap<u64, Arc<LiveJob>>,
}

impl State {
    /// As a predecessor left it.
    pub(crate) fn load(dir: &Path, trace_limit: u64) -> Result<Self> {
        let mut state = Self::default();
        for name in files::names(&dir.join("runners"))? {
            if let Some(row) = files::read_json::<Row>(&dir.join("runners").join(&name))? {
                state.runners.insert(row.name.clone(), Runner::new(row));
            }
        }
        let jobs = dir.join("jobs");
        for name in files::names(&jobs)? {
            match LiveJob::resume(&jobs, &name, trace_limit)? {
                Some(job) => drop(state.jobs.insert(job.id(), Arc::new(job))),
                None => files::remove_dir(&jobs.join(&name))?,
            }
        }
        for job in state.jobs.values() {
            let progress = job.progress();
            let worker = progress.worker.filter(|_| progress.verdict.is_none());
            if let Some(runner) = worker.and_then(|worker| state.runners.get_mut(&worker)) {
                runner.job = Some(job.id());
            }
        }
        Ok(state)
    }

    pub(crate) fn runner(&self, id: &RunnerId) -> Option<&Runner> {
        self.runners.values().find(|runner| runner.is(id))
    }

    pub(crate) fn runner_mut(&mut self, id: &RunnerId) -> Option<&mut Runner> {
        self.runners.values_mut().find(|runner| runner.is(id))
    }

    pub(crate) fn job_of(&self, worker: &WorkerName) -> Option<Arc<LiveJob>> {
        self.jobs.get(&self.runners.get(worker)?.job?).cloned()
    }

    /// Those that wait for a worker, in the order in which they came.
    pub(crate) fn waiting(&self) -> Vec<&Arc<LiveJob>> {
        let waits = |job: &&Arc<LiveJob>| {
            let progress = job.progress();
            progress.worker.is_none() && progress.verdict.is_none()
        };
        let mut waiting: Vec<&Arc<LiveJob>> = self.jobs.values().filter(waits).collect();
        waiting.sort_by_key(|job| (job.progress().received_at, job.id()));
        waiting
    }

    /// Whether one more job that comes by this profile would find a worker, or is the one that makes the
    /// pool provide for one. A reserved worker is room too: GitLab does not tell whose the next job is, and
    /// the reservation's own must not be kept out.
    pub(crate) fn has_room(&self, profile: &ProfileName, ahead: usize) -> bool {
        let free = |runner: &&Runner| {
            runner.row.profile == *profile && runner.job.is_none() && !runner.leaving
        };
        let free = self.runners.values().filter(free).count();
        let waiting =
            self.waiting().into_iter().filter(|job| job.progress().came_by == *profile).count();
        waiting < free + ahead
    }

    /// Gives the waiting jobs to ready workers, as far as there are any; on disk first.
    pub(crate) fn hand_out(&mut self) -> Result<()> {
        let waiting: Vec<Arc<LiveJob>> = self.waiting().into_iter().cloned().collect();
        for job in waiting {
            let profile = job.progress().profile;
            let ready = self.runners.values_mut().find(|runner| {
                runner.row.profile == profile
                    && runner.row.reserved_for == job.reserved_for
                    && runner.idle
                    && !runner.leaving
                    && runner.job.is_none()
            });
            let Some(runner) = ready else { continue };
            let worker = runner.row.name.clone();
            // Its attendant may have ended it in this moment.
            let given = job.change(|progress, _| {
                let waits = progress.worker.is_none() && progress.verdict.is_none();
                if waits {
                    progress.worker = Some(worker);
                }
                waits
            })?;
            if given {
                runner.job = Some(job.id());
                runner.wake.notify_one();
            }
        }
        Ok(())
    }
}

impl Runner {
    pub(crate) fn new(row: Row) -> Self {
        Self { row, job: None, idle: false, leaving: false, wake: Arc::default() }
    }

    pub(crate) fn is(&self, id: &RunnerId) -> bool {
        self.row.name.as_str() == id.as_str()
    }

    pub(crate) fn id(&self) -> RunnerId {
        RunnerId::new(self.row.name.as_str()).expect("a worker name is a valid runner id")
    }
}

impl Row {
    pub(crate) fn path(state_dir: &Path, name: &WorkerName) -> PathBuf {
        state_dir.join("runners").join(name.as_str())
    }
}
