//! Which profile serves a job that names a container image or services.
//!
//! A machine has no containers: what a job expects of its image must be in the machine's own. So an
//! operator says by rule which profile has it. Without a fitting rule an image is not used, and the trace
//! says so, as GitLab's own shell executor does; services are refused, as a job cannot do without them.

use globset::{GlobBuilder, GlobMatcher};
use runner_core::{Error, ProfileName, Result};

use crate::{config::ImageRule, payload::Payload};

/// The rules, ready to be asked.
pub(crate) struct Images(Vec<Rule>);

struct Rule {
    image: Option<GlobMatcher>,
    services: Vec<GlobMatcher>,
    profile: ProfileName,
}

/// What the rules say of a job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It asks for nothing, or for what no rule is about: it runs where it was asked for.
    AsAsked,
    /// This profile serves it.
    Profile(ProfileName),
    /// It needs services that no profile has.
    NoServices,
}

impl Images {
    pub(crate) fn new(rules: &[ImageRule]) -> Result<Self> {
        let rule = |rule: &ImageRule| {
            Ok(Rule {
                image: rule.image.as_deref().map(matcher).transpose()?,
                services: rule.services.iter().map(|s| matcher(s)).collect::<Result<_>>()?,
                profile: rule.profile.clone(),
            })
        };
        rules.iter().map(rule).collect::<Result<_>>().map(Self)
    }

    pub(crate) fn choose(&self, job: &Payload) -> Choice {
        let image = job.image.as_ref().map(|image| image.name.as_str());
        let services: Vec<&str> =
            job.services.iter().map(|service| service.name.as_str()).collect();
        self.choose_by_name(image, &services)
    }

    fn choose_by_name(&self, image: Option<&str>, services: &[&str]) -> Choice {
        let fits = |rule: &&Rule| {
            let image = match (&rule.image, image) {
                (Some(pattern), Some(image)) => pattern.is_match(image),
                (None, None) => !services.is_empty(),
                (Some(_), None) | (None, Some(_)) => false,
            };
            image && services.iter().all(|name| rule.services.iter().any(|s| s.is_match(name)))
        };
        match self.0.iter().find(fits) {
            Some(rule) => Choice::Profile(rule.profile.clone()),
            None if services.is_empty() => Choice::AsAsked,
            None => Choice::NoServices,
        }
    }
}

fn matcher(pattern: &str) -> Result<GlobMatcher> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    let glob = glob.map_err(|error| {
        Error::invalid(format!("image pattern {pattern:?}"), error.kind().to_string())
    })?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_names_the_profile() {
        let rule = |image: Option<&str>, services: &[&str], profile: &str| ImageRule {
            image: image.map(str::to_owned),
            services: services.iter().map(|s| (*s).to_owned()).collect(),
            profile: ProfileName::new(profile).unwrap(),
        };
        let images = Images::new(&[
            rule(Some("rust:1.*"), &[], "rust"),
            rule(Some("rust:*"), &["postgres:*"], "rust-postgres"),
            rule(Some("registry.example.org/**"), &[], "any"),
            rule(None, &["redis"], "redis"),
        ])
        .unwrap();
        let profile = |name: &str| Choice::Profile(ProfileName::new(name).unwrap());
        for (image, services, expected) in [
            (None, vec![], Choice::AsAsked),
            (Some("rust:1.90"), vec![], profile("rust")),
            (Some("rust:1.90"), vec!["postgres:16"], profile("rust-postgres")),
            (Some("rust:1.90"), vec!["postgres:16", "redis"], Choice::NoServices),
            (Some("rust/extra:1"), vec![], Choice::AsAsked),
            (Some("registry.example.org/a/b:c"), vec![], profile("any")),
            (None, vec!["redis"], profile("redis")),
            (Some("other"), vec!["redis"], Choice::NoServices),
        ] {
            assert_eq!(images.choose_by_name(image, &services), expected, "{image:?} {services:?}");
        }
        assert!(Images::new(&[rule(Some("a[b"), &[], "a")]).is_err());
    }
}
