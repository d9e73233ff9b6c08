//! Deliveries, as GitHub sends them and as it never would.

use std::{fs, path::Path, sync::LazyLock};

use forge_github::{
    DemandSource, Freshness, Health, JobFact, JobStatus, Waiting, Webhook,
    webhook::{Movement, Outcome, Refusal, WebhookConfig},
};
use futures::FutureExt;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use proptest::prelude::*;
use runner_core::{Clock, Secret};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

const SECRET: &str = "It's a Secret to Everybody";

/// A little after the oldest example was sent, so that none is too old.
const NOW: Timestamp = Timestamp::constant(1_628_160_000, 0);

fn webhook() -> Webhook {
    let config = WebhookConfig::new([Secret::new(SECRET.to_owned())]);
    Webhook::new(&config, Clock::following_tokio(NOW)).unwrap()
}

fn signature(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    digest.iter().fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn headers(event: &str, delivery: Uuid, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-github-event", event.parse().unwrap());
    headers.insert("x-github-delivery", delivery.to_string().parse().unwrap());
    headers.insert("x-hub-signature-256", signature(body).parse().unwrap());
    headers.insert("content-type", "application/json".parse().unwrap());
    headers
}

fn send(webhook: &Webhook, event: &str, body: &[u8]) -> Outcome {
    webhook.accept(&headers(event, Uuid::new_v4(), body), body)
}

fn queued(webhook: &Webhook) -> Vec<Waiting> {
    webhook.queued(Freshness::Usual).now_or_never().unwrap().unwrap()
}

/// Name and content of every example.
static EXAMPLES: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhooks");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
});

fn example(name: &str) -> &'static [u8] {
    &EXAMPLES.iter().find(|(found, _)| found == name).unwrap().1
}

/// A delivery about job 7.
fn job(action: &str, attempt: u32, runner: Option<&str>) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "action": action,
        "repository": { "full_name": "octo/hello" },
        "workflow_job": {
            "id": 7, "run_id": 3, "run_attempt": attempt, "name": "build", "workflow_name": "CI",
            "created_at": NOW, "started_at": NOW, "labels": ["self-hosted", "linux"],
            "runner_name": runner,
        },
    }))
    .unwrap()
}

#[test]
fn every_example_is_read() {
    for (name, body) in &*EXAMPLES {
        let event = name.split('.').next().unwrap();
        let outcome = send(&webhook(), event, body);
        match event {
            "workflow_job" => {
                let Outcome::Job { fact, movement: Movement::New } = &outcome else {
                    panic!("{name}: {outcome:?}");
                };
                let action = name.split('.').nth(1).unwrap();
                assert_eq!(fact.status, JobStatus::of(action), "{name}");
                assert_eq!(fact.runner.is_some(), fact.status >= JobStatus::InProgress, "{name}");
            }
            "ping" => assert_eq!(outcome, Outcome::Ping, "{name}"),
            _ => assert_eq!(outcome, Outcome::Ignored { event: event.to_owned() }, "{name}"),
        }
        assert!(outcome.status().is_success());
    }
    assert!(EXAMPLES.len() >= 8);
}

#[test]
fn a_queued_job_waits_until_a_runner_has_it() {
    let webhook = webhook();
    let body = example("workflow_job.queued.1.json");
    send(&webhook, "workflow_job", body);
    let waiting = queued(&webhook);
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].job.id.as_str(), "289782451");
    assert_eq!(waiting[0].title, "CodeQL / update");
    send(&webhook, "workflow_job", example("workflow_job.in_progress.2.json"));
    assert_eq!(queued(&webhook), []);
    assert_eq!(webhook.job_of("GitHub Actions 5").unwrap().as_str(), "289782451");
    send(&webhook, "workflow_job", example("workflow_job.completed.1.json"));
    assert_eq!(webhook.job_of("GitHub Actions 5"), None);
}

#[test]
fn a_job_that_is_held_back_does_not_wait_for_a_runner() {
    let webhook = webhook();
    send(&webhook, "workflow_job", example("workflow_job.waiting.1.json"));
    assert_eq!(queued(&webhook), []);
}

