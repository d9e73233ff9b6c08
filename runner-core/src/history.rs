//! How long things usually take: what estimates are made from.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, What},
    name::{ProfileName, WorkerName},
    plan::Subject,
    worker::Phase,
};

/// How many of the newest durations are kept of each kind.
const KEPT: usize = 64;

/// How long things of one profile took lately: medians. None where nothing was seen yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usual {
    /// From the decision to provision until the worker was ready.
    pub boot: Option<Duration>,
    /// From when a worker got its job until the job was over.
    pub run: Option<Duration>,
    /// How long the last image took to build.
    pub build: Option<Duration>,
}

#[derive(Debug, Default)]
struct Durations {
    boot: VecDeque<Duration>,
    run: VecDeque<Duration>,
    build: Option<Duration>,
}

/// Learns from events how long things take.
#[derive(Debug, Default)]
pub(crate) struct History {
    profiles: BTreeMap<ProfileName, Durations>,
    /// Workers that are on their way, and since when.
    making: BTreeMap<WorkerName, Timestamp>,
    /// Workers that have a job, and since when.
    busy: BTreeMap<WorkerName, Timestamp>,
}

impl History {
    /// Learns from one more event. They must come in order.
    pub fn take(&mut self, at: Timestamp, subject: &Subject, what: &What) {
        match (subject, what) {
            (Subject::Worker(worker), What::Decided { action, .. }) if action == "provision" => {
                self.making.insert(worker.clone(), at);
            }
            (Subject::Worker(worker), What::Phase { phase }) => self.phase(worker, phase, at),
            (Subject::Build(profile), What::Done { action, took }) if action == "build" => {
                self.profiles.entry(profile.clone()).or_default().build = Some(*took);
            }
            _ => (),
        }
    }

    /// Learns from what an earlier process wrote down.
    pub fn take_all(&mut self, events: &[Event]) {
        for event in events {
            self.take(event.at, &event.subject, &event.what);
        }
    }

    fn phase(&mut self, worker: &WorkerName, phase: &Phase, at: Timestamp) {
        let Some((profile, _)) = worker.parts() else { return };
        match phase {
            Phase::Idle | Phase::Reserved | Phase::Busy => {
                if let Some(since) = self.making.remove(worker) {
                    let boot = &mut self.profiles.entry(profile).or_default().boot;
                    add(boot, since, at);
                }
                if *phase == Phase::Busy {
                    self.busy.entry(worker.clone()).or_insert(at);
                }
            }
            Phase::Over(_) => {
                self.making.remove(worker);
                if let Some(since) = self.busy.remove(worker) {
                    let run = &mut self.profiles.entry(profile).or_default().run;
                    add(run, since, at);
                }
            }
            Phase::Starting | Phase::Unseen => (),
        }
    }

    /// What is usual for a profile.
    pub fn usual(&self, profile: &ProfileName) -> Usual {
        let Some(durations) = self.profiles.get(profile) else { return Usual::default() };
        Usual { boot: median(&durations.boot), run: median(&durations.run), build: durations.build }
    }
}

fn add(durations: &mut VecDeque<Duration>, since: Timestamp, until: Timestamp) {
    // A clock that went back teaches nothing.
    if let Ok(took) = Duration::try_from(until.duration_since(since)) {
        durations.push_back(took);
        if durations.len() > KEPT {
            durations.pop_front();
        }
    }
}

fn median(durations: &VecDeque<Duration>) -> Option<Duration> {
    let mut sorted: Vec<Duration> = durations.iter().copied().collect();
    sorted.sort();
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Why, worker::Ending};

    #[test]
    fn what_usually_happens_is_learnt_from_events() {
        let mut history = History::default();
        let linux = ProfileName::new("linux").unwrap();
        assert_eq!(history.usual(&linux), Usual::default());
        let at = |second: i64| Timestamp::from_second(1_000 + second).unwrap();
        for (serial, boot, run) in [(1_u64, 3, 10), (2, 5, 20), (3, 4, 600)] {
            let worker = WorkerName::of(&linux, serial);
            let subject = Subject::Worker(worker);
            let action = "provision".to_owned();
            let why = Why::BelowMinIdle { free: 0, min_idle: 1 };
            history.take(at(0), &subject, &What::Decided { action, why });
            history.take(at(boot), &subject, &What::Phase { phase: Phase::Idle });
            history.take(at(100), &subject, &What::Phase { phase: Phase::Busy });
            let over = Phase::Over(Ending::RunnerGone);
            history.take(at(100 + run), &subject, &What::Phase { phase: over });
        }
        let usual = history.usual(&linux);
        assert_eq!(usual.boot, Some(Duration::from_secs(4)));
        assert_eq!(usual.run, Some(Duration::from_secs(20)));
        assert!(history.busy.is_empty() && history.making.is_empty());
    }
}
