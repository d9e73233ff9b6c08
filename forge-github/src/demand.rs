//! What waits for a runner, and who says so.
//!
//! A [`DemandSource`] is one way to know: runner scale sets, webhooks, or asking. Each keeps a *state*, not
//! a stream: what waits now, as far as it knows. Losing, repeating or reordering what it hears may make that
//! state late, never wrong for good, because whoever looks at GitHub itself [tells](DemandSource::learn)
//! the others.

pub(crate) mod merge;

use std::{collections::BTreeSet, fmt};

use async_trait::async_trait;
use jiff::Timestamp;
use runner_core::{Changes, JobId, Label, ProfileName, Result, forge::QueuedJob};
use serde::{Deserialize, Serialize};

use crate::{labels, scope::RepositoryName};

pub use merge::{DemandPace, Note, ProfileDemand};

/// A way to know what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A runner scale set's message session.
    ScaleSet,
    /// `workflow_job` deliveries.
    Webhook,
    /// Asking for queued runs and their jobs.
    Poll,
}

impl SourceKind {
    /// A word for tables and counters. Never changes.
    pub fn word(self) -> &'static str {
        match self {
            Self::ScaleSet => "scale-set",
            Self::Webhook => "webhook",
            Self::Poll => "poll",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether what a source says can be relied upon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It can.
    Well,
    /// It cannot; the next source takes over until it can again.
    Ill {
        /// Since when.
        since: Timestamp,
        /// Why, in words for the operator.
        reason: String,
    },
}

impl Health {
    /// Whether it can be relied upon.
    pub fn is_well(&self) -> bool {
        *self == Self::Well
    }
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// As old as the source's own pace makes it.
    Usual,
    /// Asked for after this call began, by a source that can ask. A source that only hears says what it knows.
    Now,
}

/// Knows what waits for a runner.
///
/// # Contract
/// - **A state, not a stream.** `queued` says the same however often, and in whatever order, the news came.
/// - **Says when it does not know.** A source that may have missed something is [`Health::Ill`] until it
///   has caught up, or fails; it never answers less than it knows.
/// - **The same job has the same id** in webhooks and in answers: GitHub's number of the workflow job. Scale
///   sets do not tell that number; theirs begin with `scale-set-` and name their profile.
/// - **Hints** when what waits may have changed.
#[async_trait]
pub trait DemandSource: Send + Sync + 'static {
    /// Which way of knowing this is.
    fn kind(&self) -> SourceKind;

    /// The only profile it speaks of, where there is one: a scale set serves one profile.
    fn profile(&self) -> Option<&ProfileName> {
        None
    }

    /// Whether it can be relied upon at the moment. From memory, at once.
    fn health(&self) -> Health;

    /// Every job that waits, as far as this source knows.
    ///
    /// # Errors
    /// `Unauthorized`, `RateLimited`, `Backend`: when it had to ask and was not answered in full.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn queued(&self, freshness: Freshness) -> Result<Vec<Waiting>>;

    /// The job that the runner of this name has, where the source heard of it. `runner` is the name at
    /// GitHub, owner mark included.
    fn job_of(&self, runner: &str) -> Option<JobId> {
        let _ = runner;
        None
    }

    /// What a job is, where the source heard of it. From memory, at once.
    fn job(&self, id: &JobId) -> Option<Known> {
        let _ = id;
        None
    }

    /// Whether the source heard that the runner of this name had its job, and that the job is over: then GitHub
    /// removes the runner by itself. Never a guess: what is not known is not over. It saves a call where the
    /// machine is dead or a list lacks the runner as well, and decides nothing alone.
    fn is_over(&self, runner: &str) -> bool {
        let _ = runner;
        false
    }

    /// Takes in what GitHub itself said about a job just now, when another source asked. It outranks what
    /// was heard: this is how a lost delivery is made up for. From memory, at once.
    fn learn(&self, fact: &JobFact) {
        let _ = fact;
    }

    /// Takes in that GitHub says of a job that there is none of this number. It may say so of one that it does
    /// not show for a while; so the job is forgotten, and not taken for one that is over. From memory, at once.
    fn forget(&self, number: u64) {
        let _ = number;
    }

    /// Takes in that GitHub was asked for everything that waits, from `asked_at` on, and that all of it has been
    /// [told](Self::learn). From memory, at once.
    fn caught_up(&self, asked_at: Timestamp) {
        let _ = asked_at;
    }

    /// Hints that what waits may have changed.
    fn changes(&self) -> Changes;
}

