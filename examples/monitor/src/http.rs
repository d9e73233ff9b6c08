//! The HTTP side: what it shares, and which path leads where.
//!
//! No route waits for the pool's loop: reads take what was last published, and a job is queued from memory.

use std::sync::Arc;

use futures::{Stream, StreamExt};
use poem::{Endpoint, EndpointExt, Route, get};
use runner_core::{EventLog, Hypervisor, Pool, Status, WorkerName, local::LocalQueue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::ServoConfig,
    metrics::{Meter, Metrics},
    peers::Peers,
    reload::ConfigState,
    remote::Remotes,
    seal::Seal,
    shells::Shells,
    tokens::TokenName,
};

mod contract;
mod dashboard;
mod docs;
mod door;
mod events;
mod explain;
mod feed;
mod files;
mod forges;
pub mod guest;
mod health;
mod history;
mod jobs;
mod labels;
mod log;
mod metrics;
pub mod openapi;
mod overrides;
mod pool;
mod problem;
mod queue;
mod reservations;
mod server;
mod servo;
pub mod shell;
mod strict;
mod text;
pub mod tls;
mod webhooks;
mod workers;

pub use door::{Admin, Door, Operate};
use feed::Feed;
use history::History;
use problem::Problem;
pub use server::Server;

/// Where the API is.
pub const API: &str = "/api/v2";

/// How often a stream that is silent says that it is alive.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(15);

/// What the routes work on. Clones share it.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    queue: LocalQueue,
    events: EventLog,
    status: watch::Receiver<Arc<Status>>,
    config: watch::Receiver<Arc<ConfigState>>,
    pool: Arc<Pool>,
    hypervisor: Arc<dyn Hypervisor>,
    forges: Remotes,
    room: webhooks::Room,
    shells: Shells,
    pictures: workers::Pictures,
    input_limit: u64,
    metrics: Metrics,
    max_streams: usize,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
    servo: Option<(ServoConfig, Seal)>,
    peers: Option<Peers>,
    feed: Feed,
    history: History,
}

/// What [`Shared`] is made of.
pub struct Parts {
    /// Takes the jobs.
    pub queue: LocalQueue,
    /// What happened.
    pub events: EventLog,
    /// The pool as it was last seen.
    pub status: watch::Receiver<Arc<Status>>,
    /// The configuration in use, the kinds of runner on offer included.
    pub config: watch::Receiver<Arc<ConfigState>>,
    /// Does what it is asked to.
    pub pool: Arc<Pool>,
    /// Has the machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The forges elsewhere.
    pub forges: Remotes,
    /// The shells that are open in them.
    pub shells: Shells,
    /// How much a job's input files may take together, in bytes.
    pub input_limit: u64,
    /// What is counted.
    pub metrics: Metrics,
    /// How many streams may be followed at once.
    pub max_streams: usize,
    /// Held by whoever follows a stream.
    pub streams: Arc<Semaphore>,
    /// Ends every stream.
    pub stop: CancellationToken,
    /// The interface of Servo's monitor, and what seals its tokens.
    pub servo: Option<(ServoConfig, Seal)>,
    /// The monitors that are asked for workers, too.
    pub peers: Option<Peers>,
}

