//! A delivery as it comes over the wire: headers, and the body in one of the two forms that a hook can have.

use std::borrow::Cow;

use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    demand::{JobFact, JobStatus},
    scope::RepositoryName,
};

/// Names what happened: `workflow_job`, `ping`, ….
const EVENT: &str = "x-github-event";
/// Identifies the delivery; one that GitHub repeats keeps it.
const DELIVERY: &str = "x-github-delivery";
/// The signature of the body.
const SIGNATURE: &str = "x-hub-signature-256";

const FORM: &str = "application/x-www-form-urlencoded";

/// The headers that matter.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    pub(super) signature: &'a str,
    event: Option<&'a str>,
    delivery: Option<&'a str>,
    is_form: bool,
}

impl<'a> Headers<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = text(http::header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        Self {
            signature: text(SIGNATURE).unwrap_or_default(),
            event: text(EVENT),
            delivery: text(DELIVERY),
            is_form: kind.eq_ignore_ascii_case(FORM),
        }
    }

    /// Which event this is, and which delivery of it.
    pub(super) fn identity(&self) -> Result<(&'a str, Uuid), String> {
        let event = self.event.ok_or(format!("header {EVENT} is missing"))?;
        let delivery = self.delivery.ok_or(format!("header {DELIVERY} is missing"))?;
        let delivery = Uuid::try_parse(delivery)
            .map_err(|_| format!("header {DELIVERY} holds no UUID: {delivery:?}"))?;
        Ok((event, delivery))
    }

    /// The JSON in `body`.
    pub(super) fn payload<'b>(&self, body: &'b [u8]) -> Result<Cow<'b, [u8]>, String> {
        if !self.is_form {
            return Ok(Cow::Borrowed(body));
        }
        url::form_urlencoded::parse(body)
            .find(|(name, _)| name == "payload")
            .map(|(_, value)| Cow::Owned(value.into_owned().into_bytes()))
            .ok_or_else(|| "the form has no field payload".to_owned())
    }
}

/// `workflow_job`. Only what is used, so that what GitHub adds or drops elsewhere is no concern.
#[derive(Debug, Deserialize)]
struct Payload {
    action: String,
    workflow_job: Job,
    repository: Repository,
}

#[derive(Debug, Deserialize)]
struct Repository {
    full_name: RepositoryName,
}

#[derive(Debug, Deserialize)]
struct Job {
    id: u64,
    run_id: u64,
    // Absent from the oldest GitHub Enterprise Servers.
    #[serde(default = "first_attempt")]
    run_attempt: u32,
    name: String,
    workflow_name: Option<String>,
    created_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    #[serde(default)]
    labels: Vec<String>,
    runner_name: Option<String>,
}

fn first_attempt() -> u32 {
    1
}

/// Reads the payload of a `workflow_job` event. None for an action that is not known.
pub(super) fn job(payload: &[u8]) -> Result<Option<JobFact>, serde_json::Error> {
    let Payload { action, workflow_job: job, repository } = serde_json::from_slice(payload)?;
    let status = JobStatus::of(&action);
    if status == JobStatus::Waiting && action != "waiting" {
        return Ok(None);
    }
    // A job has no runner before it runs, whatever the payload says.
    let has_runner = status >= JobStatus::InProgress;
    let Some(queued_at) = job.created_at.or(job.started_at) else {
        return Err(serde::de::Error::custom("the job has neither created_at nor started_at"));
    };
    Ok(Some(JobFact {
        number: job.id,
        run: job.run_id,
        attempt: job.run_attempt,
        repository: repository.full_name,
        title: match job.workflow_name {
            Some(workflow) => format!("{workflow} / {}", job.name),
            None => job.name,
        },
        status,
        labels: job.labels,
        queued_at,
        runner: job.runner_name.filter(|name| has_runner && !name.is_empty()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_the_payload_in_a_field() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", format!("{FORM}; charset=utf-8").parse().unwrap());
        let form = Headers::of(&headers);
        assert_eq!(&*form.payload(b"payload=%7B%22a%22%3A+1%7D").unwrap(), br#"{"a": 1}"#);
        assert!(form.payload(b"a=1").is_err());
        let json = HeaderMap::new();
        assert_eq!(&*Headers::of(&json).payload(b"{}").unwrap(), b"{}");
    }

    #[test]
    fn an_action_that_is_not_known_says_nothing() {
        let payload = |action: &str| {
            format!(
                r#"{{"action": "{action}", "repository": {{"full_name": "a/b"}}, "workflow_job":
                {{"id": 1, "run_id": 2, "name": "n", "created_at": "2026-01-01T00:00:00Z",
                "runner_name": "r"}}}}"#
            )
        };
        assert!(job(payload("meditating").as_bytes()).unwrap().is_none());
        let queued = job(payload("queued").as_bytes()).unwrap().unwrap();
        assert_eq!((queued.status, queued.attempt, queued.runner), (JobStatus::Queued, 1, None));
        let running = job(payload("in_progress").as_bytes()).unwrap().unwrap();
        assert_eq!(running.runner.as_deref(), Some("r"));
    }
}
