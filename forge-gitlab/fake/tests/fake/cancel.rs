//! Jobs that somebody cancels.

use fake_gitlab::{JobSpec, Level, Place, Scope, Status};
use serde_json::json;

use crate::client::{Send as _, Taken, World, asking};

#[tokio::test]
async fn a_runner_that_can_is_given_time_to_end_a_job_well() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"]).after(["cleanup"])).await;
    assert!(world.gitlab.cancel(job.id));
    let piece = world.patch(&job, 0, "hello").await;
    assert_eq!((piece.status, piece.header("job-status")), (202, Some("canceling")));
    let alive = world.put(&job, json!({ "state": "running" })).await;
    assert_eq!((alive.status, alive.header("job-status")), (200, Some("canceling")));
    let last = world.put(&job, json!({ "state": "success" })).await;
    assert_eq!((last.status, last.header("job-status")), (200, Some("canceled")));
    let view = world.gitlab.job_view(job.id).expect("a job");
    assert_eq!((view.status, view.failure_reason), (Status::Canceled, None));
    world.done();
}

#[tokio::test]
async fn a_runner_that_cannot_is_refused_at_once() {
    let world = World::new().await;
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    let job = Taken::from(world.ask(asking(&world.token, ["refspecs"])).await.json());
    assert!(world.gitlab.cancel(job.id));
    let piece = world.patch(&job, 0, "hello").await;
    assert_eq!((piece.status, piece.header("job-status")), (403, Some("canceled")));
    let last = world.put(&job, json!({ "state": "failed" })).await;
    assert_eq!((last.status, last.header("job-status")), (403, Some("canceled")));
    world.done();
}

#[tokio::test]
async fn a_job_that_is_being_cancelled_can_be_cancelled_at_once() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    assert!(world.gitlab.cancel(job.id));
    assert!(world.gitlab.cancel_at_once(job.id));
    let piece = world.patch(&job, 0, "hello").await;
    assert_eq!((piece.status, piece.header("job-status")), (403, Some("canceled")));
    assert!(!world.gitlab.cancel(job.id));
    world.done();
}

#[tokio::test]
async fn a_job_that_waits_is_never_handed_out() {
    let world = World::new().await;
    let id = world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    assert!(world.gitlab.cancel(id));
    assert_eq!(world.gitlab.job_view(id).expect("a job").status, Status::Canceled);
    assert!(world.take().await.is_none());
    world.done();
}

#[tokio::test]
async fn a_developer_cancels_and_a_reporter_does_not() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let path = format!("/projects/{}/jobs/{}/cancel", world.project, job.id);
    let mut statuses = Vec::new();
    for (name, level) in
        [("rae", Some(Level::Reporter)), ("dev", Some(Level::Developer)), ("eve", None)]
    {
        let user = world.gitlab.user(name);
        if let Some(level) = level {
            world.gitlab.member(user, Place::Group(world.gitlab.group("acme")), level);
        }
        let token = world.gitlab.access_token(user, &[Scope::Api]);
        let answer = world.client.post(&path).header("PRIVATE-TOKEN", token).answer().await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [403, 201, 404]);
    assert_eq!(world.gitlab.job_view(job.id).expect("a job").status, Status::Canceling);
    world.done();
}
