//! What the Actions service says, as JSON. Unknown fields and unknown kinds are nobody's business here.
//!
//! Field names after `types.go` of <https://github.com/actions/scaleset>, which is the only description.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

/// A list, as the service wraps it.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub(super) value: Vec<T>,
}

/// A group of runners.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Its number. The default group has 1.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whether it is where runners go that name none.
    #[serde(default)]
    pub is_default_group: bool,
}

/// A scale set as the service knows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleSet {
    /// Its number.
    pub id: i64,
    /// Its name: what jobs say in `runs-on`.
    pub name: String,
    /// The group that it is in.
    pub runner_group_id: i64,
    /// Further labels.
    #[serde(default)]
    pub labels: Vec<WireLabel>,
    /// How many jobs and runners it has.
    pub statistics: Option<Statistics>,
}

/// A label of a scale set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireLabel {
    /// `System`, or `User`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The label.
    pub name: String,
}

/// What a scale set is made of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScaleSetBody<'a> {
    pub(super) name: &'a str,
    pub(super) runner_group_id: i64,
    pub(super) labels: Vec<WireLabel>,
    #[serde(rename = "RunnerSetting")]
    pub(super) runner_setting: RunnerSetting,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunnerSetting {
    /// The image decides which version runs.
    pub(super) disable_update: bool,
}

/// How many jobs and runners a scale set has, as the service counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Statistics {
    /// Jobs that could be acquired.
    pub total_available_jobs: u32,
    /// Jobs that were acquired and not assigned yet.
    pub total_acquired_jobs: u32,
    /// Jobs that are the scale set's, those that run among them.
    pub total_assigned_jobs: u32,
    /// Jobs that run.
    pub total_running_jobs: u32,
    /// Runners.
    pub total_registered_runners: u32,
    /// Runners with a job.
    pub total_busy_runners: u32,
    /// Runners without one.
    pub total_idle_runners: u32,
}

/// What a message session begins with. Its token is a secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireSession {
    pub(super) session_id: String,
    pub(super) message_queue_url: url::Url,
    pub(super) message_queue_access_token: String,
    pub(super) statistics: Option<Statistics>,
}

/// A message around its jobs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    message_id: i64,
    message_type: String,
    #[serde(default)]
    body: Option<String>,
    statistics: Option<Statistics>,
}

/// A message, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) id: i64,
    pub(super) statistics: Option<Statistics>,
    pub(super) jobs: Vec<JobMessage>,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "messageType")]
pub(super) enum JobMessage {
    #[serde(rename = "JobAvailable")]
    Available(WireJob),
    #[serde(rename = "JobAssigned")]
    Assigned(WireJob),
    #[serde(rename = "JobStarted")]
    Started(WireJob),
    #[serde(rename = "JobCompleted")]
    Completed(WireJob),
    #[serde(other)]
    Unknown,
}

/// A job, as messages tell it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireJob {
    pub(super) runner_request_id: i64,
    pub(super) owner_name: Option<String>,
    pub(super) repository_name: Option<String>,
    pub(super) job_display_name: Option<String>,
    pub(super) workflow_run_id: Option<u64>,
    pub(super) queue_time: Option<Timestamp>,
    pub(super) runner_name: Option<String>,
}

/// A runner, as the service refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerReference {
    /// Its number, the same as in the REST interface.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The scale set that registered it, if one did.
    pub runner_scale_set_id: Option<i64>,
}

/// What a runner starts with. It is a secret.
#[derive(Deserialize)]
pub(super) struct JitConfig {
    pub(super) runner: RunnerReference,
    #[serde(rename = "encodedJITConfig")]
    pub(super) encoded: String,
}

/// Which kind of message holds jobs. No other is known.
const JOB_MESSAGES: &str = "RunnerScaleSetJobMessages";

impl Message {
    /// Reads an answer of the queue.
    ///
    /// What is whole and yet cannot be understood will not be understood the next time either: it is left
    /// out, with a warning, so that it does not block what comes behind it. The statistics make up for it.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let Envelope { message_id: id, message_type, body, statistics } =
            serde_json::from_slice(bytes)?;
        let jobs = if message_type == JOB_MESSAGES {
            jobs(id, body.as_deref().unwrap_or("[]"))
        } else {
            warn!(message = id, message_type, "A message of a kind that is not known is left out.");
            Vec::new()
        };
        Ok(Self { id, statistics, jobs })
    }
}

fn jobs(message: i64, body: &str) -> Vec<JobMessage> {
    let items: Vec<&RawValue> = match serde_json::from_str(body) {
        Ok(items) => items,
        Err(error) => {
            warn!(message, %error, "The jobs in a message cannot be read.");
            return Vec::new();
        }
    };
    let read = |item: &&RawValue| match serde_json::from_str(item.get()) {
        Ok(JobMessage::Unknown) => None,
        Ok(job) => Some(job),
        Err(error) => {
            warn!(message, %error, "A job in a message cannot be read.");
            None
        }
    };
    items.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(kind: &str, body: &str) -> Message {
        let text = json!({ "messageId": 4, "messageType": kind, "body": body, "new": {},
            "statistics": { "totalAssignedJobs": 2, "totalOddJobs": 1 } });
        Message::read(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_not_known_is_left_out_and_the_rest_is_read() {
        let body = json!([
            { "messageType": "JobAssigned", "runnerRequestId": 1, "jobDisplayName": null,
              "queueTime": "2026-01-02T03:04:05.1234567Z" },
            { "messageType": "JobMeditating", "runnerRequestId": 2 },
            { "messageType": "JobStarted", "runnerRequestId": "three" },
            { "messageType": "JobCompleted", "runnerRequestId": 4, "finishTime": "0001-01-01T00:00:00Z" },
            17,
        ]);
        let read = message(JOB_MESSAGES, &body.to_string());
        assert_eq!(read.jobs.len(), 2, "{read:?}");
        assert!(matches!(&read.jobs[1], JobMessage::Completed(job) if job.runner_request_id == 4));
        assert_eq!(read.statistics.unwrap().total_assigned_jobs, 2);
        assert_eq!(message(JOB_MESSAGES, "{").jobs, []);
        assert_eq!(message("Other", &body.to_string()).jobs, []);
    }

    #[test]
    fn half_a_message_is_an_error() {
        assert!(Message::read(br#"{"messageId": 4, "messageType": "#).is_err());
        assert!(Message::read(b"<html>").is_err());
    }
}
