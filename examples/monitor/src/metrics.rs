//! What is counted and measured, for Prometheus and OTLP alike.
//!
//! One registry serves both: a scrape and an export gather the same families. Gauges are read from the
//! published status when they are asked for; what happens is counted from the event log in a task; calls
//! are counted where they are made.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use prometheus::{
    Encoder, IntCounterVec, Registry, TextEncoder, process_collector::ProcessCollector,
    proto::MetricFamily,
};
use runner_core::{Clock, EventLog, Pace, Profile, Status, Store, local::LocalQueue};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

mod calls;
mod catalogue;
mod forges;
pub mod otlp;
mod pool;
mod requests;
mod story;

use crate::{peers::Peers, remote::Remotes};
use calls::Calls;
pub use calls::Counted;
pub use catalogue::page;
use forges::ForgeFigures;
use pool::PoolGauges;
pub use requests::{Meter, RouteSlot};
use story::Story;

/// All that is counted. Clones share it.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    hypervisor: Arc<Calls>,
    forges: Arc<Calls>,
    meter: Meter,
    story: Arc<Story>,
    exports: IntCounterVec,
    sources: OnceLock<Sources>,
}

/// Where gauges are read from.
pub struct Sources {
    /// The pool as it was last seen.
    pub status: watch::Receiver<Arc<Status>>,
    /// The kinds of runner on offer.
    pub profiles: Vec<Profile>,
    /// How the pool goes about its work.
    pub pace: Pace,
    /// What happened.
    pub events: EventLog,
    /// Takes the jobs.
    pub queue: LocalQueue,
    /// Keeps what must outlive the process.
    pub store: Store,
    /// The data directory.
    pub data: PathBuf,
    /// Held by whoever follows a stream, and how many may.
    pub streams: (Arc<Semaphore>, usize),
    /// The forges elsewhere.
    pub forges: Remotes,
    /// The monitors that are asked for workers, too.
    pub peers: Option<Peers>,
    /// Tells the time.
    pub clock: Clock,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        let registry = Registry::new();
        let hypervisor = Calls::new(catalogue::HYPERVISOR_CALLS, catalogue::HYPERVISOR_TIME);
        let forges = Calls::new(catalogue::FORGE_CALLS, catalogue::FORGE_TIME);
        let (meter, story) = (Meter::new(), Arc::new(Story::new()));
        let exports = catalogue::OTLP.counter();
        let build = catalogue::BUILD_INFO.gauge();
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        hypervisor.register(&registry);
        forges.register(&registry);
        meter.register(&registry);
        story.register(&registry);
        register(&registry, &exports);
        register(&registry, &build);
        register(&registry, &ProcessBox::new());
        let sources = OnceLock::new();
        let (hypervisor, forges) = (Arc::new(hypervisor), Arc::new(forges));
        Self(Arc::new(Inner { registry, hypervisor, forges, meter, story, exports, sources }))
    }

    /// `inner`, with every call counted.
    pub fn hypervisor(
        &self,
        inner: Arc<dyn runner_core::Hypervisor>,
    ) -> Arc<dyn runner_core::Hypervisor> {
        Arc::new(Counted::hypervisor(inner, self.0.hypervisor.clone()))
    }

    /// The forge of that name, with every call counted.
    pub fn forge(
        &self,
        name: &runner_core::ForgeName,
        inner: Arc<dyn runner_core::Forge>,
    ) -> Arc<dyn runner_core::Forge> {
        Arc::new(Counted::forge(name, inner, self.0.forges.clone()))
    }

    /// Measures requests.
    pub fn meter(&self) -> &Meter {
        &self.0.meter
    }

    /// Reads gauges from `sources` from now on, and counts what happens until the handle is dropped.
    pub fn begin(&self, sources: Sources) -> AbortOnDropHandle<()> {
        let live = sources.events.listen();
        self.0.story.begin(&sources.profiles);
        let queue = sources.queue.clone();
        let gauges = PoolGauges::new(&sources);
        register(&self.0.registry, &gauges);
        register(&self.0.registry, &ForgeFigures::new(sources.forges.clone()));
        // A second service in one process has metrics of its own.
        let _ = self.0.sources.set(sources);
        let story = self.0.story.clone();
        AbortOnDropHandle::new(tokio::spawn(story.follow(live, queue)))
    }

    /// Every family that has a value, sorted by name.
    pub fn gather(&self) -> Vec<MetricFamily> {
        if let Some(sources) = self.0.sources.get() {
            let status = sources.status.borrow().clone();
            self.0.story.settle_blindness(&status, sources.clock.now());
        }
        self.0.registry.gather()
    }

    /// The same in the text form that Prometheus reads.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Fails for a family without a name or a value, and there is none.
        let _ = TextEncoder::new().encode(&self.gather(), &mut text);
        text
    }

    /// Counts what became of an export.
    fn exported(&self, result: &str) {
        self.0.exports.with_label_values(&[result]).inc();
    }
}

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

fn register<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, collector: &C) {
    registry.register(Box::new(collector.clone())).expect("a test registers every metric");
}

/// [`ProcessCollector`], which has no `Clone`.
#[derive(Clone)]
struct ProcessBox(Arc<ProcessCollector>);

impl ProcessBox {
    fn new() -> Self {
        Self(Arc::new(ProcessCollector::for_self()))
    }
}

impl prometheus::core::Collector for ProcessBox {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let (page, written) = (page(), fs::read_to_string(&file).unwrap_or_default());
        if page != written {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, page).unwrap();
            panic!(
                "docs/metrics.md was out of date and has been written; look at it and commit it"
            );
        }
    }

    #[test]
    fn names_are_unique_and_say_their_kind() {
        let names: BTreeSet<_> = catalogue::ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), catalogue::ALL.len());
        for metric in catalogue::ALL {
            let counts = metric.kind == catalogue::Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counts, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
