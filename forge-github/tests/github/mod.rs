//! A forge on a fake GitHub, over real HTTP.

#![expect(dead_code, reason = "each test file uses a part of it")]

use std::{collections::BTreeSet, ops::Deref, path::PathBuf, sync::Arc, time::Duration};

use fake_github::{Conclusion, FakeGitHub, Fault, FaultRule, JobRequest};
use forge_github::{
    Client, ClientConfig, Credentials, GithubConfig, GithubForge, HttpTransport, Place, SecretFrom,
    budget::Limits,
};
use runner_core::{
    Clock, Forge, Label, OwnerId, ProfileName, Result, RunnerId, WorkerName,
    forge::{Registration, RunnerSpec},
};
use tempfile::TempDir;

pub const OWNER: &str = "conformance";
pub const PROFILE: &str = "a";
/// The runner's name at GitHub that every test begins with.
pub const MARKED: &str = "a-1_conformance";

/// A GitHub with the organisation `acme`, its repository `acme/widgets`, a token that may what it must, and a
/// forge.
pub struct Fixture {
    pub github: Arc<FakeGitHub>,
    pub forge: Arc<GithubForge>,
    pub token: String,
    pub token_file: PathBuf,
    keep: TempDir,
}

impl Deref for Fixture {
    type Target = GithubForge;
    fn deref(&self) -> &GithubForge {
        &self.forge
    }
}

/// As fast as tests want it: nothing is kept, and nobody waits.
pub fn impatient(config: &mut GithubConfig) {
    config.pace.list_every = Duration::ZERO;
    config.pace.list_quietly_every = Duration::ZERO;
    config.pace.demand.poll_every = Duration::ZERO;
}

pub async fn fixture() -> Fixture {
    fixture_with(|_| {}, impatient).await
}

pub async fn fixture_with(
    client: impl FnOnce(&mut ClientConfig),
    forge: impl FnOnce(&mut GithubConfig),
) -> Fixture {
    let github = Arc::new(FakeGitHub::builder().ghes().start().await.unwrap());
    github.organisation("acme");
    github.repository("acme", "widgets");
    let token = github.classic_token("mona", &["repo", "admin:org"]);
    let keep = tempfile::tempdir().unwrap();
    let token_file = keep.path().join("token");
    std::fs::write(&token_file, &token).unwrap();
    let credentials = Credentials::Token(SecretFrom::File(token_file.clone()));
    let forge = open(&github, "acme", credentials, client, forge);
    Fixture { github, forge, token, token_file, keep }
}

pub fn open(
    github: &FakeGitHub,
    path: &str,
    credentials: Credentials,
    with_client: impl FnOnce(&mut ClientConfig),
    with_forge: impl FnOnce(&mut GithubConfig),
) -> Arc<GithubForge> {
    let place = Place::new(&format!("{}/{path}", github.web_url())).unwrap();
    let mut config = ClientConfig::new(place, credentials);
    config.limits = Limits { between_changes: Duration::ZERO, ..Limits::default() };
    with_client(&mut config);
    let trusted = github.certificate().unwrap_or_default().as_bytes();
    let transport = Arc::new(HttpTransport::new(trusted).unwrap());
    let client = Client::new(config, transport, Clock::system()).unwrap();
    let mut config = GithubConfig::new(OwnerId::new(OWNER).unwrap());
    config.repositories = vec!["acme/widgets".parse().unwrap()];
    let profile = forge_github::GithubProfile::new(BTreeSet::new());
    config.profiles.insert(ProfileName::new(PROFILE).unwrap(), profile);
    with_forge(&mut config);
    Arc::new(GithubForge::start(client, config).unwrap())
}

pub fn spec(name: &str) -> RunnerSpec {
    RunnerSpec {
        name: WorkerName::new(name).unwrap(),
        owner: OwnerId::new(OWNER).unwrap(),
        profile: ProfileName::new(PROFILE).unwrap(),
        labels: BTreeSet::from([Label::new("Linux").unwrap()]),
    }
}

impl Fixture {
    pub async fn register(&self, name: &str) -> Result<Registration> {
        self.forge.register(&spec(name)).await
    }

    /// A runner that has a job; with its session.
    pub async fn busy(&self, name: &str) -> (RunnerId, String) {
        let registration = self.register(name).await.unwrap();
        let job = JobRequest::new("acme/widgets", [PROFILE]);
        self.github.enqueue(job).unwrap();
        let session = self.github.connect(registration.secret.unwrap().expose()).unwrap();
        let job = self.github.next_job(&session, Duration::from_secs(10)).await.unwrap();
        job.expect("the runner gets its job");
        (registration.id, session)
    }

    pub fn fault(&self, on: impl FnOnce(FaultRule) -> FaultRule, fault: Fault) {
        self.github.fault(on(FaultRule::once(fault)));
    }

    pub fn finish(&self, session: &str) {
        self.github.finish(session, Conclusion::Success).unwrap();
    }

    pub async fn names(&self) -> Result<Vec<String>> {
        let runners = self.forge.runners().await?;
        Ok(runners.into_iter().map(|runner| runner.name.to_string()).collect())
    }

    /// What GitHub has, whatever we believe.
    pub fn truth(&self) -> Vec<String> {
        self.github.runners().into_iter().map(|runner| runner.name).collect()
    }

    /// How many calls were made of this kind so far.
    pub fn calls(&self, method: &str, part: &str) -> usize {
        let calls = self.github.calls();
        calls.iter().filter(|call| call.method == method && call.path.contains(part)).count()
    }

    /// Each test ends with this: all we sent is as GitHub describes it.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_clean(&self.github);
    }
}

#[track_caller]
pub fn assert_clean(github: &FakeGitHub) {
    let lines: Vec<String> = github.violations().iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}
