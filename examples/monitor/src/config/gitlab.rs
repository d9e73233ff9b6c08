//! The GitLabs of a configuration: where each is, what its runners are like there, who may use them, and which
//! profiles serve it. Never a secret itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use runner_core::{ForgeName, Label, ProfileName, access::Rules};
use serde::Deserialize;

use super::secret::SecretPlace;

mod edits;
mod section;

pub(super) use edits::edits;
pub(super) use section::{Gitlab, OfGitlab, Place, Wrong, gitlabs};

/// One GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitlabConfig {
    /// What profiles call it.
    pub name: ForgeName,
    /// Its address.
    pub url: String,
    /// Whether tokens may travel to it in the clear.
    pub allow_http: bool,
    /// Certificate authorities to trust instead of the system's, as PEM.
    pub authorities: Option<PathBuf>,
    /// What its runners are made and looked after with. Profiles bring their runners' tokens, if none.
    pub administration: Option<GitlabAdministration>,
    /// Who may use any of its profiles, where a profile's own rules say nothing.
    pub access: Rules,
    /// Which profile serves jobs that name an image or services.
    pub images: Vec<GitlabImage>,
    /// How much and how long.
    pub limits: GitlabLimits,
    /// Where jobs live in their machine.
    pub builds_dir: String,
    /// Whether GitLab's own runner program takes the jobs, in each machine.
    pub run_single: bool,
    /// What it must know of the profiles that serve it.
    pub profiles: BTreeMap<ProfileName, GitlabProfile>,
}

/// What runners are made with at a GitLab, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitlabAdministration {
    /// An access token with the scopes `create_runner` and `manage_runner`.
    pub token: SecretPlace,
    /// Where its runners belong.
    pub place: GitlabPlace,
    /// Whether any of them is on offer.
    pub expose_runners: bool,
}

/// Where runners belong at a GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitlabPlace {
    /// They serve all of it.
    Instance,
    /// They serve the group of this number.
    Group(u64),
    /// They serve the project of this number.
    Project(u64),
}

/// Sends jobs to the profile that has built in what they name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitlabImage {
    /// A pattern for the image's name. Jobs without one, if none.
    pub image: Option<String>,
    /// Patterns for services: each of a job's must fit one.
    #[serde(default)]
    pub services: Vec<String>,
    /// Who serves such jobs.
    pub profile: ProfileName,
}

/// How much and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GitlabLimits {
    /// How much of a job's trace is kept, in bytes.
    pub trace_bytes: u64,
    /// How much one archive of artifacts may hold, in bytes.
    pub artifact_bytes: u64,
    /// How much the caches of all projects may take, in bytes.
    pub cache_bytes: u64,
    /// How many jobs of a profile may wait here beyond the machines that are ready or on their way.
    pub jobs_ahead: usize,
    /// How long a job may wait here for a machine.
    pub job_wait: Duration,
    /// How long a job has to end once it was asked to.
    pub kill_grace: Duration,
    /// How long to wait between two questions for jobs.
    pub check_every: Duration,
    /// How often runners and their tokens are verified.
    pub verify_every: Duration,
    /// How long nothing is sent until GitLab is told that a job lives.
    pub keep_alive: Duration,
}

/// What a GitLab must know of one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitlabProfile {
    /// Whether it is on offer.
    pub exposed: bool,
    /// The token of a runner that was created by hand.
    pub token: Option<SecretPlace>,
    /// What jobs ask for.
    pub tags: BTreeSet<Label>,
    /// What its runner is called at GitLab.
    pub description: String,
    /// Whether it takes jobs without tags.
    pub run_untagged: bool,
    /// Whether it serves protected branches and tags only.
    pub protected_only: bool,
    /// The longest that a job may run on it.
    pub maximum_timeout: Option<Duration>,
    /// Whether its jobs get at this host, or at what only this host gets at.
    pub gateway: bool,
    /// Who may use it.
    pub access: Rules,
}
