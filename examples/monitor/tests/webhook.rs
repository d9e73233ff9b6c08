//! What forges deliver: no token, a signature as the proof, and limits of its own.

mod common;

use common::{Answer, Server, eventually};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode};
use sha2::Sha256;

const SECRET: &str = "planted-webhook-secret-41d0";
const PATH: &str = "/api/v2/forges/github/webhook";
const QUEUED: &str =
    include_str!("../../../forge-github/tests/webhooks/workflow_job.queued.1.json");

struct World {
    server: Server,
    _files: tempfile::TempDir,
}

impl World {
    /// A service whose GitHub is not there; its deliveries are.
    fn new(http: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (token, secret) = (files.path().join("token"), files.path().join("secret"));
        std::fs::write(&token, "ghp_planted").unwrap();
        std::fs::write(&secret, SECRET).unwrap();
        let (token, secret) = (token.display(), secret.display());
        let tables = format!(
            "\n[[github]]\nname = \"github\"\nurl = \"http://127.0.0.1:1/octo-org\"\n\
             token = {{ file = \"{token}\" }}\nwebhook = [{{ file = \"{secret}\" }}]\n\
             [[github]]\nname = \"silent\"\nurl = \"http://127.0.0.1:1/octo-org/hello\"\n\
             token = {{ file = \"{token}\" }}\n\
             [[profile]]\nname = \"ci\"\nforge = \"github\"\nimage = {{ kind = \"micro\" }}\n\
             memory = \"256MiB\"\nmin_idle = 0\n"
        );
        Self { server: Server::configured(http, &tables), _files: files }
    }

    fn deliver(&self, path: &str, body: &[u8], signature: Option<String>) -> Answer {
        self.server.send(Method::POST, path, |request| {
            let request = request
                .header("content-type", "application/json")
                .header("x-github-event", "workflow_job")
                .header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
                .body(body.to_vec());
            match signature {
                Some(signature) => request.header("x-hub-signature-256", signature),
                None => request,
            }
        })
    }

    fn metrics(&self) -> String {
        self.server.get("/metrics").text()
    }
}

fn signature(body: &[u8], secret: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    let digits: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256={digits}"))
}

#[test]
fn a_signed_delivery_needs_no_token_and_an_unsigned_one_gets_nowhere() {
    let world = World::new("");
    let body = QUEUED.as_bytes();
    let answer = world.deliver(PATH, body, signature(body, SECRET));
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let again = world.deliver(PATH, body, signature(body, SECRET));
    assert_eq!((again.status, &*again.text()), (StatusCode::OK, "this was known"));
    for wrong in [None, signature(body, "another"), Some("sha256=".to_owned())] {
        let answer = world.deliver(PATH, body, wrong);
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert!(answer.text().contains("X-Hub-Signature-256"), "{}", answer.text());
    }
    let garbage = b"{}";
    let answer = world.deliver(PATH, garbage, signature(garbage, SECRET));
    // It came under the id of one that was taken in; what it holds does not matter any more.
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let metrics = world.metrics();
    for (outcome, count) in [("accepted", 1), ("repeated", 2), ("refused", 3)] {
        let line = format!(
            "monitor_webhook_deliveries_total{{forge=\"github\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line} is not in:\n{metrics}");
    }
    assert!(!metrics.contains(SECRET));
}

#[test]
fn a_forge_without_a_webhook_has_no_such_path() {
    let world = World::new("");
    for forge in ["silent", "local", "nobody", "No_Name"] {
        let body = QUEUED.as_bytes();
        let path = format!("/api/v2/forges/{forge}/webhook");
        let answer = world.deliver(&path, body, signature(body, SECRET));
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{forge}");
    }
    let answer = world.server.get(PATH);
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers["allow"], "POST, OPTIONS");
}

#[test]
fn the_token_is_not_asked_for_there_and_nowhere_else_forgotten() {
    let world = World::new("");
    for path in ["/api/v2/jobs", "/api/v2/forges/github/webhook/", "/api/v2/forges/a/b/webhook"] {
        let answer = world.deliver(path, b"{}", signature(b"{}", SECRET));
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[test]
fn deliveries_have_limits_of_their_own() {
    // What others may send does not matter to them.
    let world = World::new("rate = \"1/h\"\nwebhook_rate = \"3/h\"");
    let large = vec![b' '; 2 << 20];
    for _ in 0..2 {
        let answer = world.deliver(PATH, &large, None);
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{}", answer.text());
    }
    let too_large = world.server.send(Method::POST, PATH, |request| {
        request.header("content-type", "application/json").body(vec![b' '; (25 << 20) + 1])
    });
    assert_eq!(too_large.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", too_large.text());
    let answer = world.deliver(PATH, &large, None);
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.text().contains("raise webhook_rate"), "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"));
}

#[test]
fn a_forge_that_cannot_be_seen_is_named_with_the_reason() {
    let world = World::new("");
    let why = eventually(|| {
        let ready = world.server.get("/readyz").json();
        ready["blind"]["forge github"].as_str().map(str::to_owned)
    });
    eventually(|| {
        let metrics = world.metrics();
        metrics.contains("monitor_forge_usable{forge=\"github\"} 0\n").then_some(())
    });
    assert!(!why.is_empty());
    assert!(!why.contains("ghp_planted"));
    let status = world.server.get("/api/v2/status").json();
    assert!(status.to_string().contains("cannot be reached"), "{status:#}");
    // The local queue goes on.
    let id = world.server.submit("exit 0");
    world.server.wait(&id, "succeeded");
}
