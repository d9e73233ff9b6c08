//! How many jobs a scale set has waiting: by the service's statistics, and by the messages.
//!
//! Either can be behind the other. Statistics have been seen at zero in a message that assigned a job; and
//! a message can be lost with its session. So the greater of both counts; and as a message that never came
//! would leave its job here for ever, a job that nothing confirms is given up after a while.
//!
//! No I/O and no clock.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use runner_core::{JobId, ProfileName, forge::QueuedJob};
use serde::{Deserialize, Serialize};

use super::wire::{JobMessage, Message, Statistics, WireJob};
use crate::{
    demand::{Known, Waiting},
    scope::RepositoryName,
};

/// How many jobs are remembered. A scale set may have more: the statistics count them.
const MOST_JOBS: usize = 10_000;

/// A job runs for five days at most.
const LONGEST_RUN: Duration = Duration::from_secs(5 * 24 * 3600);

/// A job that was assigned to the scale set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedJob {
    /// What the service calls it. A job that comes back keeps it.
    pub request: i64,
    /// The repository, where it was told.
    pub repository: Option<RepositoryName>,
    /// The workflow run, where it was told.
    pub run: Option<u64>,
    /// What it is called, for people.
    pub title: String,
    /// Since when it waits.
    pub queued_at: Timestamp,
    /// When a message last spoke of it.
    pub heard_at: Timestamp,
    /// The runner that has it, once one has.
    pub runner: Option<String>,
}

/// A scale set's jobs.
#[derive(Debug)]
pub(super) struct Outstanding {
    jobs: BTreeMap<i64, AssignedJob>,
    statistics: Statistics,
    /// Since when the statistics count jobs that no message told of.
    unnamed_since: Option<Timestamp>,
    patience: Duration,
}

impl Outstanding {
    /// Goes on with `jobs`. One that waits is given up when nothing was heard of it for `patience`.
    pub(super) fn new(jobs: Vec<AssignedJob>, patience: Duration) -> Self {
        Self {
            jobs: jobs.into_iter().map(|job| (job.request, job)).collect(),
            statistics: Statistics::default(),
            unnamed_since: None,
            patience,
        }
    }

    pub(super) fn jobs(&self) -> Vec<AssignedJob> {
        self.jobs.values().cloned().collect()
    }

    pub(super) fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Takes in a message. The same message twice is as good as once.
    pub(super) fn apply(&mut self, message: &Message, now: Timestamp) {
        for job in &message.jobs {
            match job {
                JobMessage::Assigned(job) => self.assign(job, None, now),
                JobMessage::Started(job) => self.assign(job, job.runner_name.clone(), now),
                JobMessage::Completed(job) => drop(self.jobs.remove(&job.runner_request_id)),
                JobMessage::Available(_) | JobMessage::Unknown => {}
            }
        }
        if let Some(statistics) = message.statistics {
            self.count(statistics, now);
        }
    }

    /// Takes in the service's own count.
    pub(super) fn count(&mut self, statistics: Statistics, now: Timestamp) {
        self.statistics = statistics;
        self.expire(now);
        self.unnamed_since =
            if self.unnamed() == 0 { None } else { self.unnamed_since.or(Some(now)) };
    }

    fn assign(&mut self, job: &WireJob, runner: Option<String>, now: Timestamp) {
        let request = job.runner_request_id;
        if self.jobs.len() >= MOST_JOBS && !self.jobs.contains_key(&request) {
            return;
        }
        let names = job.owner_name.as_deref().zip(job.repository_name.as_deref());
        let title = job.job_display_name.clone();
        self.jobs.insert(
            request,
            AssignedJob {
                request,
                repository: names
                    .and_then(|(owner, name)| RepositoryName::new(format!("{owner}/{name}")).ok()),
                run: job.workflow_run_id.filter(|run| *run > 0),
                title: title.unwrap_or_else(|| format!("job {request}")),
                // What the service does not know, it says as the year one.
                queued_at: job.queue_time.filter(|time| time.as_second() > 0).unwrap_or(now),
                heard_at: now,
                runner,
            },
        );
    }

