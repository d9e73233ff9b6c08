//! Sends what is counted by OTLP over HTTP, where the environment says so; otherwise there is nothing.
//!
//! Everything is cumulative, so an export that fails loses nothing and nothing is kept for it: the next one
//! says it all.

use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use prost::Message;
use reqwest::{Client, StatusCode, header, redirect};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::http::tls;

mod convert;
mod environment;

pub use environment::Target;

/// How many intervals to wait at most after failures.
const PATIENCE: u32 = 8;

/// How long the last export may take when the service stops.
const LAST: Duration = Duration::from_secs(2);

/// Sends `metrics` to `target` every now and then, and once more at `stop`.
///
/// # Errors
/// For a target that cannot be sent to at all.
pub fn begin(
    metrics: Metrics,
    target: Target,
    stop: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    tls::prepare();
    let client = Client::builder()
        .timeout(target.timeout)
        .default_headers(target.headers.clone())
        // The headers may be secret and are for this receiver only.
        .redirect(redirect::Policy::none())
        .build()
        .context("could not make an HTTP client for OTLP")?;
    let exporter =
        Exporter { metrics, target, client, began: Timestamp::now(), failures: 0, refused: false };
    Ok(tokio::spawn(exporter.run(stop)))
}

struct Exporter {
    metrics: Metrics,
    target: Target,
    client: Client,
    began: Timestamp,
    /// In a row.
    failures: u32,
    /// Whether it was told that the receiver takes some of it only.
    refused: bool,
}

impl Exporter {
    async fn run(mut self, stop: CancellationToken) {
        let mut next = Instant::now() + self.target.interval;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(next) => (),
            }
            let result = self.export().await;
            self.take_in(result);
            let waits = self.failures.checked_sub(1).map_or(1, |n| (1 << n.min(8)).min(PATIENCE));
            next = Instant::now() + self.target.interval * waits;
        }
        if self.failures == 0 {
            // What happened since the last time; nobody waits for a receiver that is down.
            let _ = tokio::time::timeout(LAST, self.export()).await;
        }
    }

    async fn export(&mut self) -> anyhow::Result<()> {
        let target = &self.target;
        let families = self.metrics.gather();
        let request = convert::request(&families, &target.resource, self.began, Timestamp::now());
        let sent = self
            .client
            .post(target.url.clone())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .body(request.encode_to_vec())
            .send()
            .await;
        // The address may hold a password.
        let answer = sent.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        if status != StatusCode::OK {
            bail!("it answered {status}");
        }
        let body = answer.bytes().await.map_err(reqwest::Error::without_url)?;
        if let Some(refusal) = convert::refusal(&body)
            && !std::mem::replace(&mut self.refused, true)
        {
            tracing::warn!(refusal, "The OTLP receiver refuses some of the metrics.");
        }
        Ok(())
    }

    /// One line when it begins to fail, and one when it works again.
    fn take_in(&mut self, result: anyhow::Result<()>) {
        match result {
            Ok(()) => {
                self.metrics.exported("ok");
                if self.failures > 0 {
                    tracing::info!(failures = self.failures, "Metrics are sent by OTLP again.");
                }
                self.failures = 0;
            }
            Err(error) => {
                self.metrics.exported("failed");
                if self.failures == 0 {
                    tracing::warn!(
                        receiver = self.target.shown(),
                        error = format!("{error:#}"),
                        "Metrics could not be sent by OTLP; it is tried again, ever less often. \
                         Start the receiver, or correct OTEL_EXPORTER_OTLP_ENDPOINT."
                    );
                }
                self.failures = self.failures.saturating_add(1);
            }
        }
    }
}
