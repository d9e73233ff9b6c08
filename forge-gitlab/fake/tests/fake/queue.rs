//! Which runner gets which job.

use std::time::Duration;

use fake_gitlab::{Artifacts, JobSpec, Place, RunnerSpec, Status};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Send as _, Taken, World, asking};

async fn ask_as(world: &World, token: &str) -> Option<Value> {
    let answer = world.ask(asking(token, ["refspecs"])).await;
    (answer.status == 201).then(|| answer.json())
}

#[tokio::test]
async fn a_runner_gets_jobs_whose_tags_it_has_all() {
    let world = World::new().await;
    let spec = RunnerSpec::tagged(Place::Instance, ["linux", "big"]);
    let (_, token) = world.gitlab.runner(spec);
    let gitlab = &world.gitlab;
    gitlab.job(world.project, JobSpec::new("untagged", ["true"]));
    gitlab.job(world.project, JobSpec::new("other", ["true"]).tags(["linux", "gpu"]));
    let mine = gitlab.job(world.project, JobSpec::new("mine", ["true"]).tags(["linux"]));
    let job = ask_as(&world, &token).await.expect("a job");
    assert_eq!(job["id"], json!(mine));
    assert_eq!(ask_as(&world, &token).await, None);
    world.done();
}

#[tokio::test]
async fn a_runner_of_a_group_gets_jobs_of_all_that_is_in_it() {
    let world = World::new().await;
    let gitlab = &world.gitlab;
    let (acme, other) = (gitlab.group("acme"), gitlab.group("acmes"));
    let (_, mine) = gitlab.runner(RunnerSpec::new(Place::Group(acme)));
    let (_, theirs) = gitlab.runner(RunnerSpec::new(Place::Group(other)));
    let id = gitlab.job(world.project, JobSpec::new("build", ["true"]));
    assert_eq!(ask_as(&world, &theirs).await, None);
    assert_eq!(ask_as(&world, &mine).await.expect("a job")["id"], json!(id));
    world.done();
}

#[tokio::test]
async fn a_runner_of_a_project_gets_its_jobs_and_those_of_projects_it_was_given_to() {
    let world = World::new().await;
    let gitlab = &world.gitlab;
    let (one, two) = (gitlab.project("acme/one"), gitlab.project("acme/two"));
    let (id, token) = gitlab.runner(RunnerSpec::new(Place::Project(one)));
    gitlab.configure_project(two, |project| project.instance_runners = false);
    gitlab.job(two, JobSpec::new("build", ["true"]));
    assert_eq!(ask_as(&world, &token).await, None);

    let root = gitlab.access_token(gitlab.admin(), &[fake_gitlab::Scope::Api]);
    let given = world.client.send(Method::POST, &format!("/projects/{two}/runners"));
    let given = given.header("PRIVATE-TOKEN", root).json(&json!({ "runner_id": id }));
    assert_eq!(given.answer().await.status, 201);
    assert!(ask_as(&world, &token).await.is_some());
    world.done();
}

#[tokio::test]
async fn a_project_that_wants_no_runners_of_the_instance_gets_none() {
    let world = World::new().await;
    world.gitlab.configure_project(world.project, |project| project.instance_runners = false);
    world.gitlab.job(world.project, JobSpec::new("build", ["true"]));
    assert!(world.take().await.is_none());
    world.done();
}

#[tokio::test]
async fn a_protected_runner_gets_jobs_of_protected_refs_only() {
    let world = World::new().await;
    world.gitlab.configure_runner(world.runner, |spec| spec.protected = true);
    let mut branch = JobSpec::new("branch", ["true"]);
    branch.git.reference = "topic".to_owned();
    world.gitlab.job(world.project, branch);
    assert!(world.take().await.is_none());
    world.gitlab.job(world.project, JobSpec::new("main", ["true"]));
    assert_eq!(world.take().await.expect("a job").payload["job_info"]["name"], "main");
    world.done();
}

