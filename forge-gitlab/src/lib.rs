//! GitLab jobs in single-use machines: the job protocol and the administration of runners.
//!
//! There are two ways, for whole forges each:
//!
//! * [`GitlabForge`] is a [`Forge`](runner_core::Forge) whose jobs are *pushed*: it asks GitLab for jobs in the
//!   name of each profile's runner, offers them to the pool, and runs each in the guest of a machine that is
//!   the job's alone. All that a job needs of GitLab goes through this process: the guest needs no way to GitLab
//!   but for `git`, and no program of ours. It knows who asks for what before a machine is made.
//! * [`GitlabGuests`] is one whose jobs are *pulled*: GitLab's own `gitlab-runner run-single` in each guest takes
//!   the job.
//!
//! # In which order to read
//!
//! [`config`](GitlabConfig) is what an operator decides; what of it may change later is in `terms`, and
//! `operate` changes it. A job's way is `poll`, which asks with `jobs` and has a `payload`; `job`, which keeps
//! it on disk; `trace` and `update`, which tell GitLab of it; `driver` and `run`, which see it through in the
//! guest, in the order of `stages`, with `sources`, `script`, `cache` and `artifacts`. `runners` looks after
//! the registrations at GitLab, with `admin`. The other way is `guests`, with [`guest`] for what runs in there.
//!
//! # What outlives the process
//!
//! A job, with all of its trace and how far its process was read: whoever opens the same directory goes on
//! with it. Had its machine died meanwhile, it fails with `runner_interrupted` and says so in its trace.
//!
//! # Reservations
//!
//! A worker that is reserved takes only jobs whose variable `RESERVED_FOR` names the reservation. It is a
//! variable and no tag, as a payload has no tags, and GitLab would want a tag on the runner first.
//!
//! # Crate `gitlab-runner`
//!
//! It speaks the job protocol too, and nothing of it is used here. It runs jobs in its own process and takes
//! their log from `tracing`; it knows no `last_update` and no long polling, keeps no offset or checksum,
//! cannot send a trace again from where the server has it, and nothing of a job outlives it. What would be left
//! are the types of the payload, and those must accept more than it does. So all of it is replaced: asking by
//! `jobs`, the payload by `payload`, the trace by `trace`, updates by `update`, artifacts by `artifacts`, and
//! running by `run`. It tests our fake GitLab, as a client that somebody else wrote.
//!
//! # What is not there
//!
//! Services and images as containers (a rule sends such jobs to profiles that have what they need built in),
//! interactive terminals, secrets from vaults, steps written with `run`, `GIT_CLONE_PATH` and
//! `GIT_SUBMODULE_FORCE_HTTPS`.

mod admin;
mod archive;
mod artifacts;
mod cache;
mod client;
mod config;
mod driver;
mod error;
mod examine;
mod export;
mod files;
mod forge;
pub mod guest;
mod guests;
mod images;
mod job;
mod jobs;
mod luggage;
mod mask;
mod news;
mod operate;
mod patterns;
mod payload;
mod poll;
mod run;
mod runners;
mod script;
mod sections;
mod sources;
mod stages;
mod state;
mod terms;
mod trace;
mod update;
mod variables;

pub use config::{Administration, GitlabConfig, ImageRule, Limits, Place, ProfileConfig};
pub use examine::{Finding, examine};
pub use export::config_toml;
pub use forge::{GitlabForge, Health};
pub use guests::GitlabGuests;
pub use operate::JobPage;
