//! The pool as a stream of changes: whole at first, then what changed. Worked out and written once for all
//! who follow, four times a second at most, and not at all while nobody does.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream, stream::BoxStream};
use poem::web::sse::Event;
use poem_openapi::{
    Object, OpenApi,
    payload::EventStream,
    registry::{MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};
use runner_core::Status;
use tokio::sync::{
    broadcast::{self, Receiver, error::RecvError},
    watch,
};
use tokio_util::sync::CancellationToken;

use super::{
    KEEP_ALIVE, Shared,
    pool::model::{PoolStatus, WorkerInfo},
    problem::Problem,
};
use crate::remote::Remotes;

/// The least time between two changes.
const PAUSE: Duration = Duration::from_millis(250);
/// How many changes a listener may lag before it gets the whole again.
const LAG: usize = 8;

/// The published status, on its way to those who follow. Clones share it.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    status: watch::Receiver<Arc<Status>>,
    forges: Remotes,
    told: Mutex<Told>,
    changes: broadcast::Sender<News>,
}

/// What was told last.
#[derive(Default)]
struct Told {
    status: Option<Arc<Status>>,
    workers: BTreeMap<String, String>,
    number: u64,
    /// What who comes now is told first.
    whole: Option<News>,
}

impl Feed {
    /// Tells of what is published until `stop`.
    pub fn start(
        status: watch::Receiver<Arc<Status>>,
        forges: Remotes,
        stop: CancellationToken,
    ) -> Self {
        let (changes, _) = broadcast::channel(LAG);
        let mut published = status.clone();
        let feed = Self(Arc::new(Inner { status, forges, told: Mutex::default(), changes }));
        let inner = feed.0.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            while published.changed().await.is_ok() {
                if inner.changes.receiver_count() > 0 {
                    inner.refresh();
                }
                tokio::time::sleep(PAUSE).await;
            }
        }));
        feed
    }

    fn follow(&self) -> impl futures::Stream<Item = News> + Send + 'static {
        stream::unfold((self.0.clone(), None::<Receiver<News>>), |(inner, changes)| async move {
            let Some(mut changes) = changes else {
                let (whole, changes) = inner.join();
                return Some((whole, (inner, Some(changes))));
            };
            match changes.recv().await {
                Ok(news) => Some((news, (inner, Some(changes)))),
                Err(RecvError::Lagged(_)) => {
                    let (whole, changes) = inner.join();
                    Some((whole, (inner, Some(changes))))
                }
                Err(RecvError::Closed) => None,
            }
        })
    }
}

impl Inner {
    fn told(&self) -> MutexGuard<'_, Told> {
        // What is told is replaced as a whole, so a panic leaves what was told before.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool as it is now, and what changes after that.
    fn join(&self) -> (News, Receiver<News>) {
        let mut told = self.told();
        told.refresh(&self.status.borrow().clone(), &self.forges, &self.changes);
        let changes = self.changes.subscribe();
        (told.whole(), changes)
    }

    fn refresh(&self) {
        let status = self.status.borrow().clone();
        self.told().refresh(&status, &self.forges, &self.changes);
    }
}

impl Told {
    fn refresh(
        &mut self,
        status: &Arc<Status>,
        forges: &Remotes,
        changes: &broadcast::Sender<News>,
    ) {
        if self.status.as_ref().is_some_and(|told| Arc::ptr_eq(told, status)) {
            return;
        }
        let entry = |worker| {
            let info = WorkerInfo::of(worker, forges);
            (info.name.clone(), info.to_json_string())
        };
        let workers: BTreeMap<_, _> = status.workers.iter().map(entry).collect();
        let changed: Vec<&str> = workers
            .iter()
            .filter(|(name, worker)| self.workers.get(*name) != Some(worker))
            .map(|(_, worker)| worker.as_str())
            .collect();
        let gone: BTreeSet<&String> =
            self.workers.keys().filter(|name| !workers.contains_key(*name)).collect();
        self.number += 1;
        let news = News::new(false, self.number, status, &changed, &gone);
        self.workers = workers;
        self.status = Some(status.clone());
        self.whole = None;
        // Nobody may listen yet.
        let _ = changes.send(news);
    }

    fn whole(&mut self) -> News {
        let status = self.status.clone().unwrap_or_default();
        let whole = self.whole.get_or_insert_with(|| {
            let all: Vec<&str> = self.workers.values().map(String::as_str).collect();
            News::new(true, self.number, &status, &all, &BTreeSet::new())
        });
        whole.clone()
    }
}

/// Everything, or what changed since the event before.
#[derive(Object)]
struct PoolNews {
    /// Whether this is everything: workers that are not in it are not there.
    whole: bool,
    /// The pool without its workers.
    status: PoolStatus,
    /// The workers that are new or changed.
    workers: Vec<WorkerInfo>,
    /// The names of those that are gone.
    gone: Vec<String>,
}

/// A [`PoolNews`], written already.
#[derive(Clone)]
struct News {
    number: u64,
    text: Arc<str>,
}

impl News {
    fn new(
        whole: bool,
        number: u64,
        status: &Status,
        workers: &[&str],
        gone: &BTreeSet<&String>,
    ) -> Self {
        let status = PoolStatus::from(status).to_json_string();
        let gone = serde_json::to_string(gone).unwrap_or_default();
        let workers = workers.join(",");
        let text =
            format!(r#"{{"whole":{whole},"status":{status},"workers":[{workers}],"gone":{gone}}}"#);
        Self { number, text: text.into() }
    }
}

impl Type for News {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;

    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        PoolNews::name()
    }

    fn schema_ref() -> MetaSchemaRef {
        PoolNews::schema_ref()
    }

    fn register(registry: &mut Registry) {
        PoolNews::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        Some(self)
    }

    fn raw_element_iter<'a>(
        &'a self,
    ) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl ToJSON for News {
    fn to_json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.text).ok()
    }

    fn to_json_string(&self) -> String {
        self.text.to_string()
    }
}

pub struct FeedApi(pub Shared);

#[OpenApi]
impl FeedApi {
    /// Follow the pool
    ///
    /// The first event is the whole pool; each later one has its numbers and the workers that changed, four
    /// times a second at most. Who falls far behind gets the whole again.
    #[oai(path = "/status/follow", method = "get", operation_id = "follow_status")]
    async fn follow(&self) -> Result<EventStream<BoxStream<'static, News>>, Problem> {
        let news = self.0.limited(self.0.0.feed.follow())?.boxed();
        Ok(EventStream::new(news)
            .keep_alive(KEEP_ALIVE)
            .to_event(|news| Event::message(news.text.as_ref()).id(news.number.to_string())))
    }
}