#[test]
fn what_is_not_signed_is_refused_before_it_is_read() {
    let webhook = webhook();
    let body = job("queued", 1, None);
    let good = headers("workflow_job", Uuid::new_v4(), &body);
    let mut missing = good.clone();
    missing.remove("x-hub-signature-256");
    let mut wrong = good.clone();
    wrong.insert("x-hub-signature-256", signature(b"other").parse().unwrap());
    for headers in [missing, wrong] {
        let outcome = webhook.accept(&headers, &body);
        assert_eq!(outcome, Outcome::Refused(Refusal::NotSigned));
        assert_eq!(outcome.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!((queued(&webhook), webhook.numbers().refused), (Vec::new(), 2));
    assert_eq!(webhook.numbers().last_heard_at, None);
}

#[test]
fn what_cannot_be_read_is_refused_and_welcome_again() {
    let webhook = webhook();
    let delivery = Uuid::new_v4();
    let outcome = webhook.accept(&headers("workflow_job", delivery, b"{"), b"{");
    assert_eq!(outcome.status(), StatusCode::BAD_REQUEST);
    let body = job("queued", 1, None);
    let mut odd = headers("workflow_job", delivery, &body);
    odd.insert("x-github-delivery", "not-a-uuid".parse().unwrap());
    assert_eq!(webhook.accept(&odd, &body).status(), StatusCode::BAD_REQUEST);
    let outcome = webhook.accept(&headers("workflow_job", delivery, &body), &body);
    assert!(matches!(outcome, Outcome::Job { .. }), "{outcome:?}");
}

#[test]
fn a_delivery_that_comes_again_changes_nothing_and_is_answered_well() {
    let webhook = webhook();
    let body = job("queued", 1, None);
    let headers = headers("workflow_job", Uuid::new_v4(), &body);
    webhook.accept(&headers, &body);
    for _ in 0..4 {
        let outcome = webhook.accept(&headers, &body);
        assert!(matches!(outcome, Outcome::Repeated(_)), "{outcome:?}");
        assert_eq!(outcome.status(), StatusCode::OK);
    }
    assert_eq!((queued(&webhook).len(), webhook.numbers().repeated), (1, 4));
}

#[test]
fn an_old_delivery_under_a_new_id_brings_nothing_back() {
    let webhook = webhook();
    for action in ["queued", "completed", "queued", "in_progress"] {
        send(&webhook, "workflow_job", &job(action, 1, None));
    }
    assert_eq!((queued(&webhook), webhook.running()), (Vec::new(), Vec::new()));
}

#[test]
fn five_deliveries_in_reverse_order_end_as_in_order() {
    let webhook = webhook();
    for action in ["completed", "in_progress", "in_progress", "queued", "waiting"] {
        send(&webhook, "workflow_job", &job(action, 1, Some("linux-1")));
    }
    assert_eq!(queued(&webhook), []);
    assert_eq!(webhook.running(), []);
}

#[test]
fn a_form_is_as_good_as_json() {
    let webhook = webhook();
    let text = String::from_utf8(job("queued", 1, None)).unwrap();
    let encoded: String =
        url::form_urlencoded::Serializer::new(String::new()).append_pair("payload", &text).finish();
    let mut headers = headers("workflow_job", Uuid::new_v4(), encoded.as_bytes());
    headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
    let outcome = webhook.accept(&headers, encoded.as_bytes());
    assert!(matches!(outcome, Outcome::Job { .. }), "{outcome:?}");
}

#[test]
fn it_is_ill_until_it_has_caught_up_and_again_when_a_delivery_got_lost() {
    let webhook = webhook();
    assert!(!webhook.health().is_well());
    webhook.caught_up(NOW - std::time::Duration::from_secs(3600));
    assert!(webhook.health().is_well());
    let fact = |number, minutes: u64| JobFact {
        number,
        run: 1,
        attempt: 1,
        repository: "octo/hello".parse().unwrap(),
        title: "build".to_owned(),
        status: JobStatus::Queued,
        labels: Vec::new(),
        queued_at: NOW - std::time::Duration::from_secs(60 * minutes),
        runner: None,
    };
    // Older than what it can have heard, and younger than a delivery takes.
    webhook.learn(&fact(1, 61));
    webhook.learn(&fact(2, 0));
    assert!(webhook.health().is_well());
    webhook.learn(&fact(3, 2));
    let Health::Ill { reason, .. } = webhook.health() else { panic!("it is well") };
    assert!(reason.starts_with("job 3 of octo/hello waits since"), "{reason}");
    assert_eq!((queued(&webhook).len(), webhook.numbers().lost), (3, 1));
    webhook.caught_up(NOW);
    assert!(webhook.health().is_well());
}

#[test]
fn news_are_hinted_and_repetitions_are_not() {
    let webhook = webhook();
    let mut changes = webhook.changes();
    send(&webhook, "workflow_job", &job("queued", 1, None));
    assert!(changes.next().now_or_never().is_some());
    send(&webhook, "workflow_job", &job("queued", 1, None));
    assert!(changes.next().now_or_never().is_none());
}

#[test]
fn a_full_house_forgets_what_is_over() {
    let mut config = WebhookConfig::new([Secret::new(SECRET.to_owned())]);
    config.jobs_kept = 2;
    let webhook = Webhook::new(&config, Clock::following_tokio(NOW)).unwrap();
    for number in 0..50 {
        let mut body: Value = serde_json::from_slice(&job("queued", 1, None)).unwrap();
        body["workflow_job"]["id"] = number.into();
        send(&webhook, "workflow_job", &serde_json::to_vec(&body).unwrap());
        body["action"] = "completed".into();
        send(&webhook, "workflow_job", &serde_json::to_vec(&body).unwrap());
    }
    assert_eq!(webhook.numbers().forgotten, 0);
}

/// What a job can tell of itself: action, attempt, runner.
fn step() -> impl Strategy<Value = (&'static str, u32, Option<&'static str>)> {
    (
        prop::sample::select(vec!["waiting", "queued", "in_progress", "completed"]),
        1..4u32,
        prop::sample::select(vec![None, Some("linux-1"), Some("linux-2")]),
    )
}

fn after(deliveries: &[(Uuid, Vec<u8>)]) -> (Vec<Waiting>, Vec<JobFact>) {
    let webhook = webhook();
    for (id, body) in deliveries {
        let outcome = webhook.accept(&headers("workflow_job", *id, body), body);
        assert_ne!(outcome.status(), StatusCode::BAD_REQUEST);
    }
    (queued(&webhook), webhook.running())
}

fn example_of_queued() -> &'static [u8] {
    example("workflow_job.queued.1.json")
}

/// What may stand where something else is expected. Nothing: the field is left out.
fn odd() -> impl Strategy<Value = Option<Value>> {
    let odd = vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0.5),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("queued"),
        json!("completed"),
        json!("../..//\u{0}\u{202e}é"),
        json!("x".repeat(1_000)),
        json!("9999-12-31T23:59:59Z"),
        json!("0001-01-01T00:00:00Z"),
        json!([[[]]]),
        json!({ "full_name": {} }),
    ];
    prop::option::weighted(0.9, prop::sample::select(odd))
}