impl Shared {
    /// Takes the parts together. Needs a tokio runtime.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            feed: Feed::start(parts.status.clone(), parts.forges.clone(), parts.stop.clone()),
            history: History::start(parts.status.clone(), parts.stop.clone()),
            queue: parts.queue,
            events: parts.events,
            status: parts.status,
            config: parts.config,
            pool: parts.pool,
            hypervisor: parts.hypervisor,
            forges: parts.forges,
            room: webhooks::Room::default(),
            shells: parts.shells,
            pictures: workers::Pictures::default(),
            input_limit: parts.input_limit,
            metrics: parts.metrics,
            max_streams: parts.max_streams,
            streams: parts.streams,
            stop: parts.stop,
            servo: parts.servo,
            peers: parts.peers,
        }))
    }

    fn status(&self) -> Arc<Status> {
        self.0.status.borrow().clone()
    }

    /// The pool as it was last seen, with everything that was answered about reservations and their queue.
    fn promises(&self) -> Arc<Status> {
        self.0.pool.status()
    }

    /// The configuration in use, the kinds of runner on offer included.
    fn config(&self) -> Arc<ConfigState> {
        self.0.config.borrow().clone()
    }

    /// What an operator should know, such as a configuration that was refused.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.config().warnings();
        warnings.extend(self.0.peers.iter().flat_map(Peers::blind));
        warnings
    }

    /// Sees that no job gets a worker that someone was in. Asked before anyone is let in.
    async fn let_in(&self, worker: &WorkerName, by: &TokenName) -> Result<(), Problem> {
        Ok(self.0.pool.retire_afterwards(worker, by.as_str()).await?)
    }

    /// Held as long as a stream is. Fails when there are too many.
    fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = self.0.streams.clone().try_acquire_owned();
        permit.map_err(|_| {
            let most = self.0.max_streams;
            Problem::too_many(format!(
                "{most} streams are followed already; raise max_streams in [http]"
            ))
        })
    }

    /// `stream`, until the service stops. Fails when there are too many.
    fn limited<S: Stream + Send + 'static>(
        &self,
        stream: S,
    ) -> Result<impl Stream<Item = S::Item> + Send + 'static, Problem>
    where
        S::Item: Send,
    {
        let permit = self.stream()?;
        let stream = stream.map(move |item| {
            let _held_as_long_as_the_stream = &permit;
            item
        });
        Ok(stream.take_until(self.0.stop.clone().cancelled_owned()))
    }
}

/// What the document describes.
type Apis = (
    jobs::JobsApi,
    log::LogApi,
    pool::PoolApi,
    events::EventsApi,
    feed::FeedApi,
    history::HistoryApi,
    workers::WorkersApi,
    reservations::ReservationsApi,
    queue::QueueApi,
    overrides::OverridesApi,
    explain::ExplainApi,
    shell::ShellApi,
    files::FilesApi,
    forges::ForgesApi,
    webhooks::WebhooksApi,
);

/// Every path.
pub fn routes(shared: Shared, door: Door) -> impl Endpoint {
    let apis: Apis = (
        jobs::JobsApi(shared.clone()),
        log::LogApi(shared.clone()),
        pool::PoolApi(shared.clone()),
        events::EventsApi(shared.clone()),
        feed::FeedApi(shared.clone()),
        history::HistoryApi(shared.clone()),
        workers::WorkersApi(shared.clone()),
        reservations::ReservationsApi(shared.clone()),
        queue::QueueApi(shared.clone()),
        overrides::OverridesApi(shared.clone()),
        explain::ExplainApi(shared.clone()),
        shell::ShellApi(shared.clone()),
        files::FilesApi(shared.clone()),
        forges::ForgesApi(shared.clone()),
        webhooks::WebhooksApi(shared.clone()),
    );
    let service = openapi::service(apis);
    let meter = shared.0.metrics.meter().clone();
    let route = Route::new();
    let route = match shared.0.servo.clone() {
        Some((config, seal)) => servo::Servo::new(shared.clone(), config, seal).add_to(route),
        None => route,
    };
    route
        .at("/", get(dashboard::page))
        .at(format!("{}:name", dashboard::PARTS), get(dashboard::part))
        .at("/healthz", get(health::healthz))
        .at("/readyz", get(health::readyz))
        .at("/metrics", get(metrics::metrics))
        .at(format!("{API}/openapi.json"), get(openapi::fetch))
        .at(format!("{API}/docs"), get(docs::page))
        .at(format!("{API}/docs/rapidoc.js"), get(docs::script))
        .nest(API, service)
        .data(shared)
        .around(Meter::route)
        .around(move |endpoint, request| {
            let door = door.clone();
            async move { door.pass(endpoint, request).await }
        })
        .around(move |endpoint, request| {
            let meter = meter.clone();
            async move { meter.measure(endpoint, request).await }
        })
}
