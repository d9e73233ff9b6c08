//! The local queue as a forge.

use std::sync::Arc;

use async_trait::async_trait;

use super::{JobState, LocalQueue, driver, rows::RunnerRow, state::LocalRunner};
use crate::{
    changes::Changes,
    error::{Error, Result},
    forge::{Forge, ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec, RunnerStatus},
    guest::Guest,
    name::{ReservationId, RunnerId, WorkerName},
};

#[async_trait]
impl Forge for LocalQueue {
    fn capabilities(&self) -> ForgeCapabilities {
        ForgeCapabilities { changes: true, reserves: true, ..ForgeCapabilities::default() }
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        let registration = Registration { id: runner_id(&spec.name), secret: None };
        let row = {
            let mut state = self.0.state();
            if let Some(runner) = state.runners.get_mut(&spec.name) {
                if runner.row.job.is_some() {
                    return Err(Error::busy(format!("runner {}", spec.name)));
                }
                runner.row.labels.clone_from(&spec.labels);
                runner.row.profile = spec.profile.clone();
                runner.row.clone()
            } else {
                RunnerRow {
                    name: spec.name.clone(),
                    profile: spec.profile.clone(),
                    labels: spec.labels.clone(),
                    job: None,
                    reserved_for: None,
                }
            }
        };
        self.0.put_runner(row.clone()).await?;
        self.0.state().runners.entry(spec.name.clone()).or_insert_with(|| LocalRunner::new(row));
        self.0.hint.hint();
        Ok(registration)
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        let name = match self.0.state().runners.values_mut().find(|runner| runner.is(id)) {
            None => return Ok(()),
            Some(runner) if runner.row.job.is_some() => {
                return Err(Error::busy(format!("runner {id}")));
            }
            Some(runner) => {
                runner.leaving = true;
                runner.row.name.clone()
            }
        };
        self.0.remove_runner(name).await
    }

    async fn abandon(&self, id: &RunnerId) -> Result<()> {
        let found = {
            let mut state = self.0.state();
            let Some(runner) = state.runners.values_mut().find(|runner| runner.is(id)) else {
                return Ok(());
            };
            runner.leaving = true;
            let (name, job) = (runner.row.name.clone(), runner.row.job.clone());
            (name, job.and_then(|job| state.jobs.get(&job)).map(|live| live.job.clone()))
        };
        let (name, job) = found;
        match job {
            Some(_) if self.0.is_untouched(&name) => {
                self.0.give_back(&name).await?;
                self.0.remove_runner(name).await
            }
            Some(mut job) => {
                let reason = "its machine died".to_owned();
                job.state = JobState::Interrupted { reason };
                self.0.end(job, Some(name), None).await
            }
            None => self.0.remove_runner(name).await,
        }
    }

    async fn runners(&self) -> Result<Vec<Runner>> {
        let state = self.0.state();
        let runner = |runner: &LocalRunner| Runner {
            id: runner_id(&runner.row.name),
            name: runner.row.name.clone(),
            status: match (&runner.row.job, runner.idle) {
                (Some(job), _) => RunnerStatus::Busy(Some(job.clone())),
                (None, true) => RunnerStatus::Idle,
                (None, false) => RunnerStatus::Offline,
            },
            reserved_for: runner.row.reserved_for.clone(),
        };
        Ok(state.runners.values().map(runner).collect())
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        let state = self.0.state();
        Ok(state.waiting.iter().map(|(_, _, id)| state.jobs[id].job.as_queued()).collect())
    }

    fn changes(&self) -> Changes {
        self.0.hint.changes()
    }

    async fn drive(&self, id: &RunnerId, guest: Arc<dyn Guest>) -> Result<()> {
        driver::drive(&self.0, id, &*guest).await
    }

    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        let name = {
            let mut state = self.0.state();
            let Some(runner) = state.runners.values_mut().find(|runner| runner.is(id)) else {
                return Err(Error::not_found(format!("runner {id}")));
            };
            let marked = runner.row.reserved_for.as_ref();
            if runner.row.job.is_some() || marked.is_some_and(|held| held != reservation) {
                return Err(Error::busy(format!("runner {id}")));
            }
            runner.row.reserved_for = Some(reservation.clone());
            let name = runner.row.name.clone();
            state.find_job_for(&name, &self.0.clock);
            name
        };
        self.0.put_mark(name, Some(reservation.clone())).await
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        let name = {
            let mut state = self.0.state();
            let Some(runner) = state.runners.values_mut().find(|runner| runner.is(id)) else {
                return Ok(());
            };
            if runner.row.job.is_some() {
                return Ok(()); // The mark goes with the runner when its job is over.
            }
            runner.row.reserved_for = None;
            let name = runner.row.name.clone();
            state.find_job_for(&name, &self.0.clock);
            name
        };
        self.0.put_mark(name, None).await
    }
}

fn runner_id(name: &WorkerName) -> RunnerId {
    RunnerId::new(name.as_str()).expect("a worker name is a valid runner id")
}
