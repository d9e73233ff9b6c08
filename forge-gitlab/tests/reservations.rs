//! Workers that are reserved, and the jobs that they are reserved for.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use common::{Fixture, until};
use fake_gitlab::{JobSpec, Status, Variable};
use runner_core::{Forge, ReservationId, RunnerId, forge::RunnerStatus};

fn id(name: &str) -> ReservationId {
    ReservationId::new(name).unwrap()
}

fn reserved(job: JobSpec, name: &str) -> JobSpec {
    job.variable(Variable::new("RESERVED_FOR", name))
}

async fn until_idle(fixture: &Fixture, name: &str) {
    until("it is idle", async || {
        let runners = fixture.forge().runners().await.unwrap();
        runners.iter().any(|r| r.name.as_str() == name && r.status == RunnerStatus::Idle)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserved_worker_takes_the_jobs_of_its_reservation_and_no_others() {
    let mut fixture = Fixture::new().await;
    let driver = fixture.worker("a-1").await;
    until_idle(&fixture, "a-1").await;
    let runner = RunnerId::new("a-1").unwrap();
    fixture.forge().reserve(&runner, &id("mine")).await.unwrap();
    // A restart does not forget whose it is.
    driver.abort();
    let _ = driver.await;
    fixture.restart().await;
    let driver = fixture.drive(runner);
    until_idle(&fixture, "a-1").await;

    let other = fixture.submit(JobSpec::new("other", ["echo never"]));
    until("it waits here", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    let mine = fixture.submit(reserved(JobSpec::new("mine", ["echo hello"]), "mine"));
    let mine = fixture.over(mine).await;
    assert_eq!(mine.status, Status::Success, "{}", mine.log());
    assert!(mine.log().contains("Running on a-1"), "{}", mine.log());
    driver.await.unwrap().unwrap();
    let waiting = fixture.forge().queued_jobs().await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].id.as_str(), other.0.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_a_reservation_waits_for_its_workers_alone() {
    let fixture = Fixture::new().await;
    let job = fixture.submit(reserved(JobSpec::new("mine", ["echo hello"]), "mine"));
    until("it waits here", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    let waiting = fixture.forge().queued_jobs().await.unwrap();
    assert_eq!(waiting[0].reserved_for, Some(id("mine")));
    let driver = fixture.worker("a-1").await;
    until_idle(&fixture, "a-1").await;
    assert_eq!(fixture.forge().queued_jobs().await.unwrap().len(), 1);
    fixture.forge().reserve(&RunnerId::new("a-1").unwrap(), &id("mine")).await.unwrap();
    let job = fixture.over(job).await;
    assert_eq!(job.status, Status::Success, "{}", job.log());
    driver.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_names_what_cannot_be_a_reservation_fails_and_says_so() {
    let fixture = Fixture::new().await;
    let job = fixture.submit(reserved(JobSpec::new("odd", ["echo never"]), "../mine"));
    let job = fixture.over(job).await;
    assert_eq!(job.status, Status::Failed);
    assert!(job.log().contains("reservation id \"../mine\" is not valid"), "{}", job.log());
}
