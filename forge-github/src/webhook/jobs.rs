//! All jobs that deliveries told of. Each only ever moves forward; all together are bounded in number and age.
//!
//! Thousands of them are over, and every look asks: so what a look needs is found without seeing those.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jiff::Timestamp;

use crate::demand::{JobFact, JobStatus};

/// GitHub cancels a job that has waited 24 hours, and gives up on it after 48 at the latest.
pub const LONGEST_QUEUE: Duration = Duration::from_secs(48 * 3600);

/// A job runs for five days at most.
const LONGEST_RUN: Duration = Duration::from_secs(5 * 24 * 3600);

/// Deliveries can be repeated for three days. What is completed is remembered for as long, so that none of
/// them brings it back to life.
pub const REPEATABLE: Duration = Duration::from_secs(3 * 24 * 3600);

/// What a fact did to what was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// The job was not known.
    New,
    /// The job is further than it was.
    Forward,
    /// The job was that far already, or further.
    None,
    /// The job is so old that GitHub itself has given it up.
    TooOld,
}

impl Movement {
    /// Whether what is known has changed.
    pub fn moved(self) -> bool {
        matches!(self, Self::New | Self::Forward)
    }
}

/// Jobs by their number.
#[derive(Debug)]
pub(super) struct Jobs {
    most: usize,
    all: HashMap<u64, Known>,
    /// The same, sorted by what goes first when there is no room: what is over, then what is oldest.
    order: BTreeSet<Place>,
    /// The last job of each runner whose job is over.
    over: HashMap<String, u64>,
    forgotten: u64,
}

/// A job's place in the order.
type Place = (Priority, Timestamp, u64);

/// The first place of what is not over.
const FIRST_LIVE: Place = (Priority::Live, Timestamp::MIN, 0);

#[derive(Debug)]
struct Known {
    fact: JobFact,
    heard_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Over,
    Live,
}

impl Known {
    fn place(&self) -> Place {
        let over = self.fact.status == JobStatus::Completed;
        let priority = if over { Priority::Over } else { Priority::Live };
        (priority, self.heard_at, self.fact.number)
    }

    fn is_stale(&self, now: Timestamp) -> bool {
        let (since, limit) = match self.fact.status {
            JobStatus::Waiting | JobStatus::Queued => (self.fact.queued_at, LONGEST_QUEUE),
            JobStatus::InProgress => (self.heard_at, LONGEST_RUN),
            JobStatus::Completed => (self.heard_at, REPEATABLE),
        };
        now > since && now.duration_since(since).unsigned_abs() > limit
    }
}

/// Sorts the facts about one job by age: by attempt, then by status. What follows decides ties, so that any
/// order of arrival ends the same.
fn age(fact: &JobFact) -> impl Ord {
    let JobFact { number: _, run, attempt, repository, title, status, labels, queued_at, runner } =
        fact;
    (attempt, status, runner, queued_at, run, repository, title, labels)
}

