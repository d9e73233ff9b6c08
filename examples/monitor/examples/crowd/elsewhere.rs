//! A forge that is not this service's own: its jobs have titles, repositories and pages elsewhere.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use monitor::{
    config::Config,
    guests::Contact,
    remote::{
        Asked, Delivered, Figures, JobPlace, JobTold, Moment, Outside, Remote, Remotes,
        SourceFigures,
    },
};
use poem::http::{HeaderMap, StatusCode};
use runner_core::{Error, ForgeName, JobId, ProfileName, Result, Secret, Status, fake::FakeWorld};

use crate::profiles::ELSEWHERE;

const TITLES: [&str; 5] = [
    "CI / build (ubuntu-24.04)",
    "CI / test (3/8)",
    "Nightly / wpt <linux>",
    "Release / package & sign",
    "CI / lint",
];

/// It, in a world.
pub fn forges(world: &FakeWorld) -> Remotes {
    let name = ForgeName::new(ELSEWHERE).expect("letters are a valid name");
    let forge = Arc::new(world.forge(name.clone()));
    BTreeMap::from([(name, Remote { forge, outside: Arc::new(Elsewhere) })])
}

struct Elsewhere;

#[async_trait]
impl Outside for Elsewhere {
    fn hears(&self) -> bool {
        false
    }

    fn deliver(&self, _: &HeaderMap, _: &[u8]) -> Delivered {
        Delivered { status: StatusCode::NOT_FOUND, said: "it has no webhook".to_owned() }
    }

    fn user_data(
        &self,
        _: &ProfileName,
        secret: &Secret<String>,
        _: &Contact,
    ) -> Result<Secret<String>> {
        Ok(secret.clone())
    }

    fn job_told(&self, _: &ProfileName, _: Moment, _: &[u8]) -> Result<JobTold> {
        Err(Error::unsupported("what a machine in memory tells"))
    }

    fn job(&self, id: &JobId) -> Option<JobPlace> {
        let number: usize = id.as_str().strip_prefix("job-")?.parse().ok()?;
        let run = 9_000_000 + number / 3;
        Some(JobPlace {
            title: TITLES[number % TITLES.len()].to_owned(),
            repository: Some("acme/widgets".to_owned()),
            page: Some(format!("https://github.com/acme/widgets/actions/runs/{run}/job/{number}")),
        })
    }

    fn figures(&self) -> Figures {
        let profile = ProfileName::new("widgets").expect("letters are a valid name");
        let asked = Asked { order: vec!["poll"], now: Some("poll") };
        Figures {
            place: "organization acme at github.com".to_owned(),
            sources: vec![SourceFigures { kind: "poll", profile: None, ill: None }],
            asked: BTreeMap::from([(profile, asked)]),
            ..Figures::default()
        }
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn news(&self) -> Vec<String> {
        Vec::new()
    }

    fn configure(&self, _: &Config) {}

    fn follow(&self, _: &Status) {}

    async fn stop(&self) {}
}
