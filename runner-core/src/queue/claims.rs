//! What becomes of promised workers, and what those who wait still need: pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::{Claim, Turn, Turns, Waiting};
use crate::{
    hypervisor::ExitReason,
    name::{JobId, ProfileName, ReservationId, WorkerName},
    plan::{Held, Observed, Subject, WhyNot},
    profile::Profile,
    reservation::{Ended, Reservation},
    worker::{Ending, Phase, Worker},
};

/// How long after a worker began a job the list of waiting jobs may still have that job.
const LIST_LAG: SignedDuration = SignedDuration::from_secs(10);

/// What became of a worker that is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is there for its job, or soon will be.
    Ready,
    /// It has a job of its reservation.
    Used,
    /// It is gone after its job, or nothing tells.
    Spent,
    /// It is gone, or going, and had no job.
    Lost,
    /// A job that did not ask for the reservation took it before it was marked.
    Taken,
}

impl Fate {
    /// `marks` is whether its forge marks runners, `used` whether it was seen with a job of `id` before.
    pub fn of(
        id: &ReservationId,
        worker: Option<&Worker>,
        phase: Option<&Phase>,
        marks: bool,
        used: bool,
    ) -> Self {
        let (Some(worker), Some(phase)) = (worker, phase) else { return Self::Spent };
        let mark = worker.runner.seen().and_then(|runner| runner.reserved_for.as_ref());
        match phase {
            Phase::Busy if used || !marks || mark == Some(id) => Self::Used,
            // No list is new enough to tell.
            Phase::Busy if worker.in_flight.is_some() => Self::Ready,
            Phase::Busy => Self::Taken,
            Phase::Over(_) if used => Self::Spent,
            Phase::Over(ending) if had_its_job(ending) => Self::Spent,
            Phase::Over(_) => Self::Lost,
            Phase::Starting | Phase::Idle | Phase::Reserved | Phase::Unseen => Self::Ready,
        }
    }
}

/// Whether a worker that ended like this may have had its job while nobody looked.
fn had_its_job(ending: &Ending) -> bool {
    match ending {
        Ending::RunnerGone => true,
        Ending::Stopped(reason) => matches!(
            reason,
            ExitReason::GuestShutdown | ExitReason::GuestReset | ExitReason::Unknown
        ),
        Ending::Vanished
        | Ending::NeverRegistered
        | Ending::StartTimedOut(_)
        | Ending::LostContact(_)
        | Ending::Orphan
        | Ending::Ghost
        | Ending::Retiring => false,
    }
}

/// What somebody in line still needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What the reservation is, or will be, called.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// How many.
    pub workers: u32,
    /// Whether it is the one that workers are collected for.
    pub first: bool,
}

/// What claims follow from.
pub(crate) struct Claims<'a> {
    pub observed: &'a Observed,
    /// The phase of each worker, and since when.
    pub phases: &'a BTreeMap<WorkerName, (Phase, Timestamp)>,
    pub profiles: &'a [Profile],
    pub paused: &'a BTreeMap<ProfileName, String>,
    /// What the last plan held back.
    pub held: &'a [Held],
    pub draining: bool,
    pub reservations: &'a BTreeMap<ReservationId, Reservation>,
    pub entries: &'a BTreeMap<ReservationId, Waiting>,
    pub ended: &'a BTreeMap<ReservationId, Ended>,
    pub turns: &'a BTreeMap<ProfileName, Turns>,
    pub now: Timestamp,
}

