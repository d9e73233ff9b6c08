//! Gauges: the pool as it was last published, read when someone asks. Never waits for the pool's loop.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use prometheus::{
    GaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use runner_core::{
    Clock, EventLog, Pace, Resources, Status, Store, forge::QueuedJob, plan::Sight,
    status::ProfileStatus,
};
use tokio::sync::{Semaphore, watch};

use super::{Sources, catalogue, catalogue::Metric};
use crate::peers::Peers;

/// What is read at every collection.
const READ: &[Metric] = &[
    catalogue::WORKERS,
    catalogue::MIN_IDLE,
    catalogue::MAX,
    catalogue::PROFILE_QUEUED,
    catalogue::PROFILE_QUEUE_AGE,
    catalogue::QUEUED,
    catalogue::QUEUE_AGE,
    catalogue::HELD,
    catalogue::FAILING,
    catalogue::RESERVATIONS,
    catalogue::DRAINING,
    catalogue::IN_FLIGHT,
    catalogue::ACTIONS_MAX,
    catalogue::STATUS_AGE,
    catalogue::SEEN,
    catalogue::CAPACITY_VCPUS,
    catalogue::CAPACITY_MEMORY,
    catalogue::CAPACITY_DISK,
    catalogue::USED_VCPUS,
    catalogue::USED_MEMORY,
    catalogue::USED_DISK,
    catalogue::DATA_FREE,
    catalogue::DATA_SIZE,
    catalogue::IMAGES,
    catalogue::IMAGE_BYTES,
    catalogue::IMAGE_BUILT,
    catalogue::STREAMS,
    catalogue::STREAMS_MAX,
    catalogue::STORE_ERRORS,
    catalogue::EVENTS_UNWRITTEN,
    catalogue::PEER_WELL,
    catalogue::PEER_IDLE,
];

/// Reads the pool.
#[derive(Clone)]
pub struct PoolGauges(Arc<Parts>);

struct Parts {
    descs: Vec<Desc>,
    status: watch::Receiver<Arc<Status>>,
    pace: Pace,
    events: EventLog,
    store: Store,
    data: PathBuf,
    streams: (Arc<Semaphore>, usize),
    peers: Option<Peers>,
    clock: Clock,
}

impl PoolGauges {
    pub fn new(sources: &Sources) -> Self {
        let descs = READ.iter().flat_map(|metric| {
            let gauge = metric.gauge();
            gauge.desc().into_iter().cloned().collect::<Vec<_>>()
        });
        Self(Arc::new(Parts {
            descs: descs.collect(),
            status: sources.status.clone(),
            pace: sources.pace,
            events: sources.events.clone(),
            store: sources.store.clone(),
            data: sources.data.clone(),
            streams: sources.streams.clone(),
            peers: sources.peers.clone(),
            clock: sources.clock,
        }))
    }
}

impl Collector for PoolGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (status, now) = (self.0.status.borrow().clone(), self.0.clock.now());
        let mut sheet = Sheet::default();
        sheet.profiles(&status);
        sheet.queues(&status, now);
        sheet.pool(&status, now);
        sheet.sources(&status);
        sheet.room(&status);
        sheet.images(&status);
        self.0.peers.iter().for_each(|peers| sheet.peers(peers));
        self.0.process(&mut sheet);
        sheet.families
    }
}

impl Parts {
    fn process(&self, sheet: &mut Sheet) {
        sheet.one(catalogue::ACTIONS_MAX, self.pace.max_actions as f64);
        let (free, most) = &self.streams;
        sheet.one(catalogue::STREAMS, most.saturating_sub(free.available_permits()) as f64);
        sheet.one(catalogue::STREAMS_MAX, *most as f64);
        sheet.one(catalogue::EVENTS_UNWRITTEN, self.events.unwritten() as f64);
        let errors = catalogue::STORE_ERRORS.counter();
        errors.with_label_values::<&str>(&[]).inc_by(self.store.failures());
        sheet.families.extend(errors.collect());
        // Where it cannot be asked, nothing is told.
        if let Ok(disk) = rustix::fs::statvfs(&self.data) {
            let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize) as f64;
            sheet.one(catalogue::DATA_FREE, bytes(disk.f_bavail));
            sheet.one(catalogue::DATA_SIZE, bytes(disk.f_blocks));
        }
    }
}

/// What is told at one moment.
#[derive(Default)]
struct Sheet {
    families: Vec<MetricFamily>,
}

impl Sheet {
    fn fill(&mut self, metric: Metric, fill: impl FnOnce(&GaugeVec)) {
        let gauge = metric.gauge();
        fill(&gauge);
        self.families.extend(gauge.collect().into_iter().filter(|f| !f.get_metric().is_empty()));
    }

    fn one(&mut self, metric: Metric, value: f64) {
        self.fill(metric, |gauge| gauge.with_label_values::<&str>(&[]).set(value));
    }

    fn each<K: AsRef<str>>(&mut self, metric: Metric, values: impl IntoIterator<Item = (K, f64)>) {
        self.fill(metric, |gauge| {
            for (label, value) in values {
                gauge.with_label_values(&[label.as_ref()]).add(value);
            }
        });
    }

