//! Single-use runners on GitHub: JIT registration, webhooks, scale sets and artifact proof.

mod app;
pub mod artifact;
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
