//! What users of Servo's monitor complained of, one test each, numbered as `docs/servo.md` has them. Those that are
//! not here are proven elsewhere; that table says where.

mod paper;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fake_github::{Fault, FaultRule, JobRequest, JobStatus};
use paper::{Setting, TOKEN, World, eventually, job, send, uuid};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

/// Two idle workers, and `acme/widgets` may reserve.
fn world() -> World {
    proving("most = 3")
}

/// The same, with these words about `acme/widgets`.
fn proving(words: &str) -> World {
    let world = World::new(&Setting {
        servo: Some(format!(
            "repositories = [{{ name = \"acme/widgets\", {words} }}]\nreserve_timeout = \"10m\""
        )),
        ..Setting::default()
    });
    world.idle(2);
    world
}

/// Somebody else's runner.
fn stranger(world: &World, name: &str) {
    let token = world.github.classic_token("mona", &["repo", "admin:org"]);
    let url = format!("{}/orgs/acme/actions/runners/generate-jitconfig", world.github.api_url());
    let wish =
        json!({ "name": name, "runner_group_id": 1, "labels": ["x64"], "work_folder": "_work" });
    let made = world.send(Method::POST, &url, |request| {
        request.header("user-agent", "somebody").bearer_auth(&token).json(&wish)
    });
    assert_eq!(made.status, StatusCode::CREATED, "{name}: {}", made.text());
}

/// Lets the lists of runners be asked for again, and be taken in.
fn looks_again(world: &World) {
    let lists = |world: &World| {
        let calls = world.github.calls().into_iter();
        calls.filter(|call| call.operation.starts_with("actions/list-self-hosted-runners")).count()
    };
    let before = lists(world);
    world.until("GitHub is asked again", |world| lists(world) >= before + 3);
}

#[test]
fn complaint_1_whatever_fails_outside_the_service_stays_up() {
    let world = world();
    for (number, fault) in [
        Fault::Reset,
        Fault::Html { status: 200 },
        Fault::Garbage,
        Fault::Status { status: 500, retry_after: None, message: None },
    ]
    .into_iter()
    .enumerate()
    {
        // That a list has not changed is said without it, which leaves nothing to be garbled.
        stranger(&world, &format!("other-{number}"));
        world.github.fault(FaultRule::always(fault.clone()).path("*/actions/runners*"));
        world.until(&format!("{fault:?} is told"), |world| {
            world.status()["forges"]["github"]["seen"] == false
        });
        assert_eq!(world.get("/dashboard.json").status, StatusCode::OK, "{fault:?}");
        assert_eq!(world.machines().len(), 2, "{fault:?}: nothing is destroyed");
        world.github.clear_faults();
        world.until("GitHub is seen again", |world| {
            world.status()["forges"]["github"]["seen"] == true
        });
    }
    world.idle(2);
    assert!(world.take(&uuid()).is_something());
}

