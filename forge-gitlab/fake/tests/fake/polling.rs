//! A runner that asks for a job, and is made to wait.

use std::time::Duration;

use fake_gitlab::{JobSpec, Options};
use serde_json::json;

use crate::client::{Answer, World};

const LAST_UPDATE: &str = "x-gitlab-last-update";

async fn ask_again(world: &World, seen: &str) -> Answer {
    let mut body = world.asking();
    body["last_update"] = json!(seen);
    world.ask(body).await
}

/// Without waiting.
async fn unheld() -> World {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.long_poll = Duration::ZERO);
    world
}

#[tokio::test]
async fn a_job_is_handed_out_once() {
    let world = World::new().await;
    let id = world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    let job = world.take().await.expect("a job");
    assert_eq!(job.id, id);
    assert!(world.take().await.is_none());
    world.done();
}

#[tokio::test]
async fn an_answer_with_a_job_has_no_value_and_one_without_has() {
    let world = World::new().await;
    let nothing = world.ask(world.asking()).await;
    assert_eq!(nothing.status, 204);
    assert!(nothing.header(LAST_UPDATE).is_some_and(|value| !value.is_empty()));
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    let job = world.ask(world.asking()).await;
    assert_eq!((job.status, job.header(LAST_UPDATE)), (201, None));
    assert_eq!(job.header("gitlab-ci-builds-polling"), Some("yes"));
    world.done();
}

#[tokio::test]
async fn whoever_waits_is_told_of_a_job_by_an_answer_without_a_value() {
    let world = World::new().await;
    let first = world.ask(world.asking()).await;
    let seen = first.header(LAST_UPDATE).expect("a value").to_owned();

    let waiting = ask_again(&world, &seen);
    let job = async {
        world.gitlab.until_held(1).await;
        world.gitlab.job(world.project, JobSpec::new("build", ["make"]))
    };
    let (told, id) = tokio::join!(waiting, job);
    assert_eq!((told.status, told.header(LAST_UPDATE)), (204, None));

    let job = ask_again(&world, &seen).await;
    assert_eq!(job.status, 201);
    assert_eq!(job.json()["id"], json!(id));
    world.done();
}

#[tokio::test]
async fn whoever_waits_in_vain_is_told_so_without_a_value() {
    let mut options = Options::default();
    options.settings.long_poll = Duration::from_millis(20);
    let world = World::with(options).await;
    let first = world.ask(world.asking()).await;
    let seen = first.header(LAST_UPDATE).expect("a value").to_owned();
    let told = ask_again(&world, &seen).await;
    assert_eq!((told.status, told.header(LAST_UPDATE)), (204, None));
    world.done();
}

#[tokio::test]
async fn without_waiting_the_same_value_is_answered_with_itself() {
    let world = unheld().await;
    let first = world.ask(world.asking()).await;
    let seen = first.header(LAST_UPDATE).expect("a value").to_owned();
    let again = ask_again(&world, &seen).await;
    assert_eq!((again.status, again.header(LAST_UPDATE)), (204, Some(seen.as_str())));
    assert_eq!(again.header("gitlab-ci-builds-polling"), None);
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    assert_eq!(ask_again(&world, &seen).await.status, 201);
    world.done();
}

#[tokio::test]
async fn a_value_lasts_an_hour_and_then_there_is_a_look_in_earnest() {
    let world = unheld().await;
    let first = world.ask(world.asking()).await;
    let seen = first.header(LAST_UPDATE).expect("a value").to_owned();
    world.gitlab.clock().advance(Duration::from_secs(3601));
    let again = ask_again(&world, &seen).await;
    assert_eq!(again.status, 204);
    assert!(again.header(LAST_UPDATE).is_some_and(|value| value != seen));
    world.done();
}

#[tokio::test]
async fn a_job_for_others_is_no_news() {
    let world = unheld().await;
    let first = world.ask(world.asking()).await;
    let seen = first.header(LAST_UPDATE).expect("a value").to_owned();
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]).tags(["windows"]));
    let again = ask_again(&world, &seen).await;
    assert_eq!((again.status, again.header(LAST_UPDATE)), (204, Some(seen.as_str())));
    world.done();
}

#[tokio::test]
async fn a_paused_runner_gets_nothing_until_it_goes_on() {
    let world = unheld().await;
    world.gitlab.configure_runner(world.runner, |spec| spec.paused = true);
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    let nothing = world.ask(world.asking()).await;
    assert_eq!(nothing.status, 204);
    let seen = nothing.header(LAST_UPDATE).expect("a value").to_owned();
    world.gitlab.configure_runner(world.runner, |spec| spec.paused = false);
    assert_eq!(ask_again(&world, &seen).await.status, 201);
    world.done();
}

#[tokio::test]
async fn no_token_is_a_bad_request_and_an_unknown_one_is_forbidden() {
    let world = World::new().await;
    let none = world.ask(json!({})).await;
    assert_eq!((none.status, none.message()), (400, "token is missing".to_owned()));
    let unknown = world.ask(json!({ "token": "glrt-nobody", "last_update": "x" })).await;
    assert_eq!((unknown.status, unknown.message()), (403, "403 Forbidden".to_owned()));
    world.done_after(&[": \"token\" is a required property"]);
}

#[tokio::test]
async fn an_orphaned_runner_is_told_so() {
    let world = World::new().await;
    let place = fake_gitlab::Place::Project(world.project);
    let (_, token) = world.gitlab.runner(fake_gitlab::RunnerSpec::new(place));
    world.gitlab.delete_project(world.project);
    let answer = world.ask(json!({ "token": token })).await;
    assert_eq!((answer.status, answer.message()), (422, "Runner is orphaned".to_owned()));
    world.done();
}

#[tokio::test]
async fn a_long_request_is_refused_before_it_is_read() {
    let world = World::new().await;
    let mut body = world.asking();
    body["info"]["name"] = json!("x".repeat(33 * 1024));
    assert_eq!(world.ask(body).await.status, 413);
    world.done();
}

#[tokio::test]
async fn whoever_goes_away_waits_no_more() {
    let world = World::new().await;
    let first = world.ask(world.asking()).await;
    let seen = first.header(LAST_UPDATE).expect("a value").to_owned();
    tokio::select! {
        _ = ask_again(&world, &seen) => panic!("there is no news"),
        () = world.gitlab.until_held(1) => (),
    }
    world.gitlab.until_held(0).await;
    world.done();
}

#[tokio::test]
async fn whoever_watches_may_look_around() {
    let world = World::new().await;
    let id = world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    let looked = world.gitlab.until_job(id, |job| {
        world.gitlab.job_view(job.id).is_some_and(|again| again.status == job.status)
    });
    assert!(looked.await.is_some());
    world.done();
}
