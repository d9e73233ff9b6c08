//! Jobs as the API tells them. Values of environment variables come in and never go out.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use poem_openapi::{Enum, Object, types::Base64};
use runner_core::{
    Error, Label, ProfileName, ReservationId,
    guest::ExitStatus,
    local::{self, InputFile, JobSpec, JobState, Run},
};
use serde::{Deserialize, Deserializer, de};

use crate::config::units::Period;

/// A job to be run.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// What people call it.
    #[oai(default, validator(max_length = 200))]
    #[serde(default)]
    title: String,
    /// The only profile it may run on.
    profile: Option<String>,
    /// What a profile must offer, if none is named.
    #[oai(default)]
    #[serde(default)]
    labels: Vec<String>,
    /// The reservation on whose workers it runs.
    reserved_for: Option<String>,
    /// The program and its arguments. Either this or a script.
    argv: Option<Vec<String>>,
    /// A script: run by its `#!` line, or by `/bin/sh`. Either this or a program.
    script: Option<String>,
    /// Added to the guest's environment. Kept until the job ends; never shown.
    #[oai(default, write_only)]
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Where to run it in the guest.
    working_dir: Option<String>,
    /// Files and directories to collect afterwards, relative to the working directory.
    #[oai(default)]
    #[serde(default)]
    outputs: Vec<String>,
    /// How long it may run, such as `90s` or `1h30m`.
    timeout: Option<String>,
    /// Higher goes first.
    #[oai(default)]
    #[serde(default)]
    priority: i32,
    /// Input files.
    #[oai(default, write_only)]
    #[serde(default)]
    files: Vec<NewFile>,
}

/// A file that the job finds in its guest.
#[derive(Object, Deserialize)]
#[oai(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
pub struct NewFile {
    /// Where: relative to the working directory, without `..`.
    path: String,
    /// Its content in base64.
    #[serde(deserialize_with = "from_base64")]
    base64: Base64<Vec<u8>>,
    /// Whether it can be executed.
    #[oai(default)]
    #[serde(default)]
    executable: bool,
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum JobStateName {
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Running,
    /// Its command returned 0.
    Succeeded,
    /// Its command did not return 0.
    Failed,
    /// Someone cancelled it.
    Cancelled,
    /// It ran longer than it may.
    TimedOut,
    /// Its machine died, or it could not be started.
    Interrupted,
}

/// A job and what became of it.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct Job {
    /// Its id.
    id: String,
    /// Its place in the order of submission.
    number: u64,
    /// What people call it.
    title: String,
    /// The only profile it may run on.
    profile: Option<String>,
    /// What a profile must offer.
    labels: BTreeSet<String>,
    /// The reservation on whose workers it runs.
    reserved_for: Option<String>,
    /// The program and its arguments.
    argv: Option<Vec<String>>,
    /// The script.
    script: Option<String>,
    /// The names of its environment variables.
    env_names: Vec<String>,
    /// Where it runs in the guest.
    working_dir: String,
    /// What is collected afterwards.
    outputs: Vec<String>,
    /// How long it may run, in seconds, if it says.
    timeout_s: Option<f64>,
    /// Higher goes first.
    priority: i32,
    /// Where it is in its life.
    state: JobStateName,
    /// Its end in words.
    reason: Option<String>,
    /// What a shell would say of it: its own code, 130 cancelled, 124 timed out, 125 interrupted.
    exit_code: Option<u8>,
    /// The signal that ended its command.
    signal: Option<u8>,
    /// When it was submitted.
    queued_at: String,
    /// When a ready worker took it.
    assigned_at: Option<String>,
    /// When its command was started in the guest.
    started_at: Option<String>,
    /// When its first output was seen.
    first_output_at: Option<String>,
    /// When it was over.
    ended_at: Option<String>,
    /// The worker that has or had it.
    worker: Option<String>,
    /// How much of its log is kept, in bytes.
    log_bytes: u64,
    /// Whether its output went beyond what is kept.
    log_cut: bool,
    /// Whether someone wants it cancelled.
    cancel_requested: bool,
    /// Whether outputs were collected.
    has_outputs: bool,
}

