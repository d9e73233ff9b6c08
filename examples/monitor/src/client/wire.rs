//! What the command line needs of what the API tells. Keys it does not know are left alone.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// A job to be run.
#[derive(Serialize, Default)]
pub struct NewJob {
    /// What people call it.
    pub title: String,
    /// The only profile it may run on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// What a profile must offer.
    pub labels: Vec<String>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the guest's environment.
    pub env: BTreeMap<String, String>,
    /// Where to run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// What to collect afterwards.
    pub outputs: Vec<String>,
    /// How long it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Higher goes first.
    pub priority: i32,
}

/// A job and what became of it.
#[derive(Deserialize, Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What people call it.
    #[serde(default)]
    pub title: String,
    /// The only profile it may run on.
    pub profile: Option<String>,
    /// Its program.
    pub argv: Option<Vec<String>>,
    /// Where it is in its life.
    pub state: String,
    /// Its end in words.
    pub reason: Option<String>,
    /// What a shell would say of it, once it is over.
    pub exit_code: Option<u8>,
    /// When it was submitted.
    pub queued_at: String,
    /// When a ready worker took it.
    pub assigned_at: Option<String>,
    /// When its command was started.
    pub started_at: Option<String>,
    /// When its first output was seen.
    pub first_output_at: Option<String>,
    /// When it was over.
    pub ended_at: Option<String>,
    /// The worker that has or had it.
    pub worker: Option<String>,
    /// Whether its output went beyond what is kept.
    #[serde(default)]
    pub log_cut: bool,
    /// Whether outputs were collected.
    #[serde(default)]
    pub has_outputs: bool,
}

impl Job {
    /// Its state in words.
    pub fn says(&self) -> String {
        let state = self.state.replace('_', " ");
        match &self.reason {
            Some(reason) => format!("{state}: {reason}"),
            None => state,
        }
    }
}

/// Some jobs.
#[derive(Deserialize)]
pub struct JobPage {
    /// The jobs, newest first.
    pub jobs: Vec<Job>,
}

/// A part of a log.
#[derive(Deserialize)]
pub struct LogPart {
    /// Where it begins.
    pub from: u64,
    text: String,
    base64: Option<String>,
}

impl LogPart {
    /// Its exact bytes.
    ///
    /// # Errors
    /// For base64 that is none.
    pub fn bytes(self) -> anyhow::Result<Vec<u8>> {
        match self.base64 {
            Some(text) => STANDARD.decode(text).context("a part of the log is not base64"),
            None => Ok(self.text.into_bytes()),
        }
    }
}

/// A worker.
#[derive(Deserialize)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// Its profile.
    pub profile: Option<String>,
    /// Where it is in its life.
    pub phase: String,
    /// Why it is over.
    pub ending: Option<String>,
    /// Since when.
    pub since: String,
    /// Its job.
    pub job: Option<String>,
}

/// Some workers, alone or as a page.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Workers {
    /// All there are.
    All(Vec<Worker>),
    /// A part of them.
    Page {
        /// The workers.
        workers: Vec<Worker>,
    },
}

impl Workers {
    /// The workers themselves.
    pub fn into_vec(self) -> Vec<Worker> {
        match self {
            Self::All(workers) | Self::Page { workers } => workers,
        }
    }
}

/// A promise of machines.
#[derive(Deserialize)]
pub struct Reservation {
    /// Its id.
    pub id: String,
    /// Until when it holds.
    #[serde(default)]
    pub until: Option<String>,
    /// The machines.
    pub workers: Vec<String>,
}

/// A kind of runner on offer.
#[derive(Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What it offers to jobs.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Whether it makes no new workers for now.
    #[serde(default)]
    pub paused: bool,
    /// How many workers it has.
    pub counts: Option<Counts>,
}

/// How many workers a profile has and should have.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Counts {
    /// Not ready yet.
    pub starting: u32,
    /// Ready for a job.
    pub idle: u32,
    /// With a job.
    pub busy: u32,
    /// How many to keep ready.
    pub min_idle: u32,
    /// How many there may be.
    pub max: u32,
    /// How many jobs wait.
    pub queued: u32,
}

/// Why a request was refused.
#[derive(Deserialize)]
pub(super) struct Problem {
    pub detail: String,
}
