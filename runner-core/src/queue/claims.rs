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

/// How long the word that a worker took a job may be lost, until its forge has looked for itself what waits.
const WORD_LAG: SignedDuration = SignedDuration::from_secs(330);

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
    /// The last job of each worker of which one was told.
    pub jobs: &'a BTreeMap<WorkerName, JobId>,
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
        let jobs = self.waiting_jobs();
        let waiting = |id: &ReservationId| jobs.get(id).map_or(&[][..], Vec::as_slice);
        let whole = self.reservations.values().filter_map(|held| {
            let jobs = waiting(&held.id);
            let missing = self.missing(held, jobs.len() as u32 - self.taken(held, jobs));
            (missing > 0).then(|| self.claim(held, held.since, missing, true))
        });
        let again = jobs.iter().filter_map(|(id, jobs)| {
            let ended = self.ended.get(id).filter(|_| !self.is_known(id))?;
            // A list may still have the very job that its last worker had.
            let lags = self.now.duration_since(ended.at) < LIST_LAG;
            let jobs = jobs.iter().copied().filter(|queued_at| !lags || *queued_at > ended.at);
            let jobs: Vec<Timestamp> = jobs.collect();
            let since = jobs.iter().copied().min()?;
            let open = jobs.len() as u32 - self.taken(&ended.reservation, &jobs);
            let count = open.min(ended.reservation.count.max(1));
            (count > 0).then(|| self.claim(&ended.reservation, since, count, false))
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
    fn waiting_jobs(&self) -> BTreeMap<ReservationId, Vec<Timestamp>> {
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

    /// How many of the jobs that are said to wait, since these times, must be those that workers of the reservation
    /// have. A worker that has a job, and nobody tells which, has one that was queued before: the word that it took
    /// it was lost or is late. Else it would get a second worker, for nothing.
    fn taken(&self, of: &Reservation, jobs: &[Timestamp]) -> u32 {
        let recent = |at: &Timestamp| self.now.duration_since(*at) < WORD_LAG;
        let Some(used_at) = of.used_at.filter(recent) else { return 0 };
        let unnamed = of.used.iter().filter(|worker| !self.jobs.contains_key(*worker)).count();
        jobs.iter().filter(|queued_at| **queued_at <= used_at).count().min(unnamed) as u32
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forge::QueuedJob,
        image::{Recipe, RecipeKind},
        name::ForgeName,
        plan::ForgeView,
        resources::Resources,
    };

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn ago(seconds: i64) -> Timestamp {
        NOW - SignedDuration::from_secs(seconds)
    }

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    /// Of one worker, which was first seen with its job so long ago.
    fn used(seconds: i64) -> Reservation {
        let worker: WorkerName = name("a-1");
        Reservation {
            id: name("r1"),
            profile: name("a"),
            owner: "mona".to_owned(),
            purpose: "a test".to_owned(),
            since: ago(3600),
            until: NOW + SignedDuration::from_hours(1),
            count: 1,
            workers: [worker.clone()].into(),
            used: [worker].into(),
            used_at: Some(ago(seconds)),
        }
    }

    /// How many workers the reservation still gets, for jobs that were queued so long ago: while it holds, and when
    /// it has just ended.
    fn still_gets(of: &Reservation, queued: &[i64], told: Option<&str>) -> [u32; 2] {
        let queued_job = |seconds: &i64| QueuedJob {
            id: name(&format!("job-{seconds}")),
            profile: None,
            labels: BTreeSet::new(),
            reserved_for: Some(of.id.clone()),
            queued_at: ago(*seconds),
        };
        let hub: ForgeName = name("hub");
        let queued = queued.iter().map(queued_job).collect();
        let view = ForgeView { queued, ..ForgeView::default() };
        let observed = Observed { forges: [(hub.clone(), view)].into(), ..Observed::default() };
        let recipe = Recipe { profile: name("a"), kind: RecipeKind::Micro {} };
        let began = (Phase::Busy, of.used_at.unwrap_or(NOW));
        let ended =
            Ended { reservation: of.clone(), at: ago(11), why: "it was released".to_owned() };
        let claims = Claims {
            observed: &observed,
            phases: &of.workers.iter().map(|worker| (worker.clone(), began.clone())).collect(),
            jobs: &told.map(|job| (name("a-1"), name(job))).into_iter().collect(),
            profiles: &[Profile::new(hub, recipe, Resources::default())],
            paused: &BTreeMap::new(),
            held: &[],
            draining: false,
            reservations: &[(of.id.clone(), of.clone())].into(),
            entries: &BTreeMap::new(),
            ended: &BTreeMap::new(),
            turns: &BTreeMap::new(),
            now: NOW,
        };
        let sum = |claims: &Claims<'_>| claims.all().iter().map(|claim| claim.missing).sum();
        let held = sum(&claims);
        let (none, ended) = (BTreeMap::new(), [(of.id.clone(), ended)].into());
        [held, sum(&Claims { reservations: &none, ended: &ended, ..claims })]
    }

    #[test]
    fn a_job_whose_beginning_nobody_told_gets_no_second_worker() {
        assert_eq!(still_gets(&used(60), &[90], None), [0, 0]);
        // Its forge has looked for itself by now, and lists it still.
        assert_eq!(still_gets(&used(400), &[430], None), [1, 1]);
    }

    #[test]
    fn a_job_that_no_worker_can_have_gets_one() {
        assert_eq!(still_gets(&used(60), &[30], None), [1, 1], "it was queued later");
        assert_eq!(still_gets(&used(60), &[90, 80], None), [1, 1], "one of the two waits");
        assert_eq!(still_gets(&used(60), &[90], Some("job-7")), [1, 1], "the worker has another");
        let unused = Reservation { used: BTreeSet::new(), used_at: None, ..used(60) };
        assert_eq!(still_gets(&unused, &[90], None)[1], 1, "nobody had a job of it");
    }
}
