//! A GitLab, the forge that serves it, and guests that are directories of this host.

#[path = "../../../guest-agent/tests/common/mod.rs"]
pub mod agent;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent::FakeAgent;
use fake_gitlab::{FakeGitLab, JobId, JobSpec, JobView, Place, ProjectId, RunnerSpec};
use forge_gitlab::{GitlabConfig, GitlabForge, ProfileConfig};
use guest_agent::AgentGuest;
use runner_core::{
    Clock, Forge, OwnerId, ProfileName, RunnerId, Secret, WorkerName, forge::RunnerStatus,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

pub const PROFILE: &str = "a";

pub struct Fixture {
    pub gitlab: FakeGitLab,
    pub project: ProjectId,
    pub runner: fake_gitlab::RunnerId,
    pub config: GitlabConfig,
    pub forge: Option<GitlabForge>,
    pub directory: TempDir,
    pub agent: FakeAgent,
}

pub fn profile() -> ProfileName {
    ProfileName::new(PROFILE).unwrap()
}

pub fn worker(name: &str) -> WorkerName {
    WorkerName::new(name).unwrap()
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// With a runner that somebody created by hand, and what `change` makes of the configuration.
    pub async fn with(change: impl FnOnce(&mut GitlabConfig)) -> Self {
        let gitlab = FakeGitLab::start().await.unwrap();
        gitlab.configure(|settings| settings.long_poll = Duration::from_secs(2));
        let project = gitlab.project("acme/infra/app");
        let (runner, token) = gitlab.runner(RunnerSpec::tagged(Place::Project(project), [PROFILE]));
        let directory = TempDir::new().unwrap();
        let mut config = config(&gitlab, &directory);
        let mut profile = ProfileConfig::new(profile());
        profile.token = Some(Secret::new(token));
        config.profiles.push(profile);
        change(&mut config);
        let forge = GitlabForge::open(config.clone(), Clock::system()).await.unwrap();
        let forge = Some(forge);
        Self { gitlab, project, runner, config, forge, directory, agent: FakeAgent::default() }
            .with_agent()
    }

    fn with_agent(self) -> Self {
        self.agent.0.lock().unwrap().shell = vec!["/bin/sh".to_owned()];
        self
    }

    pub fn forge(&self) -> &GitlabForge {
        self.forge.as_ref().unwrap()
    }

    /// What a restart of the process does, however it died.
    pub async fn restart(&mut self) {
        self.forge = None;
        self.forge = Some(GitlabForge::open(self.config.clone(), Clock::system()).await.unwrap());
    }

    /// A job that asks for our profile.
    pub fn submit(&self, job: JobSpec) -> JobId {
        let job = job.tags([PROFILE]);
        self.gitlab.job(self.project, without_sources(job))
    }

    /// Jobs of one pipeline.
    pub fn pipeline<const N: usize>(&self, jobs: [JobSpec; N]) -> Vec<JobId> {
        let jobs = jobs.map(|job| without_sources(job.tags([PROFILE])));
        self.gitlab.pipeline(self.gitlab.admin(), self.project, jobs).1
    }

    pub fn guest(&self) -> Arc<AgentGuest<FakeAgent>> {
        let state = self.directory.path().join("run");
        let guest = AgentGuest::new(worker("a-1"), self.agent.clone());
        Arc::new(guest.with_state(state.to_str().unwrap()))
    }

    pub async fn register(&self, name: &str) -> RunnerId {
        self.forge().register(&spec(name)).await.unwrap().id
    }

    /// A worker that takes a job.
    pub async fn worker(&self, name: &str) -> JoinHandle<runner_core::Result<()>> {
        let id = self.register(name).await;
        self.drive(id)
    }

    pub fn drive(&self, id: RunnerId) -> JoinHandle<runner_core::Result<()>> {
        let (forge, guest) = (self.forge().clone(), self.guest());
        tokio::spawn(async move { forge.drive(&id, guest).await })
    }

    pub async fn over(&self, job: JobId) -> JobView {
        let over = tokio::time::timeout(Duration::from_secs(60), self.gitlab.until_over(job)).await;
        over.unwrap_or_else(|_| panic!("in vain: {:?}", self.gitlab.job_view(job))).unwrap()
    }

    /// Runs a job on a worker of its own.
    pub async fn run(&self, job: JobSpec) -> JobView {
        let job = self.submit(job);
        let name = format!("a-{}", job.0);
        let driver = self.worker(&name).await;
        let view = self.over(job).await;
        driver.await.unwrap().unwrap();
        view
    }

    pub async fn until_busy(&self, name: &str) {
        until("it is busy", async || {
            let runners = self.forge().runners().await.unwrap();
            runners
                .iter()
                .any(|r| r.name.as_str() == name && matches!(r.status, RunnerStatus::Busy(_)))
        })
        .await;
    }

    /// Fails if either side said anything that GitLab's description does not allow.
    pub fn assert_spoke_as_described(&self) {
        let violations: Vec<String> =
            self.gitlab.violations().iter().map(ToString::to_string).collect();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

pub fn without_sources(job: JobSpec) -> JobSpec {
    job.variable(fake_gitlab::Variable::new("GIT_STRATEGY", "none"))
}

pub fn spec(name: &str) -> runner_core::forge::RunnerSpec {
    runner_core::forge::RunnerSpec {
        name: worker(name),
        owner: OwnerId::new("tests").unwrap(),
        profile: profile(),
        labels: BTreeSet::new(),
    }
}

/// Everything a moment earlier than in life.
pub fn config(gitlab: &FakeGitLab, directory: &TempDir) -> GitlabConfig {
    let path = |name: &str| directory.path().join(name);
    let owner = OwnerId::new("tests").unwrap();
    let mut config = GitlabConfig::new(gitlab.url().parse().unwrap(), path("state"), owner);
    config.allow_http = true;
    config.builds_dir = path("builds").to_str().unwrap().to_owned();
    config.limits.check_interval = Duration::from_millis(20);
    config.limits.keep_alive = Duration::from_millis(200);
    config.limits.kill_grace = Duration::from_secs(1);
    config.limits.verify_interval = Duration::from_millis(100);
    config
}

/// Waits until `what` holds.
pub async fn until(why: &str, mut what: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !what().await {
        assert!(start.elapsed() < Duration::from_secs(30), "in vain: {why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