    fn profiles(&mut self, status: &Status) {
        self.fill(catalogue::WORKERS, |gauge| {
            for (name, profile) in &status.profiles {
                for (phase, count) in phases(profile) {
                    gauge.with_label_values(&[name.as_str(), phase]).set(count.into());
                }
            }
        });
        let profiles = status.profiles.iter();
        let of = |number: fn(&ProfileStatus) -> u32| {
            profiles.clone().map(move |(name, profile)| (name.as_str(), number(profile).into()))
        };
        self.each(catalogue::MIN_IDLE, of(|profile| profile.min_idle));
        self.each(catalogue::MAX, of(|profile| profile.max));
        self.each(catalogue::PROFILE_QUEUED, of(|profile| profile.queued));
    }

    fn queues(&mut self, status: &Status, now: Timestamp) {
        let queued = status.queued.iter();
        let lengths = queued.clone().map(|(name, jobs)| (name.as_str(), jobs.len() as f64));
        self.each(catalogue::QUEUED, lengths);
        let ages = queued.map(|(name, jobs)| (name.as_str(), oldest(jobs.iter(), now)));
        self.each(catalogue::QUEUE_AGE, ages);
        let served = status.offered.iter().map(|profile| {
            let jobs = status.queued.get(&profile.forge).into_iter().flatten();
            (profile.name.as_str(), oldest(jobs.filter(|job| profile.serves(job)), now))
        });
        self.each(catalogue::PROFILE_QUEUE_AGE, served);
    }

    fn pool(&mut self, status: &Status, now: Timestamp) {
        self.fill(catalogue::HELD, |gauge| {
            for held in &status.held {
                let labels = [held.subject.kind(), held.why_not.kind()];
                gauge.with_label_values(&labels).inc();
            }
        });
        let failing = status.backoff.iter().filter(|(_, backoff)| backoff.not_before > now);
        self.each(catalogue::FAILING, failing.map(|(subject, _)| (subject.kind(), 1.0)));
        self.one(catalogue::RESERVATIONS, status.reservations.len() as f64);
        self.one(catalogue::DRAINING, f64::from(u8::from(status.draining)));
        self.one(catalogue::IN_FLIGHT, status.in_flight.into());
        if let Some(at) = status.at {
            self.one(catalogue::STATUS_AGE, seconds(at, now));
        }
    }

    fn sources(&mut self, status: &Status) {
        let seen = sources(status)
            .map(|(source, sight)| (source, f64::from(u8::from(*sight == Sight::Seen))));
        self.each(catalogue::SEEN, seen);
    }

    fn peers(&mut self, peers: &Peers) {
        let figures = peers.figures();
        let well = figures.iter().map(|(name, well, _)| (name, f64::from(u8::from(*well))));
        self.each(catalogue::PEER_WELL, well);
        self.fill(catalogue::PEER_IDLE, |gauge| {
            for (name, _, idle) in &figures {
                for (profile, count) in idle {
                    let labels = [name.as_str(), profile.as_str()];
                    gauge.with_label_values(&labels).set((*count).into());
                }
            }
        });
    }

    fn room(&mut self, status: &Status) {
        let bytes = |mib: u64| mib as f64 * 1024.0 * 1024.0;
        let memory = |room: &Resources| bytes(room.memory_mib + room.huge_memory_mib);
        if let Some(capacity) = &status.capacity {
            self.one(catalogue::CAPACITY_VCPUS, capacity.vcpus.into());
            self.one(catalogue::CAPACITY_MEMORY, memory(capacity));
            self.one(catalogue::CAPACITY_DISK, bytes(capacity.disk_mib));
        }
        self.one(catalogue::USED_VCPUS, status.used.vcpus.into());
        self.one(catalogue::USED_MEMORY, memory(&status.used));
        self.one(catalogue::USED_DISK, bytes(status.used.disk_mib));
    }

    fn images(&mut self, status: &Status) {
        let images = || status.images.iter().map(|image| (image.recipe.profile.as_str(), image));
        self.each(catalogue::IMAGES, images().map(|(profile, _)| (profile, 1.0)));
        let sizes = images().map(|(profile, image)| (profile, image.size_bytes as f64));
        self.each(catalogue::IMAGE_BYTES, sizes);
        let mut newest: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for (profile, image) in images() {
            let built = newest.entry(profile).or_insert(image.built_at);
            *built = image.built_at.max(*built);
        }
        let built = newest.into_iter().map(|(profile, at)| (profile, at.as_second() as f64));
        self.each(catalogue::IMAGE_BUILT, built);
    }
}

/// Every list that the pool depends on, by the name that events give it.
pub fn sources(status: &Status) -> impl Iterator<Item = (String, &Sight)> {
    let own = [("hypervisor", &status.hypervisor), ("image builder", &status.builder)];
    let own = own.into_iter().map(|(name, sight)| (name.to_owned(), sight));
    own.chain(status.forges.iter().map(|(name, sight)| (format!("forge {name}"), sight)))
}

fn phases(profile: &ProfileStatus) -> [(&'static str, u32); 6] {
    [
        ("starting", profile.starting),
        ("idle", profile.idle),
        ("reserved", profile.reserved),
        ("busy", profile.busy),
        ("unseen", profile.unseen),
        ("over", profile.over),
    ]
}

fn oldest<'a>(jobs: impl Iterator<Item = &'a QueuedJob>, now: Timestamp) -> f64 {
    jobs.map(|job| job.queued_at).min().map_or(0.0, |since| seconds(since, now))
}

/// From one moment to another; zero where clocks disagree.
pub fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0)
}
