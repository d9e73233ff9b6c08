//! Single-use runners on GitHub: JIT registration, webhooks, scale sets and artifact proof.
//!
//! # Where to begin
//!
//! To *use* it: a [`Place`] says which GitHub and what of it, [`Credentials`] prove who we are, a [`Client`] has
//! both, and a [`GithubForge`] is what a [`Pool`](runner_core::Pool) wants.
//!
//! ```no_run
//! # async fn example() -> runner_core::Result<()> {
//! use std::{collections::BTreeSet, sync::Arc};
//! use forge_github::{
//!     Client, ClientConfig, Credentials, GithubConfig, GithubForge, GithubProfile, HttpTransport, SecretFrom,
//! };
//! use runner_core::{Clock, OwnerId, ProfileName};
//!
//! let token = SecretFrom::File("/etc/runner/github-token".into());
//! let config = ClientConfig::new("https://github.com/servo".parse()?, Credentials::Token(token));
//! let client = Client::new(config, Arc::new(HttpTransport::new(b"")?), Clock::system())?;
//!
//! let mut config = GithubConfig::new(OwnerId::new("host-3")?);
//! config.profiles.insert(ProfileName::new("linux")?, GithubProfile::new(BTreeSet::new()));
//! config.repositories.push("servo/servo".parse()?);
//! let forge = GithubForge::start(client, config)?;
//! # Ok(())
//! # }
//! ```
//!
//! To *change* it, read in this order: [`scope`], [`mark`] (how a runner is known to be ours), [`client`] and
//! [`budget`] (through which every call goes), `list` (why a list is whole), `view` (what is known between two
//! lists), [`forge`] with `forge/register` (how nothing gets lost), then [`demand`] and its sources: [`jobs`],
//! [`webhook`], [`scale_set`].
//!
//! # What it does not do
//!
//! **Invariant:** it serves no HTTP. A webhook's deliveries are handed to it by whoever does.

mod app;
pub mod artifact;
mod auth;
pub mod breaker;
pub mod budget;
pub mod client;
pub mod config;
pub mod credentials;
pub mod demand;
pub mod downloads;
pub mod error;
pub mod forge;
pub mod groups;
pub mod guest;
pub mod jobs;
pub mod labels;
mod list;
pub mod mark;
mod outage;
pub mod rest;
pub mod runners;
pub mod scale_set;
pub mod scope;
pub mod transport;
mod view;
pub mod webhook;
mod wire;

pub use client::{Client, ClientConfig};
pub use config::{GithubConfig, GithubPace, GithubProfile, Registrar};
pub use credentials::{Credentials, SecretFrom};
pub use demand::{DemandSource, Freshness, Health, JobFact, JobStatus, SourceKind, Waiting};
pub use forge::GithubForge;
pub use groups::Group;
pub use rest::Rest;
pub use scale_set::ScaleSetListener;
pub use scope::{Place, RepositoryName, Scope};
pub use transport::{HttpTransport, Transport};
pub use webhook::Webhook;
