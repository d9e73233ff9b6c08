//! Asks GitLab for jobs, with long polling.
//!
//! GitLab answers 204 with the value of its queue in `X-GitLab-Last-Update`; whoever sends that back is held
//! until the queue changes, and then told 204 *without* the header: to ask again at once.
//!
//! Source: `POST /jobs/request` in GitLab's `lib/api/ci/runner.rb`, and `internal/builds/register.go` of its
//! workhorse.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use runner_core::{Result, Secret};
use serde_json::{Value, json};

use crate::{
    client::{Client, send_once},
    error,
    payload::Payload,
};

/// Well above the time that GitLab holds a request.
const PATIENCE: Duration = Duration::from_secs(600);

/// What GitLab says to a request for a job.
pub(crate) enum Asked {
    /// A job, and its text to be kept.
    Job(Box<Payload>, Bytes),
    /// None for now. The queue did not change while GitLab was asked, or changed: then ask at once.
    None {
        /// Whether to ask again at once.
        changed: bool,
    },
    /// The token is not known any more.
    Unknown(String),
    /// A job that cannot be read: it is lost to us, and its end can be told with this.
    Unreadable(u64, Secret<String>),
}

/// What asks for the jobs of one runner at GitLab.
pub(crate) struct Asker {
    client: Client,
    system_id: String,
    last_update: Option<String>,
}

impl Asker {
    pub(crate) fn new(client: Client, system_id: String) -> Self {
        Self { client, system_id, last_update: None }
    }

    /// Asks once.
    ///
    /// # Errors
    /// `RateLimited`, `Backend`.
    ///
    /// # Cancel safety
    /// Not cancel safe: a job may have been given to whoever does not listen any more.
    pub(crate) async fn ask(&mut self, token: &Secret<String>) -> Result<Asked> {
        let doing = "ask for a job";
        let mut body = json!({
            "token": token.expose(),
            "system_id": self.system_id,
            "info": info(),
        });
        if let Some(value) = &self.last_update {
            body["last_update"] = value.as_str().into();
        }
        let request = self.client.request(Method::POST, "jobs/request").timeout(PATIENCE);
        let reply = send_once(doing, request.json(&body)).await?;
        let value = reply.header("x-gitlab-last-update").map(str::to_owned);
        match reply.status.as_u16() {
            201 => match serde_json::from_slice::<Payload>(&reply.body) {
                Ok(job) => Ok(Asked::Job(Box::new(job), reply.body)),
                Err(_) => match name_of(&reply.body) {
                    Some((id, token)) => Ok(Asked::Unreadable(id, token)),
                    None => Err(error::failed(doing, "GitLab gave a job that cannot be read")),
                },
            },
            204 => {
                let changed = value.is_none() && self.last_update.is_some();
                if value.is_some() {
                    self.last_update = value;
                }
                Ok(Asked::None { changed })
            }
            // Another runner was faster; there may be more.
            409 => Ok(Asked::None { changed: true }),
            401 | 403 | 422 => Ok(Asked::Unknown(reply.complaint())),
            _ => Err(error::refused(doing, &reply)),
        }
    }
}

/// Number and token, where nothing else can be read.
fn name_of(body: &[u8]) -> Option<(u64, Secret<String>)> {
    let job: Value = serde_json::from_slice(body).ok()?;
    Some((job["id"].as_u64()?, Secret::new(job["token"].as_str()?.to_owned())))
}

/// What GitLab is told of us. A feature that a job needs and that is not named makes GitLab fail the job.
pub(crate) fn info() -> Value {
    json!({
        "name": "gitlab-runner-pool",
        "version": env!("CARGO_PKG_VERSION"),
        "platform": "linux",
        "architecture": match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        "executor": "virtual-machine",
        "shell": "sh",
        "features": {
            "variables": true,
            "image": true,
            "services": true,
            "artifacts": true,
            "artifacts_exclude": true,
            "cache": true,
            "fallback_cache_keys": true,
            "upload_multiple_artifacts": true,
            "upload_raw_artifacts": true,
            "refspecs": true,
            "masking": true,
            "raw_variables": true,
            "multi_build_steps": true,
            "trace_reset": true,
            "trace_checksum": true,
            "trace_size": true,
            "cancelable": true,
            "cancel_gracefully": true,
            "return_exit_code": true,
            "two_phase_job_commit": true,
            "session": false,
            "terminal": false,
            "shared": false,
            "proxy": false,
            "vault_secrets": false,
            "service_variables": false,
            "service_multiple_aliases": false,
            "image_executor_opts": false,
            "service_executor_opts": false,
            "native_steps_integration": false,
            "job_inputs": false,
        },
    })
}
