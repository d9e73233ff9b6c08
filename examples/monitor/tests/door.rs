//! Who gets in and what is turned away: malformed requests, slow clients, many clients, roles.

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use common::{Server, TOKEN, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What came back, as far as the client read it.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
    }

    fn detail(&self) -> String {
        assert!(
            self.head.contains("content-type: application/problem+json"),
            "no problem: {}\n{}",
            self.head,
            self.body,
        );
        let problem: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["type"], "about:blank");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

/// Sends these bytes and reads to the end of the connection.
fn raw(server: &Server, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server that has heard enough closes before it heard all.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    Reply::parse(&text).unwrap_or_else(|| {
        panic!(
            "no answer to {:?}: {text:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(200)])
        )
    })
}

/// A request as it is on the wire, with the token, and closed after the answer.
fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Bearer {TOKEN}\r\n{headers}"
    )
    .into_bytes();
    if !body.is_empty() {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

/// What a request could have changed.
fn world(server: &Server) -> (Value, Vec<Value>) {
    let events = server.get("/api/v2/events?after=0&limit=1000").json();
    let events = events["events"].as_array().unwrap().iter().cloned();
    let of_jobs = events.filter(|event| event["subject"].as_str().unwrap().starts_with("job"));
    (server.get("/api/v2/jobs").json(), of_jobs.collect())
}

const JSON: &str = "Content-Type: application/json\r\n";
const FORM: &str = "Content-Type: multipart/form-data; boundary=b\r\n";

#[test]
fn malformed_requests_are_refused_precisely_and_change_nothing() {
    let server = Server::start();
    let id = server.submit("true");
    server.wait(&id, "succeeded");
    let before = world(&server);
    assert!(!before.1.is_empty(), "the job left events");

    let post = |headers: &str, body: &[u8]| request("POST /api/v2/jobs", headers, body);
    let get = |path: &str| request(&format!("GET {path}"), "", b"");
    let plain = |text: &str| text.as_bytes().to_vec();
    let job = |rest: &str| post(JSON, format!("{{\"profile\":\"micro\",{rest}}}").as_bytes());
    let deep = format!("{{\"argv\":{}1{}}}", "[".repeat(300), "]".repeat(300));
    let table: Vec<(Vec<u8>, u16, &str)> = vec![
        // Whom it is for, and from whom.
        (
            plain("GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"),
            400,
            "Host header is missing",
        ),
        (
            plain("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n"),
            400,
            "more than one Host header",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n".to_vec(),
            400,
            "the Host header is not text",
        ),
        (
            plain("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"),
            421,
            "\"evil.example\" is not a name of this service; add it to names",
        ),
        (
            plain("GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"),
            421,
            "\"\" is not a name of this service",
        ),
        (
            plain("GET http://evil/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
            400,
            "the Host header is \"localhost\", and the address is of \"evil\"",
        ),
        (post("Origin: http://evil.example\r\n", b"{}"), 403, "page of another origin"),
        (post("Origin: null\r\n", b"{}"), 403, "page of another origin"),
        (post("Origin: \u{e9}\r\n", b"{}"), 403, "page of another origin"),
        (post("Sec-Fetch-Site: cross-site\r\n", b"{}"), 403, "page of another origin"),
        (post("Sec-Fetch-Site: same-site\r\n", b"{}"), 403, "page of another origin"),
        // Bodies.
        (post("Transfer-Encoding: chunked\r\n", b""), 411, "Content-Length"),
        (post("Content-Length: 99999999\r\n", b""), 413, "has 99999999 bytes and may have 1048576"),
        (post("", b"{}"), 415, "Content-Type"),
        (post("Content-Type: text/plain\r\n", b"{}"), 415, "text/plain"),
        (post("Content-Type: nonsense\r\n", b"{}"), 415, "nonsense"),
        (post(JSON, b""), 400, "it is empty; send a JSON object"),
        (post(JSON, b"{"), 400, "EOF while parsing an object at line 1 column 1"),
        (post(JSON, b"{} {}"), 400, "trailing characters at line 1 column 4"),
        (post(JSON, b"{\"title\":\"\xff\"}"), 400, "invalid unicode code point at line 1"),
        (post(JSON, b"{'title':1}"), 400, "key must be a string at line 1"),
        (post(JSON, deep.as_bytes()), 400, "recursion limit exceeded"),
        (post(JSON, b"[]"), 400, "invalid"),
        (job(r#""argv":["x"],"priority":1e99"#), 400, "priority: "),
        (job(r#""argv":["x"],"priority":2147483648"#), 400, "priority: "),
        (job(r#""argv":["a\u0000b"]"#), 400, "NUL"),
        (job(r#""argv":["x"],"env":{"A":"a\u0000b"}"#), 400, "NUL"),
        (job(r#""argv":["x"],"env":{"":"b"}"#), 400, "environment"),
        (job(r#""argv":["x"],"env":{"A=B":"b"}"#), 400, "A=B"),
        (job(r#""argv":["x"],"working_dir":"/a\u0000b""#), 400, "use an absolute path"),
        (job(r#""argv":["x"],"outputs":[""]"#), 400, "output"),
        (job(r#""argv":["x"],"files":[{"path":"","base64":""}]"#), 400, "path"),
        (
            job(r#""argv":["x"],"files":[{"path":"a\u0000","base64":""}]"#),
            400,
            "use a relative path",
        ),
        (job(r#""argv":["x"],"reserved_for":"../x""#), 400, "reservation"),
        (post("Content-Type: multipart/form-data\r\n", b"x"), 400, "boundary"),
        (post(FORM, b"x"), 400, "multipart"),
        (post(FORM, b"--b--\r\n"), 400, "job"),
        (
            post(FORM, b"--b\r\nContent-Disposition: form-data; name=\"job\"\r\n\r\n{"),
            400,
            "multipart",
        ),
        (
            post(
                FORM,
                b"--b\r\nContent-Disposition: form-data; name=\"job\"\r\n\r\n{\r\n--b--\r\n",
            ),
            400,
            "EOF",
        ),
        (
            post(
                FORM,
                b"--b\r\nContent-Disposition: form-data; name=\"job\"\r\n\r\n\
                  {\"profile\":\"micro\",\"argv\":[\"x\"]}\r\n--b\r\n\
                  Content-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n",
            ),
            400,
            "each file needs a filename",
        ),
        (
            post(
                FORM,
                b"--b\r\nContent-Disposition: form-data; name=\"job\"\r\n\r\n\
                  {\"profile\":\"micro\",\"argv\":[\"x\"]}\r\n--b\r\n\
                  Content-Disposition: form-data; name=\"files\"\r\n\r\nx\r\n--b--\r\n",
            ),
            400,
            "files",
        ),
        // What is asked for.
        (get("/api/v2/jobs?limit=0"), 400, "limit"),
        (get("/api/v2/jobs?limit=501"), 400, "limit"),
        (get("/api/v2/jobs?limit=5.5"), 400, "limit"),
        (get("/api/v2/jobs?limit="), 400, "limit"),
        (get("/api/v2/jobs?limit=5&limit=6"), 400, "limit is there twice; give it once"),
        (
            get("/api/v2/jobs?limt=5"),
            400,
            "there is no query parameter \"limt\"; use one of: after,",
        ),
        (get("/api/v2/jobs?after=-1"), 400, "after"),
        (get("/api/v2/jobs?state=odd"), 400, "state"),
        (get("/api/v2/status?verbose"), 400, "leave it out"),
        (get("/api/v2/jobs/%00"), 404, "does not exist"),
        (get("/api/v2/jobs/%FF"), 400, "path"),
        (get("/api/v2/jobs/../../healthz"), 404, "nothing at this path"),
        (get("/api/v2//jobs"), 404, "nothing at this path"),
        (get("/api/v2/jobs/"), 404, "nothing at this path"),
        (request("GET /api/v2/events/follow", "Last-Event-ID: x\r\n", b""), 400, "Last-Event-ID"),
        (
            request("GET /api/v2/jobs", "Accept: text/html\r\n", b""),
            406,
            "is application/json; add",
        ),
        (
            request("DELETE /api/v2/jobs", "", b""),
            405,
            "DELETE is not taken here; use one of: GET, ",
        ),
        (request("BREW /api/v2/jobs", "", b""), 405, "BREW is not taken here"),
        (request("POST /healthz", "", b""), 405, "use one of: GET, HEAD, OPTIONS"),
    ];
    let mut wrong = Vec::new();
    for (bytes, status, detail) in &table {
        let reply = raw(&server, bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
        let said = if reply.status < 300 { reply.body.clone() } else { reply.detail() };
        if reply.status != *status || !said.contains(detail) || said.contains(TOKEN) {
            let status = reply.status;
            wrong.push(format!("{status} {said:?} instead of {detail:?}, to {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));

    // What is not even HTTP gets no more than a status, or no answer.
    let many: String = (0..200).map(|n| format!("X-{n}: x\r\n")).collect();
    let long = format!("X: {}\r\n", "x".repeat(100 << 10));
    let bare: &[(Vec<u8>, u16)] = &[
        (plain("\0\0\0\0\r\n\r\n"), 400),
        (plain("GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"), 400),
        (plain("GET /\r\n\r\n"), 400),
        (plain("GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n"), 400),
        (plain("GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n"), 400),
        (post("Content-Length: x\r\n", b""), 400),
        (post("Content-Length: 1\r\nContent-Length: 2\r\n", b""), 400),
        (post("Transfer-Encoding: gzip\r\n", b""), 400),
        (request("GET /healthz", &many, b""), 431),
        (request("GET /healthz", &long, b""), 431),
    ];
    for (bytes, status) in bare {
        let reply = raw(&server, bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        assert_eq!((reply.status, reply.body.as_str()), (*status, ""), "{shown}");
    }
    assert!(table.len() + bare.len() >= 30);
    assert_eq!(world(&server), before, "something was changed");
}

/// The head of an answer, as soon as it is there: streams go on for ever.
fn status_of(server: &Server, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\r\n",
        token.unwrap_or_default()
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(reply) = Reply::parse(&answer) {
            return (reply.status, reply.head);
        }
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "{method} {path} was not answered");
        answer.extend(&part[..count]);
    }
}

/// A directory with one token of each lower role, and the tables that name them.
fn tokens() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut tables = String::new();
    for role in ["read", "operate"] {
        let file = dir.path().join(role);
        fs::write(&file, format!("token-to-{role}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let file = file.display();
        tables +=
            &format!("[[token]]\nname = \"{role}er\"\nrole = \"{role}\"\nfile = \"{file}\"\n");
    }
    (dir, tables)
}

/// Every route of the document, with what its security says it needs: 0 nothing, 1 read, 2 operate, 3 admin.
fn routes(server: &Server) -> Vec<(String, String, usize)> {
    let document = server.get("/api/v2/openapi.json").json();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method = method.to_uppercase();
            let needs = match operation["security"].as_array().map(Vec::as_slice) {
                Some([Value::Object(none), read]) if none.is_empty() => {
                    assert!(read["Read"].is_array() && method == "GET", "{method} {path}");
                    1
                }
                // It has tests of its own.
                Some([one]) if one["Signature"].is_array() => continue,
                Some([one]) if one["Operate"].is_array() => 2,
                Some([one]) if one["Admin"].is_array() => 3,
                other => panic!("{method} {path} does not say whom it lets in: {other:?}"),
            };
            let filled: Vec<&str> = path
                .split('/')
                .map(|part| if part.starts_with('{') { "none" } else { part })
                .collect();
            routes.push((method, format!("/api/v2{}", filled.join("/")), needs));
        }
    }
    assert!(routes.len() > 10, "{routes:?}");
    routes
}

#[test]
fn every_route_lets_in_the_roles_that_it_names_and_no_other() {
    let (_dir, tables) = tokens();
    for reads in ["open", "token"] {
        let server = Server::configured(&format!("reads = \"{reads}\""), &tables);
        let nobody = usize::from(reads == "open");
        let held = [
            (None, nobody),
            (Some("token-to-read"), 1),
            (Some("token-to-operate"), 2),
            (Some(TOKEN), 3),
        ];
        for (method, path, needs) in routes(&server) {
            for (token, role) in held {
                let (status, head) = status_of(&server, &method, &path, token);
                let refused = match token {
                    _ if role >= needs => None,
                    None => Some(401),
                    Some(_) => Some(403),
                };
                match refused {
                    Some(refused) => assert_eq!(status, refused, "{method} {path} with {token:?}"),
                    None => assert!(
                        status != 401 && status != 403,
                        "{method} {path} with {token:?}: {status}"
                    ),
                }
                assert_eq!(status == 401, head.contains("www-authenticate: bearer"), "{head}");
            }
            let (status, _) = status_of(&server, &method, &path, Some("token-to-nothing"));
            assert_eq!(status, 401, "{method} {path} with a token that nobody has");
        }
        // A client needs these before it can have a token.
        for open in [
            "/",
            "/dashboard/main.js",
            "/healthz",
            "/readyz",
            "/api/v2/openapi.json",
            "/api/v2/docs",
        ] {
            let (status, _) = status_of(&server, "GET", open, None);
            assert!(matches!(status, 200 | 503), "{open}: {status}");
        }
        // No other way to write a path is a way round.
        for closed in
            ["/api/v2/%73tatus", "/%61pi/v2/status", "//api/v2/status", "/nothing", "/metrics"]
        {
            let (status, _) = status_of(&server, "GET", closed, None);
            assert!(status == 401 || reads == "open", "{closed}: {status}");
        }
        for changed in ["/", "/healthz", "/nothing", "/api/v2/openapi.json"] {
            assert_eq!(status_of(&server, "POST", changed, None).0, 401, "{changed}");
            assert_eq!(
                status_of(&server, "POST", changed, Some("token-to-read")).0,
                403,
                "{changed}"
            );
        }
    }
}

#[test]
fn refusals_name_the_token_and_never_tell_it() {
    let (_dir, tables) = tokens();
    let server = Server::configured("", &tables);
    let answer = server.send(Method::POST, "/api/v2/jobs", |request| {
        request.bearer_auth("token-to-read").json(&json!({ "profile": "micro", "argv": ["true"] }))
    });
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(
        detail,
        "token reader has the role read, and this needs operate; use a token with that role"
    );
    let answer = server.send(Method::GET, "/api/v2/jobs", |r| r.bearer_auth("token-to-rea"));
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(!answer.text().contains("token-to-rea"), "{}", answer.text());
}

#[test]
fn methods_are_told_and_heads_have_no_body() {
    let server = Server::start();
    let allow = |method: &str, path: &str| {
        let (status, head) = status_of(&server, method, path, Some(TOKEN));
        let line = head.lines().find_map(|line| line.strip_prefix("allow: ").map(str::to_owned));
        (status, line.unwrap_or_default())
    };
    assert_eq!(allow("PUT", "/api/v2/jobs"), (405, "get, head, post, options".into()));
    assert_eq!(allow("GET", "/api/v2/jobs/x/cancel"), (405, "post, options".into()));
    assert_eq!(allow("DELETE", "/healthz"), (405, "get, head, options".into()));
    assert_eq!(allow("OPTIONS", "/api/v2/jobs"), (204, "get, head, post, options".into()));
    assert_eq!(allow("OPTIONS", "/"), (204, "get, head, options".into()));
    assert_eq!(allow("OPTIONS", "/nothing").0, 404);
    for path in ["/", "/healthz", "/api/v2/jobs", "/api/v2/events/follow", "/api/v2/openapi.json"] {
        let reply = raw(&server, &request(&format!("HEAD {path}"), "", b""));
        assert_eq!((reply.status, reply.body.as_str()), (200, ""), "{path}");
    }
}

#[test]
fn every_answer_keeps_browsers_from_guessing_framing_and_keeping() {
    let server = Server::start();
    for path in ["/", "/healthz", "/nothing", "/api/v2/jobs", "/api/v2/jobs/x", "/api/v2/docs"] {
        let answer = server.get(path);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{path}");
        assert_eq!(answer.headers["cross-origin-resource-policy"], "same-origin", "{path}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe-eval") && !policy.contains("http"), "{path}: {policy}");
        assert!(!answer.headers.contains_key("server"), "{path}");
    }
}

#[test]
fn whoever_asks_for_too_many_changes_waits() {
    let server = Server::configured("rate = \"5/h\"", "");
    let mut refused = None;
    for asked in 1..=6 {
        let answer = server.post("/api/v2/jobs", &json!({}));
        match asked {
            6 => refused = Some(answer),
            _ => assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{asked}: {}", answer.text()),
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=720).contains(&wait), "{wait}");
    assert!(
        refused.text().contains("127.0.0.1 asks for more changes than 5 an hour"),
        "{}",
        refused.text()
    );
    assert_eq!(server.get("/api/v2/jobs").status, StatusCode::OK, "looking is free");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// Looks and changes as a normal client does: all of it succeeds.
fn serves_everybody_else(server: &Server) {
    for _ in 0..50 {
        assert_eq!(server.get("/api/v2/status").status, StatusCode::OK);
    }
    let id = server.submit("echo served");
    server.wait(&id, "succeeded");
    assert_eq!(server.get(&format!("/api/v2/jobs/{id}/log")).text(), "served\n");
}

#[test]
fn clients_that_dribble_do_not_hurt_others_and_are_cut_off() {
    let limits = "header_timeout = \"2s\"\nbody_timeout = \"2s\"";
    let server = Server::configured(limits, "");
    let address = server.address;
    let body = format!(
        "POST /api/v2/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    );
    // Nothing at all, a head that never ends, one that never goes on, and a body that never ends.
    let kinds = ["", "GET / HTTP/1.1\r\nX: ", "GET / HTTP/1.1\r\n", body.as_str()];
    let (runtime, mut slow) = (runtime(), tokio::task::JoinSet::new());
    for kind in kinds.iter().flat_map(|kind| std::iter::repeat_n(kind.to_string(), 50)) {
        let work = async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(kind.as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let dribble = async {
                while kind.len() > 20 && write.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut answer = Vec::new();
            tokio::select! {
                _ = read.read_to_end(&mut answer) => (),
                () = dribble => (),
            }
            (kind, answer)
        };
        slow.spawn_on(work, runtime.handle());
    }
    serves_everybody_else(&server);
    // Each of them sees its end; a body's sender is told why.
    runtime.block_on(async {
        let (mut ended, mut told) = (0, 0);
        while let Some(slow) = slow.join_next().await {
            let (kind, answer) = slow.unwrap();
            ended += 1;
            if kind.starts_with("POST") {
                let reply = Reply::parse(&answer).unwrap();
                assert_eq!(reply.status, 408, "{}", reply.body);
                assert!(reply.detail().contains("too slowly"), "{}", reply.body);
                told += 1;
            }
        }
        assert_eq!((ended, told), (200, 50));
    });
    assert_eq!(server.get("/api/v2/jobs").json()["jobs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_thousand_idle_followers_do_not_hurt_others_and_all_hear_the_news() {
    const FOLLOWERS: usize = 1000;
    monitor::open_files::raise();
    let server = Server::start();
    let address = server.address;
    let runtime = runtime();
    let (opened, mut all_opened) = tokio::sync::mpsc::channel(FOLLOWERS);
    let mut followers = tokio::task::JoinSet::new();
    for _ in 0..FOLLOWERS {
        let opened = opened.clone();
        let follow = async move {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = b"GET /api/v2/events/follow HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let (mut heard, mut part) = (Vec::new(), [0; 4096]);
            let mut is_open = false;
            // The job's end is the last of what happens.
            while !String::from_utf8_lossy(&heard).contains("is succeeded") {
                let count = stream.read(&mut part).await.unwrap();
                assert!(count > 0, "cut off: {}", String::from_utf8_lossy(&heard));
                heard.extend(&part[..count]);
                if !is_open && heard.windows(4).any(|end| end == b"\r\n\r\n") {
                    is_open = true;
                    assert!(
                        heard.starts_with(b"HTTP/1.1 200"),
                        "{}",
                        String::from_utf8_lossy(&heard)
                    );
                    opened.send(()).await.unwrap();
                }
            }
        };
        followers.spawn_on(follow, runtime.handle());
    }
    runtime.block_on(async {
        for _ in 0..FOLLOWERS {
            all_opened.recv().await.unwrap();
        }
    });
    serves_everybody_else(&server);
    runtime.block_on(async {
        while let Some(follower) = followers.join_next().await {
            follower.unwrap();
        }
    });
}

#[test]
fn there_are_no_more_streams_and_connections_than_configured() {
    let server = Server::configured("max_streams = 2\nmax_connections = 6", "");
    let follow = || {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let request = b"GET /api/v2/events/follow HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        (stream, String::from_utf8_lossy(&start).into_owned())
    };
    let followers = [follow(), follow()];
    assert!(followers.iter().all(|(_, start)| start == "HTTP/1.1 200"));
    let third = server.get("/api/v2/events/follow");
    assert_eq!(third.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(third.text().contains("2 streams are followed already; raise max_streams"));
    // Those that look go away again; those that only connect stay.
    let idle: Vec<TcpStream> = eventually(|| {
        let idle = (0..4).map(|_| TcpStream::connect(server.address).unwrap());
        let idle: Vec<TcpStream> = idle.collect();
        let reply = raw(&server, &request("GET /healthz", "", b""));
        (reply.status == 503).then(|| {
            assert!(reply.detail().contains("raise max_connections"), "{}", reply.body);
            idle
        })
    });
    drop((idle, followers));
    eventually(|| {
        let reply = raw(&server, &request("GET /healthz", "", b""));
        (reply.status == 200).then_some(())
    });
}

#[test]
fn a_client_that_does_not_read_gives_its_place_back() {
    let server = Server::configured("stall_timeout = \"500ms\"\nmax_streams = 1", "");
    let id = server.submit("head -c 12000000 /dev/zero | tr '\\0' x; sleep 0.1; echo");
    server.wait(&id, "succeeded");
    let mut deaf = TcpStream::connect(server.address).unwrap();
    let path = format!("/api/v2/jobs/{id}/log?follow=true");
    deaf.write_all(&request(&format!("GET {path}"), "", b"")).unwrap();
    let mut start = [0; 12];
    deaf.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    // It has the only place, and loses it without going away.
    let next = eventually(|| {
        let (status, _) = status_of(&server, "GET", "/api/v2/events/follow", None);
        (status != 429).then_some(status)
    });
    assert_eq!(next, 200);
    drop(deaf);
}

/// An authority, and a certificate of it for this host with its key.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let certificates = Self { dir: tempfile::tempdir().unwrap() };
        certificates.renew();
        certificates
    }

    /// Another authority, and all that it vouches for.
    fn renew(&self) {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own_key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = CertificateParams::new(names).unwrap().signed_by(&own_key, &issuer).unwrap();
        self.write("ca.pem", &authority.pem());
        // In this order: between the two, they do not fit, and what was before stays.
        self.write("cert.pem", &own.pem());
        self.write("key.pem", &own_key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.dir.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn config(&self) -> String {
        format!("tls = {{ cert = {:?}, key = {:?} }}", self.path("cert.pem"), self.path("key.pem"))
    }
}

#[test]
fn over_tls_the_command_line_trusts_whom_it_is_told_to() {
    let certificates = Certificates::new();
    let server = Server::configured(&certificates.config(), "");
    let url = format!("https://localhost:{}", server.address.port());
    let run = |args: &[&str]| {
        let output = server.monitor(args).env("MONITOR_URL", &url).output().unwrap();
        (output.status.code(), common::said(&output))
    };
    let ca = certificates.path("ca.pem");
    let (code, said) = run(&["run", "--ca", &ca, "--profile", "micro", "--", "echo", "by TLS"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("by TLS"), "{said}");
    let (code, said) = run(&["workers"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("is not trusted") && said.contains("--ca"), "{said}");
    let (code, said) = run(&["workers", "--ca", &certificates.path("key.pem")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no certificate in"), "{said}");

    // Who forgot the s is told so.
    let reply = raw(&server, &request("GET /healthz", "", b""));
    assert_eq!(reply.status, 400);
    assert!(reply.detail().contains("write https://"), "{}", reply.body);

    // HTTP/2, which browsers like to speak here.
    let output = std::process::Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--cacert", &ca, "-w", " %{http_version} %{http_code}"])
        .arg(format!("{url}/healthz"))
        .output()
        .unwrap();
    let said = common::said(&output);
    assert!(said.contains("{\"status\":\"up\"} 2 200"), "{said}");

    // Files that are no good change nothing; good ones are used from then on, without a restart.
    certificates.write("cert.pem", "nonsense");
    let trusted = || {
        let (code, said) = run(&["workers", "--ca", &certificates.path("ca.pem")]);
        if code != Some(0) {
            assert!(said.contains("is not trusted"), "{said}");
        }
        code == Some(0)
    };
    for _ in 0..3 {
        assert!(trusted(), "the certificate before does not stay");
    }
    certificates.renew();
    eventually(|| trusted().then_some(()));
}

#[test]
fn certificates_that_cannot_be_used_are_named_with_the_way_out() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let refusal = |cert: &str, key: &str| {
        let files = monitor::config::TlsFiles { cert: cert.into(), key: key.into() };
        format!("{:#}", monitor::http::tls::Tls::open(files).err().unwrap())
    };
    let (cert, key) = (certificates.path("cert.pem"), certificates.path("key.pem"));
    let said = refusal("/no/such/cert.pem", &key);
    assert!(said.contains("/no/such/cert.pem") && said.contains("tls in [http]"), "{said}");
    let said = refusal(&key, &key);
    assert!(said.contains("there is no certificate in") && said.contains("BEGIN"), "{said}");
    let said = refusal(&cert, &cert);
    assert!(said.contains("could not read the TLS key"), "{said}");
    let said = refusal(&cert, &others.path("key.pem"));
    assert!(said.contains("is not the one of the certificate"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = refusal(&cert, &key);
    assert!(said.contains("anyone may read") && said.contains("chmod o="), "{said}");
}
