//! What a job says, piece by piece.

use fake_gitlab::{JobSpec, Status};
use reqwest::Method;

use crate::client::{Send as _, World};

#[tokio::test]
async fn pieces_make_a_trace() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let first = world.patch(&job, 0, "hello ").await;
    assert_eq!((first.status, first.header("range")), (202, Some("0-6")));
    assert_eq!(first.header("job-status"), Some("running"));
    assert_eq!(first.header("x-gitlab-trace-update-interval"), Some("60"));
    let second = world.patch(&job, 6, "world\n").await;
    assert_eq!((second.status, second.header("range")), (202, Some("0-12")));
    let view = world.gitlab.job_view(job.id).expect("a job");
    assert_eq!((view.log().as_str(), view.trace_pieces), ("hello world\n", vec![6, 6]));
    world.done();
}

#[tokio::test]
async fn a_piece_that_does_not_follow_is_refused_and_says_where_to_go_on() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    world.patch(&job, 0, "hello ").await;
    for start in [0, 3, 9] {
        let gap = world.patch(&job, start, "never mind").await;
        assert_eq!((gap.status, gap.header("range")), (416, Some("0-6")));
    }
    assert_eq!(world.patch(&job, 6, "world").await.status, 202);
    assert_eq!(world.gitlab.job_view(job.id).expect("a job").log(), "hello world");
    world.done();
}

#[tokio::test]
async fn whoever_watches_gets_it_more_often() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    world.gitlab.watch(job.id, true);
    let piece = world.patch(&job, 0, "x").await;
    assert_eq!(piece.header("x-gitlab-trace-update-interval"), Some("3"));
    world.done();
}

#[tokio::test]
async fn a_piece_without_a_range_is_a_bad_request() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let answer = world
        .client
        .send(Method::PATCH, &format!("/jobs/{}/trace", job.id))
        .header("JOB-TOKEN", &job.token)
        .header("Content-Type", "text/plain")
        .body("hello")
        .answer()
        .await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.message(), "400 Missing header Content-Range");
    world.done_after(&["Content-Range is missing"]);
}

#[tokio::test]
async fn a_piece_that_is_not_text_is_noticed() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let answer = world
        .client
        .send(Method::PATCH, &format!("/jobs/{}/trace", job.id))
        .header("JOB-TOKEN", &job.token)
        .header("Content-Range", "0-4")
        .body("hello")
        .answer()
        .await;
    assert_eq!(answer.status, 202);
    world.done_after(&["the body's content type is not described"]);
}

#[tokio::test]
async fn a_trace_that_is_too_long_fails_the_job() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.trace_limit = 8);
    let job = world.job(JobSpec::new("build", ["make"])).await;
    assert_eq!(world.patch(&job, 0, "12345678").await.status, 202);
    let last = world.patch(&job, 8, "9").await;
    assert_eq!((last.status, last.header("job-status")), (403, Some("failed")));
    let view = world.gitlab.job_view(job.id).expect("a job");
    assert_eq!(view.status, Status::Failed);
    assert_eq!(view.failure_reason.as_deref(), Some("trace_size_exceeded"));
    assert_eq!(view.log(), "12345678");
    world.done();
}

#[tokio::test]
async fn the_token_of_another_job_opens_nothing() {
    let world = World::new().await;
    let one = world.job(JobSpec::new("one", ["make"])).await;
    let mut two = world.job(JobSpec::new("two", ["make"])).await;
    two.id = one.id;
    let answer = world.patch(&two, 0, "hello").await;
    assert_eq!((answer.status, answer.header("job-status")), (403, None));
    assert_eq!(world.gitlab.job_view(one.id).expect("a job").log(), "");
    world.done();
}

#[tokio::test]
async fn a_job_that_was_deleted_or_erased_is_forbidden_and_never_not_found() {
    let world = World::new().await;
    let deleted = world.job(JobSpec::new("one", ["make"])).await;
    let erased = world.job(JobSpec::new("two", ["make"])).await;
    assert!(world.gitlab.delete_job(deleted.id));
    assert!(world.gitlab.erase(erased.id));
    let answer = world.patch(&deleted, 0, "hello").await;
    assert_eq!((answer.status, answer.message()), (403, "403 Forbidden".to_owned()));
    let answer = world.patch(&erased, 0, "hello").await;
    assert_eq!(answer.message(), "403 Forbidden - Job has been erased!");
    world.done();
}
