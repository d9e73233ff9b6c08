//! A second opinion: the same jobs against a GitLab that somebody else wrote.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{agent::FakeAgent, profile, spec, until, worker};
use forge_gitlab::{GitlabConfig, GitlabForge, ProfileConfig};
use gitlab_runner_mock::{
    GitlabRunnerMock, MockJob, MockJobState, MockJobStepName, MockJobStepWhen,
};
use guest_agent::AgentGuest;
use runner_core::{Clock, Forge, OwnerId, Secret};
use tempfile::TempDir;

struct Fixture {
    mock: GitlabRunnerMock,
    forge: GitlabForge,
    directory: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let mock = GitlabRunnerMock::start().await;
        mock.set_update_interval(1);
        let directory = TempDir::new().unwrap();
        let owner = OwnerId::new("tests").unwrap();
        let mut config = GitlabConfig::new(mock.uri(), directory.path().join("state"), owner);
        config.allow_http = true;
        config.builds_dir = directory.path().join("builds").to_str().unwrap().to_owned();
        config.limits.check_interval = Duration::from_millis(20);
        config.limits.keep_alive = Duration::from_millis(200);
        config.limits.kill_grace = Duration::from_millis(500);
        let mut profile = ProfileConfig::new(profile());
        profile.token = Some(Secret::new(mock.runner_token().to_owned()));
        config.profiles.push(profile);
        let forge = GitlabForge::open(config, Clock::system()).await.unwrap();
        Self { mock, forge, directory }
    }

    fn job(
        &self,
        script: &str,
        change: impl FnOnce(&mut gitlab_runner_mock::MockJobBuilder),
    ) -> MockJob {
        let mut job = self.mock.job_builder("build".to_owned());
        job.add_variable("GIT_STRATEGY".to_owned(), "none".to_owned(), true, false);
        let (name, when) = (MockJobStepName::Script, MockJobStepWhen::OnSuccess);
        job.add_step(name, vec![script.to_owned()], 60, when, false);
        change(&mut job);
        job.build()
    }

    /// Runs the next job on a worker of its own.
    async fn work(&self, name: &str) {
        let id = self.forge.register(&spec(name)).await.unwrap().id;
        let agent = FakeAgent::default();
        agent.0.lock().unwrap().shell = vec!["/bin/sh".to_owned()];
        let guest = AgentGuest::new(worker(name), agent);
        let state = self.directory.path().join("run");
        let guest = guest.with_state(state.to_str().unwrap());
        self.forge.drive(&id, Arc::new(guest)).await.unwrap();
    }

    async fn over(&self, job: &MockJob) -> String {
        until("it is over", async || job.finished()).await;
        String::from_utf8_lossy(&job.log()).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_succeed_and_fail() {
    let fixture = Fixture::new().await;
    for (name, script, state) in [
        ("a-1", "echo hello $NAME", MockJobState::Success),
        ("a-2", "echo hello $NAME; false", MockJobState::Failed),
    ] {
        let job = fixture.job(script, |job| {
            job.add_variable("NAME".to_owned(), "secret-name".to_owned(), false, true);
        });
        fixture.mock.enqueue_job(job.clone());
        fixture.work(name).await;
        let log = fixture.over(&job).await;
        assert_eq!(job.state(), state, "{log}");
        assert!(log.contains("\nhello [MASKED]\n"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn artifacts_arrive() {
    let fixture = Fixture::new().await;
    let make = fixture.job("mkdir d; echo one >d/f", |job| {
        job.add_artifact_paths(vec!["d".to_owned()]);
    });
    fixture.mock.enqueue_job(make.clone());
    fixture.work("a-1").await;
    let log = fixture.over(&make).await;
    assert_eq!(make.state(), MockJobState::Success, "{log}");
    let made: Vec<_> = make.uploaded_artifacts().collect();
    assert_eq!((made.len(), made[0].filename.as_deref()), (1, Some("artifacts.zip")));
    let content = std::io::Cursor::new(made[0].data.to_vec());
    let mut archive = zip::ZipArchive::new(content).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut archive.by_name("d/f").unwrap(), &mut text).unwrap();
    assert_eq!(text, "one\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_ends() {
    let fixture = Fixture::new().await;
    let job = fixture.job("echo begun; sleep 1000", |_| ());
    fixture.mock.enqueue_job(job.clone());
    let work = fixture.work("a-1");
    let cancel = async {
        until("it runs", async || job.log_patches() > 0).await;
        job.cancel();
    };
    tokio::join!(work, cancel);
    assert_eq!(job.state(), MockJobState::Cancelled);
}
