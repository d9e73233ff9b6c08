//! The service dies and a successor goes on: with jobs that run, that wait, and that are over.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::time::Duration;

use common::{Fixture, until, worker};
use fake_gitlab::{JobSpec, Status, Variable};
use runner_core::{Forge, RunnerId};

fn id(name: &str) -> RunnerId {
    RunnerId::new(name).unwrap()
}

/// Kills the service and its drivers, as a death would.
async fn die(fixture: &mut Fixture, driver: tokio::task::JoinHandle<runner_core::Result<()>>) {
    driver.abort();
    let _ = driver.await;
    fixture.restart().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_runs_goes_on_as_if_nothing_had_happened() {
    let mut fixture = Fixture::new().await;
    let directory = fixture.directory.path().display().to_string();
    let lines = [
        format!("echo once >>{directory}/count"),
        format!(
            "for i in 1 2 3 4 5 6 7 8; do echo line $i hunter2!!; touch {directory}/$i; sleep 0.25; done"
        ),
        "exit 5".to_owned(),
    ];
    let spec = JobSpec::new("long", lines)
        .after(["echo cleared"])
        .variable(Variable::masked("SECRET", "hunter2!!"));
    let job = fixture.submit(spec);
    let mut driver = fixture.worker("a-1").await;
    for line in ["1", "3", "5"] {
        until("a line is written", async || fixture.directory.path().join(line).exists()).await;
        die(&mut fixture, driver).await;
        assert!(fixture.forge().deregister(&id("a-1")).await.unwrap_err().is_busy());
        driver = fixture.drive(id("a-1"));
    }
    let job = fixture.over(job).await;
    let log = job.log();
    assert_eq!((job.status, job.exit_code), (Status::Failed, Some(5)), "{log}");
    let expected: String = (1..=8).map(|n| format!("line {n} [MASKED]\n")).collect();
    assert!(log.contains(&expected), "{log}");
    for once in ["$ for i", "Running on a-1", ":step_script\r", "\ncleared"] {
        let times = if once == ":step_script\r" { 2 } else { 1 };
        assert_eq!(log.matches(once).count(), times, "{once:?} in {log}");
    }
    assert!(!job.trace_is_wrong);
    let count = std::fs::read_to_string(fixture.directory.path().join("count")).unwrap();
    assert_eq!(count, "once\n");
    driver.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_waits_on() {
    let mut fixture = Fixture::new().await;
    let job = fixture.submit(JobSpec::new("build", ["echo hello"]));
    until("it waits here", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    fixture.restart().await;
    assert_eq!(fixture.forge().queued_jobs().await.unwrap().len(), 1);
    let driver = fixture.worker("a-1").await;
    assert_eq!(fixture.over(job).await.status, Status::Success);
    driver.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_gitlab_has_not_heard_is_told_by_the_successor() {
    let mut fixture = Fixture::new().await;
    let job = fixture.submit(JobSpec::new("build", ["sleep 1", "echo hello"]));
    let driver = fixture.worker("a-1").await;
    fixture.until_busy("a-1").await;
    fixture.gitlab.go_down();
    driver.await.unwrap().unwrap();
    assert!(fixture.forge().runners().await.unwrap().is_empty(), "the machine is free to go");
    fixture.restart().await;
    assert_eq!(fixture.gitlab.job_view(job).unwrap().status, Status::Running);
    fixture.gitlab.come_up();
    let job = fixture.over(job).await;
    assert_eq!(job.status, Status::Success);
    assert!(job.log().contains("\nhello\n") && !job.trace_is_wrong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_machine_died_meanwhile_says_why_it_was_interrupted() {
    let mut fixture = Fixture::new().await;
    let job = fixture.submit(JobSpec::new("long", ["sleep 1000"]));
    let driver = fixture.worker("a-1").await;
    let started = |log: String| log.contains(":step_script");
    fixture.gitlab.watch(job, true);
    fixture.gitlab.until_job(job, |job| started(job.log())).await.unwrap();
    die(&mut fixture, driver).await;
    fixture.forge().abandon(&id("a-1")).await.unwrap();
    let job = fixture.over(job).await;
    let log = job.log();
    assert_eq!(job.failure_reason.as_deref(), Some("runner_interrupted"), "{log}");
    assert!(log.contains("ERROR: Job failed: its machine died"), "{log}");
    assert!(fixture.forge().runners().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_machine_died_before_it_began_runs_on_another() {
    let fixture = Fixture::new().await;
    let job = fixture.submit(JobSpec::new("build", ["echo hello"]));
    until("it waits here", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    fixture.agent.0.lock().unwrap().gone = true;
    let first = fixture.worker("a-1").await;
    let error = first.await.unwrap().unwrap_err();
    assert!(error.is_not_found(), "{error}");
    fixture.forge().abandon(&id("a-1")).await.unwrap();
    assert_eq!(fixture.forge().queued_jobs().await.unwrap().len(), 1, "it waits again");
    fixture.agent.0.lock().unwrap().gone = false;
    let second = fixture.worker("a-2").await;
    let job = fixture.over(job).await;
    assert_eq!(job.status, Status::Success, "{}", job.log());
    assert!(job.log().contains("Running on a-2"));
    second.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_keeps_everything() {
    let fixture = Fixture::new().await;
    fixture.register("a-2").await;
    let job =
        fixture.submit(JobSpec::new("long", ["for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done"]));
    let driver = fixture.worker("a-1").await;
    fixture.until_busy("a-1").await;
    fixture.gitlab.go_down();
    until("it is seen", async || {
        fixture.forge().health().values().any(|h| matches!(h, forge_gitlab::Health::Troubled(_)))
    })
    .await;
    tokio::time::timeout(Duration::from_secs(20), driver).await.unwrap().unwrap().unwrap();
    let listed = fixture.forge().runners().await.unwrap();
    assert_eq!(listed.iter().map(|r| r.name.clone()).collect::<Vec<_>>(), [worker("a-2")]);
    fixture.gitlab.come_up();
    let job = fixture.over(job).await;
    assert_eq!(job.status, Status::Success);
    assert!(job.log().contains("1\n2\n3\n4\n5\n6\n"), "{}", job.log());
    until("it is well again", async || {
        fixture.forge().health().values().all(|h| *h == forge_gitlab::Health::Well)
    })
    .await;
}

#[tokio::test]
async fn a_directory_is_one_process_alone() {
    let fixture = Fixture::new().await;
    let config = fixture.config.clone();
    let error = forge_gitlab::GitlabForge::open(config, runner_core::Clock::system()).await.err();
    let error = error.expect("it is held");
    let directory = fixture.config.state_dir.display().to_string();
    assert!(error.is_busy() && error.to_string().contains(&directory), "{error}");
}

#[tokio::test]
async fn what_is_kept_is_for_nobody_else_to_read() {
    use std::os::unix::fs::PermissionsExt;

    let fixture = Fixture::new().await;
    fixture.submit(JobSpec::new("build", ["true"]));
    until("it waits here", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    let mut left = vec![fixture.config.state_dir.clone()];
    let mut files = 0;
    while let Some(path) = left.pop() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{path:?}");
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{path:?}");
            files += 1;
        }
    }
    assert!(files >= 4, "{files}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_half_written_when_the_service_dies_stays_secret() {
    let mut fixture = Fixture::new().await;
    let directory = fixture.directory.path().display().to_string();
    let lines = [format!(
        "printf 'begin hun'; until [ -e {directory}/go ]; do sleep 0.1; done; printf 'ter2!! end\\n'"
    )];
    let job = JobSpec::new("build", lines).variable(Variable::masked("SECRET", "hunter2!!"));
    let job = fixture.submit(job);
    let driver = fixture.worker("a-1").await;
    let trace = fixture.config.state_dir.join(format!("jobs/{}/trace", job.0));
    until("the beginning is read", async || {
        std::fs::read_to_string(&trace).is_ok_and(|text| text.ends_with("\nbegin "))
    })
    .await;
    die(&mut fixture, driver).await;
    let driver = fixture.drive(id("a-1"));
    std::fs::write(fixture.directory.path().join("go"), "").unwrap();
    let job = fixture.over(job).await;
    assert!(job.log().contains("\nbegin [MASKED] end\n"), "{}", job.log());
    driver.await.unwrap().unwrap();
}