/// Each example as it was read, and the paths of all in it that is looked at: a dozen of some hundred fields.
static PAYLOADS: LazyLock<Vec<(Value, Vec<String>)>> = LazyLock::new(|| {
    let read = |(_, body): &(String, Vec<u8>)| {
        let payload: Value = serde_json::from_slice(body).unwrap();
        let mut paths = Vec::new();
        collect(&payload, String::new(), &mut paths);
        let looked_at = ["/action", "/workflow_job", "/repository/full_name"];
        paths.retain(|path| looked_at.iter().any(|start| path.starts_with(start)));
        (!paths.is_empty()).then_some((payload, paths))
    };
    EXAMPLES.iter().filter_map(read).collect()
});

/// Puts a value in place of another, however deep that is. An earlier change may have taken it away.
fn change(payload: &mut Value, path: &str, odd: Option<Value>) {
    let Some((parent, name)) = path.rsplit_once('/') else { return };
    match (payload.pointer_mut(parent), odd) {
        (Some(Value::Object(fields)), Some(odd)) => drop(fields.insert(name.to_owned(), odd)),
        (Some(Value::Object(fields)), None) => drop(fields.remove(name)),
        (Some(Value::Array(items)), odd) => {
            if let Some(item) = name.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                *item = odd.into();
            }
        }
        _ => (),
    }
}

