//! The queue of Servo's interface: asked as its workflows ask, and what users complained of there.

mod paper;

use std::{path::Path, process::Command};

use fake_github::{Conclusion, JobRequest, JobStatus};
use paper::{Answer, Setting, World, has, job, uuid};
use reqwest::{Method, StatusCode};
use runner_core::ProfileName;

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

/// As many workers as `max`, all idle, and `acme/widgets` may reserve.
fn world(max: u64) -> World {
    let world = World::new(&Setting {
        servo: Some(
            "repositories = [{ name = \"acme/widgets\", most = 9 }]\nreserve_timeout = \"10m\"\n\
             queue_timeout = \"10m\""
                .to_owned(),
        ),
        profile: format!("min_idle = {max}\nmax = {max}"),
        ..Setting::default()
    });
    world.idle(max);
    world
}

impl World {
    fn enqueue(&self, id: &str, repository: &str, count: u32) -> String {
        let query = job(id, repository, 7);
        let placed = self.ask(Method::POST, &format!("/profile/linux/enqueue/{count}?{query}"));
        assert_eq!(placed.status, StatusCode::OK, "{}", placed.text());
        placed.text()
    }

    fn take_place(&self, id: &str, token: &str) -> Answer {
        self.post(&format!("/take/{id}?token={token}"))
    }

    fn stand(&self, id: &str) -> serde_json::Value {
        let mut told = serde_json::Value::Null;
        self.until("the place is told", |world| {
            let answer = world.get(&format!("/queue/{id}"));
            told = if answer.status == StatusCode::OK { answer.json() } else { return false };
            true
        });
        told
    }

    fn release(&self, id: &str) {
        let released = self.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
        assert!(released.status.is_success(), "{}", released.text());
    }
}

fn waits(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text());
    let after: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&after), "{after}");
    // Curl appends what it is told to what it was told before, and jq reads all of it.
    assert_eq!(answer.text(), "");
    let reason = answer.headers["x-reason"].to_str().unwrap();
    assert!(reason.contains("position"), "{reason}");
}

#[test]
fn a_place_is_taken_with_its_token_when_its_turn_has_come() {
    let world = world(1);
    let (first, second) = (uuid(), uuid());
    let token = world.enqueue(&first, "acme/widgets", 1);
    assert_eq!(
        token,
        world.enqueue(&first, "acme/widgets", 1),
        "asked again, it is the same place"
    );
    let other = world.enqueue(&second, "acme/widgets", 1);
    assert_eq!(world.take_place(&uuid(), &token).status, StatusCode::NOT_FOUND);
    world.until("the first is there", |world| world.take_place(&first, &token).is_something());
    let taken = world.take_place(&first, &token);
    assert!(taken.json()["id"].is_u64(), "taken again, it is the same: {}", taken.text());
    world.until("GitHub has it marked", |world| world.marked(&first).len() == 1);
    assert_eq!(world.take_place(&second, &token).status, StatusCode::FORBIDDEN);
    waits(&world.take_place(&second, &other));
    let stand = world.stand(&second);
    assert_eq!((&stand["state"], &stand["position"]), (&"waiting".into(), &1.into()), "{stand}");
    assert!(stand["decision"] == "wait" || stand["decision"] == "elsewhere", "{stand}");
    assert_eq!(world.get(&format!("/queue/{second}?patience=0")).json()["decision"], "elsewhere");
    assert_eq!(world.get("/queue/nobody").status, StatusCode::NOT_FOUND);
    let text = world.get("/dashboard.txt").text();
    assert!(text.contains(&second), "{text}");
    world.release(&first);
    world.until("the second is there", |world| world.take_place(&second, &other).is_something());
}

#[test]
fn the_published_steps_stand_in_the_queue_until_it_is_their_turn() {
    if !has("curl") || !has("jq") {
        return;
    }
    let world = world(1);
    let holder = uuid();
    assert!(world.take(&holder).is_something());
    let run = world.run("acme/widgets", "later");
    let id = uuid();
    world.upload(run, &id, "acme/widgets", "linux", 1);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servo/runner-select.sh");
    let steps = Command::new("sh")
        .arg(script)
        .args(["queue", &world.url(), &id, "acme/widgets", &run.to_string(), "ubuntu-latest"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    world.until("it stands in the queue", |world| {
        world.get(&format!("/queue/{id}")).status == StatusCode::OK
    });
    world.release(&holder);
    let output = steps.wait_with_output().unwrap();
    let label = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(label, format!("reserved-for:{id}"), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn complaint_9_first_come_first_served_the_large_not_starved_and_nothing_forgotten_over_a_kill() {
    let mut world = world(2);
    let holders = [uuid(), uuid()];
    for holder in &holders {
        assert!(world.take(holder).is_something());
    }
    // A large one comes first, then small ones that would always fit before it.
    let large = uuid();
    let large_token = world.enqueue(&large, "acme/widgets", 2);
    let small = uuid();
    let small_token = world.enqueue(&small, "acme/widgets", 1);
    world.release(&holders[0]);
    world.until("a worker is free", |world| {
        let counts = &world.status()["profiles"]["linux"];
        counts["idle"] == 1 || counts["reserved"] == 2
    });
    waits(&world.take_place(&small, &small_token));
    world.kill();
    world.start();
    world.until("its place is still there", |world| world.stand(&large)["position"] == 1);
    waits(&world.take_place(&small, &small_token));
    world.release(&holders[1]);
    world.until("the large one is served", |world| {
        let answer = world.take_place(&large, &large_token);
        answer.status == StatusCode::OK && answer.json().as_array().map(Vec::len) == Some(2)
    });
    world.until("GitHub has both marked", |world| world.marked(&large).len() == 2);
    waits(&world.take_place(&small, &small_token));
    world.release(&large);
    world.until("the small one is served", |world| {
        world.take_place(&small, &small_token).is_something()
    });
}

#[test]
fn complaint_11_failed_jobs_that_run_again_get_a_fresh_runner() {
    let world = world(1);
    let id = uuid();
    assert!(world.take(&id).is_something());
    let label = format!("reserved-for:{id}");
    let mut runners = Vec::new();
    for _ in 0..2 {
        let queued =
            world.github.enqueue(JobRequest::new("acme/widgets", [label.clone()])).unwrap();
        world.until("the job is over", |world| {
            world.github.job(queued.id).unwrap().status == JobStatus::Completed
        });
        let view = world.github.job(queued.id).unwrap();
        assert_eq!(view.conclusion, Some(Conclusion::Success));
        runners.push(view.runner.unwrap());
    }
    assert_ne!(runners[0], runners[1]);
}

#[test]
fn complaint_12_during_a_rebuild_a_place_waits_instead_of_being_refused() {
    let world = World::new(&Setting {
        servo: Some("queue_timeout = \"10m\"".to_owned()),
        profile: "min_idle = 0\nmax = 1".to_owned(),
        built: false,
        ..Setting::default()
    });
    let id = uuid();
    let token = world.enqueue(&id, "acme/widgets", 1);
    let answer = world.take_place(&id, &token);
    waits(&answer);
    world.until("it says what it waits for", |world| {
        world.stand(&id)["reasons"].to_string().contains("image")
    });
    paper::host::hold_builds(world.path(), &ProfileName::new("linux").unwrap(), false);
    world.until("it is served", |world| world.take_place(&id, &token).is_something());
}
