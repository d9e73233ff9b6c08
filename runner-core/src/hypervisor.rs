//! The trait of whatever makes virtual machines, and what it makes.

use std::{fmt, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    changes::Changes,
    error::{Error, Result},
    guest::Guest,
    image::Image,
    name::{ImageId, ProfileName, WorkerName},
    resources::{Capacity, Resources},
    secret::Secret,
};

/// What a hypervisor can do beyond making and unmaking. Callers ask here instead of asking who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HypervisorCapabilities {
    /// [`Hypervisor::changes`] hints; without it the pool looks at every tick.
    pub changes: bool,
    /// [`Hypervisor::guest`] works.
    pub guest: bool,
    /// [`Hypervisor::screenshot`] works.
    pub screenshot: bool,
    /// [`Hypervisor::console`] works.
    pub console: bool,
    /// Instances outlive the process that made them.
    pub adopts: bool,
}

/// Everything an instance is made from.
#[derive(Clone)]
pub struct InstanceSpec {
    /// Its name. There is at most one instance of a name.
    pub name: WorkerName,
    /// The profile it is for; kept with the instance.
    pub profile: ProfileName,
    /// What it boots.
    pub image: Image,
    /// What it takes.
    pub resources: Resources,
    /// What it can reach.
    pub network: Network,
    /// What it is told at its first start, secrets included. None for a disk that takes none
    /// ([`UserDataDelivery::None`](crate::image::UserDataDelivery::None)).
    pub user_data: Option<Secret<String>>,
}

/// What an instance can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Outgoing connections through the host.
    #[default]
    Open,
    /// A network card that reaches nothing.
    Restricted,
}

/// A virtual machine as the hypervisor reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub name: WorkerName,
    /// The profile it was made for.
    pub profile: ProfileName,
    /// What it booted.
    pub image: ImageId,
    /// What it takes, as long as it is listed.
    pub resources: Resources,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it runs.
    pub state: InstanceState,
}

/// Whether an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// It runs, is about to, or is paused.
    Running,
    /// It will never run again; what is left of it awaits its destruction.
    Stopped(ExitReason),
}

/// Why an instance stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest shut itself down.
    GuestShutdown,
    /// The guest's kernel panicked.
    GuestPanic,
    /// The guest asked for a reset, which a single-use machine does not get.
    GuestReset,
    /// Someone stopped it from the host.
    HostStopped,
    /// The virtual machine monitor failed or was killed.
    Crashed(String),
    /// It ended while nobody watched, or never started.
    Unknown,
}

impl ExitReason {
    /// A word for counters and filters: the reason without its details. Never changes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::GuestShutdown => "guest_shutdown",
            Self::GuestPanic => "guest_panic",
            Self::GuestReset => "guest_reset",
            Self::HostStopped => "host_stopped",
            Self::Crashed(_) => "crashed",
            Self::Unknown => "stopped_unseen",
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GuestShutdown => f.write_str("the guest shut down"),
            Self::GuestPanic => f.write_str("the guest's kernel panicked"),
            Self::GuestReset => f.write_str("the guest rebooted"),
            Self::HostStopped => f.write_str("it was stopped from the host"),
            Self::Crashed(detail) => write!(f, "the virtual machine crashed: {detail}"),
            Self::Unknown => f.write_str("nobody saw why"),
        }
    }
}

/// A picture in the PNG format.
#[derive(Clone)]
pub struct Png(pub Bytes);

/// What an instance wrote to its serial console: first what is kept of the past (1 MiB at most), then, when
/// followed, what comes, until the instance ends.
pub type Console = BoxStream<'static, Result<Bytes>>;

/// Makes, unmakes and lists virtual machines on one host.
///
/// # Contract
/// - **Ours only.** What it makes carries an owner mark; what lacks the mark is never listed or touched,
///   whatever its name.
/// - **Idempotent by name.** Creating a name that exists returns the instance that is there. Destroying a
///   name that does not exist succeeds.
/// - **Nothing half-made is hidden.** If `create` fails, is dropped or its process is killed, what it left
///   is listed (as [`InstanceState::Stopped`], if it will not run) or is not there at all.
/// - **A list is whole or it is an error.** Stopped instances are listed until they are destroyed.
/// - **Room is held until it is free.** An instance is listed until the last of its memory, disk and
///   secrets is gone.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// What it can do. Does not change during its life.
    fn capabilities(&self) -> HypervisorCapabilities;

    /// What the host offers to all instances together, used or not.
    ///
    /// # Errors
    /// `Backend` when the host could not be asked.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn capacity(&self) -> Result<Capacity>;

    /// Makes and starts an instance. Returns when it runs, not when its guest is up: that is
    /// [`Guest::ready`].
    ///
    /// # Errors
    /// `Exhausted` for an instance that the host cannot hold, `Invalid` for a specification that cannot
    /// work (such as user data for a disk that takes none, or a disk larger than
    /// [`disk_mib`](Resources::disk_mib)), `Backend` for the rest. Something of that name may be listed
    /// afterwards; destroy it.
    ///
    /// # Cancel safety
    /// May be dropped or killed at any moment: what it made by then is listed.
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance>;

    /// Stops an instance at once and removes everything it had.
    ///
    /// # Errors
    /// `Backend` when something could not be removed; the instance is then still listed.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: repeat it until it succeeds.
    async fn destroy(&self, name: &WorkerName) -> Result<()>;

    /// Every instance of ours, or an error.
    ///
    /// # Errors
    /// `Backend` when the list could not be read in full.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn instances(&self) -> Result<Vec<Instance>>;

    /// Hints that [`instances`](Self::instances) may have changed.
    fn changes(&self) -> Changes {
        Changes::never()
    }

    /// Does once per image what makes later creations faster. Idempotent; optional.
    ///
    /// # Errors
    /// Any; creating works without it.
    ///
    /// # Cancel safety
    /// May be dropped at any moment.
    async fn prepare(&self, image: &Image) -> Result<()> {
        let _ = image;
        Ok(())
    }

    /// A picture of the instance's screen.
    ///
    /// # Errors
    /// `NotFound` for an instance that does not run, `Busy` for one that is listed already and about to
    /// start, `Unsupported`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        Err(Error::unsupported(format!("a screenshot of {name}")))
    }

    /// What the instance wrote to its console; with `follow`, what it will write too.
    /// Works for stopped instances until they are destroyed.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn console(&self, name: &WorkerName, follow: bool) -> Result<Console> {
        let _ = follow;
        Err(Error::unsupported(format!("the console of {name}")))
    }

    /// The addresses that its network gave to an instance: what the host knows of it, never what the guest says
    /// of itself. None where nobody on the host knows.
    ///
    /// # Errors
    /// `NotFound` for an instance that does not run, `Busy` for one that is listed already and about to
    /// start, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn given_addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        let _ = name;
        Ok(Vec::new())
    }

    /// The inside of an instance, whether its agent is up yet or not.
    ///
    /// # Errors
    /// `NotFound` for an instance that does not run, `Busy` for one that is listed already and about to
    /// start, `Unsupported`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        Err(Error::unsupported(format!("the guest of {name}")))
    }
}
