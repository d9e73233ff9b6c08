//! What of the configuration may change while the forge works: who may use what, and how it is offered.

use runner_core::{ProfileName, Result, access::Rules};

use crate::{
    config::{Administration, GitlabConfig, ProfileConfig},
    images::Images,
};

/// The terms on which jobs are taken at the moment.
pub(crate) struct Terms {
    pub access: Rules,
    pub images: Images,
    pub administration: Option<Administration>,
    pub profiles: Vec<ProfileConfig>,
}

impl Terms {
    pub(crate) fn new(config: &GitlabConfig) -> Result<Self> {
        Ok(Self {
            access: config.access.clone(),
            images: Images::new(&config.images)?,
            administration: config.administration.clone(),
            profiles: config.profiles.clone(),
        })
    }

    pub(crate) fn profile(&self, name: &ProfileName) -> Option<&ProfileConfig> {
        self.profiles.iter().find(|profile| profile.profile == *name)
    }

    /// Whether jobs are taken for a profile.
    pub(crate) fn offers(&self, name: &ProfileName) -> bool {
        let hidden = self.administration.as_ref().is_some_and(|admin| !admin.expose_runners);
        self.profile(name)
            .is_some_and(|profile| profile.exposed && (profile.token.is_some() || !hidden))
    }
}
