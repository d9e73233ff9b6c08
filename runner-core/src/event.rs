//! The event log: what happened, typed, in the order it happened, each action with its reason.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast};

use crate::{
    error::Result,
    plan::{Subject, Why, WhyNot},
    store::Store,
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: higher is later, and no number is used twice.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// What it is about.
    pub subject: Subject,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An action began.
    Decided {
        /// Its word: `provision`, `retire`, ….
        action: String,
        /// Its reason.
        why: Why,
    },
    /// An action ended well.
    Done {
        /// Its word.
        action: String,
        /// How long it took.
        took: Duration,
    },
    /// An action failed.
    Failed {
        /// Its word.
        action: String,
        /// Why, with all its causes.
        error: String,
        /// When the next try may come.
        retry_at: Timestamp,
    },
    /// Something is wanted and not done.
    Held(WhyNot),
    /// What was held is not held any more.
    Freed,
    /// A list cannot be read; nothing that depends on it is decided.
    Blind {
        /// Why.
        reason: String,
    },
    /// The list can be read again.
    Sighted,
    /// A worker changed its phase.
    Phase {
        /// The new phase.
        phase: crate::worker::Phase,
    },
    /// A reservation was made.
    Reserved {
        /// Who asked.
        owner: String,
        /// What for.
        purpose: String,
        /// How many workers it holds.
        workers: u32,
    },
    /// A job of the local queue changed its state.
    Job {
        /// The new state, in a word.
        state: String,
        /// What there is to say about it.
        detail: String,
    },
    /// Someone asked for something, and it was granted.
    Asked {
        /// Who.
        by: String,
        /// What, in words.
        text: String,
    },
    /// Something that an operator should know of.
    Note {
        /// The sentence.
        text: String,
    },
}

