//! Webhooks, and how they go astray.

mod common;

use std::sync::{Arc, Mutex};

use common::{acme, assert_clean};
use fake_github::{Conclusion, FakeGitHub, JobRequest, WebhookFaults};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

const SECRET: &str = "planted-secret";

/// Whoever listens to a hook.
#[derive(Clone)]
struct Receiver {
    url: String,
    heard: Arc<Mutex<Vec<Delivery>>>,
    more: Arc<Notify>,
    /// What is answered.
    status: Arc<Mutex<u16>>,
}

#[derive(Clone)]
struct Delivery {
    head: String,
    body: Vec<u8>,
}

impl Delivery {
    fn header(&self, name: &str) -> &str {
        let name = format!("{name}: ");
        let lines = self.head.lines();
        let mut found = lines.filter(|line| line.to_lowercase().starts_with(&name.to_lowercase()));
        found.next().map(|line| &line[name.len()..]).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The action and the job.
    fn says(&self) -> (String, i64) {
        let body = self.json();
        (body["action"].as_str().unwrap().to_owned(), body["workflow_job"]["id"].as_i64().unwrap())
    }
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            heard: Arc::default(),
            more: Arc::default(),
            status: Arc::new(Mutex::new(200)),
        };
        let own = receiver.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                let delivery = loop {
                    let mut piece = [0; 4096];
                    let count = stream.read(&mut piece).await.unwrap();
                    assert_ne!(count, 0, "it ended early");
                    bytes.extend(&piece[..count]);
                    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                        continue;
                    };
                    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                    let delivery = Delivery { head, body: bytes[end + 4..].to_vec() };
                    let length: usize = delivery.header("content-length").parse().unwrap();
                    if delivery.body.len() == length {
                        break delivery;
                    }
                };
                let status = *own.status.lock().unwrap();
                own.heard.lock().unwrap().push(delivery);
                let answer = format!(
                    "HTTP/1.1 {status} Whatever\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                own.more.notify_waiters();
            }
        });
        receiver
    }

    async fn hear(&self, count: usize) -> Vec<Delivery> {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            let heard = self.heard.lock().unwrap().clone();
            if heard.len() >= count {
                return heard;
            }
            more.await;
        }
    }
}

fn enqueue(github: &FakeGitHub) -> i64 {
    github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap().id
}

#[tokio::test]
async fn a_job_is_told_from_its_queue_to_its_end_and_signed() {
    let (github, _) = acme().await;
    let receiver = Receiver::start().await;
    let hook = github.hook(&github.organisation("acme"), &receiver.url, SECRET);
    let waiting = JobRequest { waiting: true, ..JobRequest::new("acme/widgets", ["linux"]) };
    let job = github.enqueue(waiting).unwrap().id;
    github.approve(job).unwrap();
    github.complete(job, Conclusion::Success).unwrap();
    let heard = receiver.hear(3).await;
    let says: Vec<_> = heard.iter().map(Delivery::says).collect();
    assert_eq!(says, ["waiting", "queued", "completed"].map(|action| (action.to_owned(), job)));
    for delivery in &heard {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&delivery.body);
        let digest: String =
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(delivery.header("x-hub-signature-256"), format!("sha256={digest}"));
        assert_eq!(delivery.header("x-github-event"), "workflow_job");
        assert_eq!(delivery.header("x-github-hook-id"), hook.to_string());
        assert_eq!(delivery.header("x-github-hook-installation-target-type"), "organization");
        assert_eq!(delivery.header("x-github-delivery").len(), 36);
        let body = delivery.json();
        assert_eq!(body["repository"]["full_name"], "acme/widgets");
        assert_eq!(body["organization"]["login"], "acme");
        assert_eq!(body["workflow_job"]["runner_id"], Value::Null);
    }
    assert_clean(&github);
}

#[tokio::test]
async fn what_was_kept_back_comes_five_times_in_reverse_order() {
    let (github, _) = acme().await;
    let receiver = Receiver::start().await;
    github.hook(&github.repository("acme", "widgets"), &receiver.url, SECRET);
    github.hold_webhooks();
    let jobs = [enqueue(&github), enqueue(&github)];
    github.release_webhooks(5, true);
    let heard = receiver.hear(10).await;
    let says: Vec<_> = heard.iter().map(|delivery| delivery.says().1).collect();
    assert_eq!(says, [[jobs[1]; 5], [jobs[0]; 5]].concat());
    let ids: std::collections::HashSet<_> =
        heard.iter().map(|delivery| delivery.header("x-github-delivery").to_owned()).collect();
    assert_eq!(ids.len(), 2, "a duplicate has the name of what it repeats");
    assert_clean(&github);
}

