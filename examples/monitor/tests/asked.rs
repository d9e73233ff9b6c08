//! What people ask of the running pool over the API: explanations, holds, retirements, numbers, reservations,
//! commands; and what is kept of machines that are gone.

mod common;

use common::{Server, TOKEN, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

fn idle(server: &Server) -> String {
    eventually(|| {
        let page = server.get("/api/v2/workers?phase=idle&profile=micro").json();
        Some(page["workers"][0]["name"].as_str()?.to_owned())
    })
}

fn patch(server: &Server, wish: &Value) -> (StatusCode, Value) {
    let answer = server.send(Method::PATCH, "/api/v2/profiles/micro", |request| {
        request.bearer_auth(TOKEN).json(wish)
    });
    (answer.status, answer.json())
}

fn delete(server: &Server, path: &str) -> StatusCode {
    server.send(Method::DELETE, path, |request| request.bearer_auth(TOKEN)).status
}

fn explain(server: &Server, what: &str) -> Value {
    let answer = server.get(&format!("/api/v2/{what}/explain"));
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

fn lines(explanation: &Value) -> String {
    let lines = explanation["lines"].as_array().unwrap().iter();
    lines.map(|line| line["text"].as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn a_paused_profile_makes_jobs_wait_and_they_say_so_over_a_restart_too() {
    let mut server = Server::start();
    idle(&server);
    let (status, counts) = patch(&server, &json!({ "paused": true, "max": 2 }));
    assert_eq!((status, &counts["paused"]), (StatusCode::OK, &json!(true)));
    server.crash();
    server.restart();
    let job = server.submit("echo here");
    let told = eventually(|| {
        let told = explain(&server, &format!("jobs/{job}"));
        told["summary"].as_str().unwrap().contains("paused").then_some(told)
    });
    assert!(lines(&told).contains("served by profile micro"), "{told:#}");
    assert!(lines(&told).contains("at most 2"), "{told:#}");
    assert_eq!(server.get(&format!("/api/v2/jobs/{job}")).json()["state"], "queued");
    assert_eq!(delete(&server, "/api/v2/profiles/micro/adjustment"), StatusCode::OK);
    server.wait(&job, "succeeded");
    let counts = server.get("/api/v2/profiles/micro").json()["counts"].clone();
    assert_eq!((&counts["paused"], &counts["max"]), (&json!(false), &json!(3)));
    let told = explain(&server, &format!("jobs/{job}"));
    let steps = lines(&told);
    for step in ["it was queued", "took it, after", "its command was started", "it succeeded"] {
        assert!(steps.contains(step), "{step}: {steps}");
    }
    let events = server.get("/api/v2/events?limit=1000").text();
    assert!(events.contains("max 3 as configured -> 2, paused"), "{events}");
}

#[test]
fn numbers_that_cannot_be_are_refused_and_change_nothing() {
    let server = Server::start();
    for (wish, said) in [
        (json!({}), "say what to change"),
        (json!({ "max": 0 }), "at least 1"),
        (json!({ "min_idle": 9 }), "above max = 3"),
        (json!({ "min_idle": -1 }), "min_idle"),
        (json!({ "max": null }), "max"),
        (json!({ "most": 3 }), "most"),
    ] {
        let (status, problem) = patch(&server, &wish);
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wish}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{wish}: {problem}");
    }
    let counts = server.get("/api/v2/profiles/micro").json()["counts"].clone();
    assert_eq!((&counts["min_idle"], &counts["max"]), (&json!(1), &json!(3)));
    assert_eq!(counts["adjusted_by"], Value::Null);
}

#[test]
fn a_job_that_nothing_serves_is_told_what_is_missing() {
    let server = Server::start();
    let wish = json!({ "labels": ["linux", "gpu"], "argv": ["true"] });
    let job = server.post("/api/v2/jobs", &wish).json()["id"].as_str().unwrap().to_owned();
    let told = eventually(|| {
        let told = explain(&server, &format!("jobs/{job}"));
        told["summary"].as_str().unwrap().contains("no profile serves it").then_some(told)
    });
    assert!(lines(&told).contains("profile micro does not offer gpu"), "{told:#}");
    assert_eq!(server.get("/api/v2/jobs/nothing/explain").status, StatusCode::NOT_FOUND);
}

#[test]
fn a_held_machine_outlives_its_job_and_the_service_and_what_was_seen_of_it_stays() {
    let mut server = Server::start();
    let job = server.submit("echo running; while [ ! -e go ]; do sleep 0.05; done");
    let running = server.wait(&job, "running");
    let worker = running["worker"].as_str().unwrap().to_owned();
    let path = format!("/api/v2/workers/{worker}");
    let busy = server.post(&format!("{path}/retire"), &json!({}));
    assert_eq!(busy.status, StatusCode::CONFLICT, "{}", busy.text());
    assert!(busy.text().contains(&job) && busy.text().contains("cancel the job"));
    let wish = json!({ "for": "1h", "purpose": "to look at it" });
    let held = server.post(&format!("{path}/hold"), &wish);
    assert_eq!(held.status, StatusCode::OK, "{}", held.text());
    let touch = json!({ "argv": ["/bin/sh", "-c", "touch go; echo out; exit 3"] });
    let ran = server.post(&format!("{path}/exec"), &touch).json();
    assert_eq!(ran["exit_code"], 3, "{ran}");
    assert!(ran["stdout"].as_str().unwrap().starts_with("out\n"), "{ran}");
    server.wait(&job, "succeeded");
    eventually(|| (server.get(&path).json()["phase"] == "over").then_some(()));
    server.crash();
    server.restart();
    let told = eventually(|| {
        let told = explain(&server, &format!("workers/{worker}"));
        told["summary"].as_str().unwrap().contains("it is kept for").then_some(told)
    });
    assert!(told["summary"].as_str().unwrap().contains("to look at it"), "{told:#}");
    assert!(server.host.names().contains(&worker), "its machine is there");
    assert_eq!(delete(&server, &format!("{path}/hold")), StatusCode::NO_CONTENT);
    eventually(|| (!server.host.names().contains(&worker)).then_some(()));
    let told = eventually(|| {
        let told = explain(&server, &format!("workers/{worker}"));
        told["summary"].as_str().unwrap().contains("it is gone").then_some(told)
    });
    assert!(lines(&told).contains("what was seen of it at its end"), "{told:#}");
    let flight = server.get(&format!("/api/v2/flights/{worker}"));
    assert_eq!(flight.status, StatusCode::OK, "{}", flight.text());
    assert!(flight.json()["why"].as_str().unwrap().contains("the job is over"));
    assert_eq!(server.get("/api/v2/flights/micro-99999").status, StatusCode::NOT_FOUND);
    let late = server.post(&format!("{path}/hold"), &wish);
    assert_eq!(late.status, StatusCode::NOT_FOUND, "{}", late.text());
}

#[test]
fn a_reserved_machine_that_someone_was_in_never_gets_a_job() {
    let server = Server::start();
    idle(&server);
    // More than there may ever be, and more than there are now.
    for (count, status) in [(50, StatusCode::BAD_REQUEST), (3, StatusCode::SERVICE_UNAVAILABLE)] {
        let too_many = json!({ "profile": "micro", "count": count, "duration": "1h" });
        let refused = server.post("/api/v2/reservations", &too_many);
        assert_eq!(refused.status, status, "{}", refused.text());
    }
    let wish = json!({ "profile": "micro", "duration": "1h", "purpose": "to try things" });
    let made = server.post("/api/v2/reservations", &wish);
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let made = made.json();
    let (id, worker) = (made["id"].as_str().unwrap(), made["workers"][0].as_str().unwrap());
    let path = format!("/api/v2/workers/{worker}");
    let ran = server.post(&format!("{path}/exec"), &json!({ "argv": ["true"] }));
    assert_eq!(ran.json()["exit_code"], 0, "{}", ran.text());
    eventually(|| {
        let listed = server.get("/api/v2/reservations").json();
        (listed[0]["id"] == id && server.get(&path).json()["phase"] == "reserved").then_some(())
    });
    assert!(server.host.names().iter().any(|name| name == worker), "it stays while it is reserved");
    assert_eq!(delete(&server, &format!("/api/v2/reservations/{id}")), StatusCode::NO_CONTENT);
    eventually(|| (!server.host.names().iter().any(|name| name == worker)).then_some(()));
    let jobs = server.get(&format!("/api/v2/jobs?worker={worker}")).json();
    assert_eq!(jobs["jobs"], json!([]));
    assert_eq!(delete(&server, &format!("/api/v2/reservations/{id}")), StatusCode::NO_CONTENT);
}

#[test]
fn a_reservation_under_ones_own_name_is_found_again_and_lasts_as_long_as_it_is_asked_for() {
    let server = Server::start();
    idle(&server);
    let put = |path: &str, body: &Value| {
        server.send(Method::PUT, path, |request| request.bearer_auth(TOKEN).json(body))
    };
    let path = "/api/v2/reservations/mine-1";
    let wish = |duration: &str, purpose: &str| json!({ "profile": "micro", "owner": "acme/widgets", "purpose": purpose, "duration": duration });
    let made = put(path, &wish("60s", "a run"));
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let made = made.json();
    assert_eq!((&made["id"], &made["owner"]), (&json!("mine-1"), &json!("acme/widgets")));
    let again = put(path, &wish("1h", "a run")).json();
    assert_eq!(again["workers"], made["workers"], "asked again, it is the same");
    assert!(again["until"].as_str() > made["until"].as_str(), "and lasts: {again}");
    let shorter = put(path, &wish("60s", "a run")).json();
    assert_eq!(shorter["until"], again["until"], "it is never cut short");
    let mut three = wish("60s", "a run");
    three["count"] = json!(3);
    let refusals = [
        (path, wish("60s", "another run"), StatusCode::CONFLICT),
        ("/api/v2/reservations/mine-2", three, StatusCode::SERVICE_UNAVAILABLE),
        ("/api/v2/reservations/a%20b", wish("60s", "a run"), StatusCode::BAD_REQUEST),
        (path, wish("forever", "a run"), StatusCode::BAD_REQUEST),
    ];
    for (path, body, status) in refusals {
        let refused = put(path, &body);
        assert_eq!(refused.status, status, "{path}: {}", refused.text());
    }
    assert_eq!(delete(&server, path), StatusCode::NO_CONTENT);
}

#[test]
fn workers_come_in_pages_and_an_idle_one_goes_when_asked() {
    let server = Server::start();
    patch(&server, &json!({ "min_idle": 3 }));
    eventually(|| {
        let page = server.get("/api/v2/workers?phase=idle").json();
        (page["workers"].as_array()?.len() == 3).then_some(())
    });
    let first = server.get("/api/v2/workers?limit=2").json();
    let next = first["next"].as_str().unwrap();
    let second = server.get(&format!("/api/v2/workers?limit=2&after={next}")).json();
    assert_eq!(first["workers"].as_array().unwrap().len(), 2);
    assert!(second["workers"].as_array().unwrap().iter().all(|worker| worker["name"] != next));
    let worker = first["workers"][0]["name"].as_str().unwrap().to_owned();
    let asked = server.post(&format!("/api/v2/workers/{worker}/retire"), &json!({}));
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{}", asked.text());
    eventually(|| (!server.host.names().contains(&worker)).then_some(()));
    let told = eventually(|| {
        let told = explain(&server, &format!("workers/{worker}"));
        told["summary"].as_str().unwrap().contains("asked for it").then_some(told)
    });
    assert!(lines(&told).contains("asked: to retire it"), "{told:#}");
    let gone = server.post(&format!("/api/v2/workers/{worker}/retire"), &json!({}));
    assert_eq!(gone.status, StatusCode::NOT_FOUND, "{}", gone.text());
}
