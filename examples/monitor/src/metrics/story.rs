//! What happened, counted from the event log as it comes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use prometheus::{CounterVec, HistogramVec, IntCounterVec, Registry};
use runner_core::{
    Event, JobId, Profile, ProfileName, Status, WorkerName,
    event::What,
    local::{Job, LocalQueue},
    plan::{Sight, Subject, Why},
    worker::{Ending, Phase},
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    catalogue,
    pool::{seconds, sources},
    register,
};
use crate::config::LOCAL_FORGE;

/// How many workers are remembered at most. There are fewer, unless events about their ends were lost.
const LIVES: usize = 10_000;

/// Counts what happened.
pub struct Story {
    decisions: IntCounterVec,
    actions: IntCounterVec,
    action_time: HistogramVec,
    builds: IntCounterVec,
    build_time: HistogramVec,
    retired: IntCounterVec,
    start_failures: IntCounterVec,
    worker_start: HistogramVec,
    worker_boot: HistogramVec,
    queued: IntCounterVec,
    jobs: IntCounterVec,
    job_start: HistogramVec,
    job_run: HistogramVec,
    blind: CounterVec,
    lost: IntCounterVec,
    memory: Mutex<Memory>,
}

/// What must be remembered from one event to another.
#[derive(Default)]
struct Memory {
    lives: BTreeMap<WorkerName, Life>,
    /// Which lists cannot be read, and until when that was counted.
    blind: BTreeMap<String, Timestamp>,
}

/// What is known of one worker's life.
#[derive(Default, Clone, Copy)]
struct Life {
    decided_at: Option<Timestamp>,
    made_at: Option<Timestamp>,
    ready_at: Option<Timestamp>,
    retiring: bool,
}

impl Story {
    pub fn new() -> Self {
        Self {
            decisions: catalogue::DECISIONS.counter(),
            actions: catalogue::ACTIONS.counter(),
            action_time: catalogue::ACTION_TIME.histogram(),
            builds: catalogue::BUILDS.counter(),
            build_time: catalogue::BUILD_TIME.histogram(),
            retired: catalogue::RETIRED.counter(),
            start_failures: catalogue::START_FAILURES.counter(),
            worker_start: catalogue::WORKER_START.histogram(),
            worker_boot: catalogue::WORKER_BOOT.histogram(),
            queued: catalogue::JOBS_QUEUED.counter(),
            jobs: catalogue::JOBS.counter(),
            job_start: catalogue::JOB_START.histogram(),
            job_run: catalogue::JOB_RUN.histogram(),
            blind: catalogue::BLIND.seconds(),
            lost: catalogue::EVENTS_LOST.counter(),
            memory: Mutex::default(),
        }
    }

    pub fn register(&self, registry: &Registry) {
        let counters = [
            &self.decisions,
            &self.actions,
            &self.builds,
            &self.retired,
            &self.start_failures,
            &self.queued,
            &self.jobs,
            &self.lost,
        ];
        counters.into_iter().for_each(|counter| register(registry, counter));
        let histograms = [
            &self.action_time,
            &self.build_time,
            &self.worker_start,
            &self.worker_boot,
            &self.job_start,
            &self.job_run,
        ];
        histograms.into_iter().for_each(|histogram| register(registry, histogram));
        register(registry, &self.blind);
    }

    /// Begins what alerts ask about at zero: the increase of a counter that is there from its first one on
    /// cannot be seen.
    pub fn begin(&self, profiles: &[Profile]) {
        self.lost.with_label_values::<&str>(&[]);
        self.queued.with_label_values(&[LOCAL_FORGE]);
        for profile in profiles.iter().map(|profile| profile.name.as_str()) {
            for result in ["ok", "failed"] {
                self.builds.with_label_values(&[profile, result]);
            }
            for outcome in ["succeeded", "failed", "cancelled", "timed_out", "interrupted"] {
                self.jobs.with_label_values(&[profile, outcome]);
            }
            for why in ["provision_failed", "start_timed_out", "crashed", "guest_panic", "vanished"]
            {
                self.start_failures.with_label_values(&[profile, why]);
            }
            for why in [Ending::Orphan.kind(), Ending::Ghost.kind(), Why::SilentOrphan.kind()] {
                self.retired.with_label_values(&[profile, why]);
            }
        }
        for action in ["provision", "retire", "build"] {
            self.actions.with_label_values(&[action, "failed"]);
        }
    }

