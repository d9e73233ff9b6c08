//! Runners that GitLab's own program plays in guests: made, listed and removed as a forge promises.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{PROFILE, config, profile, spec, until, worker};
use fake_gitlab::{FakeGitLab, Fault, FaultKind, JobSpec, ProjectId, RunnerView, Scope, Status};
use forge_gitlab::{Administration, GitlabConfig, GitlabGuests, ImageRule, Place, ProfileConfig};
use futures::{FutureExt, future::BoxFuture};
use runner_core::{
    Clock, Forge, Secret, WorkerName,
    access::{Names, Rules},
    conformance::forge::{ForgeFixture, World},
    forge::RunnerStatus,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

/// A GitLab, and the guests of its runners.
struct Side {
    gitlab: FakeGitLab,
    project: ProjectId,
    config: GitlabConfig,
    forge: GitlabGuests,
    /// Ends the jobs of guests.
    ends: Mutex<BTreeMap<WorkerName, Arc<Notify>>>,
    _directory: TempDir,
}

impl Side {
    async fn new(place: impl FnOnce(u64) -> Place) -> Arc<Self> {
        let gitlab = FakeGitLab::start().await.unwrap();
        gitlab.configure(|settings| settings.long_poll = Duration::from_millis(200));
        let project = gitlab.project("acme/infra/app");
        let token = gitlab.access_token(gitlab.admin(), &[Scope::Api]);
        let directory = TempDir::new().unwrap();
        let mut config = config(&gitlab, &directory);
        config.profiles.push(ProfileConfig::new(profile()));
        config.administration = Some(Administration {
            token: Secret::new(token),
            place: place(project.0),
            expose_runners: true,
        });
        let forge = GitlabGuests::new(config.clone(), Clock::system()).unwrap();
        let ends = Mutex::default();
        Arc::new(Self { gitlab, project, config, forge, ends, _directory: directory })
    }

    async fn of_project() -> Arc<Self> {
        Self::new(Place::Project).await
    }

    fn job(&self) -> fake_gitlab::JobId {
        self.gitlab.job(self.project, JobSpec::new("build", ["true"]).tags([PROFILE]))
    }

    fn view(&self, name: &str) -> RunnerView {
        let views = self.gitlab.runners().into_iter().filter_map(|id| self.gitlab.runner_view(id));
        let mut ours = views.filter(|view| view.spec.description.starts_with(&format!("{name} ")));
        ours.next().expect("it is registered")
    }

    async fn status(&self, name: &str) -> RunnerStatus {
        let runners = self.forge.runners().await.unwrap();
        runners.into_iter().find(|runner| runner.name.as_str() == name).unwrap().status
    }

    /// What `gitlab-runner run-single` does, at its edges.
    async fn run_single(gitlab: String, token: String, end: Arc<Notify>) {
        let http = reqwest::Client::new();
        let api = format!("{gitlab}/api/v4");
        let job: Value = loop {
            let body = json!({ "token": token, "system_id": "s_123456789012" });
            let asked = http.post(format!("{api}/jobs/request")).json(&body).send().await;
            match asked {
                Ok(reply) if reply.status() == 201 => break reply.json().await.unwrap(),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        end.notified().await;
        let body = json!({ "token": job["token"], "state": "success" });
        let put = http.put(format!("{api}/jobs/{}", job["id"])).json(&body).send().await.unwrap();
        assert_eq!(put.status(), 200);
    }

    fn start(&self, name: &WorkerName) {
        let end = Arc::new(Notify::new());
        self.ends.lock().unwrap().insert(name.clone(), end.clone());
        let token = self.view(name.as_str()).token;
        let url = self.gitlab.url().trim_end_matches('/').to_owned();
        tokio::spawn(Self::run_single(url, token, end));
    }
}

/// For the suite.
struct Shared(Arc<Side>);

impl World for Shared {
    fn submit(&self) -> BoxFuture<'_, ()> {
        async {
            self.0.job();
        }
        .boxed()
    }

    fn bring_online(&self, name: WorkerName) -> BoxFuture<'_, ()> {
        async move { self.0.start(&name) }.boxed()
    }

    fn finish(&self, name: WorkerName) -> BoxFuture<'_, ()> {
        async move { self.0.ends.lock().unwrap()[&name].notify_one() }.boxed()
    }
}

async fn fixture() -> Option<ForgeFixture> {
    let side = Side::of_project().await;
    let forge = Arc::new(side.forge.clone());
    Some(ForgeFixture { forge, world: Box::new(Shared(side.clone())), keep: Box::new(side) })
}

