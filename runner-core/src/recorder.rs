//! The flight recorder: what was seen of a worker just before its machine was destroyed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    error::{Result, chain},
    guest::Guest,
    hypervisor::{ExitReason, Hypervisor, InstanceState, Png},
    name::{JobId, ProfileName, WorkerName},
    status::Status,
    worker::{Phase, Worker},
};

/// How many flight records the store keeps.
pub const FLIGHTS_KEPT: u64 = 200;
/// How much of the console's end is kept, in bytes.
pub const CONSOLE_KEPT: usize = 16 << 10;
/// How large a screenshot may be to be kept, in bytes.
pub const SCREENSHOT_KEPT: usize = 256 << 10;

/// How long a machine that is to go is looked at.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of how many busy machines a recent picture is kept in memory.
const SAMPLED: usize = 64;

/// What was seen of a worker just before its machine was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightRecord {
    /// The worker.
    pub worker: WorkerName,
    /// Its profile, if anything told.
    pub profile: Option<ProfileName>,
    /// Its last job, where the forge told.
    pub job: Option<JobId>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When this was written.
    pub at: Timestamp,
    /// Why it was retired, in words.
    pub why: String,
    /// Why its machine had stopped, if it had.
    pub exit: Option<ExitReason>,
    /// The end of what it wrote to its console.
    pub console: String,
    /// What its guest said of itself: each file of `/proc` and what it held.
    pub vitals: BTreeMap<String, String>,
    /// When the kept screenshot was taken, if there is one.
    pub screenshot_at: Option<Timestamp>,
    /// What could not be had, and why.
    pub missing: Vec<String>,
}

/// What a guest is asked for at its end.
const VITALS: [&str; 3] = ["/proc/uptime", "/proc/loadavg", "/proc/meminfo"];

/// What is known of a worker when its retirement begins.
pub(crate) struct Case {
    pub record: FlightRecord,
    /// Whether its machine runs.
    runs: bool,
}

impl Case {
    /// None for a worker that has no machine to look at.
    pub fn of(worker: &Worker, job: Option<JobId>, why: String, now: Timestamp) -> Option<Self> {
        let instance = worker.instance.seen()?;
        let exit = match &instance.state {
            InstanceState::Running => None,
            InstanceState::Stopped(reason) => Some(reason.clone()),
        };
        Some(Self {
            runs: exit.is_none(),
            record: FlightRecord {
                worker: worker.name.clone(),
                profile: worker.profile(),
                job: worker.job().cloned().or(job),
                created_at: worker.created_at(),
                at: now,
                why,
                exit,
                console: String::new(),
                vitals: BTreeMap::new(),
                screenshot_at: None,
                missing: Vec::new(),
            },
        })
    }
}

/// The last pictures of busy machines: what a machine that crashes cannot show any more.
#[derive(Clone, Default)]
pub(crate) struct Samples(Arc<Mutex<BTreeMap<WorkerName, (Timestamp, Bytes)>>>);

impl Samples {
    fn get(&self, worker: &WorkerName) -> Option<(Timestamp, Bytes)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(worker).cloned()
    }

    /// Takes a picture of each busy machine, one after the other, `every` so often, until nobody publishes.
    pub async fn keep(
        self,
        hypervisor: Arc<dyn Hypervisor>,
        mut status: watch::Receiver<Arc<Status>>,
        every: Duration,
        clock: Clock,
    ) {
        loop {
            let at_end = async { while status.changed().await.is_ok() {} };
            if tokio::time::timeout(every, at_end).await.is_ok() {
                return;
            }
            let now = status.borrow().clone();
            let is_there = |name: &WorkerName| now.workers.iter().any(|w| w.name == *name);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| is_there(name));
            let busy = now.workers.iter().filter(|worker| worker.phase == Phase::Busy);
            for worker in busy.take(SAMPLED) {
                let taken =
                    tokio::time::timeout(PATIENCE, hypervisor.screenshot(&worker.name)).await;
                if let Ok(Ok(Png(bytes))) = taken
                    && bytes.len() <= SCREENSHOT_KEPT
                {
                    let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.insert(worker.name.clone(), (clock.now(), bytes));
                }
            }
        }
    }
}

/// Looks at a machine that is to go. Takes no longer than two seconds, and never fails: what could not be
/// had is named in the record.
pub(crate) async fn record(
    case: Case,
    hypervisor: &dyn Hypervisor,
    samples: &Samples,
    clock: Clock,
) -> (FlightRecord, Option<Vec<u8>>) {
    let Case { mut record, runs } = case;
    let name = record.worker.clone();
    let can = hypervisor.capabilities();
    let console = async {
        if !can.console {
            return Ok(Vec::new());
        }
        patient(console_tail(hypervisor, &name)).await
    };
    let screenshot = async {
        if !(can.screenshot && runs) {
            return Ok(None);
        }
        patient(async {
            let png = hypervisor.screenshot(&name).await.map_err(|error| chain(&error))?;
            Ok(Some((clock.now(), png.0)))
        })
        .await
    };
    let vitals = async {
        if !(can.guest && runs) {
            return Ok(BTreeMap::new());
        }
        patient(async {
            let guest = hypervisor.guest(&name).await.map_err(|error| chain(&error))?;
            vitals(&*guest).await.map_err(|error| chain(&error))
        })
        .await
    };
    let (console, screenshot, vitals) = tokio::join!(console, screenshot, vitals);
    let mut missing = Vec::new();
    let mut or_say = |what: &str, error: String| missing.push(format!("{what}: {error}"));
    match console {
        Ok(tail) => record.console = String::from_utf8_lossy(&tail).into_owned(),
        Err(error) => or_say("console", error),
    }
    match vitals {
        Ok(vitals) => record.vitals = vitals,
        Err(error) => or_say("vitals", error),
    }
    let screenshot = screenshot.unwrap_or_else(|error| {
        or_say("screenshot", error);
        None
    });
    record.missing = missing;
    let screenshot = screenshot.or_else(|| samples.get(&name));
    let screenshot = screenshot.filter(|(_, png)| png.len() <= SCREENSHOT_KEPT);
    record.screenshot_at = screenshot.as_ref().map(|(at, _)| *at);
    (record, screenshot.map(|(_, png)| png.into()))
}

async fn patient<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let in_time = tokio::time::timeout(PATIENCE, work).await;
    in_time.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

async fn console_tail(
    hypervisor: &dyn Hypervisor,
    name: &WorkerName,
) -> std::result::Result<Vec<u8>, String> {
    let mut console = hypervisor.console(name, false).await.map_err(|error| chain(&error))?;
    let mut tail: VecDeque<u8> = VecDeque::new();
    while let Some(part) = console.next().await {
        tail.extend(part.map_err(|error| chain(&error))?);
        let beyond = tail.len().saturating_sub(CONSOLE_KEPT);
        tail.drain(..beyond);
    }
    Ok(tail.into())
}

async fn vitals(guest: &dyn Guest) -> Result<BTreeMap<String, String>> {
    let mut vitals = BTreeMap::new();
    for path in VITALS {
        let bytes = guest.read_file(path, 0, 4096).await?;
        let text = String::from_utf8_lossy(&bytes);
        // The first lines of meminfo are the ones that tell.
        let lines: Vec<&str> = text.lines().take(5).collect();
        vitals.insert(path.to_owned(), lines.join("\n"));
    }
    Ok(vitals)
}
