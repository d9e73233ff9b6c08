//! What is said over the wire, where it matters how.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::time::Duration;

use common::{Fixture, until};
use fake_gitlab::{Fault, FaultKind, JobSpec, Status};
use runner_core::Forge;

const REQUEST: &str = "POST /api/v4/jobs/request";
const PATCH: &str = "PATCH /api/v4/jobs/{id}/trace";

fn count(fixture: &Fixture, route: &str, status: Option<u16>) -> usize {
    let calls = fixture.gitlab.calls();
    calls
        .iter()
        .filter(|call| call.route == route && (status.is_none() || call.status == status))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gitlab_holds_a_question_until_there_is_a_job() {
    let fixture = Fixture::new().await;
    fixture.gitlab.configure(|settings| settings.long_poll = Duration::from_secs(600));
    // The first question has no value to compare with; the second is held.
    until("it asks again", async || count(&fixture, REQUEST, Some(204)) == 1).await;
    let held = tokio::time::timeout(Duration::from_secs(90), fixture.gitlab.until_held(1));
    held.await.expect("the second question is held");
    assert_eq!(count(&fixture, REQUEST, None), 2);
    let job = fixture.submit(JobSpec::new("build", ["true"]));
    until("the job comes", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    // The held one was told that there is news, and the next one got the job.
    assert_eq!(count(&fixture, REQUEST, Some(204)), 2);
    assert_eq!(count(&fixture, REQUEST, Some(201)), 1);
    assert_eq!(fixture.gitlab.job_view(job).unwrap().status, Status::Running);
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_in_hand_is_known_with_the_way_to_its_page() {
    let fixture = Fixture::new().await;
    let job = fixture.submit(JobSpec::new("build", ["true"]));
    until("the job comes", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    let queued = fixture.forge().queued_jobs().await.unwrap().remove(0);
    let found = fixture.forge().job(&queued.id).unwrap();
    assert_eq!((found.title.as_str(), found.project.as_str()), ("build", "acme/infra/app"));
    let page = fixture.config.url.join(&format!("acme/infra/app/-/jobs/{}", job.0)).unwrap();
    assert_eq!(found.page, page);
    assert_eq!(fixture.forge().job(&runner_core::JobId::new("0").unwrap()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_jobs_are_taken_than_there_are_workers_and_one() {
    let fixture = Fixture::new().await;
    for _ in 0..4 {
        fixture.submit(JobSpec::new("long", ["sleep 1000"]));
    }
    let given = || fixture.gitlab.jobs(Status::Running).len();
    until("the first comes", async || given() == 1).await;
    fixture.register("a-1").await;
    until("a worker makes room", async || given() == 2).await;
    let _driver = fixture.worker("a-2").await;
    fixture.until_busy("a-2").await;
    until("and so does the next", async || given() == 3).await;
    let asked = count(&fixture, REQUEST, None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((given(), count(&fixture, REQUEST, None)), (3, asked), "there is no room for more");
    assert_eq!(fixture.forge().queued_jobs().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_forge_asks_for_nothing() {
    let fixture = Fixture::new().await;
    fixture.gitlab.configure(|settings| settings.long_poll = Duration::ZERO);
    fixture.forge().pause(true);
    // What was asked before comes to its end.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let job = fixture.submit(JobSpec::new("build", ["true"]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.gitlab.job_view(job).unwrap().status, Status::Pending);
    fixture.forge().pause(false);
    until("it comes", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_is_kept_alive_and_can_be_cancelled() {
    let fixture = Fixture::new().await;
    let job = fixture.submit(JobSpec::new("build", ["true"]));
    fixture.gitlab.until_job(job, |job| job.keep_alives >= 3).await.unwrap();
    fixture.gitlab.cancel(job);
    let view = fixture.over(job).await;
    assert_eq!(view.status, Status::Canceled, "{}", view.log());
    until("it does not wait any more", async || {
        fixture.forge().queued_jobs().await.unwrap().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_in_vain_fails_and_says_so() {
    let fixture = Fixture::with(|config| config.limits.wait = Duration::from_millis(100)).await;
    let job = fixture.submit(JobSpec::new("build", ["true"]));
    let view = fixture.over(job).await;
    assert_eq!(view.failure_reason.as_deref(), Some("runner_system_failure"));
    assert!(view.log().contains("no machine was free for it in time"), "{}", view.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_committed_to_before_it_counts() {
    let fixture = Fixture::new().await;
    fixture.gitlab.configure(|settings| settings.two_phase_job_commit = true);
    let job = fixture.run(JobSpec::new("build", ["echo hello"])).await;
    assert_eq!(job.status, Status::Success, "{}", job.log());
    assert!(job.features.contains("two_phase_job_commit"));
    fixture.assert_spoke_as_described();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_that_gitlab_finds_damaged_is_sent_again() {
    let fixture = Fixture::with(|config| config.limits.keep_alive = Duration::from_secs(600)).await;
    // After the update with which the job begins.
    let damaged = Fault::status(412).on("PUT /jobs/{id}").after(1).times(1);
    fixture.gitlab.inject(damaged).unwrap();
    let job = fixture.run(JobSpec::new("build", ["echo hello"])).await;
    assert_eq!((job.status, fixture.gitlab.faults_happened()), (Status::Success, 1));
    assert!(count(&fixture, PATCH, None) >= 2 && !job.trace_is_wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_erased_ends() {
    let fixture = Fixture::new().await;
    let job = fixture.submit(JobSpec::new("build", ["while sleep 0.2; do echo hello; done"]));
    let driver = fixture.worker("a-1").await;
    fixture.gitlab.watch(job, true);
    until("a piece was sent", async || count(&fixture, PATCH, Some(202)) > 0).await;
    fixture.gitlab.erase(job);
    let ended = tokio::time::timeout(Duration::from_secs(20), driver).await;
    ended.expect("it ends").unwrap().unwrap();
    until("nothing is kept of it", async || {
        std::fs::read_dir(fixture.config.state_dir.join("jobs")).unwrap().count() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gitlab_lacks_is_sent_from_where_it_says() {
    let fixture = Fixture::new().await;
    // It has the first piece, and we do not hear of it until there is more: the next one does not fit.
    let lost = Fault::new(FaultKind::LostAnswer).on("PATCH /jobs/{id}/trace").times(5);
    fixture.gitlab.inject(lost).unwrap();
    let lines = ["for i in 1 2 3 4 5 6 7 8 9; do echo line $i; sleep 0.5; done"];
    let job = fixture.run(JobSpec::new("build", lines)).await;
    assert_eq!(job.status, Status::Success);
    assert!(count(&fixture, PATCH, Some(416)) >= 1);
    let expected: String = (1..=9).map(|n| format!("line {n}\n")).collect();
    assert!(job.log().contains(&expected) && !job.trace_is_wrong, "{}", job.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_known_is_trouble_and_no_end() {
    let fixture = Fixture::new().await;
    fixture.gitlab.delete_runner(fixture.runner);
    until("it is seen", async || {
        let health = fixture.forge().health();
        matches!(&health[&common::profile()], forge_gitlab::Health::Troubled(why) if why.contains("403"))
    })
    .await;
    fixture.register("a-1").await;
    assert_eq!(fixture.forge().runners().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_read_is_refused_and_others_run() {
    let fixture = Fixture::new().await;
    let broken = JobSpec::new("broken", ["true"]).with_payload("/steps", "none".into());
    let broken = fixture.submit(broken);
    let view = fixture.over(broken).await;
    assert_eq!(view.failure_reason.as_deref(), Some("runner_system_failure"));
    assert_eq!(fixture.run(JobSpec::new("build", ["true"])).await.status, Status::Success);
}
