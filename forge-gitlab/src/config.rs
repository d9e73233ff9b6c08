//! What an operator decides about a GitLab instance and the profiles that serve it.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use runner_core::{
    Error, Label, OwnerId, ProfileName, Result, Secret,
    access::{Rules, check_gateway},
};
use serde::{Deserialize, Serialize};
use url::Url;

/// One GitLab instance and all that we do with it.
#[derive(Clone)]
pub struct GitlabConfig {
    /// Its address, such as `https://gitlab.example.org/`; one that lives below a path keeps the path.
    pub url: Url,
    /// Whether an address without TLS is acceptable, over which tokens travel in the clear.
    pub allow_http: bool,
    /// Certificates in PEM that are trusted in place of the system's.
    pub certificates: Option<Vec<u8>>,
    /// Where tokens and running jobs are kept (made with mode 0700; the files in it have 0600).
    pub state_dir: PathBuf,
    /// Whose the runners are: written into each at GitLab, to tell ours apart.
    pub owner: OwnerId,
    /// Who may use any of the profiles, where a profile's own rules say nothing.
    pub access: Rules,
    /// With what the runners are created and kept at GitLab. Without it every profile brings its token.
    pub administration: Option<Administration>,
    /// The profiles that serve this instance.
    pub profiles: Vec<ProfileConfig>,
    /// Which profile serves jobs that name a container image or services: the first rule that fits.
    pub images: Vec<ImageRule>,
    /// How much and how long.
    pub limits: Limits,
    /// Where jobs live in the guest: an absolute path. Jobs find it as `CI_BUILDS_DIR`.
    pub builds_dir: String,
}

/// What it takes to create runners at GitLab.
#[derive(Clone)]
pub struct Administration {
    /// A personal, group or project access token with the scopes `create_runner` and `manage_runner`.
    pub token: Secret<String>,
    /// Where runners are created.
    pub place: Place,
    /// Whether any runner is on offer: false retires all of them, which is how an operator leaves quickly.
    pub expose_runners: bool,
}

/// Where a runner belongs at GitLab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It serves the whole instance.
    Instance,
    /// It serves the group of this id.
    Group(u64),
    /// It serves the project of this id.
    Project(u64),
}

/// How a profile serves one GitLab instance.
#[derive(Clone)]
pub struct ProfileConfig {
    /// The profile.
    pub profile: ProfileName,
    /// Whether it is on offer. One that was and is not any more is removed at GitLab.
    pub exposed: bool,
    /// A runner's token (`glrt-…`), for one that was created by hand.
    pub token: Option<Secret<String>>,
    /// What jobs ask for.
    pub tags: BTreeSet<Label>,
    /// What it is called at GitLab.
    pub description: String,
    /// Whether it takes jobs without tags.
    pub run_untagged: bool,
    /// Whether it serves protected branches and tags only.
    pub protected_only: bool,
    /// The longest that GitLab lets a job run on it: 600 s at least. No limit but the project's, if none.
    pub maximum_timeout: Option<Duration>,
    /// Who may use it.
    pub access: Rules,
    /// Whether its jobs run on the host itself: then somebody must be allowed by name.
    pub gateway: bool,
}

impl ProfileConfig {
    /// A profile that is on offer under its own name, as its only tag, to everybody.
    pub fn new(profile: ProfileName) -> Self {
        let tag = Label::new(profile.as_str()).expect("a profile's name is a valid label");
        Self {
            description: profile.to_string(),
            profile,
            exposed: true,
            token: None,
            tags: BTreeSet::from([tag]),
            run_untagged: false,
            protected_only: false,
            maximum_timeout: None,
            access: Rules::default(),
            gateway: false,
        }
    }
}

/// Sends jobs that name an image or services to a profile that has what they need built in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRule {
    /// A pattern for the image's whole name: `*` for any text without `/`, `**` for any text, `?`, `[…]`,
    /// `{…,…}`. Without it, jobs without an image.
    pub image: Option<String>,
    /// Patterns for services: each service of the job must fit one of them.
    #[serde(default)]
    pub services: Vec<String>,
    /// Who serves such jobs.
    pub profile: ProfileName,
}

