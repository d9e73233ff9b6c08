//! The trait of whatever hands out jobs, and what it reports.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    changes::Changes,
    error::{Error, Result},
    guest::Guest,
    name::{JobId, Label, OwnerId, ProfileName, ReservationId, RunnerId, WorkerName},
    secret::Secret,
};

/// What a forge can do. Callers ask here instead of asking who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForgeCapabilities {
    /// [`Forge::changes`] hints; without it the pool looks at every tick.
    pub changes: bool,
    /// The guest pulls its job itself, with the registration's secret. Without it the executor runs
    /// [`Forge::drive`] beside each instance, and the hypervisor must offer guests.
    pub guest_pulls: bool,
    /// [`Forge::reserve`] works.
    pub reserves: bool,
    /// After how long without a connection it removes a registration by itself. Never, if none.
    pub forgets_after: Option<Duration>,
}

/// Everything a runner is registered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerSpec {
    /// Its name, which it shares with its instance.
    pub name: WorkerName,
    /// Whose it is; the forge keeps it with the runner, so that a list can tell ours apart.
    pub owner: OwnerId,
    /// The profile it serves.
    pub profile: ProfileName,
    /// What it offers to jobs.
    pub labels: BTreeSet<Label>,
}

/// What registering gave.
pub struct Registration {
    /// The runner.
    pub id: RunnerId,
    /// What the guest needs to become that runner, where the guest pulls its job itself.
    pub secret: Option<Secret<String>>,
}

/// A registration as the forge reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runner {
    /// Its id at the forge.
    pub id: RunnerId,
    /// Its name, which it shares with its instance.
    pub name: WorkerName,
    /// Whether it can take a job.
    pub status: RunnerStatus,
    /// The reservation it is marked with at the forge.
    #[serde(default)]
    pub reserved_for: Option<ReservationId>,
}

/// Whether a runner can take a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunnerStatus {
    /// Registered, and not connected (yet).
    Offline,
    /// Connected, without a job.
    Idle,
    /// It has a job: this one, where the forge tells.
    Busy(Option<JobId>),
}

/// A job that waits for a runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedJob {
    /// Its id at the forge.
    pub id: JobId,
    /// The only profile it may run on, if it names one.
    pub profile: Option<ProfileName>,
    /// The labels that a profile must offer, all of them.
    pub labels: BTreeSet<Label>,
    /// The reservation whose workers it waits for.
    pub reserved_for: Option<ReservationId>,
    /// Since when it waits.
    pub queued_at: Timestamp,
}

/// Registers, deregisters and lists single-use runners.
///
/// # Contract
/// - **Ours only**, told apart by the owner mark in the registration.
/// - **One job.** A registration takes at most one job and is gone, or never idle again, after it.
/// - **Idempotent by name.** Registering a name twice leaves one runner, for which the last answer holds.
///   Deregistering what does not exist succeeds.
/// - **A running job is sacred.** `deregister` fails with `Busy` while a job runs, and decides that at the
///   forge, not from an earlier list.
/// - **A list is whole or it is an error.**
#[async_trait]
pub trait Forge: Send + Sync + 'static {
    /// What it can do. Does not change during its life.
    fn capabilities(&self) -> ForgeCapabilities;

    /// Registers a runner that takes one job.
    ///
    /// # Errors
    /// `Busy` when a runner of that name has a job, `Unauthorized`, `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: a runner that was made by then is listed by its name.
    async fn register(&self, spec: &RunnerSpec) -> Result<Registration>;

    /// Removes a runner that has no job.
    ///
    /// # Errors
    /// `Busy` while it has a job; `Unauthorized`, `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it until it succeeds.
    async fn deregister(&self, id: &RunnerId) -> Result<()>;

    /// Removes a runner whose machine is dead for certain, together with whatever job it had.
    ///
    /// # Errors
    /// `Busy` while the forge itself still believes in the job; otherwise as [`deregister`](Self::deregister).
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it until it succeeds.
    async fn abandon(&self, id: &RunnerId) -> Result<()> {
        self.deregister(id).await
    }

    /// Every runner of ours, or an error.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`: also when the list may be incomplete.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn runners(&self) -> Result<Vec<Runner>>;

    /// Every job that waits for a runner, oldest first, or an error.
    ///
    /// # Errors
    /// As [`runners`](Self::runners).
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>>;

    /// Hints that a list may have changed.
    fn changes(&self) -> Changes {
        Changes::never()
    }

    /// Lives a runner's life in its guest, for forges whose jobs are pushed: waits for the guest, takes one
    /// job, runs it, reports it. Returns when the runner is gone: its job over, or the runner deregistered.
    /// Called again for a runner whose job runs already, it goes on with that job.
    ///
    /// # Errors
    /// Any; it is called again while the instance runs.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: the job goes on in the guest and the next call re-attaches.
    async fn drive(&self, id: &RunnerId, guest: Arc<dyn Guest>) -> Result<()> {
        let _ = guest;
        Err(Error::unsupported(format!("driving runner {id}")))
    }

    /// Marks an idle runner, so that only jobs of that reservation run on it. Idempotent.
    ///
    /// # Errors
    /// `Busy` when it has a job or another mark, `NotFound`, `Unsupported`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it.
    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        let _ = reservation;
        Err(Error::unsupported(format!("reserving runner {id}")))
    }

    /// Takes the mark away. Idempotent.
    ///
    /// # Errors
    /// `Unsupported`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it.
    async fn release(&self, id: &RunnerId) -> Result<()> {
        Err(Error::unsupported(format!("releasing runner {id}")))
    }
}
