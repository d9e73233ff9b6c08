//! Who tells what waits: sources take over from each other, and make up for what was lost.

mod github;

use std::{sync::Arc, time::Duration};

use fake_github::{Conclusion, Fault, FaultRule, JobRequest};
use forge_github::{GithubConfig, SourceKind, Webhook, webhook::WebhookConfig};
use github::{Fixture, PROFILE, fixture, fixture_with, impatient};
use runner_core::{Clock, Forge, ProfileName, ReservationId, Secret};

/// No delivery ever reaches this webhook.
fn deaf() -> Arc<Webhook> {
    let config = WebhookConfig::new([Secret::new("secret".to_owned())]);
    Arc::new(Webhook::new(&config, Clock::system()).unwrap())
}

fn with_webhook(config: &mut GithubConfig) {
    impatient(config);
    config.sources.push(deaf());
    let profile = config.profiles.get_mut(&ProfileName::new(PROFILE).unwrap()).unwrap();
    profile.sources = vec![SourceKind::Webhook, SourceKind::Poll];
    config.pace.tend_every = Duration::from_millis(20);
    config.pace.demand.sweep_every = Duration::from_millis(20);
}

fn active(fixture: &Fixture) -> Option<SourceKind> {
    fixture.figures().active.get(&ProfileName::new(PROFILE).unwrap()).copied().flatten()
}

/// Looks until so many jobs wait.
async fn until_queued(fixture: &Fixture, count: usize) {
    while fixture.queued_jobs().await.unwrap().len() != count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn enqueue(fixture: &Fixture, labels: &[&str]) -> fake_github::JobView {
    fixture.github.enqueue(JobRequest::new("acme/widgets", labels.iter().copied())).unwrap()
}

#[tokio::test]
async fn only_jobs_that_a_profile_could_run_are_told_of() {
    let fixture = fixture().await;
    let ours = enqueue(&fixture, &["A"]);
    enqueue(&fixture, &["ubuntu-latest"]);
    enqueue(&fixture, &[PROFILE, "gpu"]);
    let reserved = enqueue(&fixture, &["reserved-for:6e1d"]);
    let jobs = fixture.queued_jobs().await.unwrap();
    let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    assert_eq!(ids, [ours.id.to_string(), reserved.id.to_string()], "the oldest first");
    assert_eq!(jobs[1].reserved_for, ReservationId::new("6e1d").ok());
    fixture.assert_clean();
}

#[tokio::test]
async fn a_webhook_is_relied_upon_once_it_has_caught_up() {
    let fixture = fixture_with(
        |_| {},
        |config| {
            with_webhook(config);
            config.pace.tend_every = Duration::from_millis(300);
        },
    )
    .await;
    enqueue(&fixture, &[PROFILE]);
    until_queued(&fixture, 1).await;
    while active(&fixture) != Some(SourceKind::Webhook) {
        fixture.queued_jobs().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until_queued(&fixture, 1).await;
    assert!(fixture.capabilities().changes);
    fixture.assert_clean();
}

/// Every delivery is lost, and yet jobs are found, and found to be over.
#[tokio::test]
async fn what_deliveries_lose_a_sweep_finds() {
    let fixture = fixture_with(|_| {}, with_webhook).await;
    until_queued(&fixture, 0).await;
    let mut changes = fixture.changes();
    let job = enqueue(&fixture, &[PROFILE]);
    changes.next().await;
    until_queued(&fixture, 1).await;
    fixture.github.complete(job.id, Conclusion::Cancelled).unwrap();
    until_queued(&fixture, 0).await;
    fixture.assert_clean();
}

/// A job that waits for longer than its deadline is looked up, and why it waits is recorded.
#[tokio::test]
async fn a_deadline_forces_a_fresh_look_and_says_why() {
    let fixture = fixture_with(
        |_| {},
        |config| {
            with_webhook(config);
            config.pace.demand.job_deadline = Duration::from_millis(50);
        },
    )
    .await;
    let [first, second] = [(); 2].map(|()| enqueue(&fixture, &[PROFILE]));
    until_queued(&fixture, 2).await;
    // From here on, only the deadline looks.
    fixture.github.fault(FaultRule::always(Fault::Reset).path("*/actions/runs?*"));
    fixture.github.complete(first.id, Conclusion::Cancelled).unwrap();
    let said = |text: &str, job: i64| {
        let its = |note: &forge_github::demand::Note| {
            note.text.contains(text)
                && note.job.as_ref().is_some_and(|id| *id.as_str() == job.to_string())
        };
        fixture.notes().iter().any(its)
    };
    while !said("GitHub says that it is over; that news was lost", first.id)
        || !said("GitHub says that it waits: for a runner that offers a", second.id)
    {
        let _ = fixture.queued_jobs().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fixture.assert_clean();
}

/// GitHub does not show a job for a moment, and it waits all the same.
#[tokio::test]
async fn a_job_that_github_once_did_not_know_is_not_over_for_ever() {
    let fixture = fixture_with(
        |_| {},
        |config| {
            with_webhook(config);
            config.pace.demand.job_deadline = Duration::from_millis(20);
        },
    )
    .await;
    let unknown = Fault::Status { status: 404, retry_after: None, message: None };
    fixture.fault(|on| on.path("*/actions/jobs/*"), unknown);
    enqueue(&fixture, &[PROFILE]);
    until_queued(&fixture, 1).await;
    let forgotten = |note: &forge_github::demand::Note| note.text.contains("knows no such job");
    while !fixture.notes().iter().any(forgotten) {
        fixture.queued_jobs().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = tokio::time::timeout(Duration::from_secs(90), until_queued(&fixture, 1)).await;
    assert!(seen.is_ok(), "the next sweep finds it");
    assert_eq!(active(&fixture), Some(SourceKind::Webhook));
    fixture.assert_clean();
}

#[tokio::test]
async fn when_nobody_can_tell_it_is_an_error_and_a_note() {
    let fixture = fixture().await;
    fixture.queued_jobs().await.unwrap();
    fixture.github.fault(FaultRule::always(Fault::Html { status: 503 }));
    let error = fixture.queued_jobs().await.unwrap_err();
    assert_eq!(error.kind(), "backend", "never an empty list");
    let note = fixture.notes().pop().unwrap();
    assert!(note.text.starts_with("nothing tells what waits, because poll does not: "), "{note:?}");
    fixture.github.clear_faults();
    fixture.queued_jobs().await.unwrap();
    assert_eq!(fixture.notes().pop().unwrap().text, "poll tells what waits again");
    fixture.assert_clean();
}

/// GitHub's runs and jobs are asked for again only where they changed.
#[tokio::test]
async fn a_poll_that_finds_nothing_new_costs_nothing_of_the_hour() {
    let fixture = fixture().await;
    fixture.github.set_limits(fake_github::Limits::GITHUB);
    enqueue(&fixture, &[PROFILE]);
    until_queued(&fixture, 1).await;
    let charged = || fixture.github.calls().iter().filter(|call| call.charged).count();
    let before = charged();
    for _ in 0..3 {
        until_queued(&fixture, 1).await;
    }
    assert_eq!(charged(), before);
    fixture.assert_clean();
}
