//! Telling GitLab how a job is: that it runs, and how it ended.
//!
//! Source: `PUT /jobs/:id` in GitLab's `lib/api/ci/runner.rb`, and `network/gitlab.go` of gitlab-runner.

use std::time::Duration;

use reqwest::Method;
use runner_core::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    client::{Client, Reply, send},
    job::{LiveJob, Wish},
    jobs,
};

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Success,
    Failed { reason: Reason, exit_code: Option<u8> },
}

/// Why a job failed, in GitLab's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    /// Its own script did.
    ScriptFailure,
    /// It took too long.
    JobExecutionTimeout,
    /// We, or its machine.
    RunnerSystemFailure,
    /// We were not there to go on with it.
    RunnerInterrupted,
    /// It asks for what is not on offer here.
    RunnerConfigurationError,
    /// None of the others: it was cancelled.
    UnknownFailure,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::ScriptFailure => "script_failure",
            Self::JobExecutionTimeout => "job_execution_timeout",
            Self::RunnerSystemFailure => "runner_system_failure",
            Self::RunnerInterrupted => "runner_interrupted",
            Self::RunnerConfigurationError => "runner_configuration_error",
            Self::UnknownFailure => "unknown_failure",
        }
    }

    /// The word that this server understands, as gitlab-runner chooses it.
    fn word_for(self, known: &[String]) -> &'static str {
        let is_known = |word: &str| known.iter().any(|known| known == word);
        match self {
            _ if is_known(self.word()) => self.word(),
            Self::RunnerConfigurationError if is_known("script_failure") => "script_failure",
            _ => "unknown_failure",
        }
    }
}

/// What became of an update.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Updated {
    /// GitLab has it.
    Done,
    /// GitLab has it, and is still busy with the trace: send the same again after this time.
    Again(Duration),
    /// GitLab has another trace than we: send what it lacks, then the same again.
    Resend,
    /// GitLab does not want it: the job is not running any more. In words, why.
    Refused(String),
    /// For now GitLab has no answer. In words, why.
    Later(String),
}

/// Tells GitLab that the job lives. Returns what GitLab wants of it.
pub(crate) async fn keep_alive(client: &Client, job: &LiveJob) -> Result<Updated> {
    let body =
        json!({ "token": job.payload.token.expose(), "state": "running", "info": jobs::info() });
    put(client, job, &body).await
}

/// Tells GitLab how the job ended, with the checksum of its whole trace.
pub(crate) async fn conclude(client: &Client, job: &LiveJob, verdict: &Verdict) -> Result<Updated> {
    let body = final_body(job, verdict)?;
    put(client, job, &body).await
}

fn final_body(job: &LiveJob, verdict: &Verdict) -> Result<Value> {
    let (sum, size) = (format!("crc32:{:08x}", job.trace_checksum()?), job.progress().trace);
    let mut body = json!({
        "token": job.payload.token.expose(),
        "state": "success",
        "checksum": sum,
        "output": { "checksum": sum, "bytesize": size },
        "info": jobs::info(),
    });
    if let Verdict::Failed { reason, exit_code } = verdict {
        body["state"] = "failed".into();
        body["failure_reason"] = reason.word_for(&job.payload.features.failure_reasons).into();
        if let Some(code) = exit_code {
            body["exit_code"] = (*code).into();
        }
    }
    Ok(body)
}

async fn put(client: &Client, job: &LiveJob, body: &Value) -> Result<Updated> {
    let path = format!("jobs/{}", job.id());
    let request =
        client.request(Method::PUT, &path).header("JOB-TOKEN", job.payload.token.expose());
    let reply = send("update a job", request.json(body)).await?;
    if let Some(wish) = wish(&reply) {
        job.wants(wish);
    }
    Ok(match reply.status.as_u16() {
        200 => Updated::Done,
        202 => Updated::Again(interval(&reply).unwrap_or(Duration::from_secs(3))),
        412 => Updated::Resend,
        409 | 429 | 408 | 500..=599 => Updated::Later(reply.complaint()),
        _ => Updated::Refused(reply.complaint()),
    })
}

/// What GitLab wants, where an answer to a call about a job tells.
pub(crate) fn wish(reply: &Reply) -> Option<Wish> {
    match reply.header("job-status") {
        Some("canceling") => Some(Wish::Cancel),
        Some("canceled") => Some(Wish::Abort("it was cancelled".to_owned())),
        Some("failed") => Some(Wish::Abort("GitLab has failed it".to_owned())),
        // It has been told already how the job ended.
        Some("success") if !reply.status.is_success() => {
            Some(Wish::Abort("GitLab has it as successful".to_owned()))
        }
        _ if matches!(reply.status.as_u16(), 403 | 404) => Some(Wish::Abort(reply.complaint())),
        _ => None,
    }
}

/// How often GitLab wants to hear of the trace: never more rarely than every 15 minutes.
pub(crate) fn interval(reply: &Reply) -> Option<Duration> {
    let seconds = reply.header("x-gitlab-trace-update-interval")?.parse::<u64>().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds.min(900)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_hears_the_words_it_knows() {
        let known = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let all = known(&["script_failure", "runner_system_failure", "job_execution_timeout"]);
        for (reason, known, expected) in [
            (Reason::ScriptFailure, &all, "script_failure"),
            (Reason::JobExecutionTimeout, &all, "job_execution_timeout"),
            (Reason::RunnerInterrupted, &all, "unknown_failure"),
            (Reason::RunnerInterrupted, &known(&["runner_interrupted"]), "runner_interrupted"),
            (Reason::RunnerConfigurationError, &all, "script_failure"),
            (Reason::RunnerConfigurationError, &known(&[]), "unknown_failure"),
            (Reason::ScriptFailure, &known(&[]), "unknown_failure"),
        ] {
            assert_eq!(reason.word_for(known), expected, "{reason:?} {known:?}");
        }
    }
}