/// The path of everything in a document.
fn collect(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                collect(field, format!("{path}/{name}"), paths);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{path}/{index}"), paths);
            }
        }
        _ => (),
    }
    paths.push(path);
}

/// Bytes in place of other bytes: cut, changed, put in.
fn mutation() -> impl Strategy<Value = Vec<(u8, prop::sample::Index, Vec<u8>)>> {
    prop::collection::vec(
        (0..3u8, any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..8)),
        0..6,
    )
}

fn mutate(body: &mut Vec<u8>, changes: &[(u8, prop::sample::Index, Vec<u8>)]) {
    for (kind, at, bytes) in changes {
        let at = if body.is_empty() { 0 } else { at.index(body.len()) };
        let end = (at + bytes.len()).min(body.len());
        match kind {
            0 => body.truncate(at),
            1 => drop(body.splice(at..end, bytes.iter().copied())),
            _ => drop(body.splice(at..at, bytes.iter().copied())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_order_and_repetition_ends_the_same(
        steps in prop::collection::vec(step(), 1..8),
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..24),
    ) {
        let sent: Vec<_> = steps
            .iter()
            .map(|(action, attempt, runner)| (Uuid::new_v4(), job(action, *attempt, *runner)))
            .collect();
        // Some again, under their own id or another, then all of them from the last to the first.
        let again = order.iter().map(|(index, same_id)| {
            let (id, body) = index.get(&sent).clone();
            (if *same_id { id } else { Uuid::new_v4() }, body)
        });
        let shuffled: Vec<_> = again.chain(sent.iter().rev().cloned()).collect();
        prop_assert_eq!(after(&sent), after(&shuffled));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    #[test]
    fn no_body_makes_it_panic(
        example in 0..EXAMPLES.len(),
        changes in mutation(),
        event in prop::sample::select(vec!["workflow_job", "ping", "push", ""]),
        form in any::<bool>(),
    ) {
        let mut body = EXAMPLES[example].1.clone();
        mutate(&mut body, &changes);
        let mut headers = headers(event, Uuid::new_v4(), &body);
        if form {
            headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
        }
        let webhook = webhook();
        let outcome = webhook.accept(&headers, &body);
        prop_assert_ne!(outcome, Outcome::Refused(Refusal::NotSigned));
        prop_assert!(queued(&webhook).len() <= 1);
    }

    /// What is JSON to the end, and odd in what it says.
    #[test]
    fn no_payload_makes_it_panic(
        example in 0..PAYLOADS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd()), 1..5),
    ) {
        let (mut payload, paths) = PAYLOADS[example].clone();
        for (at, value) in changes {
            change(&mut payload, at.get(&paths), value);
        }
        let webhook = webhook();
        let outcome = send(&webhook, "workflow_job", &serde_json::to_vec(&payload).unwrap());
        let is_queued = matches!(
            &outcome,
            Outcome::Job { fact, movement: Movement::New } if fact.status == JobStatus::Queued
        );
        prop_assert!(queued(&webhook).len() <= usize::from(is_queued));
        // Whatever it was, the next delivery is heard.
        let next = send(&webhook, "workflow_job", example_of_queued());
        let is_heard = matches!(next, Outcome::Job { .. });
        prop_assert!(is_heard);
    }
}
