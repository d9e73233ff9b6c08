//! Jobs that wait for each other, and the people who look at them.

use fake_gitlab::{JobId, JobSpec, Scope, Status};
use reqwest::Method;
use serde_json::json;

use crate::client::{Answer, Send as _, World};

async fn end(world: &World, state: &str) -> String {
    let job = world.take().await.expect("a job");
    let mut update = json!({ "state": state });
    if state == "failed" {
        update["failure_reason"] = json!("script_failure");
        update["exit_code"] = json!(7);
    }
    assert_eq!(world.put(&job, update).await.status, 200);
    job.payload["job_info"]["name"].as_str().expect("text").to_owned()
}

fn status(world: &World, job: JobId) -> Status {
    world.gitlab.job_view(job).expect("a job").status
}

async fn as_root(world: &World, method: Method, path: &str) -> Answer {
    let token = world.gitlab.access_token(world.gitlab.admin(), &[Scope::Api]);
    let path = format!("/projects/{}{path}", world.project);
    world.client.send(method, &path).header("PRIVATE-TOKEN", token).answer().await
}

fn stages() -> [JobSpec; 3] {
    ["build", "test", "deploy"].map(|name| JobSpec::new(name, ["make"]).stage(name))
}

#[tokio::test]
async fn stages_run_one_after_the_other() {
    let world = World::new().await;
    let (pipeline, jobs) = world.gitlab.pipeline(world.gitlab.admin(), world.project, stages());
    assert_eq!(status(&world, jobs[1]), Status::Created);
    assert_eq!(end(&world, "success").await, "build");
    assert_eq!(world.gitlab.pipeline_status(pipeline).as_deref(), Some("running"));
    assert_eq!(end(&world, "success").await, "test");
    assert_eq!(end(&world, "success").await, "deploy");
    assert_eq!(world.gitlab.pipeline_status(pipeline).as_deref(), Some("success"));
    world.done();
}

#[tokio::test]
async fn what_comes_after_a_failure_is_skipped() {
    let world = World::new().await;
    let (pipeline, jobs) = world.gitlab.pipeline(world.gitlab.admin(), world.project, stages());
    end(&world, "failed").await;
    assert!(jobs[1..].iter().all(|job| status(&world, *job) == Status::Skipped));
    assert_eq!(world.gitlab.pipeline_status(pipeline).as_deref(), Some("failed"));
    assert!(world.take().await.is_none());
    world.done();
}

#[tokio::test]
async fn a_failure_that_is_allowed_holds_nothing_up() {
    let world = World::new().await;
    let [mut build, test, deploy] = stages();
    build.allow_failure_exit_codes = vec![7];
    let (pipeline, _) =
        world.gitlab.pipeline(world.gitlab.admin(), world.project, [build, test, deploy]);
    end(&world, "failed").await;
    assert_eq!(end(&world, "success").await, "test");
    assert_eq!(end(&world, "success").await, "deploy");
    assert_eq!(world.gitlab.pipeline_status(pipeline).as_deref(), Some("success"));
    world.done();
}

#[tokio::test]
async fn a_job_that_needs_another_waits_for_that_one_only() {
    let world = World::new().await;
    let [build, test, deploy] = stages();
    let jobs = [build, test, deploy.needs(["build"])];
    world.gitlab.pipeline(world.gitlab.admin(), world.project, jobs);
    end(&world, "success").await;
    let mut next = [end(&world, "success").await, end(&world, "success").await];
    next.sort();
    assert_eq!(next, ["deploy", "test"]);
    world.done();
}

#[tokio::test]
async fn a_failed_job_is_tried_again_and_its_pipeline_goes_on() {
    let world = World::new().await;
    let (pipeline, jobs) = world.gitlab.pipeline(world.gitlab.admin(), world.project, stages());
    end(&world, "failed").await;
    let again = as_root(&world, Method::POST, &format!("/jobs/{}/retry", jobs[0])).await;
    assert_eq!(again.status, 201);
    assert_ne!(again.json()["id"], json!(jobs[0]));
    let twice = as_root(&world, Method::POST, &format!("/jobs/{}/retry", jobs[0])).await;
    assert_eq!(twice.status, 403);
    assert_eq!(end(&world, "success").await, "build");
    assert_eq!(end(&world, "success").await, "test");
    assert_eq!(end(&world, "success").await, "deploy");
    assert_eq!(world.gitlab.pipeline_status(pipeline).as_deref(), Some("success"));
    world.done();
}