fn from_base64<'de, D: Deserializer<'de>>(value: D) -> Result<Base64<Vec<u8>>, D::Error> {
    let text = String::deserialize(value)?;
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|error| de::Error::custom(format!("not base64: {error}")))?;
    Ok(Base64(bytes))
}

/// The longest title, in characters.
const TITLE: usize = 200;

/// Some jobs, newest first.
#[derive(Object)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// `after` of the next page, if there may be more.
    pub next: Option<u64>,
}

impl NewJob {
    /// What the queue takes.
    pub fn into_spec(self) -> Result<(JobSpec, Vec<InputFile>), Error> {
        if self.title.chars().count() > TITLE {
            let rule = format!("it must not be longer than {TITLE} characters");
            return Err(Error::invalid("the job's title", rule));
        }
        let run = match (self.argv, self.script) {
            (Some(argv), None) => Run::Argv(argv),
            (None, Some(script)) => Run::Script(script),
            (None, None) | (Some(_), Some(_)) => {
                return Err(Error::invalid("the job", "give it either argv or a script"));
            }
        };
        let timeout = match self.timeout {
            None => None,
            Some(text) => match text.parse::<Period>() {
                Ok(period) => Some(period.0),
                Err(error) => return Err(Error::invalid("the job's timeout", error.to_string())),
            },
        };
        let spec = JobSpec {
            title: self.title,
            profile: self.profile.map(ProfileName::new).transpose()?,
            labels: self.labels.iter().map(Label::new).collect::<Result<_, _>>()?,
            reserved_for: self.reserved_for.map(ReservationId::new).transpose()?,
            run,
            env: self.env,
            working_dir: self.working_dir,
            outputs: self.outputs,
            timeout,
            priority: self.priority,
        };
        let file = |file: NewFile| InputFile {
            path: file.path,
            mode: if file.executable { 0o755 } else { 0o644 },
            content: file.base64.0,
        };
        Ok((spec, self.files.into_iter().map(file).collect()))
    }
}

impl From<local::Job> for Job {
    fn from(job: local::Job) -> Self {
        let text = |time: Option<jiff::Timestamp>| time.map(|time| time.to_string());
        let reason = match &job.state {
            JobState::Failed { exit } => Some(exit.to_string()),
            JobState::Interrupted { reason } => Some(reason.clone()),
            _ => None,
        };
        let signal = match &job.state {
            JobState::Failed { exit: ExitStatus::Signal(signal) } => Some(*signal),
            _ => None,
        };
        let (argv, script) = match job.spec.run {
            Run::Argv(argv) => (Some(argv), None),
            Run::Script(script) => (None, Some(script)),
        };
        Self {
            id: job.id.to_string(),
            number: job.number,
            title: job.spec.title,
            profile: job.spec.profile.map(String::from),
            labels: job.spec.labels.into_iter().map(String::from).collect(),
            reserved_for: job.spec.reserved_for.map(String::from),
            argv,
            script,
            env_names: job.spec.env.into_keys().collect(),
            working_dir: job.spec.working_dir.unwrap_or_else(|| local::WORKING_DIR.to_owned()),
            outputs: job.spec.outputs,
            timeout_s: job.spec.timeout.map(|timeout| timeout.as_secs_f64()),
            priority: job.spec.priority,
            state: JobStateName::from(&job.state),
            reason,
            exit_code: job.state.exit_code(),
            signal,
            queued_at: job.queued_at.to_string(),
            assigned_at: text(job.assigned_at),
            started_at: text(job.started_at),
            first_output_at: text(job.first_output_at),
            ended_at: text(job.ended_at),
            worker: job.worker.map(String::from),
            log_bytes: job.log_bytes,
            log_cut: job.log_cut,
            cancel_requested: job.cancel_requested,
            has_outputs: job.has_outputs,
        }
    }
}

impl From<&JobState> for JobStateName {
    fn from(state: &JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed { .. } => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
            JobState::TimedOut => Self::TimedOut,
            JobState::Interrupted { .. } => Self::Interrupted,
        }
    }
}
