//! What GitHub costs us, GitHub's own time not counted: a delivery, a list of runners, the turn of a call.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use forge_github::{
    Client, ClientConfig, Credentials, GithubConfig, GithubForge, SecretFrom, Transport, Webhook,
    budget::Limits,
    error::ApiError,
    webhook::{Movement, Outcome, WebhookConfig},
};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use jiff::Timestamp;
use runner_core::{Clock, Forge, OwnerId, Secret};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::table::Table;

const SECRET: &str = "of-this-hook";
/// GitHub's own example of a delivery, whose size is usual.
const EXAMPLE: &str = include_str!("../../forge-github/tests/webhooks/workflow_job.queued.1.json");

const KNOWN_JOBS: u64 = 100;
const RUNNERS: u64 = 100;
const TIMES: u64 = 1000;

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    deliveries(table)?;
    lists(table).await
}

fn deliveries(table: &mut Table) -> anyhow::Result<()> {
    let webhook =
        Webhook::new(&WebhookConfig::new([Secret::new(SECRET.to_owned())]), Clock::system())?;
    let mut payload: Value = serde_json::from_str(EXAMPLE)?;
    payload["workflow_job"]["created_at"] = json!(Timestamp::now());
    let mut times = Vec::new();
    for number in 0..KNOWN_JOBS + TIMES {
        // There are always as many: one that is new, and an old one that is over.
        for (number, action) in
            [(Some(number), "queued"), (number.checked_sub(KNOWN_JOBS), "completed")]
        {
            let Some(number) = number else { continue };
            payload["action"] = json!(action);
            payload["workflow_job"]["id"] = json!(number);
            let body = serde_json::to_vec_pretty(&payload)?;
            let headers = signed(&body)?;
            let began = Instant::now();
            let outcome = webhook.accept(&headers, &body);
            if number >= KNOWN_JOBS {
                times.push(began.elapsed());
            }
            let moved =
                matches!(&outcome, Outcome::Job { movement, .. } if *movement != Movement::None);
            anyhow::ensure!(moved, "{outcome:?}");
        }
    }
    table.times("take in a delivery: signature, payload, 100 jobs wait", &times, "under 1 ms");
    Ok(())
}

fn signed(body: &[u8]) -> anyhow::Result<HeaderMap> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    let signature =
        digest.iter().fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}"));
    let mut headers = HeaderMap::new();
    headers.insert("x-github-event", HeaderValue::from_static("workflow_job"));
    headers.insert("x-github-delivery", Uuid::new_v4().to_string().parse()?);
    headers.insert("x-hub-signature-256", signature.parse()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(headers)
}

/// Answers every call with the same page, at once.
struct SamePage(Bytes);

#[async_trait]
impl Transport for SamePage {
    async fn send(&self, _: Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
        let mut answer = Response::new(self.0.clone());
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(answer)
    }
}

/// Each list is one call: its turn in the budget, credentials, octocrab, and the page.
async fn lists(table: &mut Table) -> anyhow::Result<()> {
    for (count, what) in
        [(0, "a call: its turn and an empty list"), (RUNNERS, "a call: its turn and 100 runners")]
    {
        let token = tempfile::NamedTempFile::new()?;
        fs::write(&token, "a-token")?;
        let forge = forge(count, token.path())?;
        let mut times = Vec::new();
        for _ in 0..TIMES {
            let began = Instant::now();
            let runners = forge.runners().await?;
            times.push(began.elapsed());
            anyhow::ensure!(runners.len() as u64 == count, "{} runners", runners.len());
        }
        table.times(what, &times, "under 10 ms");
    }
    Ok(())
}

fn forge(count: u64, token: &Path) -> anyhow::Result<GithubForge> {
    let runner = |id: u64| {
        let label = |name: &str| json!({ "id": id, "name": name, "type": "custom" });
        json!({
            "id": id, "name": format!("linux-{id}_bench"), "os": "linux", "status": "online", "busy": id % 2 == 0,
            "ephemeral": true, "runner_group_id": 1, "labels": ["linux", "x64", "kvm"].map(label),
        })
    };
    let runners: Vec<Value> = (1..=count).map(runner).collect();
    let page = json!({ "total_count": count, "runners": runners }).to_string();
    let token = SecretFrom::File(token.to_owned());
    let mut config =
        ClientConfig::new("https://github.com/acme".parse()?, Credentials::Token(token));
    config.limits = Limits { points_per_minute: u32::MAX, ..Limits::default() };
    let client = Client::new(config, Arc::new(SamePage(page.into())), Clock::system())?;
    let mut config = GithubConfig::new(OwnerId::new("bench")?);
    config.pace.list_every = Duration::ZERO;
    config.pace.list_quietly_every = Duration::ZERO;
    Ok(GithubForge::start(client, config)?)
}
