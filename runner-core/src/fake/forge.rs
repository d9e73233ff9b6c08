//! The fake forge: its guests pull their jobs, as GitHub's do.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{Call, FakeJobState, FakeRunner, FakeWorld, World};
use crate::{
    changes::Changes,
    error::{Error, Result},
    forge::{Forge, ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec, RunnerStatus},
    name::{ForgeName, Label, ReservationId, RunnerId},
    secret::Secret,
};

/// A forge of a [`FakeWorld`]. Clones share it.
#[derive(Clone)]
pub struct FakeForge {
    pub(super) world: FakeWorld,
    pub(super) name: ForgeName,
}

impl FakeForge {
    fn key(&self, id: &RunnerId) -> (ForgeName, RunnerId) {
        (self.name.clone(), id.clone())
    }

    /// Removes a runner that has no job.
    fn remove(&self, world: &mut World, id: &RunnerId) -> Result<()> {
        let key = self.key(id);
        match world.runners.get(&key) {
            Some(runner) if runner.job.is_some() => Err(Error::busy(format!("runner {id}"))),
            _ => {
                world.runners.remove(&key);
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Forge for FakeForge {
    fn capabilities(&self) -> ForgeCapabilities {
        ForgeCapabilities {
            changes: true,
            guest_pulls: true,
            reserves: true,
            ..ForgeCapabilities::default()
        }
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        self.world
            .call(Call::Register(spec.name.clone()), |world, _| {
                let before = world
                    .runners
                    .iter()
                    .find(|((forge, _), runner)| *forge == self.name && runner.name == spec.name)
                    .map(|((_, id), _)| id.clone());
                if let Some(id) = before {
                    self.remove(world, &id)?;
                }
                world.serial += 1;
                let id = RunnerId::new(world.serial.to_string())?;
                let runner = FakeRunner {
                    name: spec.name.clone(),
                    profile: spec.profile.clone(),
                    labels: spec.labels.clone(),
                    job: None,
                    online: false,
                    reserved_for: None,
                };
                world.runners.insert(self.key(&id), runner);
                let secret = Some(Secret::new(id.to_string()));
                Ok(Registration { id, secret })
            })
            .await
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        self.world.call(Call::Deregister(id.clone()), |world, _| self.remove(world, id)).await
    }

    async fn runners(&self) -> Result<Vec<Runner>> {
        let all = |world: &World, _| {
            let ours = world.runners.iter().filter(|((forge, _), _)| *forge == self.name);
            ours.map(|((_, id), runner)| Runner {
                id: id.clone(),
                name: runner.name.clone(),
                status: match (&runner.job, runner.online) {
                    (Some(job), _) => RunnerStatus::Busy(Some(job.clone())),
                    (None, true) => RunnerStatus::Idle,
                    (None, false) => RunnerStatus::Offline,
                },
                reserved_for: runner.reserved_for.clone(),
            })
            .collect()
        };
        self.world.list(Call::Runners(self.name.clone()), all).await
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        let all = |world: &World, _| {
            let ours = world.jobs.iter().filter(|job| job.forge == self.name);
            ours.filter(|job| job.state == FakeJobState::Queued)
                .map(|job| QueuedJob {
                    id: job.id.clone(),
                    profile: None,
                    // A profile's name is a valid label.
                    labels: match job.reserved_for {
                        None => Label::new(job.profile.as_str()).into_iter().collect(),
                        Some(_) => BTreeSet::new(),
                    },
                    reserved_for: job.reserved_for.clone(),
                    queued_at: job.queued_at,
                })
                .collect()
        };
        self.world.list(Call::Jobs(self.name.clone()), all).await
    }

    fn changes(&self) -> Changes {
        self.world.0.hint.changes()
    }

    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        self.world
            .call(Call::Mark(id.clone()), |world, _| {
                let runner = world.runners.get_mut(&self.key(id));
                let runner = runner.ok_or_else(|| Error::not_found(format!("runner {id}")))?;
                let marked = runner.reserved_for.as_ref();
                if runner.job.is_some() || marked.is_some_and(|held| held != reservation) {
                    return Err(Error::busy(format!("runner {id}")));
                }
                runner.reserved_for = Some(reservation.clone());
                Ok(())
            })
            .await
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        self.world
            .call(Call::Mark(id.clone()), |world, _| {
                if let Some(runner) = world.runners.get_mut(&self.key(id)) {
                    runner.reserved_for = None;
                }
                Ok(())
            })
            .await
    }
}
