//! Crate `gitlab-runner`, which others wrote, as a runner of this GitLab.

use std::{borrow::Cow, io::Read, sync::Arc, time::Duration};

use fake_gitlab::{FakeGitLab, JobSpec, Place, ProjectId, RunnerSpec, Status, Variable};
use futures::AsyncRead;
use gitlab_runner::{
    GitlabLayer, JobHandler, JobResult, Phase, Runner, RunnerBuilder, UploadableFile, job::Job,
};
use tempfile::TempDir;
use tokio::sync::Notify;
use tracing::{Dispatch, instrument::WithSubscriber as _};
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

/// Does what a line of a script says, in a language of three words.
struct Interpreter {
    job: Job,
    files: Vec<Written>,
    /// Ends a wait, after which there is something to say, and another wait.
    told: Arc<Notify>,
}

struct Written {
    name: String,
    content: Vec<u8>,
}

#[async_trait::async_trait]
impl UploadableFile for Written {
    type Data<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

    fn get_path(&self) -> Cow<'_, str> {
        self.name.as_str().into()
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Ok(Box::new(self.content.as_slice()))
    }
}

#[async_trait::async_trait]
impl JobHandler<Written> for Interpreter {
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        for line in script {
            self.job.trace(format!("{phase:?}$ {line}\n"));
            match line.split_once(' ') {
                Some(("write", name)) => {
                    let content = self.job.variable("CONTENT").map_or("", |one| one.value());
                    let content = content.as_bytes().to_vec();
                    self.files.push(Written { name: name.to_owned(), content });
                }
                Some(("read", name)) => {
                    for dependency in self.job.dependencies() {
                        let archive = dependency.download().await.map_err(drop)?;
                        let mut archive = archive.ok_or(())?;
                        let mut text = String::new();
                        let mut file = archive.file(name).ok_or(())?;
                        file.read_to_string(&mut text).map_err(drop)?;
                        self.job.trace(format!("{name}: {text}\n"));
                    }
                }
                Some(("wait", _)) => {
                    self.told.notified().await;
                    self.job.trace("still here\n");
                    std::future::pending().await
                }
                _ => return Err(()),
            }
        }
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = Written> + Send>, ()> {
        Ok(Box::new(std::mem::take(&mut self.files).into_iter()))
    }
}

struct World {
    gitlab: FakeGitLab,
    project: ProjectId,
    runner: Runner,
    log: Dispatch,
    told: Arc<Notify>,
    _builds: TempDir,
}

impl World {
    async fn new() -> Self {
        let gitlab = FakeGitLab::start().await.expect("a free port");
        gitlab.configure(|settings| settings.trace_update_interval = Duration::from_secs(1));
        let project = gitlab.project("acme/app");
        let (_, token) = gitlab.runner(RunnerSpec::new(Place::Project(project)));
        let builds = tempfile::tempdir().expect("a directory");
        let (layer, jobs) = GitlabLayer::new();
        let url = gitlab.url().parse().expect("an address");
        let runner = RunnerBuilder::new(url, token, builds.path(), jobs)
            .system_id("s_0123456789ab")
            .version("0.3")
            .build()
            .await;
        let log = Dispatch::new(Registry::default().with(layer));
        let told = Arc::default();
        Self { gitlab, project, runner, log, told, _builds: builds }
    }
}

/// Takes a job and starts to do it.
async fn take(runner: &mut Runner, told: &Arc<Notify>) -> bool {
    let told = told.clone();
    let asked = runner.request_job(async |job| Ok(Interpreter { job, files: Vec::new(), told }));
    asked.await.expect("an answer")
}

#[tokio::test]
async fn a_job_hands_a_file_to_the_next_one() {
    let World { gitlab, project, mut runner, log, told, _builds } = World::new().await;
    let build = JobSpec::new("build", ["write greeting.txt"])
        .stage("build")
        .variable(Variable::new("CONTENT", "good morning"))
        .artifacts(["*.txt"]);
    let test = JobSpec::new("test", ["read greeting.txt"]).stage("test");
    let (_, jobs) = gitlab.pipeline(gitlab.admin(), project, [build, test]);
    let work = async {
        assert!(take(&mut runner, &told).await);
        runner.wait_for_space(1).await;
        assert!(take(&mut runner, &told).await);
        runner.wait_for_space(1).await;
        assert!(!take(&mut runner, &told).await);
    };
    work.with_subscriber(log).await;

    let [build, test] = jobs.as_slice() else { panic!("two jobs") };
    let build = gitlab.job_view(*build).expect("a job");
    assert_eq!(build.status, Status::Success, "{}", build.log());
    assert_eq!(build.system_id.as_deref(), Some("s_0123456789ab"));
    assert_eq!(build.artifacts.len(), 1);
    assert_eq!(
        (build.artifacts[0].kind.as_str(), build.artifacts[0].format.as_str()),
        ("archive", "zip")
    );
    let test = gitlab.job_view(*test).expect("a job");
    assert_eq!(test.status, Status::Success, "{}", test.log());
    assert!(test.log().contains("greeting.txt: good morning"), "{}", test.log());
    assert_eq!(gitlab.violations(), []);
}

#[tokio::test]
async fn a_job_fails_and_its_after_script_runs() {
    let World { gitlab, project, mut runner, log, told, _builds } = World::new().await;
    let job = gitlab.job(project, JobSpec::new("build", ["nonsense"]).after(["write x"]));
    let work = async {
        assert!(take(&mut runner, &told).await);
        runner.wait_for_space(1).await;
    };
    work.with_subscriber(log).await;
    let job = gitlab.job_view(job).expect("a job");
    assert_eq!(job.status, Status::Failed);
    assert_eq!(job.failure_reason.as_deref(), Some("unknown_failure"));
    assert!(job.log().contains("AfterScript$ write x"), "{}", job.log());
    assert_eq!(gitlab.violations(), []);
}

#[tokio::test]
async fn a_cancelled_job_is_given_up() {
    let World { gitlab, project, mut runner, log, told, _builds } = World::new().await;
    let job = gitlab.job(project, JobSpec::new("build", ["wait forever"]));
    let work = async {
        assert!(take(&mut runner, &told).await);
        let heard = gitlab.until_job(job, |job| !job.trace.is_empty()).await;
        assert!(heard.is_some() && gitlab.cancel(job));
        told.notify_one();
        runner.wait_for_space(1).await;
    };
    work.with_subscriber(log).await;
    let job = gitlab.job_view(job).expect("a job");
    assert_eq!(job.status, Status::Canceled);
    assert_eq!(gitlab.violations(), []);
}
