//! What an operator changes while the forge works.

#![expect(dead_code, reason = "other tests use the rest of the common parts")]

mod common;

use std::collections::BTreeSet;

use common::{Fixture, profile, until};
use fake_gitlab::{JobSpec, RunnerSpec, Scope, Status};
use forge_gitlab::{Administration, Health, Place};
use runner_core::{
    Forge, Label, Secret,
    access::{Names, Rules},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_is_taken_away_and_given_again_without_a_restart() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.run(JobSpec::new("build", ["true"])).await.status, Status::Success);
    let mut config = fixture.config.clone();
    let users = vec!["root".to_owned()];
    config.access = Rules { deny: Names { users, ..Names::default() }, allow: Names::default() };
    fixture.forge().change(&config).unwrap();
    let job = fixture.submit(JobSpec::new("build", ["true"]));
    let job = fixture.over(job).await;
    assert_eq!(job.status, Status::Failed);
    assert!(job.log().contains("the instance's rules deny user \"root\""), "{}", job.log());
    let refused = format!("job {} was refused: root may not", job.id);
    let news = fixture.forge().news();
    assert!(news.iter().any(|news| news.starts_with(&refused)), "{news:?}");
    assert_eq!(fixture.forge().news(), [] as [&str; 0], "it is told once");
    fixture.forge().change(&fixture.config).unwrap();
    assert_eq!(fixture.run(JobSpec::new("build", ["true"])).await.status, Status::Success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_job_is_taken_for_a_profile_that_is_paused() {
    let fixture = Fixture::with(|config| config.profiles[0].exposed = false).await;
    fixture.forge().pause_profiles(BTreeSet::from([profile()]));
    let mut config = fixture.config.clone();
    config.profiles[0].exposed = true;
    fixture.forge().change(&config).unwrap();
    let job = fixture.submit(JobSpec::new("build", ["true"]));
    let driver = fixture.worker("a-9").await;
    until("its worker is idle", async || {
        let runners = fixture.forge().runners().await.unwrap();
        runners.iter().any(|runner| runner.status == runner_core::forge::RunnerStatus::Idle)
    })
    .await;
    assert_eq!(fixture.gitlab.calls().len(), 0, "nobody asked");
    fixture.forge().pause_profiles(BTreeSet::new());
    assert_eq!(fixture.over(job).await.status, Status::Success);
    driver.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runners_follow_what_is_changed() {
    let fixture = Fixture::with(|config| config.profiles[0].exposed = false).await;
    let gitlab = &fixture.gitlab;
    assert!(gitlab.delete_runner(fixture.runner));
    let mut config = fixture.config.clone();
    config.administration = Some(Administration {
        token: Secret::new(gitlab.access_token(gitlab.admin(), &[Scope::Api])),
        place: Place::Project(fixture.project.0),
        expose_runners: true,
    });
    (config.profiles[0].token, config.profiles[0].exposed) = (None, true);
    fixture.forge().change(&config).unwrap();
    until("it is made", async || gitlab.runners().len() == 1).await;
    let made = gitlab.runners()[0];
    until("it is well", async || fixture.forge().health()[&profile()] == Health::Well).await;

    config.profiles[0].tags.insert(Label::new("fast").unwrap());
    config.profiles[0].description = "another".to_owned();
    fixture.forge().change(&config).unwrap();
    until("it is corrected", async || {
        let now = gitlab.runner_view(made).unwrap().spec;
        now.description == "another" && now.tags.contains(&"fast".to_owned())
    })
    .await;

    config.administration.as_mut().unwrap().expose_runners = false;
    fixture.forge().change(&config).unwrap();
    until("it is gone", async || gitlab.runners().is_empty()).await;
    assert!(fixture.forge().health().is_empty(), "nothing is on offer");
    let news = fixture.forge().news();
    for said in ["was created", "corrected: description, tag_list", "was removed"] {
        assert!(news.iter().any(|news| news.ends_with(said)), "{said:?} is not in {news:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_named_takes_the_place_of_one_that_was_made() {
    let fixture = Fixture::new().await;
    let gitlab = &fixture.gitlab;
    let mut config = fixture.config.clone();
    config.administration = Some(Administration {
        token: Secret::new(gitlab.access_token(gitlab.admin(), &[Scope::Api])),
        place: Place::Project(fixture.project.0),
        expose_runners: true,
    });
    config.profiles[0].token = None;
    fixture.forge().change(&config).unwrap();
    until("another is made", async || gitlab.runners().len() == 2).await;
    let place = fake_gitlab::Place::Project(fixture.project);
    let (named, token) = gitlab.runner(RunnerSpec::tagged(place, [common::PROFILE]));
    config.profiles[0].token = Some(Secret::new(token));
    fixture.forge().change(&config).unwrap();
    until("the one that was made is gone", async || gitlab.runners() == [fixture.runner, named])
        .await;
    assert!(gitlab.delete_runner(fixture.runner));
    let job = fixture.run(JobSpec::new("build", ["true"])).await;
    assert_eq!((job.status, job.runner), (Status::Success, Some(named)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_machine_is_turned_away_and_who_has_one_is_not() {
    let fixture = Fixture::with(|config| config.limits.ahead = 2).await;
    let go = fixture.directory.path().join("go");
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
    let running = fixture.submit(JobSpec::new("running", [wait]));
    let driver = fixture.worker("a-1").await;
    fixture.until_busy("a-1").await;
    let waiting = fixture.submit(JobSpec::new("waiting", ["true"]));
    until("it waits here", async || fixture.forge().queued_jobs().await.unwrap().len() == 1).await;
    fixture.forge().pause(true);
    fixture.forge().turn_away("the service is being stopped").unwrap();
    fixture.forge().told().await;
    let waiting = fixture.gitlab.job_view(waiting).unwrap();
    assert_eq!(waiting.failure_reason.as_deref(), Some("runner_interrupted"));
    assert!(
        waiting.log().contains("Job failed: the service is being stopped"),
        "{}",
        waiting.log()
    );
    assert_eq!(fixture.gitlab.job_view(running).unwrap().status, Status::Running);
    std::fs::write(go, "").unwrap();
    assert_eq!(fixture.over(running).await.status, Status::Success);
    driver.await.unwrap().unwrap();
}
