//! Sends what hooks are to be told, as unreliably as it is ordered.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue, StatusCode};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    hook::{Delivery, Outcome, Receiver},
    state::Shared,
};

/// How long GitHub waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How webhooks go astray. Probabilities are from 0 to 1, and each delivery has its own luck.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookFaults {
    /// It is not sent, and the list of deliveries has it as one that timed out.
    pub lose: f64,
    /// It is not sent, and nobody knows that it should have been.
    pub vanish: f64,
    /// It is sent again at once.
    pub duplicate: f64,
    /// It is sent after one that came later.
    pub reorder: f64,
    /// It is sent after [`delay_ms`](Self::delay_ms).
    pub delay: f64,
    /// How late a late one is, in milliseconds.
    pub delay_ms: u64,
    /// What makes the luck repeat itself.
    pub seed: u64,
}

impl Default for WebhookFaults {
    fn default() -> Self {
        Self {
            lose: 0.0,
            vanish: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            delay: 0.0,
            delay_ms: 100,
            seed: 0,
        }
    }
}

/// The luck of deliveries.
pub(crate) struct Weather {
    faults: WebhookFaults,
    chance: StdRng,
    /// Whether deliveries wait until they are let go.
    pub(crate) held: bool,
}

impl Weather {
    pub(crate) fn new(faults: WebhookFaults) -> Self {
        let chance = StdRng::seed_from_u64(faults.seed);
        Self { faults, chance, held: false }
    }

    fn strikes(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.chance.random_bool(probability.min(1.0))
    }
}

/// What is to be done with one delivery.
struct Order {
    delivery: Delivery,
    /// Who takes it, if not a server.
    receiver: Option<Receiver>,
    insecure: bool,
    copies: usize,
    after: Option<Duration>,
}

/// Sends until it is dropped.
pub(crate) async fn send_all(shared: Arc<Shared>) {
    let mut late = tokio::task::JoinSet::new();
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        // Before looking: what comes meanwhile is not missed.
        changed.as_mut().enable();
        let Some(order) = next(&shared) else {
            tokio::select! {
                () = changed => (),
                Some(_) = late.join_next() => (),
            }
            continue;
        };
        match order.after {
            Some(pause) => {
                let shared = shared.clone();
                late.spawn(async move {
                    tokio::time::sleep(pause).await;
                    send(&shared, &order).await;
                });
            }
            None => send(&shared, &order).await,
        }
    }
}

/// Takes the next one out of the box.
fn next(shared: &Shared) -> Option<Order> {
    let mut state = shared.look();
    let state = &mut *state;
    loop {
        if state.weather.held {
            return None;
        }
        let faults = state.weather.faults.clone();
        let behind = state.outbox.len() > 1 && state.weather.strikes(faults.reorder);
        let id = state.outbox.remove(usize::from(behind))?;
        if state.weather.strikes(faults.vanish) {
            state.deliveries.remove(&id);
            shared.changed.notify_waiters();
            continue;
        }
        let now = state.now();
        let lost = state.weather.strikes(faults.lose);
        let Some(delivery) = state.deliveries.get_mut(&id) else { continue };
        delivery.at = now;
        if lost {
            delivery.outcome = Some(Outcome::timeout());
            shared.changed.notify_waiters();
            continue;
        }
        let delivery = delivery.clone();
        let insecure = state.hooks.iter().any(|hook| hook.id == delivery.hook && hook.insecure_ssl);
        let copies = 1 + usize::from(state.weather.strikes(faults.duplicate));
        let late = state.weather.strikes(faults.delay);
        let after = late.then(|| Duration::from_millis(faults.delay_ms));
        let receiver = state.receivers.get(&delivery.hook).cloned();
        return Some(Order { delivery, receiver, insecure, copies, after });
    }
}

async fn send(shared: &Shared, order: &Order) {
    for _ in 0..order.copies {
        let outcome = match &order.receiver {
            Some(receiver) => hand_over(&order.delivery, receiver),
            None => post(&order.delivery, order.insecure).await,
        };
        shared.change(|state| {
            if let Ok(hook) = state.hook_mut(order.delivery.hook) {
                hook.last_response = Some((outcome.code, outcome.status.clone()));
            }
            if let Some(delivery) = state.deliveries.get_mut(&order.delivery.id) {
                delivery.outcome = Some(outcome);
            }
        });
    }
}

fn hand_over(delivery: &Delivery, receiver: &Receiver) -> Outcome {
    let headers = delivery.headers.iter().filter_map(|(name, value)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    });
    let status = receiver(&headers.collect(), &delivery.payload);
    Outcome { code: status.as_u16(), status: words(status), seconds: 0.0, ..Outcome::timeout() }
}

/// What the log of deliveries says of an answer.
fn words(status: StatusCode) -> String {
    match status.is_success() {
        true => "OK".to_owned(),
        false => format!("Invalid HTTP Response: {}", status.as_u16()),
    }
}

async fn post(delivery: &Delivery, insecure: bool) -> Outcome {
    let started = Instant::now();
    let mut outcome = match try_post(delivery, insecure).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_timeout() => Outcome::timeout(),
        Err(_) => Outcome {
            code: 502,
            status: "failed to connect to host".to_owned(),
            ..Outcome::timeout()
        },
    };
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome
}

async fn try_post(delivery: &Delivery, insecure: bool) -> reqwest::Result<Outcome> {
    // A connection each, as from many senders.
    let client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(insecure)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build()?;
    let mut request = client.post(&delivery.url).body(delivery.payload.clone());
    for (name, value) in &delivery.headers {
        request = request.header(name, value);
    }
    let response = request.send().await?;
    let status = response.status();
    let headers = response.headers().iter().map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let headers: BTreeMap<_, _> = headers.collect();
    let body = response.text().await?;
    Ok(Outcome { code: status.as_u16(), status: words(status), seconds: 0.0, headers, body })
}

impl Outcome {
    fn timeout() -> Self {
        Self {
            code: 504,
            status: "timed out".to_owned(),
            seconds: PATIENCE.as_secs_f64(),
            headers: BTreeMap::new(),
            body: String::new(),
        }
    }
}