#[tokio::test]
async fn a_manual_job_waits_for_somebody() {
    let world = World::new().await;
    let mut job = JobSpec::new("deploy", ["make"]);
    job.manual = true;
    let id = world.gitlab.job(world.project, job);
    assert!(world.take().await.is_none());
    let play = as_root(&world, Method::POST, &format!("/jobs/{id}/play")).await;
    assert_eq!((play.status, play.json()["status"].clone()), (200, json!("pending")));
    assert_eq!(world.take().await.expect("the job").id, id);
    world.done();
}

#[tokio::test]
async fn a_pipeline_and_its_jobs_can_be_looked_at() {
    let world = World::new().await;
    let (pipeline, jobs) = world.gitlab.pipeline(world.gitlab.admin(), world.project, stages());
    let job = world.take().await.expect("a job");
    world.patch(&job, 0, "hello\n").await;

    let one = as_root(&world, Method::GET, &format!("/jobs/{}", job.id)).await.json();
    assert_eq!((&one["status"], &one["name"]), (&json!("running"), &json!("build")));
    assert_eq!(one["runner_manager"]["system_id"], "s_0123456789ab");
    let trace = as_root(&world, Method::GET, &format!("/jobs/{}/trace", job.id)).await;
    assert_eq!(trace.body, "hello\n");
    let seen = as_root(&world, Method::GET, &format!("/pipelines/{pipeline}")).await.json();
    assert_eq!(seen["status"], "running");
    let all = as_root(&world, Method::GET, &format!("/pipelines/{pipeline}/jobs")).await.json();
    assert_eq!(all.as_array().map(Vec::len), Some(jobs.len()));
    let running = as_root(&world, Method::GET, "/jobs?scope[]=running").await.json();
    assert_eq!(running.as_array().map(Vec::len), Some(1));
    let none = as_root(&world, Method::GET, &format!("/jobs/{}/artifacts", job.id)).await;
    assert_eq!(none.status, 404);
    world.done();
}

#[tokio::test]
async fn a_pipeline_that_is_deleted_takes_its_jobs_with_it() {
    let world = World::new().await;
    let (pipeline, _) = world.gitlab.pipeline(world.gitlab.admin(), world.project, stages());
    let job = world.take().await.expect("a job");
    let gone = as_root(&world, Method::DELETE, &format!("/pipelines/{pipeline}")).await;
    assert_eq!(gone.status, 204);
    assert_eq!(world.patch(&job, 0, "hello").await.status, 403);
    assert!(world.gitlab.job_view(job.id).is_none());
    world.done();
}

#[tokio::test]
async fn whoever_waits_for_a_job_is_told_when_it_is_over_or_gone() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("one", ["make"])).await;
    let gone = world.job(JobSpec::new("two", ["make"])).await;
    let gitlab = &world.gitlab;
    let end = async {
        assert_eq!(world.put(&job, json!({ "state": "success" })).await.status, 200);
        assert!(gitlab.delete_job(gone.id));
    };
    let (over, gone, ()) = tokio::join!(gitlab.until_over(job.id), gitlab.until_over(gone.id), end);
    assert_eq!(over.map(|job| job.status), Some(Status::Success));
    assert!(gone.is_none());
    world.done();
}

#[tokio::test]
async fn a_manual_job_holds_up_what_comes_after_unless_its_pipeline_can_do_without() {
    for optional in [false, true] {
        let world = World::new().await;
        let [mut build, test, _] = stages();
        build.manual = true;
        build.allow_failure = optional;
        let (_, jobs) = world.gitlab.pipeline(world.gitlab.admin(), world.project, [build, test]);
        assert_eq!(status(&world, jobs[0]), Status::Manual);
        let next = if optional { Status::Pending } else { Status::Created };
        assert_eq!(status(&world, jobs[1]), next);
        world.done();
    }
}
