//! Single-use runners on GitHub: JIT registration, webhooks, scale sets and artifact proof.

mod app;
mod auth;
pub mod breaker;
pub mod budget;
pub mod client;
pub mod config;
pub mod credentials;
pub mod demand;
pub mod error;
pub mod forge;
pub mod groups;
pub mod jobs;
pub mod labels;
mod list;
pub mod mark;
mod outage;
pub mod runners;
pub mod scope;
pub mod transport;
mod view;
mod wire;

pub use client::{Client, ClientConfig};
pub use config::{GithubConfig, GithubPace, GithubProfile, Registrar};
pub use credentials::{Credentials, SecretFrom};
pub use demand::{DemandSource, Freshness, Health, JobFact, JobStatus, SourceKind, Waiting};
pub use forge::GithubForge;
pub use groups::Group;
pub use scope::{Place, RepositoryName, Scope};
pub use transport::{HttpTransport, Transport};
