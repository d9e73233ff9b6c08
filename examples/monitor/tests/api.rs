//! The API over a real socket.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{Answer, Server, TOKEN, eventually};
use reqwest::{Method, StatusCode, multipart};
use serde_json::{Value, json};

fn assert_refused(answer: &Answer, status: u16, detail: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    let said = problem["detail"].as_str().unwrap();
    assert!(said.contains(detail), "{detail:?} is not in {said:?}");
}

/// The events of a stream that has ended: kind, id, data.
fn events(text: &str) -> Vec<(String, String, Value)> {
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().to_owned()
    };
    let events = text.split("\n\n").filter(|event| event.contains("data: "));
    let event = |event: &str| {
        let data = serde_json::from_str(&field(event, "data: ")).unwrap();
        (field(event, "event: "), field(event, "id: "), data)
    };
    events.map(event).collect()
}

fn log_bytes(events: &[(String, String, Value)]) -> Vec<u8> {
    let parts = events.iter().filter(|(kind, _, _)| kind == "log");
    parts
        .flat_map(|(_, _, part)| match part["base64"].as_str() {
            Some(text) => STANDARD.decode(text).unwrap(),
            None => part["text"].as_str().unwrap().as_bytes().to_vec(),
        })
        .collect()
}

#[test]
fn a_job_runs_and_its_log_is_exact() {
    let server = Server::start();
    let id = server.submit(r"printf 'caf\303\251 \377\000\n'; echo done; exit 3");
    let job = server.wait(&id, "failed");
    assert_eq!(job["exit_code"], 3);
    assert_eq!(job["reason"], "exit code 3");
    let expected = b"caf\xc3\xa9 \xff\x00\ndone\n";
    let raw = server.get(&format!("/api/v2/jobs/{id}/log"));
    assert_eq!(raw.body, expected);
    assert_eq!(raw.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(raw.headers["x-content-type-options"], "nosniff");
    let tail = server.get(&format!("/api/v2/jobs/{id}/log?from=9"));
    assert_eq!(tail.body, &expected[9..]);
    let past = server.get(&format!("/api/v2/jobs/{id}/log?from=999&follow=true"));
    assert_eq!(past.body, b"");
    let followed = events(&server.get(&format!("/api/v2/jobs/{id}/log/follow")).text());
    assert_eq!(log_bytes(&followed), expected);
    let (kind, _, end) = followed.last().unwrap();
    assert_eq!((kind.as_str(), &end["state"]), ("end", &json!("failed")));
}

#[test]
fn a_log_is_followed_as_it_comes_and_goes_on_from_any_offset() {
    let server = Server::start();
    let id = server.submit("echo one; sleep 0.3; echo two; sleep 0.3; echo three");
    let text = server.get(&format!("/api/v2/jobs/{id}/log/follow")).text();
    let whole = events(&text);
    assert_eq!(log_bytes(&whole), b"one\ntwo\nthree\n");
    let parts = whole.iter().filter(|(kind, _, _)| kind == "log");
    assert!(parts.count() >= 2, "it came in one piece:\n{text}");
    for from in 0..=14_u64 {
        let path = format!("/api/v2/jobs/{id}/log/follow?from=3");
        let rest = server
            .send(Method::GET, &path, |request| request.header("Last-Event-ID", from.to_string()));
        let rest = events(&rest.text());
        assert_eq!(log_bytes(&rest), &b"one\ntwo\nthree\n"[from as usize..]);
        assert_eq!(rest.last().unwrap().0, "end");
    }
}

#[test]
fn files_go_in_and_outputs_come_out() {
    let server = Server::start();
    let job = json!({
        "profile": "micro",
        "argv": ["./tools/build.sh"],
        "outputs": ["out", "missing"],
    });
    let form = multipart::Form::new()
        .percent_encode_noop()
        .text("job", job.to_string())
        .part("file", multipart::Part::bytes(b"\xff\x00data".to_vec()).file_name("in.bin"))
        .part(
            "executable",
            multipart::Part::bytes(b"#!/bin/sh\nmkdir out; cp in.bin out/; ls\n".to_vec())
                .file_name("tools/build.sh"),
        );
    let answer = server
        .send(Method::POST, "/api/v2/jobs", |request| request.bearer_auth(TOKEN).multipart(form));
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.headers["location"], format!("/api/v2/jobs/{id}"));
    let job = server.wait(&id, "succeeded");
    assert_eq!(job["has_outputs"], true);
    let tar = server.get(&format!("/api/v2/jobs/{id}/outputs"));
    assert_eq!(tar.headers["content-type"], "application/x-tar");
    let mut archive = tar::Archive::new(&tar.body[..]);
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            entry.read_to_end(&mut found).unwrap();
        }
    }
    assert_eq!(found, b"\xff\x00data");
    let log = server.get(&format!("/api/v2/jobs/{id}/log")).text();
    assert!(log.contains("[output missing is missing]"), "{log}");

    let inline = json!({
        "labels": ["linux"],
        "argv": ["cat", "a/b.txt"],
        "files": [{ "path": "a/b.txt", "base64": STANDARD.encode("hello") }],
    });
    let answer = server.post("/api/v2/jobs", &inline);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    server.wait(&id, "succeeded");
    assert_eq!(server.get(&format!("/api/v2/jobs/{id}/log")).text(), "hello");
    let none = server.get(&format!("/api/v2/jobs/{id}/outputs"));
    assert_eq!((none.status, none.body.len()), (StatusCode::NO_CONTENT, 0));
}

