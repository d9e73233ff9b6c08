//! Single-use runners on GitHub: JIT registration, webhooks, scale sets and artifact proof.

pub mod budget;
pub mod demand;
pub mod labels;
pub mod scope;

pub use demand::{DemandSource, Freshness, Health, JobFact, JobStatus, SourceKind, Waiting};
pub use scope::{Place, RepositoryName, Scope};