impl Jobs {
    /// Room for `most` jobs, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            all: HashMap::new(),
            order: BTreeSet::new(),
            over: HashMap::new(),
            forgotten: 0,
        }
    }

    pub(super) fn observe(&mut self, fact: JobFact, now: Timestamp) -> Movement {
        let number = fact.number;
        let fresh = Known { fact, heard_at: now };
        let movement = match self.all.get(&number) {
            None if fresh.is_stale(now) => return Movement::TooOld,
            None => Movement::New,
            Some(known) if age(&fresh.fact) <= age(&known.fact) => return Movement::None,
            Some(_) => Movement::Forward,
        };
        self.remove(number);
        self.order.insert(fresh.place());
        if let (JobStatus::Completed, Some(runner)) = (fresh.fact.status, &fresh.fact.runner) {
            self.over.insert(runner.clone(), number);
        }
        self.all.insert(number, fresh);
        while self.all.len() > self.most
            && let Some((priority, _, oldest)) = self.order.first().copied()
        {
            self.remove(oldest);
            // What is over is no loss.
            self.forgotten += u64::from(priority == Priority::Live);
        }
        movement
    }

    /// Forgets a job, as if it had never been heard of.
    pub(super) fn remove(&mut self, number: u64) {
        let Some(known) = self.all.remove(&number) else { return };
        self.order.remove(&known.place());
        if let Some(runner) = &known.fact.runner
            && self.over.get(runner) == Some(&number)
        {
            self.over.remove(runner);
        }
    }

    /// Forgets what GitHub has given up, and what can no longer be repeated.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let is_stale = |number: &u64| self.all.get(number).is_some_and(|job| job.is_stale(now));
        // What is over becomes stale in its order.
        let over = self.order.range(..FIRST_LIVE).map(|place| place.2).take_while(is_stale);
        let live = self.order.range(FIRST_LIVE..).map(|place| place.2).filter(is_stale);
        let stale: Vec<u64> = over.chain(live).collect();
        stale.into_iter().for_each(|number| self.remove(number));
    }

    /// Every job in this state, which is not to be over; the one heard of first is first.
    pub(super) fn in_state(&self, status: JobStatus) -> impl Iterator<Item = &JobFact> {
        let live = self.order.range(FIRST_LIVE..).filter_map(|place| self.all.get(&place.2));
        live.map(|known| &known.fact).filter(move |fact| fact.status == status)
    }

    /// Whether a job of this runner is over.
    /// What is known of a job.
    pub(super) fn fact(&self, number: u64) -> Option<&JobFact> {
        self.all.get(&number).map(|known| &known.fact)
    }

    pub(super) fn is_over(&self, runner: &str) -> bool {
        self.over.contains_key(runner)
    }

    /// How many live jobs there was no room for.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    fn numbers(&self) -> BTreeSet<u64> {
        assert_eq!(self.all.len(), self.order.len());
        assert!(self.over.values().all(|number| self.all.contains_key(number)));
        self.all.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn fact(number: u64, status: JobStatus) -> JobFact {
        JobFact {
            number,
            run: 1,
            attempt: 1,
            repository: "octo/hello".parse().unwrap(),
            title: "test".to_owned(),
            status,
            labels: Vec::new(),
            queued_at: START,
            runner: None,
        }
    }

    #[test]
    fn what_is_over_makes_room_first_and_then_what_is_oldest() {
        let mut jobs = Jobs::new(3);
        let at = |second| START + Duration::from_secs(second);
        jobs.observe(fact(1, JobStatus::Queued), at(1));
        jobs.observe(fact(2, JobStatus::Completed), at(2));
        jobs.observe(fact(3, JobStatus::Queued), at(3));
        jobs.observe(fact(4, JobStatus::Queued), at(4));
        assert_eq!((jobs.numbers(), jobs.forgotten()), ([1, 3, 4].into(), 0));
        // Heard of again, it is no longer the oldest.
        jobs.observe(fact(1, JobStatus::InProgress), at(5));
        jobs.observe(fact(5, JobStatus::Queued), at(6));
        assert_eq!((jobs.numbers(), jobs.forgotten()), ([1, 4, 5].into(), 1));
    }

    #[test]
    fn a_job_moves_forward_by_attempt_and_then_by_status() {
        let mut jobs = Jobs::new(10);
        let mut observe =
            |attempt, status| jobs.observe(JobFact { attempt, ..fact(1, status) }, START);
        assert_eq!(observe(1, JobStatus::InProgress), Movement::New);
        assert_eq!(observe(1, JobStatus::Queued), Movement::None);
        assert_eq!(observe(1, JobStatus::InProgress), Movement::None);
        assert_eq!(observe(1, JobStatus::Completed), Movement::Forward);
        assert_eq!(observe(2, JobStatus::Queued), Movement::Forward);
        assert_eq!(observe(1, JobStatus::Completed), Movement::None);
        assert_eq!(jobs.in_state(JobStatus::Queued).count(), 1);
    }

    #[test]
    fn what_github_has_given_up_is_forgotten_and_stays_so() {
        let mut jobs = Jobs::new(10);
        jobs.observe(fact(1, JobStatus::Queued), START);
        jobs.observe(fact(2, JobStatus::InProgress), START);
        jobs.observe(fact(3, JobStatus::Completed), START);
        jobs.expire(START + LONGEST_QUEUE);
        assert_eq!(jobs.numbers(), [1, 2, 3].into());
        let later = START + LONGEST_QUEUE + Duration::from_secs(1);
        jobs.expire(later);
        assert_eq!(jobs.numbers(), [2, 3].into());
        assert_eq!(jobs.observe(fact(1, JobStatus::Queued), later), Movement::TooOld);
        jobs.expire(START + REPEATABLE + Duration::from_secs(1));
        assert_eq!(jobs.numbers(), [2].into());
        jobs.expire(START + LONGEST_RUN + Duration::from_secs(1));
        assert_eq!(jobs.numbers(), [].into());
    }

    #[test]
    fn a_runner_is_over_with_its_job_and_until_that_is_forgotten() {
        let mut jobs = Jobs::new(2);
        let of = |number, attempt, status, runner: &str| JobFact {
            attempt,
            runner: Some(runner.to_owned()),
            ..fact(number, status)
        };
        jobs.observe(of(1, 1, JobStatus::InProgress, "a-1"), START);
        assert!(!jobs.is_over("a-1"));
        jobs.observe(of(1, 1, JobStatus::Completed, "a-1"), START);
        assert!(jobs.is_over("a-1"));
        // A later attempt of the same job says nothing about a runner that had an earlier one.
        jobs.observe(of(1, 2, JobStatus::InProgress, "a-2"), START);
        assert!(!jobs.is_over("a-1") && !jobs.is_over("a-2"));
        jobs.observe(of(2, 1, JobStatus::Completed, "a-3"), START);
        jobs.observe(fact(3, JobStatus::Queued), START);
        assert!(!jobs.is_over("a-3"), "there was no room for it");
        assert_eq!(jobs.numbers(), [1, 3].into());
    }

    #[test]
    fn a_clock_that_is_behind_githubs_forgets_nothing() {
        let mut jobs = Jobs::new(10);
        let earlier = START - LONGEST_QUEUE - Duration::from_secs(60);
        assert_eq!(jobs.observe(fact(1, JobStatus::Queued), earlier), Movement::New);
        jobs.expire(earlier);
        assert_eq!(jobs.numbers(), [1].into());
    }
}