impl ImageRule {
    /// Refuses patterns that cannot be read.
    ///
    /// # Errors
    /// `Invalid`, naming the pattern.
    pub fn check(&self) -> Result<()> {
        crate::images::Images::new(std::slice::from_ref(self)).map(drop)
    }
}

/// How much and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How much of a job's trace is kept, in bytes. GitLab's own runner keeps 4 MiB.
    pub trace_bytes: u64,
    /// How much one archive of artifacts may hold, in bytes before it is compressed.
    pub artifact_bytes: u64,
    /// How much the caches of all projects may take on the host, in bytes.
    pub cache_bytes: u64,
    /// How many jobs of a profile may wait here beyond the workers that are ready or on their way. At least
    /// one where no worker is kept idle: without it nobody would know that there is a job.
    pub ahead: usize,
    /// How long a job may wait here for a machine until it is failed.
    pub wait: Duration,
    /// How long a job has to end after it was asked to, before it is forced to.
    pub kill_grace: Duration,
    /// How long to wait between two questions for jobs.
    pub check_interval: Duration,
    /// How often runners and their tokens are verified at GitLab.
    pub verify_interval: Duration,
    /// How long nothing is sent until GitLab is told that the job lives.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            trace_bytes: 4 << 20,
            artifact_bytes: 4 << 30,
            cache_bytes: 16 << 30,
            ahead: 1,
            wait: Duration::from_secs(3600),
            kill_grace: Duration::from_secs(10),
            check_interval: Duration::from_secs(3),
            verify_interval: Duration::from_secs(300),
            keep_alive: Duration::from_secs(30),
        }
    }
}

impl GitlabConfig {
    /// A GitLab at `url`, without profiles and rules.
    pub fn new(url: Url, state_dir: impl Into<PathBuf>, owner: OwnerId) -> Self {
        Self {
            url,
            allow_http: false,
            certificates: None,
            state_dir: state_dir.into(),
            owner,
            access: Rules::default(),
            administration: None,
            profiles: Vec::new(),
            images: Vec::new(),
            limits: Limits::default(),
            builds_dir: "/work/builds".to_owned(),
        }
    }

    /// Refuses what cannot work or is not safe.
    ///
    /// # Errors
    /// `Invalid` naming the field and the rule.
    pub fn check(&self) -> Result<()> {
        self.check_address()?;
        self.access.check()?;
        if !self.builds_dir.starts_with('/') || self.builds_dir.len() < 2 {
            return Err(Error::invalid("builds_dir", "use an absolute path in the guest"));
        }
        let mut seen = BTreeSet::new();
        for profile in &self.profiles {
            let refuse = |field: &str, reason: &str| {
                Err(Error::invalid(format!("{field} of profile {}", profile.profile), reason))
            };
            if !seen.insert(&profile.profile) {
                return refuse("name", "it is there twice");
            }
            profile.access.check()?;
            if profile.gateway && profile.exposed {
                check_gateway(&profile.access)?;
            }
            if profile.token.is_none() && self.administration.is_none() {
                return refuse("token", "name one, or what it takes to create runners");
            }
            if profile.tags.is_empty() && !profile.run_untagged {
                return refuse("tags", "name one, or take jobs without tags");
            }
            if profile.maximum_timeout.is_some_and(|limit| limit < Duration::from_secs(600)) {
                return refuse("maximum_timeout", "GitLab wants 600 s at least");
            }
        }
        crate::images::Images::new(&self.images)?;
        Ok(())
    }

    /// Refuses an address that cannot work or is not safe.
    ///
    /// # Errors
    /// `Invalid`, with the way out.
    pub fn check_address(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::invalid("the address of GitLab", reason));
        match self.url.scheme() {
            "https" => (),
            "http" if self.allow_http => (),
            "http" => return refuse("tokens would travel in the clear: use https, or allow_http"),
            _ => return refuse("use https"),
        }
        let is_anonymous = self.url.username().is_empty() && self.url.password().is_none();
        if self.url.host().is_none() || !is_anonymous {
            return refuse("name a host, and nobody's account");
        }
        Ok(())
    }
}
