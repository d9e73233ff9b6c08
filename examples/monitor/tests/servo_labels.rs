//! Whoever takes a worker is answered when GitHub keeps it for its job; a GitHub that fails rolls the reservation
//! back, and says so.

mod paper;

use fake_github::{Fault, FaultRule};
use paper::{Answer, Setting, World, job, uuid};
use reqwest::{Method, StatusCode};

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

const LABELS: &str = "*/labels";

fn world() -> World {
    let world = World::new(&Setting {
        servo: Some(
            "repositories = [{ name = \"acme/widgets\", most = 3 }]\nreserve_timeout = \"10m\""
                .to_owned(),
        ),
        ..Setting::default()
    });
    world.idle(2);
    world
}

/// 503 in a line of text, with the time after which to ask again; and nothing is reserved any more.
fn rolled_back(world: &World, answer: &Answer, id: &str) {
    let text = answer.text();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert!(text.contains("nothing is reserved"), "{text}");
    let held = world.ask(Method::GET, "/api/v2/reservations").json();
    assert!(!held.to_string().contains(id), "{held}");
    let events = world.ask(Method::GET, "/api/v2/events?limit=1000").text();
    let told = events.contains(&format!("release reservation {id}"))
        || (events.contains("it ends: ") && events.contains(id));
    assert!(told, "{events}");
}

fn works_again(world: &World) {
    world.github.clear_faults();
    world.idle(2);
    let id = uuid();
    assert!(world.take(&id).is_something());
    assert_eq!(world.marked(&id).len(), 1);
}

#[test]
fn a_take_is_answered_when_github_has_its_label() {
    let world = world();
    for _ in 0..2 {
        let id = uuid();
        assert!(world.take(&id).is_something());
        assert_eq!(world.marked(&id).len(), 1, "no job waits for its label in vain");
    }
}

#[test]
fn a_label_whose_answer_is_lost_is_found() {
    let world = world();
    world.github.fault(FaultRule::once(Fault::LostReply).path(LABELS));
    let id = uuid();
    let taken = world.take(&id);
    assert!(taken.is_something(), "{}", taken.text());
    assert_eq!(world.marked(&id).len(), 1);
}

#[test]
fn a_github_that_refuses_the_label_rolls_the_reservation_back() {
    let world = world();
    let refusal = Fault::Status { status: 500, retry_after: None, message: None };
    world.github.fault(FaultRule::always(refusal).path(LABELS));
    let id = uuid();
    rolled_back(&world, &world.take(&id), &id);
    works_again(&world);
}

#[test]
fn a_github_that_never_answers_rolls_it_back_in_time_and_the_proof_is_good_again() {
    let world = world();
    world.github.fault(FaultRule::always(Fault::Hang).path(LABELS));
    let (id, run) = (uuid(), world.run("acme/widgets", "later"));
    world.upload(run, &id, "acme/widgets", "linux", 1);
    let path = format!("/select-runner?{}", job(&id, "acme/widgets", run));
    rolled_back(&world, &world.post(&path), &id);
    world.github.clear_faults();
    let mut taken = false;
    world.until("the same proof is granted", |world| {
        let answer = world.post(&path);
        taken = answer.is_something();
        assert_ne!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text());
        taken
    });
    assert_eq!(world.marked(&id).len(), 1);
}

#[test]
fn who_asks_before_anybody_knows_which_are_idle_is_told_to_ask_again() {
    let mut world = world();
    world.kill();
    world.github.fault(FaultRule::always(Fault::Hang).path("*/actions/runners*"));
    world.start();
    let id = uuid();
    let answer = world.take(&id);
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert!(answer.text().contains("its runners"), "{}", answer.text());
    world.github.clear_faults();
    let mut taken = false;
    world.until("it is taken", |world| {
        let answer = world.take(&id);
        taken |= answer.is_something();
        assert_ne!(answer.text(), "null", "there are idle ones");
        taken
    });
    assert_eq!(world.marked(&id).len(), 1);
}