#[tokio::test]
async fn what_was_lost_can_be_found_and_had_again() {
    let (github, client) = acme().await;
    let receiver = Receiver::start().await;
    let hook = github.hook(&github.organisation("acme"), &receiver.url, SECRET);
    github.webhook_faults(WebhookFaults { lose: 1.0, ..WebhookFaults::default() });
    let job = enqueue(&github);
    let deliveries = format!("/orgs/acme/hooks/{hook}/deliveries");
    github.until(|github| github.undelivered() == 0).await;
    let lost = client.get(&format!("{deliveries}?status=failure")).await.expect(200)[0].clone();
    assert_eq!((&lost["status"], &lost["action"]), (&json!("timed out"), &json!("queued")));
    github.webhook_faults(WebhookFaults::default());
    client.post(&format!("{deliveries}/{}/attempts", lost["id"]), json!({})).await.expect(202);
    let heard = receiver.hear(1).await;
    assert_eq!(heard[0].says(), ("queued".to_owned(), job));
    assert_eq!(heard[0].header("x-github-delivery"), lost["guid"]);
    github.until(|github| github.undelivered() == 0).await;
    let all = client.get(&deliveries).await.expect(200);
    assert_eq!((&all[0]["redelivery"], &all[0]["status"]), (&json!(true), &json!("OK")));
    let full = client.get(&format!("{deliveries}/{}", all[0]["id"])).await.expect(200);
    assert_eq!(full["request"]["payload"]["workflow_job"]["id"], job);
    assert_eq!(full["response"]["payload"], "ok");
    let page = client.get(&format!("{deliveries}?per_page=1")).await;
    assert!(page.header("link").contains("cursor="), "{}", page.header("link"));
    assert_clean(&github);
}

#[tokio::test]
async fn an_app_hears_of_the_accounts_that_let_it_in() {
    let (github, _) = acme().await;
    github.organisation("other");
    let receiver = Receiver::start().await;
    let app = github.app("manager", fake_github::Permissions::new());
    let installation = github.install(&app, "acme").unwrap();
    github.app_hook(&app, &receiver.url, SECRET);
    github.enqueue(JobRequest::new("other/thing", ["linux"])).unwrap();
    let job = enqueue(&github);
    let heard = receiver.hear(1).await;
    assert_eq!(heard[0].says().1, job);
    assert_eq!(heard[0].json()["installation"]["id"], installation);
    assert_eq!(heard[0].header("x-github-hook-installation-target-type"), "integration");
    assert_clean(&github);
}

#[tokio::test]
async fn a_refusal_is_a_failure_and_vanishing_is_not_even_that() {
    let (github, client) = acme().await;
    let receiver = Receiver::start().await;
    *receiver.status.lock().unwrap() = 500;
    let made = client
        .post(
            "/repos/acme/widgets/hooks",
            json!({
                "name": "web", "events": ["workflow_job"], "active": true,
                "config": { "url": receiver.url, "content_type": "json", "secret": SECRET },
            }),
        )
        .await
        .expect(201);
    let ping = receiver.hear(1).await;
    assert_eq!(ping[0].header("x-github-event"), "ping");
    let deliveries = format!("/repos/acme/widgets/hooks/{}/deliveries", made["id"]);
    github.until(|github| github.undelivered() == 0).await;
    let failed = client.get(&format!("{deliveries}?status=failure")).await.expect(200)[0].clone();
    assert_eq!((&failed["status_code"], &failed["event"]), (&json!(500), &json!("ping")));
    github.webhook_faults(WebhookFaults { vanish: 1.0, ..WebhookFaults::default() });
    enqueue(&github);
    github.until(|github| github.undelivered() == 0).await;
    github.webhook_faults(WebhookFaults::default());
    let job = enqueue(&github);
    let heard = receiver.hear(2).await;
    assert_eq!(heard.last().unwrap().says().1, job);
    assert_clean(&github);
}
