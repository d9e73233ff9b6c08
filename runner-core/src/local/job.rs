//! Jobs of the local queue.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    forge::QueuedJob,
    guest::ExitStatus,
    name::{JobId, Label, ProfileName, ReservationId, WorkerName},
};

/// What to run, and on what.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// What people call it.
    #[serde(default)]
    pub title: String,
    /// The only profile it may run on.
    #[serde(default)]
    pub profile: Option<ProfileName>,
    /// What a profile must offer, if none is named.
    #[serde(default)]
    pub labels: BTreeSet<Label>,
    /// The reservation on whose workers it runs.
    #[serde(default)]
    pub reserved_for: Option<ReservationId>,
    /// What to run.
    pub run: Run,
    /// Added to the guest's environment. May hold secrets: kept until the job ends, never shown.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where to run it in the guest. [`WORKING_DIR`] if none.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Files to collect afterwards, relative to the working directory.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// How long it may run. The queue's default if none.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
}

/// Where a job runs in its guest unless it says otherwise.
pub const WORKING_DIR: &str = "/work";

/// The program of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// A script: run by its `#!` line, or by `/bin/sh`.
    Script(String),
    /// A program and its arguments.
    Argv(Vec<String>),
}

impl Default for Run {
    fn default() -> Self {
        Self::Argv(Vec::new())
    }
}

impl fmt::Debug for JobSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec")
            .field("title", &self.title)
            .field("profile", &self.profile)
            .field("labels", &self.labels)
            .field("run", &self.run)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl JobSpec {
    /// Checks what can be checked without a guest.
    ///
    /// # Errors
    /// `Invalid` naming the field and the rule.
    pub fn check(&self) -> Result<()> {
        match &self.run {
            Run::Argv(argv) if argv.first().is_none_or(String::is_empty) => {
                return Err(Error::invalid("the job's command", "name a program to run"));
            }
            Run::Script(script) if script.trim().is_empty() => {
                return Err(Error::invalid("the job's script", "it is empty"));
            }
            Run::Argv(argv) if argv.iter().any(|arg| arg.contains('\0')) => {
                return Err(Error::invalid("the job's command", "it must not hold NUL"));
            }
            Run::Argv(_) | Run::Script(_) => (),
        }
        if self.profile.is_none() && self.labels.is_empty() && self.reserved_for.is_none() {
            return Err(Error::invalid("the job", "name a profile, labels or a reservation"));
        }
        for (name, value) in &self.env {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let starts_well = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
            if !starts_well || !name.bytes().all(allowed) {
                let what = format!("environment variable {name:?}");
                return Err(Error::invalid(what, "use letters, digits and '_', no digit first"));
            }
            if value.contains('\0') {
                let what = format!("the value of environment variable {name}");
                return Err(Error::invalid(what, "it must not hold NUL"));
            }
        }
        if self.working_dir.as_ref().is_some_and(|dir| !dir.starts_with('/') || dir.contains('\0'))
        {
            return Err(Error::invalid("the job's working directory", "use an absolute path"));
        }
        if let Some(path) = self.outputs.iter().find(|path| !is_inside(path)) {
            let what = format!("output path {path:?}");
            return Err(Error::invalid(what, "use a relative path without '..'"));
        }
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Error::invalid("the job's timeout", "it must be above zero"));
        }
        Ok(())
    }

    /// The same without what was secret in it.
    pub(crate) fn without_secrets(mut self) -> Self {
        self.env.values_mut().for_each(String::clear);
        self
    }
}

/// A file that a job finds in its guest.
#[derive(Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Where: relative to the working directory, without `..`.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub content: Vec<u8>,
}

impl InputFile {
    /// Checks the path.
    ///
    /// # Errors
    /// `Invalid` naming the rule.
    pub fn check(&self) -> Result<()> {
        if is_inside(&self.path) {
            return Ok(());
        }
        let what = format!("input path {:?}", self.path);
        Err(Error::invalid(what, "use a relative path without '..'"))
    }
}

/// Whether a path stays within the directory that it is relative to.
fn is_inside(path: &str) -> bool {
    let safe = |part: &str| !part.is_empty() && part != ".." && part != ".";
    !path.is_empty() && !path.contains('\0') && path.split('/').all(safe) && !path.starts_with('-')
}