    fn expire(&mut self, now: Timestamp) {
        self.jobs.retain(|_, job| {
            let limit = if job.runner.is_some() { LONGEST_RUN } else { self.patience };
            now <= job.heard_at + limit
        });
    }

    fn named(&self) -> impl Iterator<Item = &AssignedJob> {
        self.jobs.values().filter(|job| job.runner.is_none())
    }

    /// How many more jobs wait by the statistics than by the messages.
    fn unnamed(&self) -> usize {
        let Statistics { total_assigned_jobs, total_running_jobs, .. } = self.statistics;
        let waiting = total_assigned_jobs.saturating_sub(total_running_jobs) as usize;
        waiting.saturating_sub(self.named().count())
    }

    /// The job that a runner has, as the service calls it.
    pub(super) fn job_of(&self, runner: &str) -> Option<i64> {
        let has = |job: &&AssignedJob| job.runner.as_deref() == Some(runner);
        self.jobs.values().find(has).map(|job| job.request)
    }

    /// What a job of this profile is, by what the pool calls it.
    pub(super) fn job(&self, profile: &ProfileName, wanted: &JobId) -> Option<Known> {
        let (_, request) = wanted.as_str().rsplit_once('-')?;
        let job = self.jobs.get(&request.parse().ok()?)?;
        let is_it = id(profile, request) == *wanted;
        let AssignedJob { repository, run, title, .. } = is_it.then(|| job.clone())?;
        Some(Known { number: None, repository, run, title })
    }

    /// Every job that waits, oldest first: those that are known, and as many without a name as the
    /// statistics count beyond them.
    pub(super) fn waiting(&mut self, profile: &ProfileName, now: Timestamp) -> Vec<Waiting> {
        self.expire(now);
        let waiting = |id: JobId, queued_at| Waiting {
            job: QueuedJob {
                id,
                profile: Some(profile.clone()),
                labels: [].into(),
                reserved_for: None,
                queued_at,
            },
            number: None,
            repository: None,
            run: None,
            title: "a job of which only the number is known".to_owned(),
        };
        let named = self.named().map(|job| Waiting {
            repository: job.repository.clone(),
            run: job.run,
            title: job.title.clone(),
            ..waiting(id(profile, &job.request.to_string()), job.queued_at)
        });
        let since = self.unnamed_since.unwrap_or(now);
        let unnamed =
            (0..self.unnamed()).map(|n| waiting(id(profile, &format!("unnamed-{n}")), since));
        let mut all: Vec<Waiting> = named.chain(unnamed).collect();
        all.sort_by_key(|waiting| waiting.job.queued_at);
        all
    }
}