#[test]
fn complaint_2_a_request_that_takes_long_holds_up_nobody_and_one_that_is_given_up_breaks_nothing() {
    let world = world();
    let (id, run) = (uuid(), world.run("acme/widgets", "later"));
    world.upload(run, &id, "acme/widgets", "linux", 1);
    world.github.fault(FaultRule::always(Fault::Hang).path("*/artifacts*"));
    let url = format!("{}/select-runner?{}", world.url(), job(&id, "acme/widgets", run));
    let asked = || world.runtime.spawn(send(world.client().post(&url)));
    let (patient, impatient) = (asked(), asked());
    world.until("both have asked", |world| {
        let calls = world.github.calls().into_iter();
        calls.filter(|call| call.path.contains("/artifacts")).count() >= 2
    });
    impatient.abort();
    assert_eq!(world.get("/dashboard.json").status, StatusCode::OK);
    assert!(world.take(&uuid()).is_something(), "others are served meanwhile");
    assert!(!patient.is_finished());
    world.github.clear_faults();
    let answer = world.runtime.block_on(patient).unwrap().unwrap();
    assert!(
        answer.is_something() || answer.status == StatusCode::SERVICE_UNAVAILABLE,
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert!(!world.log().contains("panicked"), "{}", world.log());
}

#[test]
fn complaint_3_no_machine_gets_what_is_anothers_by_lying_about_its_address() {
    let world = World::new(&Setting { asleep: true, ..Setting::default() });
    world.until("two machines are there", |world| world.machines().len() == 2);
    let [victim, thief] = &world.machines()[..] else { panic!("two machines") };
    world.give_address(victim, "10.7.7.7");
    world.give_address(thief, "127.0.0.1");
    let url = format!("{}/github-jitconfig", world.guests_url());
    let lies =
        [("X-Real-IP", "10.7.7.7"), ("Forwarded", "for=10.7.7.7"), ("X-Forwarded-For", "10.7.7.7")];
    let mut handed = Vec::new();
    for (name, address) in lies {
        let answer = world.send(Method::GET, &url, |request| request.header(name, address));
        handed.extend(answer.json().as_str().map(str::to_owned));
    }
    // It is known as what it is, and got its own.
    assert_eq!(handed, [world.told_line(thief, "jit-config").unwrap()]);
}

#[test]
fn complaint_4_an_empty_answer_of_githubs_ends_no_job() {
    let world = world();
    world.let_jobs_end(false);
    let queued = world.github.enqueue(JobRequest::new("acme/widgets", ["x64"])).unwrap();
    world.until("a job runs", |world| {
        world.github.job(queued.id).unwrap().status == JobStatus::InProgress
    });
    let before: BTreeSet<String> = world.machines().into_iter().collect();
    for fault in [Fault::Garbage, Fault::ShortList, Fault::Html { status: 200 }] {
        world.github.fault(FaultRule::always(fault).path("*/actions/runners?*"));
        looks_again(&world);
        world.github.clear_faults();
    }
    let after: BTreeSet<String> = world.machines().into_iter().collect();
    assert!(before.is_subset(&after), "{before:?} was there, {after:?} is");
    world.let_jobs_end(true);
    world.until("the job ends well", |world| {
        world.github.job(queued.id).unwrap().conclusion == Some(fake_github::Conclusion::Success)
    });
}

#[test]
fn complaint_6_a_machine_that_cannot_be_destroyed_holds_up_no_other() {
    let world = world();
    let stuck = world.machines().remove(0);
    world.jam(&stuck, true);
    let retired = world.ask(Method::POST, &format!("/api/v2/workers/{stuck}/retire"));
    assert!(retired.status.is_success());
    world.until("its failure is told", |world| {
        let failures = world.status()["failures"].clone();
        failures
            .as_array()
            .unwrap()
            .iter()
            .any(|failure| failure["subject"].as_str().unwrap().contains(&stuck))
    });
    world.idle(2);
    for _ in 0..2 {
        let queued = world.github.enqueue(JobRequest::new("acme/widgets", ["x64"])).unwrap();
        world.until("jobs run all the same", |world| {
            world.github.job(queued.id).unwrap().status == JobStatus::Completed
        });
    }
    assert!(world.machines().contains(&stuck));
    world.jam(&stuck, false);
    world.until("it goes at last", |world| !world.machines().contains(&stuck));
}

#[test]
fn complaint_7_odd_names_of_others_shift_nothing_to_the_wrong_runner() {
    let world = world();
    // Others' runners, with names that no filter expects.
    let theirs =
        ["linux", "linux-", "linux-1", "linux-1_", "LINUX-1_x", "a b", "linux-999_monitor-0"];
    for name in theirs {
        stranger(&world, name);
    }
    looks_again(&world);
    for _ in 0..2 {
        let id = uuid();
        let taken = world.take(&id).json();
        let number = taken["id"].as_u64().unwrap();
        world.until("it is marked", |world| world.marks().contains_key(&id));
        assert_eq!(
            world.marks()[&id],
            [number],
            "the one that was promised is the one that is marked"
        );
        let machine = format!("linux-{number}");
        assert_eq!(taken["runner"]["guest_name"], machine);
        assert!(world.machines().contains(&machine));
    }
    let runners = world.github.runners();
    for name in theirs {
        assert!(runners.iter().any(|runner| runner.name == name), "{name} stays");
    }
}

#[test]
fn complaint_10_a_proof_is_good_once_for_one_repository_and_event_and_never_for_a_fork() {
    let world = proving("most = 2, events = [\"push\", \"pull_request\"]");
    let select = |id: &str, run: i64| {
        world.post(&format!("/select-runner?{}", job(id, "acme/widgets", run)))
    };
    let refused = |id: &str, run: i64, word: &str| {
        let answer = select(id, run);
        let (status, text) = (answer.status, answer.text());
        assert!(matches!(status.as_u16(), 403 | 409) && text.contains(word), "{status}: {text}");
    };
    let run = world.run("acme/widgets", "later");
    let id = uuid();
    world.upload(run, &id, "acme/widgets", "linux", 99);
    refused(&id, run, "99 runners");
    let id = uuid();
    world.upload(run, &id, "acme/widgets", "linux", 1);
    assert!(select(&id, run).is_something());
    world.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
    world
        .until("nothing is reserved", |world| world.status()["profiles"]["linux"]["reserved"] == 0);
    refused(&id, run, "used");
    let of = |change: &dyn Fn(&mut JobRequest)| {
        let mut request = JobRequest::new("acme/widgets", ["nobody-has-this"]);
        change(&mut request);
        let first = world.github.enqueue(request.clone()).unwrap();
        world.github.complete(first.id, fake_github::Conclusion::Success).unwrap();
        request.run = Some(first.run);
        world.github.enqueue(request).unwrap();
        let id = uuid();
        world.upload(first.run, &id, "acme/widgets", "linux", 1);
        (id, first.run)
    };
    let (id, run) = of(&|request| request.event = "issue_comment".to_owned());
    refused(&id, run, "issue_comment");
    world.github.repository("stranger", "widgets");
    let (id, run) = of(&|request| {
        request.event = "pull_request".to_owned();
        request.fork = Some("stranger/widgets".to_owned());
    });
    refused(&id, run, "fork");
}

#[test]
fn complaint_13_the_dashboard_is_never_blank_while_workers_are_taken() {
    let world = world();
    let over = Arc::new(AtomicBool::new(false));
    let (client, url, told) =
        (world.client(), format!("{}/dashboard.json", world.url()), over.clone());
    let watch = world.runtime.spawn(async move {
        let mut seen = 0;
        while !told.load(Ordering::Relaxed) {
            let answer = send(client.get(&url)).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            assert!(answer.json()["profile_runner_counts"]["linux"].is_object());
            seen += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen
    });
    for _ in 0..5 {
        let id = uuid();
        eventually("a worker is taken", || world.take(&id).is_something().then_some(()));
        world.until("it is marked", |world| !world.marked(&id).is_empty());
        let released = world.ask(Method::DELETE, &format!("/api/v2/reservations/{id}"));
        assert!(released.status.is_success());
    }
    over.store(true, Ordering::Relaxed);
    let seen = world.runtime.block_on(watch).unwrap();
    assert!(seen > 5, "it was looked at {seen} times");
}

#[test]
fn complaint_14_nothing_that_a_machine_was_told_outlives_it() {
    let world = world();
    let [one, two] = &world.machines()[..] else { panic!("two machines") };
    let secrets: Vec<String> = [one, two]
        .iter()
        .flat_map(|machine| {
            ["jit-config", "monitor-token"].map(|line| world.told_line(machine, line).unwrap())
        })
        .collect();
    for machine in [one, two] {
        let retired = world.ask(Method::POST, &format!("/api/v2/workers/{machine}/retire"));
        assert!(retired.status.is_success());
    }
    world.until("others are in their place", |world| {
        let machines = world.machines();
        machines.len() == 2 && !machines.contains(one) && !machines.contains(two)
    });
    // No file of the service, nor of its machines, has them.
    world.until("nothing has them any more", |world| {
        let files = paper::files(world.path());
        secrets.iter().all(|secret| !files.iter().any(|file| paper::holds(file, secret)))
    });
}

#[test]
fn complaint_15_a_finished_jobs_place_is_filled_and_its_registration_goes() {
    let world = world();
    let gone = world.machines();
    for _ in 0..2 {
        world.github.enqueue(JobRequest::new("acme/widgets", ["x64"])).unwrap();
    }
    world.until("new ones are ready", |world| {
        let machines = world.machines();
        machines.len() == 2 && gone.iter().all(|gone| !machines.contains(gone))
    });
    world.idle(2);
    world.until("every one of its registrations is gone", |world| {
        gone.iter().all(|gone| {
            !world
                .github
                .runners()
                .iter()
                .any(|runner| runner.name.starts_with(&format!("{gone}_")))
        })
    });
}

#[test]
fn complaint_16_an_artifact_is_found_among_hundreds_and_a_name_that_only_begins_alike_is_another() {
    let world = world();
    let run = world.run("acme/widgets", "later");
    let id = uuid();
    world.upload(run, &id, "acme/widgets", "linux", 1);
    for _ in 0..150 {
        world.upload(run, &uuid(), "acme/widgets", "linux", 1);
    }
    let answer = world.post(&format!("/select-runner?{}", job(&id, "acme/widgets", run)));
    assert!(answer.is_something(), "{}", answer.text());
    world.github.repository("acme", "widgets-evil");
    let run = world.run("acme/widgets-evil", "later");
    let id = uuid();
    world.upload(run, &id, "acme/widgets-evil", "linux", 1);
    let answer = world.post(&format!("/select-runner?{}", job(&id, "acme/widgets-evil", run)));
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text());
    assert_ne!(answer.text(), Value::Null.to_string());
    assert!(!answer.text().contains(TOKEN));
}