/// Where a job is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum JobState {
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Its command returned 0.
    Succeeded,
    /// Its command did not return 0.
    Failed {
        /// How it ended.
        exit: ExitStatus,
    },
    /// Someone cancelled it.
    Cancelled,
    /// It ran longer than it may.
    TimedOut,
    /// Its machine died, or it could not be started.
    Interrupted {
        /// What happened.
        reason: String,
    },
}

impl JobState {
    /// Whether it will never change again.
    pub fn is_over(&self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// A word for tables and counters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed out",
            Self::Interrupted { .. } => "interrupted",
        }
    }

    /// What a shell would say of it: the command's own code where it has one. 130 for cancelled (as after
    /// Ctrl-C), 124 for timed out (as `timeout` says it), 125 for interrupted.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Self::Queued | Self::Running => None,
            Self::Succeeded => Some(0),
            Self::Failed { exit } => Some(exit.code()),
            Self::Cancelled => Some(130),
            Self::TimedOut => Some(124),
            Self::Interrupted { .. } => Some(125),
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { exit } => write!(f, "failed ({exit})"),
            Self::Interrupted { reason } => write!(f, "interrupted ({reason})"),
            other => f.write_str(other.word()),
        }
    }
}

/// A job and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its place in the order of submission.
    pub number: u64,
    /// What was asked for; secrets are taken out when it is over.
    pub spec: JobSpec,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: JobState,
    /// When it was submitted.
    pub queued_at: Timestamp,
    /// When a ready worker took it.
    pub assigned_at: Option<Timestamp>,
    /// When its command was started in the guest.
    pub started_at: Option<Timestamp>,
    /// When its first output was seen.
    pub first_output_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// The worker that has or had it.
    pub worker: Option<WorkerName>,
    /// How much of its log is kept, in bytes.
    pub log_bytes: u64,
    /// How much of its output was read from the guest, in bytes.
    pub read_bytes: u64,
    /// Whether its output went beyond what is kept.
    pub log_cut: bool,
    /// Whether someone wants it cancelled.
    pub cancel_requested: bool,
    /// Whether outputs were collected.
    pub has_outputs: bool,
}

impl Job {
    /// When it must be over, once it has started.
    pub(crate) fn deadline(&self, default_timeout: Duration) -> Option<Timestamp> {
        let timeout = SignedDuration::try_from(self.spec.timeout.unwrap_or(default_timeout));
        let timeout = timeout.unwrap_or(SignedDuration::MAX);
        Some(self.started_at?.saturating_add(timeout).unwrap_or(Timestamp::MAX))
    }

    pub(crate) fn as_queued(&self) -> QueuedJob {
        QueuedJob {
            id: self.id.clone(),
            profile: self.spec.profile.clone(),
            labels: self.spec.labels.clone(),
            reserved_for: self.spec.reserved_for.clone(),
            queued_at: self.queued_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> JobSpec {
        JobSpec {
            profile: Some(ProfileName::new("linux").unwrap()),
            run: Run::Argv(vec!["true".to_owned()]),
            ..JobSpec::default()
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut spec = spec();
        spec.env.insert("TOKEN".to_owned(), "hunter2".to_owned());
        let text = format!("{spec:?}");
        assert!(text.contains("TOKEN") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn bad_specs_are_refused_by_field() {
        let refused = |change: fn(&mut JobSpec), what: &str| {
            let mut spec = spec();
            change(&mut spec);
            let error = spec.check().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        spec().check().unwrap();
        refused(|s| s.run = Run::Argv(vec![]), "command");
        refused(|s| s.run = Run::Script(" \n".to_owned()), "script");
        refused(|s| s.profile = None, "name a profile");
        refused(|s| drop(s.env.insert("A B".to_owned(), String::new())), "A B");
        refused(|s| drop(s.env.insert("1A".to_owned(), String::new())), "1A");
        refused(|s| s.working_dir = Some("tmp".to_owned()), "working directory");
        refused(|s| s.outputs = vec!["../etc/shadow".to_owned()], "../etc/shadow");
        refused(|s| s.outputs = vec!["/etc/shadow".to_owned()], "/etc/shadow");
        refused(|s| s.timeout = Some(Duration::ZERO), "timeout");
    }
}