#[tokio::test]
async fn runners_of_the_instance_are_shared_out_fairly() {
    let world = World::new().await;
    let gitlab = &world.gitlab;
    let other = gitlab.project("acme/other");
    for name in ["one", "two", "three"] {
        gitlab.job(world.project, JobSpec::new(name, ["true"]));
    }
    gitlab.job(other, JobSpec::new("late", ["true"]));
    let mut names = Vec::new();
    while let Some(Taken { payload, .. }) = world.take().await {
        names.push(payload["job_info"]["name"].as_str().expect("text").to_owned());
    }
    assert_eq!(names, ["one", "late", "two", "three"]);
    world.done();
}

#[tokio::test]
async fn a_job_that_a_runner_cannot_do_fails_and_the_next_one_is_handed_out() {
    let world = World::new().await;
    let mut hard = JobSpec::new("hard", ["true"]).artifacts(["out/"]);
    hard.artifacts.push(Artifacts::report("junit", ["junit.xml"]));
    let hard = world.gitlab.job(world.project, hard);
    let easy = world.gitlab.job(world.project, JobSpec::new("easy", ["true"]));
    assert_eq!(ask_as(&world, &world.token).await.expect("a job")["id"], json!(easy));
    let hard = world.gitlab.job_view(hard).expect("a job");
    assert_eq!(hard.status, Status::Failed);
    assert_eq!(hard.failure_reason.as_deref(), Some("runner_unsupported"));
    world.done();
}

#[tokio::test]
async fn in_two_phases_a_job_waits_for_its_runners_word() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.two_phase_job_commit = true);
    let job = world.job(JobSpec::new("build", ["true"])).await;
    let status = || world.gitlab.job_view(job.id).expect("a job").status;
    assert_eq!(status(), Status::Pending);
    assert!(world.take().await.is_none());
    assert_eq!(world.put(&job, json!({ "state": "pending" })).await.status, 200);
    assert_eq!(world.put(&job, json!({ "state": "success" })).await.status, 400);
    assert_eq!(world.put(&job, json!({ "state": "running" })).await.status, 200);
    assert_eq!(status(), Status::Running);
    assert_eq!(world.put(&job, json!({ "state": "pending" })).await.status, 409);
    assert_eq!(world.put(&job, json!({ "state": "success" })).await.status, 200);
    world.done();
}

#[tokio::test]
async fn in_two_phases_a_job_goes_to_another_when_no_word_comes() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.two_phase_job_commit = true);
    let job = world.job(JobSpec::new("build", ["true"])).await;
    world.gitlab.clock().advance(Duration::from_secs(119));
    assert_eq!(world.put(&job, json!({ "state": "pending" })).await.status, 200);
    world.gitlab.clock().advance(Duration::from_secs(119));
    assert!(world.take().await.is_none(), "there was a word");
    world.gitlab.clock().advance(Duration::from_secs(2));
    let again = world.take().await.expect("the job again");
    assert_eq!(again.id, job.id);
    world.done();
}

#[tokio::test]
async fn a_runner_that_offers_no_second_phase_needs_none() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.two_phase_job_commit = true);
    let id = world.gitlab.job(world.project, JobSpec::new("build", ["true"]));
    assert!(ask_as(&world, &world.token).await.is_some());
    assert_eq!(world.gitlab.job_view(id).expect("a job").status, Status::Running);
    world.done();
}

#[tokio::test]
async fn a_job_that_nobody_hears_of_fails() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["true"])).await;
    world.gitlab.clock().advance(Duration::from_secs(3000));
    assert_eq!(world.put(&job, json!({ "state": "running" })).await.status, 200);
    world.gitlab.clock().advance(Duration::from_secs(3000));
    assert_eq!(world.gitlab.job_view(job.id).expect("a job").status, Status::Running);
    world.gitlab.clock().advance(Duration::from_secs(601));
    let lost = world.gitlab.job_view(job.id).expect("a job");
    assert_eq!(lost.failure_reason.as_deref(), Some("stuck_or_timeout_failure"));
    world.done();
}

#[tokio::test]
async fn whoever_waits_for_a_job_sees_time_pass() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["true"])).await;
    let advance = async { world.gitlab.clock().advance(Duration::from_secs(3600)) };
    let (over, ()) = tokio::join!(world.gitlab.until_over(job.id), advance);
    assert_eq!(over.map(|job| job.status), Some(Status::Failed));
    world.done();
}