    /// Counts events until there are none any more.
    pub async fn follow(self: Arc<Self>, mut live: Receiver<Arc<Event>>, queue: LocalQueue) {
        loop {
            match live.recv().await {
                Ok(event) => self.tell(&event, &queue).await,
                Err(RecvError::Lagged(lost)) => {
                    self.lost.with_label_values::<&str>(&[]).inc_by(lost);
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn tell(&self, event: &Event, queue: &LocalQueue) {
        match (&event.subject, &event.what) {
            (subject, What::Decided { action, why }) => {
                self.decided(subject, action, why, event.at);
            }
            (subject, What::Done { action, took }) => {
                self.done(subject, action, took.as_secs_f64(), event.at);
            }
            (subject, What::Failed { action, .. }) => self.failed(subject, action),
            (Subject::Worker(name), What::Phase { phase }) => self.phase(name, phase, event.at),
            (subject, What::Blind { .. }) => {
                self.memory().blind.entry(subject.to_string()).or_insert(event.at);
            }
            (subject, What::Sighted) => self.sighted(&subject.to_string(), event.at),
            (Subject::Job(id), What::Job { state, .. }) => self.job(id, state, queue).await,
            _ => (),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decided(&self, subject: &Subject, action: &str, why: &Why, at: Timestamp) {
        self.decisions.with_label_values(&[&word(action), why.kind()]).inc();
        let Subject::Worker(name) = subject else { return };
        let mut memory = self.memory();
        if memory.lives.len() >= LIVES {
            memory.lives.clear();
        }
        if action == "provision" {
            memory.lives.insert(name.clone(), Life { decided_at: Some(at), ..Life::default() });
        }
        if action == "retire" {
            let life = memory.lives.entry(name.clone()).or_default();
            if !std::mem::replace(&mut life.retiring, true) {
                let labels = [profile_of(name), why.kind().to_owned()];
                self.retired.with_label_values(&labels).inc();
                let of_use = life.ready_at.is_some() || life.decided_at.is_none();
                if !of_use && is_failure(why) {
                    self.start_failures.with_label_values(&labels).inc();
                }
            }
        }
    }

    fn done(&self, subject: &Subject, action: &str, took: f64, at: Timestamp) {
        let action = word(action);
        self.actions.with_label_values(&[&action, "ok"]).inc();
        self.action_time.with_label_values(&[&action]).observe(took);
        match (subject, action.as_str()) {
            (Subject::Build(profile), _) => {
                self.builds.with_label_values(&[profile.as_str(), "ok"]).inc();
                self.build_time.with_label_values(&[profile.as_str()]).observe(took);
            }
            (Subject::Worker(name), "retire") => drop(self.memory().lives.remove(name)),
            (Subject::Worker(name), "provision") => {
                if let Some(life) = self.memory().lives.get_mut(name) {
                    life.made_at = Some(at);
                }
            }
            _ => (),
        }
    }

    fn failed(&self, subject: &Subject, action: &str) {
        let action = word(action);
        self.actions.with_label_values(&[&action, "failed"]).inc();
        match (subject, action.as_str()) {
            (Subject::Build(profile), _) => {
                self.builds.with_label_values(&[profile.as_str(), "failed"]).inc();
            }
            (Subject::Worker(name), "provision") => {
                let labels = [profile_of(name), "provision_failed".to_owned()];
                self.start_failures.with_label_values(&labels).inc();
                // Its retirement is no second failure.
                if let Some(life) = self.memory().lives.get_mut(name) {
                    life.decided_at = None;
                }
            }
            _ => (),
        }
    }

    fn phase(&self, name: &WorkerName, phase: &Phase, at: Timestamp) {
        if !matches!(phase, Phase::Idle | Phase::Reserved | Phase::Busy) {
            return;
        }
        let life = {
            let mut memory = self.memory();
            let life = memory.lives.entry(name.clone()).or_default();
            if life.ready_at.replace(life.ready_at.unwrap_or(at)).is_some() {
                return;
            }
            *life
        };
        let profile = profile_of(name);
        if let Some(decided_at) = life.decided_at {
            let took = seconds(decided_at, at);
            self.worker_start.with_label_values(&[&profile]).observe(took);
        }
        if let Some(made_at) = life.made_at {
            self.worker_boot.with_label_values(&[&profile]).observe(seconds(made_at, at));
        }
    }

    async fn job(&self, id: &JobId, state: &str, queue: &LocalQueue) {
        if state == "queued" {
            self.queued.with_label_values(&[LOCAL_FORGE]).inc();
        }
        if matches!(state, "queued" | "running") {
            return;
        }
        let Ok(job) = queue.job(id).await else {
            // It is over for so long that it is forgotten, or the store fails.
            return self.lost.with_label_values::<&str>(&[]).inc();
        };
        let profile = job.worker.as_ref().map(profile_of);
        let named = || job.spec.profile.as_ref().map(ToString::to_string);
        let profile = profile.or_else(named).unwrap_or_default();
        self.jobs.with_label_values(&[&profile, &word(state)]).inc();
        let ready = job.worker.as_ref().and_then(|name| self.memory().lives.get(name)?.ready_at);
        self.durations(&job, &profile, ready);
    }

    fn durations(&self, job: &Job, profile: &str, ready: Option<Timestamp>) {
        let Some(started_at) = job.started_at else { return };
        let hot = ready.is_some_and(|ready| ready <= job.queued_at);
        let labels = [profile, if hot { "hot" } else { "cold" }];
        let start = seconds(job.queued_at, started_at);
        self.job_start.with_label_values(&labels).observe(start);
        if let Some(ended_at) = job.ended_at {
            self.job_run.with_label_values(&labels).observe(seconds(started_at, ended_at));
        }
    }

    fn sighted(&self, source: &str, now: Timestamp) {
        if let Some(since) = self.memory().blind.remove(source) {
            self.blind.with_label_values(&[source]).inc_by(seconds(since, now));
        }
    }

    /// Brings the seconds of what is blind up to now; what the status says goes before lost events.
    pub fn settle_blindness(&self, status: &Status, now: Timestamp) {
        for (source, sight) in sources(status) {
            let counter = self.blind.with_label_values(&[&source]);
            let mut memory = self.memory();
            match sight {
                Sight::Seen => {
                    if let Some(since) = memory.blind.remove(&source) {
                        counter.inc_by(seconds(since, now));
                    }
                }
                Sight::Blind(_) => {
                    let since = memory.blind.entry(source).or_insert(now);
                    counter.inc_by(seconds(*since, now));
                    *since = now;
                }
                Sight::Unasked => (),
            }
        }
    }
}

/// Whether a worker that was retired for this was of no use.
fn is_failure(why: &Why) -> bool {
    matches!(why, Why::Over(Ending::Stopped(_) | Ending::Vanished | Ending::StartTimedOut(_)))
}

/// The profile in a worker's name. Names that others gave share one word.
fn profile_of(name: &WorkerName) -> String {
    name.parts()
        .map_or_else(|| "unknown".to_owned(), |(profile, _): (ProfileName, _)| profile.to_string())
}

/// An action or outcome as a label has it.
fn word(text: &str) -> String {
    text.replace(' ', "_")
}
