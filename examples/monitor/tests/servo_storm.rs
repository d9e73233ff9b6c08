//! A hundred takes at once on fifty idle workers, again and again, half of the times with a `kill -9` of the
//! service in the middle of it: exactly fifty succeed, and nobody is promised what somebody else has. What is true
//! is what GitHub has on record.
//!
//! `STORM_ROUNDS=100 cargo nextest run -p monitor --test servo_storm` for as many rounds as that.

mod paper;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use paper::{Setting, TOKEN, World, send, uuid};
use reqwest::{Method, StatusCode};
use serde_json::Value;

const WORKERS: usize = 50;
const TAKES: usize = 100;
/// How many rounds there are if nobody says: GitHub takes a change a second, so each has a minute or two.
const ROUNDS: usize = 2;

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

/// What became of one take: the number of its runner, or none.
type Taken = (String, Option<u64>);

/// Takes one worker, and asks again with the same id for as long as there is no answer.
async fn take(client: reqwest::Client, url: String, id: String) -> Taken {
    let query = format!("unique_id={id}&qualified_repo=acme/widgets&run_id=7");
    let url = format!("{url}/profile/linux/take?{query}");
    loop {
        let request = client.request(Method::POST, &url).bearer_auth(TOKEN);
        match send(request).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let told = answer.json();
                return (id, told["id"].as_u64());
            }
            Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => (),
            Ok(answer) => panic!("{}: {}", answer.status, answer.text()),
            // The service is dead, or died before it had answered.
            Err(_) => (),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn round(number: usize, kills: bool) {
    let mut world = World::new(&Setting {
        servo: Some("reserve_timeout = \"1h\"".to_owned()),
        profile: format!("min_idle = {WORKERS}\nmax = {WORKERS}\nstart_timeout = \"10m\""),
        ..Setting::default()
    });
    world.idle(WORKERS as u64);
    let (client, url) = (world.client(), world.url());
    let takes: Vec<_> = (0..TAKES)
        .map(|_| world.runtime.spawn(take(client.clone(), url.clone(), uuid())))
        .collect();
    if kills {
        // Somewhere in the middle: after as many promises as the number of the round says.
        let some = number * 7 % WORKERS;
        world.until("some are promised", |world| world.records().len() >= some);
        world.kill();
        world.start();
    }
    let taken: Vec<Taken> =
        takes.into_iter().map(|take| world.runtime.block_on(take).unwrap()).collect();
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
    let one_too_many = format!(
        "{}/profile/linux/take?unique_id={}&qualified_repo=acme/widgets&run_id=7",
        world.url(),
        uuid()
    );
    let none = world.send(Method::POST, &one_too_many, |request| request.bearer_auth(TOKEN));
    assert_eq!(none.json(), Value::Null);
    assert!(world.github.take_violations().is_empty());
}

fn rounds() -> usize {
    let said = std::env::var("STORM_ROUNDS").ok();
    said.map_or(ROUNDS, |rounds| rounds.parse().expect("STORM_ROUNDS is a number"))
}

#[test]
fn of_a_hundred_takes_on_fifty_workers_fifty_succeed() {
    for number in (0..rounds()).step_by(2) {
        round(number, false);
    }
}

#[test]
fn of_a_hundred_takes_on_fifty_workers_fifty_succeed_whenever_the_service_is_killed() {
    for number in (1..rounds()).step_by(2) {
        round(number, true);
    }
}
