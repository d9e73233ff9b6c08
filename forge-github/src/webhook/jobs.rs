//! All jobs that deliveries told of. Each only ever moves forward; all together are bounded in number and age.

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
    order: BTreeSet<(Priority, Timestamp, u64)>,
    forgotten: u64,
}

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
    fn order(&self) -> (Priority, Timestamp, u64) {
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
        Self { most: most.max(1), all: HashMap::new(), order: BTreeSet::new(), forgotten: 0 }
    }

    pub(super) fn observe(&mut self, fact: JobFact, now: Timestamp) -> Movement {
        let number = fact.number;
        let fresh = Known { fact, heard_at: now };
        let movement = match self.all.get_mut(&number) {
            None if fresh.is_stale(now) => return Movement::TooOld,
            None => {
                self.order.insert(fresh.order());
                self.all.insert(number, fresh);
                Movement::New
            }
            Some(known) => {
                if age(&fresh.fact) <= age(&known.fact) {
                    return Movement::None;
                }
                self.order.remove(&known.order());
                self.order.insert(fresh.order());
                *known = fresh;
                Movement::Forward
            }
        };
        while self.all.len() > self.most
            && let Some((priority, _, oldest)) = self.order.pop_first()
        {
            self.all.remove(&oldest);
            // What is over is no loss.
            self.forgotten += u64::from(priority == Priority::Live);
        }
        movement
    }

    /// Forgets what GitHub has given up, and what can no longer be repeated.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let order = &mut self.order;
        self.all.retain(|_, known| {
            let stale = known.is_stale(now);
            if stale {
                order.remove(&known.order());
            }
            !stale
        });
    }

    /// Every job in this state, in no order.
    pub(super) fn in_state(&self, status: JobStatus) -> impl Iterator<Item = &JobFact> {
        self.all.values().map(|known| &known.fact).filter(move |fact| fact.status == status)
    }

    /// How many live jobs there was no room for.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    fn numbers(&self) -> BTreeSet<u64> {
        assert_eq!(self.all.len(), self.order.len());
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
    fn a_clock_that_is_behind_githubs_forgets_nothing() {
        let mut jobs = Jobs::new(10);
        let earlier = START - LONGEST_QUEUE - Duration::from_secs(60);
        assert_eq!(jobs.observe(fact(1, JobStatus::Queued), earlier), Movement::New);
        jobs.expire(earlier);
        assert_eq!(jobs.numbers(), [1].into());
    }
}