#[test]
fn a_running_job_and_a_waiting_one_are_cancelled() {
    let server = Server::start();
    let running = server.submit("echo begun; sleep 60");
    server.wait(&running, "running");
    let answer = server.post(&format!("/api/v2/jobs/{running}/cancel"), &json!({}));
    assert_eq!(answer.json()["cancel_requested"], true);
    let job = server.wait(&running, "cancelled");
    assert_eq!(job["exit_code"], 130);
    // Nobody ever offers this label.
    let job = json!({ "labels": ["windows"], "argv": ["true"] });
    let waiting = server.post("/api/v2/jobs", &job).json()["id"].as_str().unwrap().to_owned();
    let answer = server.post(&format!("/api/v2/jobs/{waiting}/cancel"), &json!({}));
    assert_eq!(answer.json()["state"], "cancelled");
    let again = server.post(&format!("/api/v2/jobs/{waiting}/cancel"), &json!({}));
    assert_eq!(again.status, StatusCode::OK);
}

#[test]
fn jobs_are_listed_in_pages_and_by_state() {
    let server = Server::start();
    let ids: Vec<String> = (0..3).map(|_| server.submit("true")).collect();
    let failed = server.submit("false");
    for id in &ids {
        server.wait(id, "succeeded");
    }
    server.wait(&failed, "failed");
    let mut found = Vec::new();
    let mut path = "/api/v2/jobs?limit=2".to_owned();
    loop {
        let page = server.get(&path).json();
        let jobs = page["jobs"].as_array().unwrap();
        found.extend(jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        match page["next"].as_u64() {
            Some(next) => path = format!("/api/v2/jobs?limit=2&after={next}"),
            None => break,
        }
    }
    let newest_first: Vec<String> =
        [&failed].into_iter().chain(ids.iter().rev()).cloned().collect();
    assert_eq!(found, newest_first);
    let only = server.get("/api/v2/jobs?state=failed").json();
    assert_eq!(only["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(only["jobs"][0]["id"], failed.as_str());
    let labelled = json!({ "labels": ["elsewhere"], "argv": ["true"] });
    let labelled = server.post("/api/v2/jobs", &labelled).json()["id"].clone();
    let ids = |query: &str| -> Vec<Value> {
        let page = server.get(&format!("/api/v2/jobs?{query}")).json();
        page["jobs"].as_array().unwrap().iter().map(|job| job["id"].clone()).collect()
    };
    assert_eq!(ids("label=ELSEWHERE"), [labelled]);
    assert_eq!(ids(&format!("after={}", u64::MAX)).len(), 5);
    let log = format!("/api/v2/jobs/{failed}/log?from={}", u64::MAX);
    assert_eq!(server.get(&log).status, StatusCode::OK);
    let events = server.get(&format!("/api/v2/events?after={}", u64::MAX)).json();
    assert_eq!(events["events"], json!([]));
    assert_eq!(ids("profile=micro&state=failed"), [json!(failed)]);
    assert_eq!(ids("profile=other"), [] as [Value; 0]);
    let worker = server.get(&format!("/api/v2/jobs/{failed}")).json()["worker"].clone();
    assert_eq!(ids(&format!("worker={}", worker.as_str().unwrap())), [json!(failed)]);
}

#[test]
fn whoever_has_no_token_changes_nothing() {
    let server = Server::start();
    let job = json!({ "profile": "micro", "argv": ["true"] });
    let wrong = [
        None,
        Some("Bearer wrong".to_owned()),
        Some(format!("Bearer {TOKEN}x")),
        Some(format!("Bearer {}", &TOKEN[1..])),
        Some(format!("Basic {TOKEN}")),
        Some(TOKEN.to_owned()),
        Some("Bearer ".to_owned()),
    ];
    for header in wrong {
        for path in ["/api/v2/jobs", "/api/v2/jobs/1-abc/cancel"] {
            let answer = server.send(Method::POST, path, |request| match &header {
                Some(value) => request.header("Authorization", value).json(&job),
                None => request.json(&job),
            });
            assert_refused(&answer, 401, "Authorization: Bearer");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
    }
    assert_eq!(server.get("/api/v2/jobs").json()["jobs"], json!([]));
}

#[test]
fn malformed_requests_are_refused_and_change_nothing() {
    let server = Server::start();
    let table: &[(Value, &str)] = &[
        (json!({}), "either argv or a script"),
        (json!(7), "invalid type"),
        (json!({ "profile": "micro", "argv": ["x"], "script": "y" }), "either argv or a script"),
        (json!({ "profile": "micro", "argv": [] }), "name a program"),
        (json!({ "profile": "micro", "argv": "true" }), "argv: invalid type"),
        (json!({ "profile": "micro", "script": " " }), "empty"),
        (
            json!({ "profile": "big", "argv": ["x"] }),
            "profile big is not offered; use one of: micro",
        ),
        (json!({ "profile": "No Such", "argv": ["x"] }), "lower-case"),
        (json!({ "argv": ["x"] }), "name a profile, labels or a reservation"),
        (json!({ "labels": ["a,b"], "argv": ["x"] }), "comma"),
        (json!({ "profile": "micro", "argv": ["x"], "env": { "A B": "c" } }), "A B"),
        (json!({ "profile": "micro", "argv": ["x"], "env": { "A": 1 } }), "env.A: invalid type"),
        (json!({ "profile": "micro", "argv": ["x"], "timeout": "soon" }), "90s"),
        (json!({ "profile": "micro", "argv": ["x"], "timeout": "0s" }), "above zero"),
        (json!({ "profile": "micro", "argv": ["x"], "outputs": ["../x"] }), "without '..'"),
        (json!({ "profile": "micro", "argv": ["x"], "working_dir": "tmp" }), "absolute path"),
        (
            json!({ "profile": "micro", "argv": ["x"], "priority": "high" }),
            "priority: invalid type",
        ),
        (json!({ "profile": "micro", "argv": ["x"], "shell": true }), "shell"),
        (
            json!({ "profile": "micro", "argv": ["x"], "files": [{ "path": "../x", "base64": "" }] }),
            "without '..'",
        ),
        (
            json!({ "profile": "micro", "argv": ["x"], "files": [{ "path": "x", "base64": "?" }] }),
            "base64",
        ),
        (json!({ "profile": "micro", "argv": ["x"], "files": [{ "path": "x" }] }), "base64"),
    ];
    for (job, detail) in table {
        assert_refused(&server.post("/api/v2/jobs", job), 400, detail);
    }
    let text = |body: &'static str, kind: &'static str| {
        server.send(Method::POST, "/api/v2/jobs", |request| {
            request.bearer_auth(TOKEN).header("Content-Type", kind).body(body)
        })
    };
    assert_refused(&text("{", "application/json"), 400, "");
    assert_refused(&text("x", "text/plain"), 415, "text/plain");
    assert_refused(&text("x", "multipart/form-data; boundary=b"), 400, "");
    for path in [
        "/api/v2/jobs?limit=0",
        "/api/v2/jobs?limit=501",
        "/api/v2/jobs?after=x",
        "/api/v2/jobs?state=odd",
        "/api/v2/events?after=-1",
    ] {
        assert_refused(&server.get(path), 400, "");
    }
    for path in [
        "/api/v2/jobs/none",
        "/api/v2/jobs/none/log",
        "/api/v2/jobs/%2e%2e/log/follow",
        "/api/v2/jobs/none/outputs",
        "/api/v2/workers/none",
        "/api/v2/profiles/none",
        "/nothing",
        "/api/v2/nothing",
    ] {
        assert_refused(&server.get(path), 404, "");
    }
    let wrong = server.send(Method::DELETE, "/api/v2/jobs", |request| request.bearer_auth(TOKEN));
    assert_refused(&wrong, 405, "");
    assert_eq!(server.get("/api/v2/jobs").json()["jobs"], json!([]));
}

#[test]
fn what_is_too_large_is_refused_before_it_is_kept() {
    let server = Server::start();
    let job = |bytes: usize| {
        let file = json!({ "path": "x", "base64": STANDARD.encode(vec![7; bytes]) });
        json!({ "profile": "micro", "argv": ["true"], "files": [file] })
    };
    let files = server.post("/api/v2/jobs", &job(300 << 10));
    assert_refused(&files, 413, "the input files have 307200 bytes together and may have 262144");
    let body = server.post("/api/v2/jobs", &job(1 << 20));
    assert_refused(&body, 413, "raise body_limit");
    assert_eq!(server.post("/api/v2/jobs", &job(200 << 10)).status, StatusCode::CREATED);
}

#[test]
fn pages_of_other_origins_and_names_are_kept_out() {
    let server = Server::start();
    for host in [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "8.8.8.8",
    ] {
        let answer = server.send(Method::GET, "/api/v2/status", |r| r.header("Host", host));
        assert_refused(&answer, 421, "is not a name of this service");
    }
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "127.0.0.2"] {
        let answer = server.send(Method::GET, "/api/v2/status", |r| r.header("Host", host));
        assert_eq!(answer.status, StatusCode::OK, "{host}");
    }
    let foreign = server.send(Method::POST, "/api/v2/jobs", |request| {
        request.bearer_auth(TOKEN).header("Origin", "http://evil.example").json(&json!({}))
    });
    assert_refused(&foreign, 403, "another origin");
    let own = server.send(Method::POST, "/api/v2/jobs", |request| {
        request.bearer_auth(TOKEN).header("Origin", server.url()).json(&json!({}))
    });
    assert_refused(&own, 400, "either argv");
}

#[test]
fn the_pool_is_told_as_it_is() {
    let server = Server::start();
    assert_eq!(server.get("/healthz").status, StatusCode::OK);
    eventually(|| (server.get("/readyz").status == StatusCode::OK).then_some(()));
    let worker = eventually(|| {
        let workers = server.get("/api/v2/workers").json();
        let idle = |worker: &&Value| worker["phase"] == "idle";
        workers["workers"].as_array().unwrap().iter().find(idle).cloned()
    });
    let name = worker["name"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v2/workers/{name}")).json()["profile"], "micro");
    let profiles = server.get("/api/v2/profiles").json();
    assert_eq!(profiles[0]["labels"], json!(["linux"]));
    assert_eq!(server.get("/api/v2/profiles/micro").json()["counts"]["max"], 3);
    let status = server.get("/api/v2/status").json();
    assert_eq!(status["capacity"]["vcpus"], 8);
    assert_eq!(status["forges"]["local"]["seen"], true);
    let document = server.get("/api/v2/openapi.json").json();
    assert!(document["paths"]["/jobs/{id}/log/follow"].is_object());
    let page = server.get("/");
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
}

#[test]
fn events_are_listed_and_followed_without_gap_or_repeat() {
    let mut server = Server::start();
    let id = server.submit("true");
    server.wait(&id, "succeeded");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request =
        "GET /api/v2/events/follow HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let next = server.submit("true");
    server.wait(&next, "succeeded");
    std::thread::sleep(Duration::from_millis(700));
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() < Duration::from_secs(3), "an open stream held the end up");
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let ids: Vec<u64> =
        text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert!(ids.len() > 10, "{text}");
    assert!(ids.iter().copied().eq(1..=ids.len() as u64), "{ids:?}");
    assert!(text.contains(&format!("job {next} is succeeded")), "{text}");
    server.restart();
    let page = server.get("/api/v2/events?after=3&limit=4").json();
    let listed: Vec<u64> =
        page["events"].as_array().unwrap().iter().map(|e| e["id"].as_u64().unwrap()).collect();
    assert_eq!(listed, [4, 5, 6, 7]);
    assert_eq!(page["next"], 7);
}

#[test]
fn draining_leaves_no_machine() {
    let mut server = Server::start();
    eventually(|| (server.host.machine_count() > 0).then_some(()));
    let id = server.submit("sleep 0.5; echo finished");
    server.wait(&id, "running");
    server.drain();
    assert_eq!(server.host.machine_count(), 0);
    assert_eq!(server.get(&format!("/api/v2/jobs/{id}/log")).text(), "finished\n");
}
