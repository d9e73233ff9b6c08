//! A hundred takes at once on fifty idle workers, again and again, half of the times with a `kill -9` of the
//! service in the middle of it: exactly fifty succeed, and nobody is promised what somebody else has. What is true
//! is what GitHub has on record.
//!
//! `make storm` for as many rounds as somebody has time for.

mod paper;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use paper::{Setting, TOKEN, World, send, uuid};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

const WORKERS: usize = 50;
const TAKES: usize = 100;
/// How many rounds there are if nobody says.
const ROUNDS: usize = 12;

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

/// What became of one take: the number of its runner, or none.
type Taken = (String, Option<u64>);

/// Takes one worker, and asks again with the same id for as long as there is no answer. Says at once that there is
/// one.
async fn take(
    client: reqwest::Client,
    url: String,
    id: String,
    answered: mpsc::UnboundedSender<()>,
) -> Taken {
    let query = format!("unique_id={id}&qualified_repo=acme/widgets&run_id=7");
    let url = format!("{url}/profile/linux/take?{query}");
    loop {
        let request = client.request(Method::POST, &url).bearer_auth(TOKEN);
        match send(request).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let _ = answered.send(());
                let told = answer.json();
                return (id, told["id"].as_u64());
            }
            Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => (),
            Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
            // The service is dead, or died before it had answered.
            Err(_) => (),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A service with as many workers as are fought for. It may be told of one more, so that it can be asked for more
/// than there are.
fn world() -> World {
    let world = World::new(&Setting {
        servo: Some("reserve_timeout = \"1h\"".to_owned()),
        profile: format!("min_idle = {WORKERS}\nmax = {}\nstart_timeout = \"10m\"", WORKERS + 1),
        ..Setting::default()
    });
    let most = json!({ "max": WORKERS });
    let adjusted =
        world.send(Method::PATCH, &format!("{}/api/v2/profiles/linux", world.url()), |request| {
            request.bearer_auth(TOKEN).json(&most)
        });
    assert_eq!(adjusted.status, StatusCode::OK, "{}", adjusted.text());
    world
}

/// Whether so many workers can be had, and no more: idle ones whose last mark is not off yet cannot. Takes none.
fn can_be_had(world: &World, count: usize) -> bool {
    let wish = json!({ "profile": "linux", "count": WORKERS + 1, "duration": "1m" });
    let url = format!("{}/api/v2/reservations", world.url());
    let refusal = world.send(Method::POST, &url, |request| request.bearer_auth(TOKEN).json(&wish));
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refusal.text());
    refusal.text().contains(&format!("{count} available"))
}

fn round(world: &mut World, number: usize, kills: bool) {
    world.until("every worker can be had", |world| can_be_had(world, WORKERS));
    let (answered, mut answers) = mpsc::unbounded_channel();
    let (client, url) = (world.client(), world.url());
    let mut takes = JoinSet::new();
    for _ in 0..TAKES {
        let take = take(client.clone(), url.clone(), uuid(), answered.clone());
        takes.spawn_on(take, world.runtime.handle());
    }
    if kills {
        // Somewhere in the middle: right after as many answers as the number of the round says.
        for _ in 0..number * 7 % TAKES {
            world.runtime.block_on(answers.recv()).unwrap();
        }
        world.kill();
        world.start();
    }
    let taken: Vec<Taken> = world.runtime.block_on(takes.join_all());
    let won: BTreeMap<&str, u64> =
        taken.iter().filter_map(|(id, runner)| Some((&**id, (*runner)?))).collect();
    let runners: BTreeSet<u64> = won.values().copied().collect();
    assert_eq!((won.len(), runners.len()), (WORKERS, WORKERS), "round {number}");
    // GitHub's own records say the same.
    world.until("GitHub has them all marked", |world| world.marks().len() == WORKERS);
    let marks = world.marks();
    for (id, runner) in &won {
        assert_eq!(marks.get(*id), Some(&vec![*runner]), "round {number}: {id}");
    }
    let held = world.ask(Method::GET, "/api/v2/reservations").json();
    let held: BTreeSet<String> = held
        .as_array()
        .unwrap()
        .iter()
        .map(|held| held["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(held, won.keys().map(ToString::to_string).collect(), "round {number}");
    assert_eq!(world.take(&uuid()).json(), Value::Null, "round {number}");
    assert!(world.github.take_violations().is_empty());
    for id in held {
        let released = world.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
        assert!(released.status.is_success(), "{}", released.text());
    }
    world.until("GitHub has none marked", |world| world.marks().is_empty());
}

/// Every other round, from this one on.
fn rounds(first: usize, kills: bool) {
    let said = std::env::var("STORM_ROUNDS").ok();
    let all = said.map_or(ROUNDS, |rounds| rounds.parse().expect("STORM_ROUNDS is a number"));
    let (mut world, began) = (world(), Instant::now());
    let mut done = 0;
    for number in (first..all).step_by(2) {
        round(&mut world, number, kills);
        done += 1;
    }
    println!("{done} rounds of {TAKES} takes on {WORKERS} workers in {:.0?}", began.elapsed());
}

#[test]
fn of_a_hundred_takes_on_fifty_workers_fifty_succeed() {
    rounds(0, false);
}

#[test]
fn of_a_hundred_takes_on_fifty_workers_fifty_succeed_whenever_the_service_is_killed() {
    rounds(1, true);
}
