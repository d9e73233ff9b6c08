//! The queue of a set: what its listener hears, again and again until it is acknowledged.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Served, check_manners, ok};
use crate::{
    exchange::{Reply, Request},
    state::{Shared, State},
};

/// How much is told at once.
const MOST: usize = 50;
/// What the listener says that it has room for.
const CAPACITY: &str = "x-scalesetmaxcapacity";

#[derive(Debug, Clone)]
pub(crate) struct Message {
    id: i64,
    items: Vec<Value>,
}

impl State {
    /// The next message after the one that the listener had last, if there is one.
    fn next_message(&mut self, id: i64, last: i64) -> Result<Option<Value>, super::Exception> {
        let set = self.set(id)?;
        if !set.sent.iter().any(|message| message.id > last) && !set.news.is_empty() {
            set.last_message += 1;
            let items = set.news.drain(..set.news.len().min(MOST)).collect();
            set.sent.push_back(Message { id: set.last_message, items });
        }
        let message = set.sent.iter().find(|message| message.id > last).cloned();
        Ok(message.map(|message| {
            json!({
                "messageId": message.id,
                "messageType": "RunnerScaleSetJobMessages",
                "body": Value::from(message.items).to_string(),
                "statistics": self.statistics(id),
            })
        }))
    }

    pub(super) fn acknowledge(&mut self, id: i64, message: i64) -> Served {
        self.set(id)?.sent.retain(|sent| sent.id != message);
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    }
}

impl Shared {
    /// Waits for a message. 202 if there is none for as long as GitHub waits.
    pub(super) async fn poll(&self, request: &Request, label: &str) -> Served {
        check_manners(&mut self.look(), request, label);
        let id = request.path.split('/').nth(4).unwrap_or_default();
        let id = super::number(id)?;
        let last = request.query("lastMessageId").and_then(|text| text.parse().ok()).unwrap_or(0);
        let capacity = request.header(CAPACITY).and_then(|text| text.parse().ok());
        if capacity.is_none() {
            self.look().record.complain(label, false, format!("there is no {CAPACITY}"));
        }
        let deadline = tokio::time::Instant::now() + self.options.long_poll;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking: what comes meanwhile is not missed.
            changed.as_mut().enable();
            {
                let mut state = self.look();
                state.listening(request, id)?;
                state.set(id)?.capacity = capacity.unwrap_or(0);
                state.spread_jobs();
                if let Some(message) = state.next_message(id, last)? {
                    drop(state);
                    // A runner may wait for the job that was just assigned.
                    self.changed.notify_waiters();
                    return ok(&message);
                }
            }
            tokio::select! {
                () = changed => (),
                () = tokio::time::sleep_until(deadline) => {
                    return Ok(Reply::empty(StatusCode::ACCEPTED));
                }
            }
        }
    }
}
