//! Single-use runners on GitHub: JIT registration, webhooks, scale sets and artifact proof.

pub mod artifact;
pub mod demand;
pub mod guest;
pub mod labels;
pub mod rest;
pub mod scale_set;
pub mod scope;
pub mod webhook;

pub use demand::{DemandSource, Freshness, Health, JobFact, JobStatus, SourceKind, Waiting};
pub use rest::Rest;
pub use scale_set::ScaleSetListener;
pub use scope::{Place, RepositoryName, Scope};
pub use webhook::Webhook;
