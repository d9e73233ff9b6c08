//! What happened: a list, and a stream that goes on where it was broken off.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use poem::web::sse;
use poem_openapi::{
    Object, OpenApi,
    param::{Header, Query},
    payload::{EventStream, Json},
    types::{Any, ToJSON},
};
use runner_core::{Event, EventLog};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{KEEP_ALIVE, Shared, problem::Problem};

/// How many events are read from the store at once.
const PART: u32 = 500;

/// By when an event that was told is in the store too.
const STORED_BY: Duration = Duration::from_millis(500);

pub struct EventsApi(pub Shared);

/// Something that happened.
#[derive(Object)]
struct EventInfo {
    /// Its number: higher is later.
    id: u64,
    /// When.
    at: String,
    /// What it is about.
    subject: String,
    /// It in words.
    text: String,
    /// It in data: one key, which says of what kind it is.
    what: Any<serde_json::Value>,
}

/// Some events, oldest first.
#[derive(Object)]
struct EventPage {
    /// The events.
    events: Vec<EventInfo>,
    /// `after` of the next page.
    next: u64,
}

#[OpenApi]
impl EventsApi {
    /// List events, oldest first
    #[oai(path = "/events", method = "get", operation_id = "list_events")]
    async fn list(
        &self,
        /// Only later ones than this number. The newest, if none.
        after: Query<Option<u64>>,
        /// How many at most.
        #[oai(default = "default_limit", validator(minimum(value = "1"), maximum(value = "1000")))]
        limit: Query<u32>,
    ) -> Result<Json<EventPage>, Problem> {
        let events = match after.0 {
            Some(after) => self.0.0.events.since(after, limit.0).await?,
            None => self.0.0.events.latest(limit.0).await?,
        };
        let next = events.last().map_or(after.0.unwrap_or(0), |event| event.id);
        let events = events.iter().map(EventInfo::from).collect();
        Ok(Json(EventPage { events, next }))
    }

    /// Follow events
    ///
    /// The id of each is its number: a client that lost its stream goes on with `Last-Event-ID`.
    #[oai(path = "/events/follow", method = "get", operation_id = "follow_events")]
    async fn follow(
        &self,
        /// Only later ones than this number. Only new ones, if none.
        after: Query<Option<u64>>,
        /// The id of the last event that was received. Goes before `after`.
        #[oai(name = "Last-Event-ID")]
        last: Header<Option<u64>>,
    ) -> Result<EventStream<BoxStream<'static, EventInfo>>, Problem> {
        let events = self.0.0.events.clone();
        // Listen before looking, so that nothing falls between.
        let live = events.listen();
        let last = match last.0.or(after.0) {
            Some(last) => last,
            None => events.latest(1).await?.last().map_or(0, |event| event.id),
        };
        let follower =
            Follower { events, live, last, ready: VecDeque::new(), stored: Stored::Behind };
        let stream = futures::stream::unfold(follower, |mut follower| async move {
            let event = follower.next().await?;
            Some((EventInfo::from(&*event), follower))
        });
        let stream = self.0.limited(stream)?.boxed();
        Ok(EventStream::new(stream).keep_alive(KEEP_ALIVE).to_event(|event| {
            let id = event.id.to_string();
            sse::Event::message(event.to_json_string()).id(id)
        }))
    }
}

/// Joins what the store has with what happens, in order and without a repeat.
struct Follower {
    events: EventLog,
    live: Receiver<Arc<Event>>,
    /// The last number that was told.
    last: u64,
    ready: VecDeque<Arc<Event>>,
    stored: Stored,
}

/// Whether the store has events that were not told.
enum Stored {
    /// It has.
    Behind,
    /// It had none; events that happened before we listened may be on their way into it.
    Settling,
    /// It has not.
    Told,
}

impl Follower {
    /// The next event; none when the store cannot be read or the log has ended.
    async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if event.id <= self.last {
                    continue;
                }
                self.last = event.id;
                return Some(event);
            }
            if matches!(self.stored, Stored::Behind) {
                self.read_store().await?;
                continue;
            }
            let settling = matches!(self.stored, Stored::Settling);
            tokio::select! {
                told = self.live.recv() => match told {
                    Ok(event) if event.id > self.last + 1 => {
                        self.read_store().await?;
                        self.ready.push_back(event);
                    }
                    Ok(event) => self.ready.push_back(event),
                    Err(RecvError::Lagged(_)) => self.stored = Stored::Behind,
                    Err(RecvError::Closed) => return None,
                },
                () = tokio::time::sleep(STORED_BY), if settling => {
                    self.read_store().await?;
                    self.stored = Stored::Told;
                }
            }
        }
    }

    async fn read_store(&mut self) -> Option<()> {
        let part = self.events.since(self.last, PART).await.ok()?;
        if part.len() < PART as usize && matches!(self.stored, Stored::Behind) {
            self.stored = Stored::Settling;
        }
        self.ready.extend(part.into_iter().map(Arc::new));
        Some(())
    }
}

impl From<&Event> for EventInfo {
    fn from(event: &Event) -> Self {
        Self {
            id: event.id,
            at: event.at.to_string(),
            subject: event.subject.to_string(),
            text: event.to_string(),
            what: Any(serde_json::to_value(&event.what).unwrap_or_default()),
        }
    }
}

fn default_limit() -> u32 {
    100
}