/// A job that waits, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The job, for the pool.
    pub job: QueuedJob,
    /// GitHub's number of the job, unless a scale set told of it.
    pub number: Option<u64>,
    /// The repository it belongs to, where known.
    pub repository: Option<RepositoryName>,
    /// The workflow run it belongs to, where known.
    pub run: Option<u64>,
    /// What GitHub calls it, for people.
    pub title: String,
}

/// What is known of a job, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// GitHub's number of the job, unless a scale set told of it.
    pub number: Option<u64>,
    /// The repository it belongs to, where known.
    pub repository: Option<RepositoryName>,
    /// The workflow run it belongs to, where known.
    pub run: Option<u64>,
    /// What GitHub calls it.
    pub title: String,
}

/// Where a job is in its life. Ordered: a job only moves forward within one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// It waits for something other than a runner: an approval, a concurrency group.
    Waiting,
    /// It waits for a runner.
    Queued,
    /// A runner has it.
    InProgress,
    /// It is over.
    Completed,
}

impl JobStatus {
    /// GitHub's word as a status. `requested` and `pending` wait for something other than a runner, and so,
    /// for all that is known, does a word that GitHub makes up later.
    pub fn of(word: &str) -> Self {
        match word {
            "queued" => Self::Queued,
            "in_progress" => Self::InProgress,
            "completed" => Self::Completed,
            _ => Self::Waiting,
        }
    }
}

/// What GitHub said about one job at one moment, in an answer or in a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFact {
    /// GitHub's number of the job. A re-run has another one.
    pub number: u64,
    /// The workflow run it belongs to.
    pub run: u64,
    /// Which attempt of that run, from 1.
    pub attempt: u32,
    /// The repository it belongs to.
    pub repository: RepositoryName,
    /// What GitHub calls it, for people.
    pub title: String,
    /// Where it is in its life.
    pub status: JobStatus,
    /// What it asks of a runner, as written in the workflow.
    pub labels: Vec<String>,
    /// Since when it waits, or waited.
    pub queued_at: Timestamp,
    /// The name at GitHub, owner mark included, of the runner that has or had it.
    pub runner: Option<String>,
}

impl JobFact {
    /// The job's id: GitHub's number.
    pub fn id(&self) -> JobId {
        JobId::new(self.number.to_string()).expect("a number is a valid id")
    }

    /// What of it people are told.
    pub fn known(&self) -> Known {
        Known {
            number: Some(self.number),
            repository: Some(self.repository.clone()),
            run: Some(self.run),
            title: self.title.clone(),
        }
    }

    /// The job as one that waits. None if it asks for a label that no runner of ours can have: whatever
    /// was left of its labels would match runners that it does not want.
    pub fn waiting(&self) -> Option<Waiting> {
        let asked: BTreeSet<Label> =
            self.labels.iter().map(|label| Label::new(label).ok()).collect::<Option<_>>()?;
        let (labels, reserved_for) = labels::split(asked)?;
        Some(Waiting {
            job: QueuedJob {
                id: self.id(),
                profile: None,
                labels,
                reserved_for,
                queued_at: self.queued_at,
            },
            number: Some(self.number),
            repository: Some(self.repository.clone()),
            run: Some(self.run),
            title: self.title.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(labels: &[&str]) -> JobFact {
        JobFact {
            number: 7,
            run: 1,
            attempt: 1,
            repository: "servo/servo".parse().unwrap(),
            title: "build".to_owned(),
            status: JobStatus::Queued,
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            queued_at: Timestamp::UNIX_EPOCH,
            runner: None,
        }
    }

    #[test]
    fn a_job_that_asks_for_a_reservation_waits_for_it() {
        let waiting = fact(&["self-hosted", "Reserved-For:abc"]).waiting().unwrap();
        assert_eq!(waiting.job.reserved_for.unwrap().as_str(), "abc");
        assert_eq!(waiting.job.labels, BTreeSet::from([Label::new("self-hosted").unwrap()]));
    }

    #[test]
    fn a_job_that_asks_for_what_no_runner_can_have_waits_for_nobody() {
        assert_eq!(fact(&["linux", "a,b"]).waiting(), None);
        assert_eq!(fact(&["linux", "reserved-for:../x"]).waiting(), None);
    }

    #[test]
    fn a_status_that_is_not_known_waits_for_no_runner() {
        assert_eq!(JobStatus::of("pending"), JobStatus::Waiting);
        assert_eq!(JobStatus::of("meditating"), JobStatus::Waiting);
        assert!(JobStatus::Waiting < JobStatus::Queued);
    }
}
