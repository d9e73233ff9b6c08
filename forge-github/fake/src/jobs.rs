//! All jobs, and at hand the few of them that a question is about: a long simulation has thousands that are over.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::job::{Job, JobStatus};

/// Jobs by their numbers, which are in the order of their making.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    all: BTreeMap<i64, Job>,
    /// Those that are not over.
    open: BTreeSet<i64>,
    of_run: HashMap<i64, Vec<i64>>,
}

impl Jobs {
    pub(crate) fn get(&self, id: i64) -> Option<&Job> {
        self.all.get(&id)
    }

    /// To change anything but its number and its run. Once it is over, it is also to be [closed](Self::close).
    pub(crate) fn get_mut(&mut self, id: i64) -> Option<&mut Job> {
        self.all.get_mut(&id)
    }

    /// Every job, the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Job> {
        self.all.values()
    }

    /// Every job that is not over, the oldest first.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Job> {
        self.open.iter().filter_map(|id| self.all.get(id))
    }

    /// Every job that waits for a runner, the oldest first.
    pub(crate) fn queued(&self) -> impl Iterator<Item = &Job> {
        self.open().filter(|job| job.status == JobStatus::Queued)
    }

    /// The jobs of a run, of all attempts, the oldest first.
    pub(crate) fn of_run(&self, run: i64) -> impl Iterator<Item = &Job> {
        let ids = self.of_run.get(&run).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| self.all.get(id))
    }

    /// Every job that waits for a runner, to change it. None is closed by that.
    pub(crate) fn queued_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.all.values_mut().filter(|job| job.status == JobStatus::Queued)
    }

    /// Adds a job, which is younger than all others.
    pub(crate) fn add(&mut self, job: Job) {
        self.open.insert(job.id);
        self.of_run.entry(job.run).or_default().push(job.id);
        self.all.insert(job.id, job);
    }

    /// A job is over.
    pub(crate) fn close(&mut self, id: i64) {
        self.open.remove(&id);
    }

    pub(crate) fn remove_run(&mut self, run: i64) {
        for id in self.of_run.remove(&run).unwrap_or_default() {
            self.open.remove(&id);
            self.all.remove(&id);
        }
    }
}
