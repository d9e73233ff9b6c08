//! Which job a call is about.
//!
//! Not by the `CUSTOM_ENV_…` variables: a job may set any of them, and would be given another's machine. What
//! GitLab sent is in the file that `JOB_RESPONSE_FILE` names.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use runner_core::WorkerName;
use serde::Deserialize;
use url::Url;

pub struct Job {
    /// What its machine is called.
    pub name: WorkerName,
    /// How long GitLab lets it run.
    pub timeout: Duration,
    /// The container that it wants to run in.
    pub image: Option<String>,
    /// The containers that it wants beside it.
    pub services: Vec<String>,
}

#[derive(Deserialize)]
struct Response {
    id: u64,
    git_info: GitInfo,
    runner_info: RunnerInfo,
    image: Option<Container>,
    services: Option<Vec<Container>>,
}

#[derive(Deserialize)]
struct GitInfo {
    repo_url: String,
}

#[derive(Deserialize)]
struct RunnerInfo {
    timeout: u64,
}

#[derive(Deserialize)]
struct Container {
    name: String,
}

impl Job {
    /// The job of this call.
    pub fn given() -> Result<Self> {
        let path = env::var_os("JOB_RESPONSE_FILE").map(PathBuf::from);
        let path =
            path.context("JOB_RESPONSE_FILE is not set: is this GitLab Runner 14 or newer?")?;
        let doing = || format!("reading the job in {}", path.display());
        let text = fs::read(&path).with_context(doing)?;
        // Without the text at fault, in which the job's token may be.
        let response: Response = serde_json::from_slice(&text)
            .map_err(|error| anyhow::anyhow!("line {}, column {}", error.line(), error.column()))
            .with_context(doing)?;
        // Two GitLabs may have jobs of one number.
        let url = Url::parse(&response.git_info.repo_url);
        let url = url.context("reading the address of the job's repository")?;
        let server = url.origin().ascii_serialization();
        let name = format!("job-{:08x}-{}", crc32fast::hash(server.as_bytes()), response.id);
        Ok(Self {
            name: WorkerName::new(name)?,
            timeout: Duration::from_secs(response.runner_info.timeout),
            image: response.image.map(|image| image.name).filter(|name| !name.is_empty()),
            services: response.services.into_iter().flatten().map(|s| s.name).collect(),
        })
    }
}