/// What the pool calls a job of a scale set.
pub(super) fn id(profile: &ProfileName, request: &str) -> JobId {
    let text = format!("scale-set-{profile}-{request}");
    JobId::new(text).expect("letters, digits and dashes, below 100 of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_800_000_000, 0);
    const PATIENCE: Duration = Duration::from_secs(600);

    fn job(request: i64) -> WireJob {
        WireJob {
            runner_request_id: request,
            owner_name: Some("octo".to_owned()),
            repository_name: Some("hello".to_owned()),
            job_display_name: None,
            workflow_run_id: Some(3),
            queue_time: Some(START),
            runner_name: Some("linux-1".to_owned()),
        }
    }

    fn message(id: i64, jobs: &[JobMessage], assigned: u32, running: u32) -> Message {
        let statistics = Statistics {
            total_assigned_jobs: assigned,
            total_running_jobs: running,
            ..Statistics::default()
        };
        Message { id, statistics: Some(statistics), jobs: jobs.to_vec() }
    }

    fn ids(outstanding: &mut Outstanding, now: Timestamp) -> Vec<String> {
        let profile = ProfileName::new("linux").unwrap();
        let waiting = outstanding.waiting(&profile, now);
        let id = |waiting: &Waiting| waiting.job.id.to_string().replace("scale-set-linux-", "");
        waiting.iter().map(id).collect()
    }

    #[test]
    fn the_greater_of_statistics_and_messages_counts() {
        let mut outstanding = Outstanding::new(Vec::new(), PATIENCE);
        let assigned = [JobMessage::Assigned(job(1)), JobMessage::Assigned(job(2))];
        outstanding.apply(&message(1, &assigned, 0, 0), START);
        assert_eq!(ids(&mut outstanding, START), ["1", "2"]);
        outstanding.apply(&message(2, &[], 5, 1), START);
        assert_eq!(ids(&mut outstanding, START), ["1", "2", "unnamed-0", "unnamed-1"]);
        outstanding.apply(&message(3, &[JobMessage::Started(job(1))], 5, 2), START);
        assert_eq!(ids(&mut outstanding, START), ["2", "unnamed-0", "unnamed-1"]);
        assert_eq!(outstanding.job_of("linux-1"), Some(1));
    }

    #[test]
    fn a_job_is_found_by_what_the_pool_calls_it() {
        let mut outstanding = Outstanding::new(Vec::new(), PATIENCE);
        let named = WireJob { job_display_name: Some("build".to_owned()), ..job(12) };
        outstanding.apply(&message(1, &[JobMessage::Started(named)], 1, 1), START);
        let profile = ProfileName::new("linux").unwrap();
        let found = |id: &str| outstanding.job(&profile, &JobId::new(id).unwrap());
        let known = Known {
            number: None,
            repository: Some("octo/hello".parse().unwrap()),
            run: Some(3),
            title: "build".to_owned(),
        };
        assert_eq!(found("scale-set-linux-12"), Some(known));
        for other in
            ["scale-set-linux-13", "scale-set-android-12", "12", "scale-set-linux-unnamed-12"]
        {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn a_message_that_comes_twice_counts_once() {
        let mut outstanding = Outstanding::new(Vec::new(), PATIENCE);
        let assigned = message(1, &[JobMessage::Assigned(job(1))], 1, 0);
        outstanding.apply(&assigned, START);
        let before = outstanding.jobs();
        outstanding.apply(&assigned, START);
        assert_eq!(outstanding.jobs(), before);
        assert_eq!(ids(&mut outstanding, START), ["1"]);
    }

    #[test]
    fn a_job_that_is_cancelled_and_assigned_again_waits_again() {
        let mut outstanding = Outstanding::new(Vec::new(), PATIENCE);
        for round in 0..3 {
            outstanding.apply(&message(round, &[JobMessage::Assigned(job(1))], 1, 0), START);
            assert_eq!(ids(&mut outstanding, START), ["1"]);
            outstanding.apply(&message(round, &[JobMessage::Completed(job(1))], 0, 0), START);
            assert_eq!(ids(&mut outstanding, START), [""; 0]);
        }
    }

    #[test]
    fn a_job_that_nothing_confirms_is_given_up_and_one_that_is_counted_is_not() {
        let mut outstanding = Outstanding::new(Vec::new(), PATIENCE);
        outstanding.apply(&message(1, &[JobMessage::Assigned(job(1))], 0, 0), START);
        outstanding.apply(&message(2, &[JobMessage::Started(job(2))], 1, 1), START);
        assert_eq!(ids(&mut outstanding, START + PATIENCE), ["1"]);
        let later = START + PATIENCE + Duration::from_secs(1);
        assert_eq!(ids(&mut outstanding, later), [""; 0]);
        assert_eq!(outstanding.jobs().len(), 1, "the one that runs is still known");
        outstanding.apply(&message(3, &[], 2, 1), later);
        assert_eq!(ids(&mut outstanding, later), ["unnamed-0"]);
    }

    #[test]
    fn jobs_without_a_name_wait_since_they_were_first_counted() {
        let mut outstanding = Outstanding::new(Vec::new(), PATIENCE);
        let at = |second| START + Duration::from_secs(second);
        outstanding.apply(&message(1, &[], 1, 0), at(0));
        outstanding.apply(&message(2, &[], 2, 0), at(60));
        let profile = ProfileName::new("linux").unwrap();
        let since = |outstanding: &mut Outstanding, second| {
            outstanding.waiting(&profile, at(second))[0].job.queued_at
        };
        assert_eq!(since(&mut outstanding, 60), START);
        outstanding.apply(&message(3, &[], 0, 0), at(90));
        outstanding.apply(&message(4, &[], 1, 0), at(120));
        assert_eq!(since(&mut outstanding, 130), at(120));
    }
}