runner_core::forge_conformance!(fixture().await);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_gets_a_runner_of_its_own_and_its_secret_as_user_data() {
    let side = Side::of_project().await;
    let registration = side.forge.register(&spec("a-1")).await.unwrap();
    let view = side.view("a-1");
    assert_eq!(registration.id.as_str(), view.id.0.to_string());
    assert_eq!((&view.spec.tags[..], view.spec.paused), (&[PROFILE.to_owned()][..], false));
    let expected = format!("gitlab-url={}\ngitlab-token={}\n", side.config.url, view.token);
    assert_eq!(registration.secret.unwrap().expose(), &expected);
    let violations = side.gitlab.violations();
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_a_job_may_find_is_good_for_no_second_job() {
    let side = Side::of_project().await;
    side.forge.register(&spec("a-1")).await.unwrap();
    let first = side.job();
    side.start(&worker("a-1"));
    until("it is busy", async || matches!(side.status("a-1").await, RunnerStatus::Busy(_))).await;
    assert!(side.view("a-1").spec.paused);
    // What a job does that found the token.
    let second = side.job();
    let body = json!({ "token": side.view("a-1").token, "system_id": "s_999999999999" });
    let url = format!("{}/api/v4/jobs/request", side.gitlab.url().trim_end_matches('/'));
    let stolen = reqwest::Client::new().post(url).json(&body).send().await.unwrap();
    assert_eq!(stolen.status(), 204);
    assert_eq!(side.gitlab.job_view(second).unwrap().status, Status::Pending);
    assert_eq!(side.gitlab.job_view(first).unwrap().status, Status::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_whose_token_nobody_heard_is_replaced_and_others_are_left_alone() {
    let side = Side::of_project().await;
    let theirs =
        fake_gitlab::RunnerSpec::tagged(fake_gitlab::Place::Project(side.project), [PROFILE]);
    let (theirs, _) = side.gitlab.runner(theirs);
    let lost = Fault::new(FaultKind::LostAnswer).on("POST /user/runners").times(1);
    side.gitlab.inject(lost).unwrap();
    assert!(side.forge.register(&spec("a-1")).await.is_err());
    assert_eq!(side.gitlab.runners().len(), 2, "it was made");
    assert_eq!(side.forge.runners().await.unwrap().len(), 1, "and is listed");
    let id = side.forge.register(&spec("a-1")).await.unwrap().id;
    assert_eq!(side.gitlab.runners().len(), 2);
    side.forge.deregister(&id).await.unwrap();
    assert_eq!(side.gitlab.runners(), [theirs]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_listed_whole_is_an_error() {
    let side = Side::of_project().await;
    let id = side.forge.register(&spec("a-1")).await.unwrap().id;
    for route in ["GET /projects/{id}/runners", "GET /runners/{id}/jobs"] {
        // One that was never heard of has no jobs to ask for.
        side.start(&worker("a-1"));
        until("it is online", async || side.status("a-1").await == RunnerStatus::Idle).await;
        side.gitlab.inject(Fault::status(403).on(route)).unwrap();
        assert!(side.forge.runners().await.is_err(), "{route}");
        if route.ends_with("jobs") {
            assert!(side.forge.deregister(&id).await.is_err(), "it may have a job");
        }
        side.gitlab.clear_faults();
    }
    assert_eq!(side.gitlab.runners().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instances_queue_is_not_known_and_its_runners_work() {
    let side = Side::new(|_| Place::Instance).await;
    side.forge.register(&spec("a-1")).await.unwrap();
    side.job();
    assert!(side.forge.queued_jobs().await.unwrap().is_empty());
    side.start(&worker("a-1"));
    until("it is busy", async || matches!(side.status("a-1").await, RunnerStatus::Busy(_))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_could_heed_is_refused() {
    let side = Side::of_project().await;
    let users = vec!["ada".to_owned()];
    let rules = Rules { allow: Names { users, ..Names::default() }, deny: Names::default() };
    let rule = ImageRule { image: None, services: vec![], profile: profile() };
    type Change<'a> = Box<dyn Fn(&mut GitlabConfig) + 'a>;
    let changes: [(&str, Change<'_>); 5] = [
        (
            "administration",
            Box::new(|config| {
                config.administration = None;
                config.profiles[0].token = Some(Secret::new("glrt-1".to_owned()));
            }),
        ),
        ("access is", Box::new(|config| config.access = rules.clone())),
        ("access of profile a", Box::new(|config| config.profiles[0].access = rules.clone())),
        ("images", Box::new(|config| config.images.push(rule.clone()))),
        (
            "token of profile a",
            Box::new(|config| {
                config.profiles[0].token = Some(Secret::new("glrt-1".to_owned()));
            }),
        ),
    ];
    for (field, change) in changes {
        let mut config = side.config.clone();
        change(&mut config);
        let error = GitlabGuests::new(config, Clock::system()).err().expect(field).to_string();
        assert!(error.contains(field), "{error}");
    }
}
