//! What becomes of a job.

use fake_gitlab::{JobSpec, Status, WrongTrace};
use serde_json::{Value, json};

use crate::client::World;

/// A final update with the checksum of `trace`.
fn final_update(state: &str, trace: &str) -> Value {
    let checksum = format!("crc32:{:08x}", crc32fast::hash(trace.as_bytes()));
    json!({ "state": state, "output": { "checksum": checksum, "bytesize": trace.len() } })
}

#[tokio::test]
async fn a_job_that_went_well_succeeds_once() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    world.patch(&job, 0, "done\n").await;
    let last = world.put(&job, final_update("success", "done\n")).await;
    assert_eq!((last.status, last.header("job-status")), (200, Some("success")));
    assert_eq!(last.body, "200");
    let again = world.put(&job, final_update("success", "done\n")).await;
    assert_eq!((again.status, again.header("job-status")), (403, Some("success")));
    assert_eq!(again.message(), "403 Forbidden - Job is not running");
    assert_eq!(world.gitlab.job_view(job.id).expect("a job").status, Status::Success);
    world.done();
}

#[tokio::test]
async fn a_job_that_failed_says_why_and_with_which_exit_code() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let update = json!({ "state": "failed", "failure_reason": "script_failure", "exit_code": 3 });
    assert_eq!(world.put(&job, update.clone()).await.status, 200);
    let view = world.gitlab.job_view(job.id).expect("a job");
    assert_eq!(view.status, Status::Failed);
    assert_eq!(view.failure_reason.as_deref(), Some("script_failure"));
    assert_eq!((view.exit_code, view.updates), (Some(3), vec![update]));
    world.done();
}

#[tokio::test]
async fn a_reason_that_nobody_knows_is_an_unknown_one() {
    for reason in [json!("the_dog_ate_it"), Value::Null] {
        let world = World::new().await;
        let job = world.job(JobSpec::new("build", ["make"])).await;
        let mut update = json!({ "state": "failed" });
        if !reason.is_null() {
            update["failure_reason"] = reason;
        }
        assert_eq!(world.put(&job, update).await.status, 200);
        let view = world.gitlab.job_view(job.id).expect("a job");
        assert_eq!(view.failure_reason.as_deref(), Some("unknown_failure"));
        world.done();
    }
}

#[tokio::test]
async fn a_final_update_is_repeated_until_the_trace_is_stored() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.storing_answers = 2);
    let job = world.job(JobSpec::new("build", ["make"])).await;
    world.patch(&job, 0, "done\n").await;
    for _ in 0..2 {
        let answer = world.put(&job, final_update("success", "done\n")).await;
        assert_eq!((answer.status, answer.header("job-status")), (202, Some("running")));
        assert!(answer.header("x-gitlab-trace-update-interval").is_some());
    }
    assert_eq!(world.put(&job, final_update("success", "done\n")).await.status, 200);
    world.done();
}

#[tokio::test]
async fn an_old_runner_without_a_checksum_is_taken_at_its_word() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.storing_answers = 2);
    let job = world.job(JobSpec::new("build", ["make"])).await;
    assert_eq!(world.put(&job, json!({ "state": "success" })).await.status, 200);
    world.done();
}

#[tokio::test]
async fn a_trace_that_is_not_what_was_sent_is_wanted_again() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    world.patch(&job, 0, "dune\n").await;
    assert_eq!(world.put(&job, final_update("success", "done\n")).await.status, 412);
    assert_eq!(world.patch(&job, 0, "done\n").await.status, 202);
    assert_eq!(world.put(&job, final_update("success", "done\n")).await.status, 200);
    let view = world.gitlab.job_view(job.id).expect("a job");
    assert!(view.trace_is_wrong);
    assert_eq!(view.log(), "done\n");
    world.done();
}

#[tokio::test]
async fn a_size_that_is_wrong_is_noticed_too_and_gitlab_itself_lets_it_pass() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.wrong_trace = WrongTrace::Taken);
    let job = world.job(JobSpec::new("build", ["make"])).await;
    world.patch(&job, 0, "done\n").await;
    let mut update = final_update("success", "done\n");
    update["output"]["bytesize"] = json!(4);
    assert_eq!(world.put(&job, update).await.status, 200);
    let view = world.gitlab.job_view(job.id).expect("a job");
    assert!(view.trace_is_wrong);
    assert_eq!(view.status, Status::Success);
    world.done();
}

#[tokio::test]
async fn keep_alives_are_counted() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    for _ in 0..3 {
        let answer = world.put(&job, json!({ "state": "running" })).await;
        assert_eq!((answer.status, answer.header("job-status")), (200, Some("running")));
    }
    assert_eq!(world.gitlab.job_view(job.id).expect("a job").keep_alives, 3);
    world.done();
}

#[tokio::test]
async fn a_state_that_nobody_knows_is_a_bad_request() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    assert_eq!(world.put(&job, json!({ "state": "happy" })).await.status, 400);
    assert_eq!(world.gitlab.job_view(job.id).expect("a job").status, Status::Running);
    world.done();
}
