//! What `monitor shell PROFILE` asks of a service, in which order. The service here is a stand-in that writes
//! it down; shells in real machines are in `shell.rs`.

use std::{
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use futures::{SinkExt, StreamExt};
use poem::{
    EndpointExt, FromRequest, IntoResponse, Request, Response, Route, Server,
    http::StatusCode,
    listener::TcpAcceptor,
    web::websocket::{Message, WebSocket},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A service that is asked.
struct StandIn {
    _runtime: Runtime,
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    /// One with an idle machine after being asked for it so often, in which a shell ends like this.
    fn start(busy: usize, shell: Value) -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let runtime = Runtime::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = asked.clone();
        let answer = move |request: Request| {
            let (log, shell) = (log.clone(), shell.clone());
            async move { answer(request, &log, busy, shell).await }
        };
        let routes = Route::new().at("/*path", poem::endpoint::make(answer).boxed());
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(async move {
            let acceptor = TcpAcceptor::from_std(listener).unwrap();
            Server::new_with_acceptor(acceptor).run(routes).await
        });
        Self { _runtime: runtime, url, asked }
    }

    fn shell(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_monitor"));
        command.arg("shell").args(args).env("MONITOR_URL", &self.url);
        command.env("MONITOR_API_TOKEN", "planted-token-77aa").stdin(Stdio::null());
        command.output().unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    mut request: Request,
    log: &Mutex<Vec<String>>,
    busy: usize,
    shell: Value,
) -> Result<Response, poem::Error> {
    let path = request.uri().path().strip_prefix("/api/v2").unwrap().to_owned();
    let body = request.take_body().into_string().await.unwrap_or_default();
    let line = format!("{} {path} {body}", request.method());
    let tries = {
        let mut log = log.lock().unwrap();
        log.push(line.trim().to_owned());
        log.iter().filter(|line| line.starts_with("POST /reservations")).count()
    };
    let json = |status: StatusCode, body: Value| {
        let text = body.to_string();
        text.with_content_type("application/json").with_status(status).into_response()
    };
    if path == "/reservations" && tries <= busy {
        let problem = json!({ "detail": "no worker of profile micro is idle", "status": 503 });
        return Ok(json(StatusCode::SERVICE_UNAVAILABLE, problem));
    }
    if path == "/reservations" {
        let reservation = json!({
            "id": "r-1", "profile": "micro", "owner": "someone", "purpose": "a shell",
            "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T01:00:00Z",
            "workers": ["micro-5"],
        });
        return Ok(json(StatusCode::CREATED, reservation));
    }
    if path == "/workers/micro-5/terminal" && shell.is_object() {
        let socket = WebSocket::from_request_without_body(&request).await?;
        let serve = |mut socket: poem::web::websocket::WebSocketStream| async move {
            let Some(Ok(Message::Text(first))) = socket.next().await else { return };
            let first: Value = serde_json::from_str(&first).unwrap();
            let command = first["open"]["command"].to_string();
            let opened = json!({ "opened": { "session": "shell-1" } }).to_string();
            let say = [
                Message::Text(opened),
                Message::Binary(command.into_bytes()),
                Message::Text(shell.to_string()),
            ];
            for message in say {
                let _ = socket.send(message).await;
            }
        };
        return Ok(socket.on_upgrade(serve).into_response());
    }
    if path.ends_with("/terminal") {
        let problem = json!({ "detail": "instance micro-5 does not exist", "status": 404 });
        return Ok(json(StatusCode::NOT_FOUND, problem));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

const ASKED_FOR: &str =
    r#"POST /reservations {"count":1,"duration":"90m","profile":"micro","purpose":"a shell"}"#;

#[test]
fn a_machine_is_reserved_used_retired_and_released() {
    let service = StandIn::start(2, json!({ "exit": 4 }));
    let output = service.shell(&["micro", "--for", "90m", "--", "uname", "-a"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert_eq!(output.stdout, br#"["uname","-a"]"#);
    assert_eq!(said, "monitor: no worker of profile micro is idle; waiting for a machine\n");
    assert_eq!(
        service.asked(),
        [
            ASKED_FOR,
            ASKED_FOR,
            ASKED_FOR,
            "GET /workers/micro-5/terminal",
            // Before anybody else may have it.
            "POST /workers/micro-5/retire",
            "DELETE /reservations/r-1",
        ]
    );
}

#[test]
fn a_machine_without_a_shell_is_given_back_too() {
    for shell in [Value::Null, json!({ "problem": { "status": 409, "detail": "it is busy" } })] {
        let service = StandIn::start(0, shell.clone());
        let output = service.shell(&["micro"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{said}");
        let why = if shell.is_null() { "micro-5 does not exist" } else { "it is busy" };
        assert_eq!(said.lines().filter(|line| line.contains(why)).count(), 1, "{said}");
        let asked = service.asked();
        let last = &asked[asked.len() - 2..];
        assert_eq!(last, ["POST /workers/micro-5/retire", "DELETE /reservations/r-1"]);
    }
}

#[test]
fn nobody_waits_longer_than_they_want_to() {
    let service = StandIn::start(usize::MAX, Value::Null);
    let output = service.shell(&["micro", "--wait", "1s"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.ends_with("error: no worker of profile micro is idle\n"), "{said}");
    assert!(service.asked().iter().all(|line| line.starts_with("POST /reservations")));
}

#[test]
fn what_cannot_be_meant_is_told_before_anything_is_asked() {
    let service = StandIn::start(0, Value::Null);
    for (args, said) in [
        (&[][..], "<PROFILE"),
        (&["micro", "--worker", "micro-5"], "cannot be used with"),
        (&["micro", "--for", "soon"], "--for"),
        (&["micro", "--wait", "5"], "add a unit"),
    ] {
        let output = service.shell(args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(said), "{args:?}: {text}");
    }
    assert!(service.asked().is_empty());
}
