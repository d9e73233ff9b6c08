//! All jobs that deliveries told of, bounded in number and in age.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use jiff::Timestamp;

use super::job::{JobView, Stage};

/// GitHub cancels a job that has waited 24 hours, and gives up on it after 48 at the latest.
pub const LONGEST_QUEUE: Duration = Duration::from_secs(48 * 3600);

/// A job runs for five days at most.
const LONGEST_RUN: Duration = Duration::from_secs(5 * 24 * 3600);

/// Deliveries can be repeated for three days. What is completed is remembered for as long, so that none of
/// them brings it back to life.
pub const REPEATABLE: Duration = Duration::from_secs(3 * 24 * 3600);

/// What a view did to what was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// The job is new, or further than it was.
    Forward,
    /// It was that far already, or further.
    None,
    /// The job is so old that GitHub itself has given it up.
    TooOld,
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
    view: JobView,
    heard_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Over,
    Live,
}

impl Known {
    fn order(&self) -> (Priority, Timestamp, u64) {
        let priority =
            if self.view.stage == Stage::Completed { Priority::Over } else { Priority::Live };
        (priority, self.heard_at, self.view.id)
    }

    fn is_stale(&self, now: Timestamp) -> bool {
        let (since, limit) = match self.view.stage {
            Stage::Waiting | Stage::Queued => (self.view.created_at, LONGEST_QUEUE),
            Stage::InProgress => (self.heard_at, LONGEST_RUN),
            Stage::Completed => (self.heard_at, REPEATABLE),
        };
        older(since, limit, now)
    }
}

fn older(since: Timestamp, limit: Duration, now: Timestamp) -> bool {
    now.duration_since(since).unsigned_abs() > limit && now > since
}

impl Jobs {
    /// Room for `most` jobs, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            all: HashMap::new(),
            order: BTreeSet::new(),
            forgotten: 0,
        }
    }

    pub(super) fn observe(&mut self, view: JobView, now: Timestamp) -> Movement {
        let id = view.id;
        let fresh = Known { view, heard_at: now };
        let movement = match self.all.get_mut(&id) {
            None if fresh.is_stale(now) => return Movement::TooOld,
            None => {
                self.order.insert(fresh.order());
                self.all.insert(id, fresh);
                Movement::Forward
            }
            Some(known) => {
                let before = known.order();
                if !known.view.advance(fresh.view) {
                    return Movement::None;
                }
                known.heard_at = now;
                self.order.remove(&before);
                self.order.insert(known.order());
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

    pub(super) fn remove(&mut self, id: u64) -> bool {
        let Some(known) = self.all.remove(&id) else {
            return false;
        };
        self.order.remove(&known.order());
        true
    }

    pub(super) fn find(&self, id: u64) -> Option<&JobView> {
        self.all.get(&id).map(|known| &known.view)
    }

    pub(super) fn in_stage(&self, stage: Stage) -> impl Iterator<Item = &JobView> {
        self.all.values().map(|known| &known.view).filter(move |view| view.stage == stage)
    }

    /// How many live jobs there was no room for.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    fn ids(&self) -> BTreeSet<u64> {
        assert_eq!(self.all.len(), self.order.len());
        self.all.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn view(id: u64, stage: Stage) -> JobView {
        JobView {
            run_attempt: 1,
            stage,
            completed_at: None,
            conclusion: None,
            runner_name: None,
            started_at: None,
            created_at: START,
            id,
            run_id: 1,
            repository: "octo/hello".to_owned(),
            name: "test".to_owned(),
            workflow: None,
            labels: Vec::new(),
            head_branch: None,
        }
    }

    #[test]
    fn what_is_over_makes_room_first_and_then_what_is_oldest() {
        let mut jobs = Jobs::new(3);
        let at = |second| START + Duration::from_secs(second);
        jobs.observe(view(1, Stage::Queued), at(1));
        jobs.observe(view(2, Stage::Completed), at(2));
        jobs.observe(view(3, Stage::Queued), at(3));
        jobs.observe(view(4, Stage::Queued), at(4));
        assert_eq!((jobs.ids(), jobs.forgotten()), ([1, 3, 4].into(), 0));
        // Heard of again, it is no longer the oldest.
        jobs.observe(view(1, Stage::InProgress), at(5));
        jobs.observe(view(5, Stage::Queued), at(6));
        assert_eq!((jobs.ids(), jobs.forgotten()), ([1, 4, 5].into(), 1));
    }

    #[test]
    fn what_github_has_given_up_is_forgotten_and_stays_so() {
        let mut jobs = Jobs::new(10);
        jobs.observe(view(1, Stage::Queued), START);
        jobs.observe(view(2, Stage::InProgress), START);
        jobs.observe(view(3, Stage::Completed), START);
        jobs.expire(START + LONGEST_QUEUE);
        assert_eq!(jobs.ids(), [1, 2, 3].into());
        let later = START + LONGEST_QUEUE + Duration::from_secs(1);
        jobs.expire(later);
        assert_eq!(jobs.ids(), [2, 3].into());
        assert_eq!(jobs.observe(view(1, Stage::Queued), later), Movement::TooOld);
        jobs.expire(START + REPEATABLE + Duration::from_secs(1));
        assert_eq!(jobs.ids(), [2].into());
        jobs.expire(START + LONGEST_RUN + Duration::from_secs(1));
        assert_eq!(jobs.ids(), [].into());
    }

    #[test]
    fn a_clock_that_is_behind_githubs_forgets_nothing() {
        let mut jobs = Jobs::new(10);
        let earlier = START - LONGEST_QUEUE - Duration::from_secs(60);
        assert_eq!(jobs.observe(view(1, Stage::Queued), earlier), Movement::Forward);
        jobs.expire(earlier);
        assert_eq!(jobs.ids(), [1].into());
    }
}
