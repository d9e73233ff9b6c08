//! One job as its deliveries tell it. It only ever moves forward.

use jiff::Timestamp;
use serde::Deserialize;

/// How far a job has come. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Held back by a protection rule or by the concurrency of its workflow: it wants no runner yet.
    Waiting,
    /// It wants a runner.
    Queued,
    /// A runner has it.
    InProgress,
    /// It is over, whether it ran or not.
    Completed,
}

impl Stage {
    /// Reads the `action` of a delivery, or the `status` of a job. Nothing for words that are not known.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "waiting" | "pending" | "requested" => Some(Self::Waiting),
            "queued" => Some(Self::Queued),
            "in_progress" => Some(Self::InProgress),
            "completed" => Some(Self::Completed),
            _ => None,
        }
    }
}

/// A job, as one delivery or one answer of the REST interface shows it.
///
/// Ordered by age: of two views of one job, the greater one is the later, by attempt, then by stage. What is
/// left decides ties, so that any order of arrival ends the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobView {
    /// How often the run was started, from 1.
    pub run_attempt: u64,
    /// How far it has come.
    pub stage: Stage,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// How it ended: `success`, `failure`, `cancelled`, `skipped`, …
    pub conclusion: Option<String>,
    /// The runner that has or had it, once one has.
    pub runner_name: Option<String>,
    /// When it started; GitHub sets it to the time of queueing until then.
    pub started_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its number, the same in the REST interface.
    pub id: u64,
    /// The run it belongs to.
    pub run_id: u64,
    /// The repository, as `owner/name`.
    pub repository: String,
    /// What the workflow calls it.
    pub name: String,
    /// What the workflow is called.
    pub workflow: Option<String>,
    /// The labels that its runner must have, all of them.
    pub labels: Vec<String>,
    /// The branch or tag name it runs for.
    pub head_branch: Option<String>,
}

impl JobView {
    /// Takes `other` if it is a later view of the same job, and says whether it was.
    pub(super) fn advance(&mut self, other: Self) -> bool {
        let later = other > *self;
        if later {
            *self = other;
        }
        later
    }
}

/// `workflow_job` in a payload. Only what is used, so that what GitHub adds or drops elsewhere is no concern.
#[derive(Debug, Deserialize)]
pub(super) struct WireJob {
    id: u64,
    run_id: u64,
    // Absent from the oldest GitHub Enterprise Servers.
    #[serde(default = "first_attempt")]
    run_attempt: u64,
    name: String,
    workflow_name: Option<String>,
    head_branch: Option<String>,
    conclusion: Option<String>,
    created_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    #[serde(default)]
    labels: Vec<String>,
    runner_name: Option<String>,
}

fn first_attempt() -> u64 {
    1
}

impl WireJob {
    /// `now` stands in where GitHub gave no time at all.
    pub(super) fn view(self, stage: Stage, repository: String, now: Timestamp) -> JobView {
        // A queued job has no runner, whatever the payload says.
        let has_runner = stage >= Stage::InProgress;
        JobView {
            run_attempt: self.run_attempt,
            stage,
            completed_at: self.completed_at,
            conclusion: self.conclusion,
            runner_name: self.runner_name.filter(|name| has_runner && !name.is_empty()),
            started_at: self.started_at,
            created_at: self.created_at.or(self.started_at).unwrap_or(now),
            id: self.id,
            run_id: self.run_id,
            repository,
            name: self.name,
            workflow: self.workflow_name,
            labels: self.labels,
            head_branch: self.head_branch,
        }
    }
}