impl Event {
    /// Tells the process's own log. A line about a worker or a job names it in a field of its own.
    fn log(&self) {
        let worker = match &self.subject {
            Subject::Worker(name) => Some(name.as_str()),
            _ => None,
        };
        let job = match &self.subject {
            Subject::Job(id) => Some(id.as_str()),
            _ => None,
        };
        let event = self.id;
        match &self.what {
            What::Failed { .. } | What::Blind { .. } => {
                tracing::warn!(worker, job, event, "{self}")
            }
            What::Phase { .. } | What::Freed => tracing::debug!(worker, job, event, "{self}"),
            _ => tracing::info!(worker, job, event, "{self}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.subject, &self.what) {
            (subject, What::Decided { action, why }) => write!(f, "{action} {subject}: {why}"),
            (subject, What::Done { action, took }) => {
                write!(f, "{action} {subject}: done in {:.3} s", took.as_secs_f64())
            }
            (subject, What::Failed { action, error, retry_at }) => {
                write!(f, "{action} {subject}: failed: {error}; next try at {retry_at:.0}")
            }
            (subject, What::Held(why_not)) => write!(f, "{subject} waits: {why_not}"),
            (subject, What::Freed) => write!(f, "{subject} waits no more"),
            (subject, What::Blind { reason }) => write!(f, "{subject} cannot be seen: {reason}"),
            (subject, What::Sighted) => write!(f, "{subject} can be seen"),
            (subject, What::Phase { phase: crate::worker::Phase::Over(ending) }) => {
                write!(f, "{subject} is over: {ending}")
            }
            (subject, What::Phase { phase }) => write!(f, "{subject} is {}", phase.word()),
            (subject, What::Reserved { owner, purpose, workers }) => {
                write!(f, "{subject} holds {workers} for {owner}: {purpose}")
            }
            (subject, What::Job { state, detail }) if detail.is_empty() => {
                write!(f, "{subject} is {state}")
            }
            (subject, What::Job { state, detail }) => write!(f, "{subject} is {state}: {detail}"),
            (subject, What::Asked { by, text }) => write!(f, "{subject}: {by} asked: {text}"),
            (subject, What::Note { text }) => write!(f, "{subject}: {text}"),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool => f.write_str("pool"),
            Self::Worker(name) => write!(f, "worker {name}"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::Build(name) => write!(f, "image of profile {name}"),
            Self::Image(id) => write!(f, "image {id}"),
            Self::Reservation(id) => write!(f, "reservation {id}"),
            Self::Override => f.write_str("policy override"),
            Self::Forge(name) => write!(f, "forge {name}"),
            Self::Hypervisor => f.write_str("hypervisor"),
            Self::Builder => f.write_str("image builder"),
            Self::Job(id) => write!(f, "job {id}"),
            Self::Store => f.write_str("store"),
        }
    }
}

/// How many events wait to be written before the oldest are dropped from the store (never from listeners).
const WRITE_QUEUE: usize = 10_000;
/// How many events are written at once.
const BATCH: usize = 256;
/// How long to wait after a store that failed.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// How far a listener may lag.
const LIVE_QUEUE: usize = 1_000;
/// How many events the store keeps.
pub const EVENTS_KEPT: u64 = 20_000;

/// Where events go: to the store, to whoever listens, and to the process's own log.
#[derive(Clone)]
pub struct EventLog {
    next: Arc<AtomicU64>,
    live: broadcast::Sender<Arc<Event>>,
    open: Arc<Open>,
    store: Store,
}

/// What is not in the store yet: next to nothing, unless the store fails for long.
#[derive(Default)]
struct Unwritten {
    events: Mutex<VecDeque<Arc<Event>>>,
    /// Whether nobody is left who could add to it.
    closed: AtomicBool,
    news: Notify,
}

/// Tells the writer when the last log is dropped.
struct Open(Arc<Unwritten>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.news.notify_one();
    }
}

impl Unwritten {
    fn events(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whatever comes. What cannot be written is tried again: an event that tells why the store
    /// failed is there once it works.
    async fn write(self: Arc<Self>, store: Store) {
        let mut failing = false;
        loop {
            let batch: Vec<_> = self.events().iter().take(BATCH).cloned().collect();
            let closed = self.closed.load(Ordering::Relaxed);
            let Some(last) = batch.last().map(|event| event.id) else {
                if closed {
                    return;
                }
                self.news.notified().await;
                continue;
            };
            match store.write_events(batch).await {
                Ok(()) => {
                    failing = false;
                    let mut events = self.events();
                    while events.front().is_some_and(|event| event.id <= last) {
                        events.pop_front();
                    }
                }
                Err(_) if closed => return,
                Err(error) => {
                    if !failing {
                        let error = crate::error::chain(&error);
                        tracing::error!(error, "Events could not be written; they are kept.");
                    }
                    failing = true;
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
    }
}

impl EventLog {
    /// Opens the log on `store` and starts writing. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Backend` when the store cannot be read.
    pub async fn open(store: Store) -> Result<Self> {
        let next = store.last_event().await? + 1;
        let unwritten = Arc::new(Unwritten::default());
        tokio::spawn(unwritten.clone().write(store.clone()));
        let live = broadcast::channel(LIVE_QUEUE).0;
        Ok(Self {
            next: Arc::new(AtomicU64::new(next)),
            live,
            open: Arc::new(Open(unwritten)),
            store,
        })
    }

    /// Adds an event. Never waits.
    pub fn record(&self, at: Timestamp, subject: Subject, what: What) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let event = Arc::new(Event { id, at, subject, what });
        event.log();
        {
            let mut events = self.open.0.events();
            events.push_back(event.clone());
            if events.len() > WRITE_QUEUE {
                events.pop_front();
            }
        }
        self.open.0.news.notify_one();
        // Fails when nobody listens, which is fine.
        let _ = self.live.send(event);
    }

    /// How many events are not in the store yet.
    pub fn unwritten(&self) -> usize {
        self.open.0.events().len()
    }

    /// Hears every later event. A listener that lags by more than 1,000 misses some and is told so.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.live.subscribe()
    }

    /// Up to `limit` events with numbers above `after`, oldest first.
    ///
    /// # Errors
    /// `Backend` when the store cannot be read.
    pub async fn since(&self, after: u64, limit: u32) -> Result<Vec<Event>> {
        // These first: what is written meanwhile is then in the store.
        let unwritten: Vec<_> = self.open.0.events().iter().cloned().collect();
        let mut events = self.store.events_since(after, limit).await?;
        let last = events.last().map_or(after, |event| event.id);
        let left = (limit as usize).saturating_sub(events.len());
        let later = unwritten.iter().filter(|event| event.id > last).take(left);
        events.extend(later.map(|event| (**event).clone()));
        Ok(events)
    }

    /// The newest `limit` events about any of `subjects`, oldest first.
    ///
    /// # Errors
    /// `Backend` when the store cannot be read.
    pub async fn about(&self, subjects: &[Subject], limit: u32) -> Result<Vec<Event>> {
        // These first: what is written meanwhile is then in the store.
        let unwritten: Vec<_> = self.open.0.events().iter().cloned().collect();
        let texts = subjects.iter().map(Subject::to_string).collect();
        let mut events = self.store.events_about(texts, limit).await?;
        let last = events.last().map_or(0, |event| event.id);
        let later = unwritten.iter().filter(|event| event.id > last);
        let later = later.filter(|event| subjects.contains(&event.subject));
        events.extend(later.map(|event| (**event).clone()));
        let beyond = events.len().saturating_sub(limit as usize);
        events.drain(..beyond);
        Ok(events)
    }

    /// The newest `limit` events, oldest first.
    ///
    /// # Errors
    /// `Backend` when the store cannot be read.
    pub async fn latest(&self, limit: u32) -> Result<Vec<Event>> {
        let last = self.next.load(Ordering::Relaxed) - 1;
        self.since(last.saturating_sub(limit.into()), limit).await
    }
}
