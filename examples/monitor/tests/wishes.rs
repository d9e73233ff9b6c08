//! What the command line asks of the API, where the answer is the pool's to decide: each request to the byte.

use std::{
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use poem::{
    Endpoint, EndpointExt, IntoResponse, Request, Response, Route, Server,
    endpoint::make,
    http::StatusCode,
    listener::TcpAcceptor,
    web::sse::{Event, SSE},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A service that writes down what it is asked, and knows a few things.
struct Scribe {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _runtime: Runtime,
}

impl Scribe {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let url = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let acceptor = TcpAcceptor::from_tokio(listener).unwrap();
            tokio::spawn(Server::new_with_acceptor(acceptor).run(routes(asked.clone())));
            url
        });
        Self { url, asked, _runtime: runtime }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.args(args).env("MONITOR_URL", &self.url).env("MONITOR_API_TOKEN", "t0ken");
        command.output().unwrap()
    }

    /// What it prints, and what it asks meanwhile.
    fn prints(&self, args: &[&str]) -> (String, Vec<String>) {
        let output = self.run(args);
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
        (text, std::mem::take(&mut *self.asked.lock().unwrap()))
    }
}

fn routes(asked: Arc<Mutex<Vec<String>>>) -> impl Endpoint {
    let answer = make(move |mut request: Request| {
        let asked = asked.clone();
        async move {
            assert_eq!(request.header("Authorization"), Some("Bearer t0ken"));
            let body = request.take_body().into_string().await.unwrap();
            let method = request.method().clone();
            let path = request.original_uri().to_string();
            let path = path.strip_prefix("/api/v2").unwrap();
            asked.lock().unwrap().push(format!("{method} {path} {body}").trim_end().to_owned());
            Ok::<Response, poem::Error>(answer(method.as_str(), path))
        }
    });
    Route::new().nest("/", answer.boxed())
}

fn answer(method: &str, path: &str) -> Response {
    let found = |value: Value| poem::web::Json(value).into_response();
    match (method, path) {
        ("GET", "/jobs/j-1") => found(json!({
            "id": "j-1", "state": "failed", "queued_at": "2026-01-02T03:04:05Z", "worker": "linux-7",
        })),
        ("GET", "/jobs/j-2") => found(json!({
            "id": "j-2", "state": "queued", "queued_at": "2026-01-02T03:04:05Z",
        })),
        ("GET", "/workers/linux-7") => found(json!({ "name": "linux-7" })),
        ("GET", "/workers?profile=linux&phase=busy") => found(json!({
            "workers": [{ "name": "linux-7", "phase": "busy", "since": "2026-01-02T03:04:05Z" }],
            "next": null,
        })),
        ("GET", "/jobs/j-1/explain") => found(json!({
            "subject": "job j-1",
            "summary": "it failed",
            "lines": [
                { "at": "2026-01-02T03:04:05.678Z", "text": "it was queued" },
                { "at": null, "text": "its command ended with 1" },
            ],
        })),
        ("GET", "/workers/linux-7/explain") => found(json!({
            "subject": "worker linux-7", "summary": "it runs\u{1b}[2J job j-1", "lines": [],
        })),
        ("GET", "/workers/linux-7/console") => "boot\u{7}ed\n".into_response(),
        ("GET", "/workers/linux-7/console/follow") => {
            let part = |from: u64, text: &str| {
                let part = json!({ "from": from, "to": from + text.len() as u64, "text": text });
                Event::message(part.to_string()).event_type("console")
            };
            // A repeat, as after a break.
            let parts = [part(0, "one "), part(0, "one two "), part(8, "three\n")];
            let end = Event::message("{}").event_type("end");
            SSE::new(futures::stream::iter(parts.into_iter().chain([end]))).into_response()
        }
        ("POST" | "DELETE" | "PATCH", _) => found(json!({ "is": "done" })),
        _ => poem::web::Json(json!({ "detail": format!("{path} does not exist") }))
            .with_status(StatusCode::NOT_FOUND)
            .into_response(),
    }
}