impl Claims<'_> {
    pub fn fate(&self, id: &ReservationId, worker: &WorkerName, used: bool) -> Fate {
        let seen = self.observed.workers.get(worker);
        let phase = self.phases.get(worker).map(|(phase, _)| phase);
        let forge = seen.and_then(|worker| worker.forge());
        let marks = forge.and_then(|forge| self.observed.forges.get(forge));
        Fate::of(id, seen, phase, marks.is_some_and(|forge| forge.reserves), used)
    }

    /// Everyone who waits: entries, and reservations that lack workers.
    pub fn all(&self) -> Vec<Claim> {
        let jobs = self.jobs();
        let waiting = |id: &ReservationId| jobs.get(id).map_or(&[][..], Vec::as_slice);
        let whole = self.reservations.values().filter_map(|held| {
            let missing = self.missing(held, waiting(&held.id).len() as u32);
            (missing > 0).then(|| self.claim(held, held.since, missing, true))
        });
        let again = jobs.iter().filter_map(|(id, jobs)| {
            let ended = self.ended.get(id).filter(|_| !self.is_known(id))?;
            // A list may still have the very job that its last worker had.
            let lags = self.now.duration_since(ended.at) < LIST_LAG;
            let jobs = jobs.iter().copied().filter(|queued_at| !lags || *queued_at > ended.at);
            let since = jobs.clone().min()?;
            let count = (jobs.count() as u32).min(ended.reservation.count.max(1));
            Some(self.claim(&ended.reservation, since, count, false))
        });
        let entries = self.entries.values().filter_map(|waiting| {
            let entry = &waiting.entry;
            let waits = !self.reservations.contains_key(&entry.id) && entry.needs_here() > 0;
            let backs_off = waiting.backoff.as_ref().is_some_and(|b| b.not_before > self.now);
            let profile = self.profiles.iter().find(|profile| profile.name == entry.profile);
            let fits = profile.is_some_and(|profile| profile.max >= entry.fewest_here());
            let blocked = backs_off || !fits || self.is_shut(&entry.profile);
            waits.then(|| entry.claim(blocked, self.can_grow(&entry.profile)))
        });
        whole.chain(again).chain(entries).collect()
    }

    fn is_known(&self, id: &ReservationId) -> bool {
        self.reservations.contains_key(id) || self.entries.contains_key(id)
    }

    fn claim(&self, of: &Reservation, since: Timestamp, missing: u32, begun: bool) -> Claim {
        Claim {
            id: of.id.clone(),
            profile: of.profile.clone(),
            turn: self.turn_since(&of.profile, since),
            since,
            kept: 0,
            missing,
            at_least: 1,
            begun,
            blocked: self.is_shut(&of.profile),
            can_grow: self.can_grow(&of.profile),
        }
    }

    /// The turn of what an owner that asked for nothing else has asked for since then.
    fn turn_since(&self, profile: &ProfileName, since: Timestamp) -> Turn {
        let Some(turns) = self.turns.get(profile) else { return Turn::default() };
        let entries = self.entries.values().map(|waiting| &waiting.entry);
        let later = entries.filter(|entry| entry.profile == *profile && entry.since > since);
        let came = later.map(|entry| entry.turn.came).min().unwrap_or(turns.came());
        Turn { round: turns.now(), came }
    }

    /// The jobs that wait for each reservation, and since when. A list may have jobs that began meanwhile.
    fn jobs(&self) -> BTreeMap<ReservationId, Vec<Timestamp>> {
        let running: BTreeSet<&JobId> =
            self.observed.workers.values().filter_map(|worker| worker.job()).collect();
        let mut jobs: BTreeMap<ReservationId, Vec<Timestamp>> = BTreeMap::new();
        for (forge, view) in &self.observed.forges {
            for job in view.queued.iter().filter(|job| !running.contains(&job.id)) {
                let Some(id) = &job.reserved_for else { continue };
                let profile = self
                    .profile_of(id)
                    .and_then(|name| self.profiles.iter().find(|profile| profile.name == *name));
                if profile.is_some_and(|p| p.forge == *forge && p.serves(job)) {
                    jobs.entry(id.clone()).or_default().push(job.queued_at);
                }
            }
        }
        jobs
    }

    fn profile_of(&self, id: &ReservationId) -> Option<&ProfileName> {
        let held = self.reservations.get(id).or_else(|| Some(&self.ended.get(id)?.reservation));
        held.map(|held| &held.profile)
    }

    /// How many workers a reservation lacks: those that were lost, and those that its waiting jobs need.
    fn missing(&self, held: &Reservation, jobs: u32) -> u32 {
        let lost = held.count.saturating_sub(held.workers.len() as u32);
        let fate = |name: &&WorkerName| self.fate(&held.id, name, held.used.contains(*name));
        let ready = held.workers.iter().filter(|name| fate(name) == Fate::Ready).count() as u32;
        let just_began = held.workers.iter().any(|name| match self.phases.get(name) {
            Some((Phase::Busy | Phase::Over(_), since)) => {
                self.now.duration_since(*since) < LIST_LAG
            }
            _ => false,
        });
        let asked = if just_began { 0 } else { jobs.min(held.count.max(1)).saturating_sub(ready) };
        lost.max(asked)
    }

    /// Whether the profile gives no worker to anybody for now.
    fn is_shut(&self, profile: &ProfileName) -> bool {
        self.draining
            || self.paused.contains_key(profile)
            || !self.profiles.iter().any(|offered| offered.name == *profile)
    }

    fn can_grow(&self, profile: &ProfileName) -> bool {
        let subject = Subject::Profile(profile.clone());
        !self.held.iter().filter(|held| held.subject == subject).any(|held| {
            matches!(
                held.why_not,
                WhyNot::NoImage | WhyNot::BackingOff { .. } | WhyNot::NoRoom { ever: false, .. }
            )
        })
    }
}
