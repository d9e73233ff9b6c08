//! What a forge is made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use runner_core::{Label, OwnerId, ProfileName, Result};

use crate::{
    breaker::BreakerLimits,
    demand::{DemandPace, DemandSource, ProfileDemand, SourceKind},
    groups::Group,
    mark,
    runners::Minted,
    scope::RepositoryName,
};

/// What GitHub must be told about one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubProfile {
    /// What it offers to jobs, beside its own name: as in [`runner_core::Profile`].
    pub labels: BTreeSet<Label>,
    /// Which repositories may use its runners.
    pub group: Group,
    /// Who is asked what waits for it, the best first.
    pub sources: Vec<SourceKind>,
}

impl GithubProfile {
    /// A profile in the default group, whose jobs are asked for.
    pub fn new(labels: BTreeSet<Label>) -> Self {
        Self { labels, group: Group::default(), sources: vec![SourceKind::Poll] }
    }
}

/// How often GitHub is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GithubPace {
    /// How old the list of runners may be while something is going on: a runner is starting, or a source of
    /// demand hinted, or none could.
    pub list_every: Duration,
    /// How old it may be otherwise.
    pub list_quietly_every: Duration,
    /// How demand is seen.
    pub demand: DemandPace,
    /// After how long an offline registration that shares its name with another is removed.
    pub ghost_grace: Duration,
    /// How often it is seen to what has to be done from time to time.
    pub tend_every: Duration,
}

impl Default for GithubPace {
    fn default() -> Self {
        Self {
            list_every: Duration::from_secs(10),
            list_quietly_every: Duration::from_secs(120),
            demand: DemandPace::default(),
            ghost_grace: Duration::from_secs(600),
            tend_every: Duration::from_secs(10),
        }
    }
}

/// Registers the runners of one profile in another way than all others: a runner scale set does.
#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// The profile.
    fn profile(&self) -> &ProfileName;

    /// Registers a runner that takes one job, under this name. None if the name is taken.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`; the runner may then exist or not.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: a runner that was made by then is listed by its name.
    async fn mint(&self, name: &str) -> Result<Option<Minted>>;

    /// Whether it was this one that registered the runner of this name. None if that cannot be told.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn registered(&self, name: &str) -> Result<Option<bool>>;
}

/// What a forge is made of, beside its client.
pub struct GithubConfig {
    /// Whose its runners are: [`PoolParts::owner`](runner_core::PoolParts).
    pub owner: OwnerId,
    /// The profiles it serves.
    pub profiles: BTreeMap<ProfileName, GithubProfile>,
    /// The repositories that are asked for queued jobs. Of a repository's own runners: that one, if none.
    pub repositories: Vec<RepositoryName>,
    /// How often GitHub is asked.
    pub pace: GithubPace,
    /// When a profile whose machines die early is stopped.
    pub breaker: BreakerLimits,
    /// Who tells what waits, beside asking.
    pub sources: Vec<Arc<dyn DemandSource>>,
    /// Who registers runners, where that is not done as usual.
    pub registrars: Vec<Arc<dyn Registrar>>,
}

impl GithubConfig {
    /// Without profiles, with default pace.
    pub fn new(owner: OwnerId) -> Self {
        Self {
            owner,
            profiles: BTreeMap::new(),
            repositories: Vec::new(),
            pace: GithubPace::default(),
            breaker: BreakerLimits::default(),
            sources: Vec::new(),
            registrars: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.profiles.keys().try_for_each(|profile| mark::check(profile, &self.owner))
    }

    pub(crate) fn demand(&self) -> BTreeMap<ProfileName, ProfileDemand> {
        let demand = |profile: &GithubProfile| ProfileDemand {
            labels: profile.labels.clone(),
            sources: profile.sources.clone(),
        };
        self.profiles.iter().map(|(name, profile)| (name.clone(), demand(profile))).collect()
    }
}
