//! The last hour in numbers: how many workers of each profile were in each phase, and how many jobs waited.
//!
//! Kept in memory only, and bounded: profiles times one hour of samples.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use poem_openapi::{Object, OpenApi, payload::Json};
use runner_core::{ProfileName, Status, status::ProfileStatus};
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::Shared;

/// From one sample to the next.
const STEP: Duration = Duration::from_secs(10);
/// How many samples are kept: an hour of them.
const KEPT: usize = 360;

/// The samples. Clones share them.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<VecDeque<Sample>>>);

struct Sample {
    at: Timestamp,
    profiles: BTreeMap<ProfileName, ProfileStatus>,
}

impl History {
    /// Takes samples of what is published until `stop`.
    pub fn start(status: watch::Receiver<Arc<Status>>, stop: CancellationToken) -> Self {
        let history = Self::default();
        let samples = history.clone();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut status = status;
            if status.wait_for(|status| status.at.is_some()).await.is_err() {
                return;
            }
            let mut ticks = tokio::time::interval(STEP);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let status = status.borrow().clone();
                samples.take(&status);
            }
        }));
        history
    }

    fn take(&self, status: &Status) {
        let Some(at) = status.at else { return };
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A pool that publishes nothing new has nothing to tell; the gap shows that.
        if samples.back().is_some_and(|last| last.at == at) {
            return;
        }
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(Sample { at, profiles: status.profiles.clone() });
    }

    fn series(&self) -> HistoryInfo {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut profiles: BTreeMap<String, Series> = BTreeMap::new();
        let names = samples.iter().flat_map(|sample| sample.profiles.keys());
        for name in names {
            profiles.entry(name.to_string()).or_default();
        }
        let none = ProfileStatus::default();
        for sample in samples.iter() {
            for (name, series) in &mut profiles {
                let counts = sample.profiles.iter().find(|(own, _)| own.as_str() == name);
                series.push(counts.map_or(&none, |(_, counts)| counts));
            }
        }
        HistoryInfo {
            step_s: STEP.as_secs(),
            at: samples.iter().map(|sample| sample.at.to_string()).collect(),
            profiles,
        }
    }
}

/// The last hour: one number a sample, oldest first.
#[derive(Object)]
struct HistoryInfo {
    /// From one sample to the next, in seconds, while the pool goes on.
    step_s: u64,
    /// When each sample was taken.
    at: Vec<String>,
    /// By profile: as many numbers as there are samples.
    profiles: BTreeMap<String, Series>,
}

/// Counts of one profile, by sample.
#[derive(Object, Default)]
struct Series {
    starting: Vec<u32>,
    idle: Vec<u32>,
    reserved: Vec<u32>,
    busy: Vec<u32>,
    unseen: Vec<u32>,
    over: Vec<u32>,
    /// How many jobs waited.
    queued: Vec<u32>,
}

impl Series {
    fn push(&mut self, counts: &ProfileStatus) {
        self.starting.push(counts.starting);
        self.idle.push(counts.idle);
        self.reserved.push(counts.reserved);
        self.busy.push(counts.busy);
        self.unseen.push(counts.unseen);
        self.over.push(counts.over);
        self.queued.push(counts.queued);
    }
}

pub struct HistoryApi(pub Shared);

#[OpenApi]
impl HistoryApi {
    /// Show the last hour
    ///
    /// Workers by phase and waiting jobs of each profile, every ten seconds, since this process began.
    #[oai(path = "/history", method = "get", operation_id = "show_history")]
    async fn show(&self) -> Json<HistoryInfo> {
        Json(self.0.0.history.series())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(second: i64, idle: u32, profile: &str) -> Status {
        let counts = ProfileStatus { idle, ..ProfileStatus::default() };
        Status {
            at: Some(Timestamp::from_second(second).unwrap()),
            profiles: BTreeMap::from([(ProfileName::new(profile).unwrap(), counts)]),
            ..Status::default()
        }
    }

    #[test]
    fn it_keeps_an_hour_and_no_more() {
        let history = History::default();
        history.take(&Status::default());
        for second in 0..KEPT as i64 + 40 {
            history.take(&status(second, second as u32, "linux"));
        }
        let told = history.series();
        let idle = &told.profiles["linux"].idle;
        assert_eq!((told.at.len(), idle.len()), (KEPT, KEPT));
        assert_eq!((idle[0], idle[KEPT - 1]), (40, KEPT as u32 + 39));
    }

    #[test]
    fn profiles_that_come_later_have_nothing_before() {
        let history = History::default();
        history.take(&status(1, 2, "linux"));
        history.take(&status(1, 9, "linux"));
        history.take(&status(2, 3, "late"));
        let told = history.series();
        assert_eq!(told.profiles["linux"].idle, [2, 0]);
        assert_eq!(told.profiles["late"].idle, [0, 3]);
    }
}