#[test]
fn holds_are_asked_for_by_worker_or_by_job() {
    let scribe = Scribe::start();
    let (text, asked) = scribe.prints(&["hold", "linux-7", "--for", "2h", "--why", "look at it"]);
    assert!(text.contains("linux-7") && text.contains("2h") && text.contains("unhold"), "{text}");
    let hold = r#"POST /workers/linux-7/hold {"for":"2h","purpose":"look at it"}"#;
    assert_eq!(asked, ["GET /workers/linux-7", hold]);
    let (_, asked) = scribe.prints(&["hold", "j-1"]);
    let hold = r#"POST /workers/linux-7/hold {"for":"1h","purpose":""}"#;
    assert_eq!(asked, ["GET /workers/j-1", "GET /jobs/j-1", hold]);
    let (_, asked) = scribe.prints(&["unhold", "j-1"]);
    assert_eq!(asked.last().unwrap(), "DELETE /workers/linux-7/hold");
    let waits = scribe.run(&["hold", "j-2"]);
    assert_eq!(waits.status.code(), Some(1));
    let text = String::from_utf8_lossy(&waits.stderr).into_owned();
    assert!(text.contains("no machine yet") && text.contains("monitor explain j-2"), "{text}");
}

#[test]
fn retirements_and_numbers_are_asked_for() {
    let scribe = Scribe::start();
    let (_, asked) = scribe.prints(&["retire", "linux-7"]);
    assert_eq!(asked, ["POST /workers/linux-7/retire"]);
    let sets = [
        (&["--min-idle", "2", "--max", "5"][..], r#"{"max":5,"min_idle":2}"#),
        (&["--pause"], r#"{"paused":true}"#),
        (&["--resume"], r#"{"paused":false}"#),
    ];
    for (args, body) in sets {
        let (text, asked) = scribe.prints(&[&["profiles", "set", "linux"], args].concat());
        assert_eq!(asked, [format!("PATCH /profiles/linux {body}")]);
        assert!(text.starts_with("profile linux: "), "{text}");
        let (json, _) = scribe.prints(&[&["profiles", "set", "linux", "--json"], args].concat());
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["is"], "done");
    }
    let (text, asked) = scribe.prints(&["workers", "--profile", "linux", "--phase", "busy"]);
    assert_eq!(asked, ["GET /workers?profile=linux&phase=busy"]);
    assert!(text.contains("linux-7"), "{text}");
    let (_, asked) = (scribe.run(&["retire", "../x?y"]), scribe.asked.lock().unwrap().clone());
    assert_eq!(asked, ["POST /workers/%2E%2E%2Fx%3Fy/retire"]);
}

#[test]
fn explanations_are_printed_line_by_line() {
    let scribe = Scribe::start();
    let (text, _) = scribe.prints(&["explain", "j-1"]);
    let expected = "\
job j-1: it failed
  2026-01-02T03:04:05Z  it was queued
                        its command ended with 1
";
    assert_eq!(text, expected);
    let (text, asked) = scribe.prints(&["explain", "linux-7"]);
    assert_eq!(text, "worker linux-7: it runs\u{fffd}[2J job j-1\n");
    assert_eq!(asked, ["GET /jobs/linux-7/explain", "GET /workers/linux-7/explain"]);
    let (json, _) = scribe.prints(&["explain", "--json", "j-1"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["lines"][1]["at"], Value::Null);
    let unknown = scribe.run(&["explain", "nobody"]);
    assert_eq!(unknown.status.code(), Some(4));
    let text = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(text.contains("monitor jobs") && text.contains("monitor workers"), "{text}");
}

#[test]
fn a_console_is_shown_to_the_byte_and_followed_without_repeats() {
    let scribe = Scribe::start();
    assert_eq!(scribe.prints(&["console", "linux-7"]).0, "boot\u{7}ed\n");
    assert_eq!(scribe.prints(&["console", "linux-7", "--follow"]).0, "one two three\n");
    assert_eq!(scribe.run(&["console", "gone", "--follow"]).status.code(), Some(4));
}
