//! Keeps pools of single-use CI runners in virtual machines: make a machine from an image, register it with
//! a forge, let it run exactly one job, destroy it, have the next one ready.
//!
//! # Where to begin
//!
//! To *use* a pool, read [`pool`]: [`Pool::start`] takes what [`PoolParts`] lists and keeps workers ready.
//! [`local`] is a forge that needs no server; `examples/embed` puts both together in under 80 lines.
//!
//! To *extend* it, read the trait you want to implement, which says all that it promises:
//! [`Hypervisor`] (with [`Guest`], the inside of a machine), [`Forge`] or [`ImageBuilder`]. Then let
//! [`conformance`] check those promises.
//!
//! To *change* it, read in this order: [`worker`] (what a worker is, and which phase follows from what is
//! seen of it), [`plan`] (what to do about it, and why), then the engine, which looks, plans and acts, and
//! [`store`], which keeps what must outlive the process.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> runner_core::Result<()> {
//! use std::{collections::BTreeMap, sync::Arc, time::Duration};
//! use runner_core::{
//!     Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile, ProfileName,
//!     Resources, Store,
//!     fake::FakeWorld,
//!     image::{Recipe, RecipeKind},
//!     local::{JobSpec, LocalLimits, LocalQueue, Run},
//! };
//!
//! // A host that exists in memory only; a real one is `backend_qemu::QemuHypervisor`.
//! let world = FakeWorld::new(Clock::system());
//! # world.set_boot_time(Duration::from_millis(10));
//! let store = Store::in_memory()?;
//! let events = EventLog::open(store.clone()).await?;
//! let clock = Clock::system();
//! let queue =
//!     LocalQueue::open(store.clone(), events.clone(), clock, LocalLimits::default()).await?;
//!
//! let (local, name) = (ForgeName::new("local")?, ProfileName::new("small")?);
//! let recipe = Recipe { profile: name.clone(), kind: RecipeKind::Micro {} };
//! let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
//! let pool = Pool::start(PoolParts {
//!     hypervisor: Arc::new(world.hypervisor()),
//!     forges: BTreeMap::from([(local.clone(), Arc::new(queue.clone()) as Arc<dyn Forge>)]),
//!     builder: Arc::new(world.builder()),
//!     store,
//!     events,
//!     owner: OwnerId::new("example")?,
//!     profiles: vec![Profile::new(local, recipe, resources)],
//!     pace: Pace::default(),
//!     clock,
//! })
//! .await?;
//!
//! let run = Run::Script("echo hello".to_owned());
//! let job = JobSpec { profile: Some(name), run, ..JobSpec::default() };
//! let job = queue.submit(job, Vec::new()).await?;
//! let job = queue.wait(&job.id).await?;
//! assert_eq!(job.state.word(), "succeeded");
//! pool.drain().await?;
//! assert!(world.machines().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # What this crate does not do
//!
//! **Invariant:** it does no HTTP and speaks neither libvirt nor QMP. It reads no environment, and no file
//! but its store. It does not know which backends and forges exist.

pub mod access;
pub mod changes;
pub mod clock;
pub mod conformance;
mod engine;
pub mod error;
pub mod event;
mod execute;
pub mod explain;
pub mod fake;
pub mod forge;
pub mod guest;
pub mod history;
pub mod hypervisor;
pub mod image;
pub mod local;
pub mod name;
mod observe;
pub mod plan;
pub mod policy;
pub mod pool;
pub mod profile;
pub mod queue;
pub mod recorder;
pub mod reservation;
pub mod resources;
pub mod secret;
pub mod status;
pub mod store;
mod why;
pub mod wish;
pub mod worker;

pub use changes::{Changes, Hint};
pub use clock::Clock;
pub use error::{Error, Result, Retry};
pub use event::{Event, EventLog};
pub use forge::Forge;
pub use guest::Guest;
pub use hypervisor::Hypervisor;
pub use image::ImageBuilder;
pub use name::*;
pub use pool::{Pace, Pool, PoolParts};
pub use profile::Profile;
pub use resources::{Capacity, Resources};
pub use secret::Secret;
pub use status::Status;
pub use store::Store;

/// The guide's examples are run with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedders-guide.md")]
struct EmbeddersGuide;
