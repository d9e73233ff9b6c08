//! Jobs of workflow runs.

use bytes::Bytes;
use serde_json::Value;

use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    job::{Job, JobStatus},
    page,
    state::State,
};

/// The repository that the path names.
pub(super) fn repository(state: &State, request: &Request) -> Result<i64, Refusal> {
    let text = |name| request.parameters.get(name).map(String::as_str).unwrap_or_default();
    Ok(state.repository(text("owner"), text("repo"))?.id)
}

fn find<'a>(state: &'a State, request: &Request) -> Result<&'a Job, Refusal> {
    let (repository, id) = (repository(state, request)?, request.number("job_id")?);
    let job = state.jobs.get(id).filter(|job| job.repository == repository);
    job.ok_or_else(Refusal::not_found)
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    Reply::ok(find(state, request)?.json(state, &request.addresses))
}

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let run = state.run(repository(state, request)?, request.number("run_id")?)?;
    let attempt = match request.parameters.contains_key("attempt_number") {
        true => {
            let attempt = request.number("attempt_number")?;
            if !(1..=run.attempt).contains(&attempt) {
                return Err(Refusal::not_found());
            }
            Some(attempt)
        }
        false if request.query("filter") == Some("all") => None,
        false => Some(run.attempt),
    };
    let jobs = state.jobs_of(run.id, attempt);
    let jobs: Vec<Value> = jobs.map(|job| job.json(state, &request.addresses)).collect();
    page::counted(request, "jobs", jobs)
}

pub(super) fn logs(state: &mut State, request: &Request) -> Answer {
    let job = find(state, request)?;
    if job.status != JobStatus::Completed {
        return Err(Refusal::not_found());
    }
    let content = Bytes::from(log(job));
    let link = state.link(&request.addresses, "text/plain", content);
    Reply::redirect(&link)
}

/// What a job is said to have printed.
pub(super) fn log(job: &Job) -> String {
    let by = job.runner.as_ref().map_or("nobody", |by| &by.name);
    format!("{} Job {} ran on {by}.\n", job.created, job.name)
}

pub(super) fn rerun(state: &mut State, request: &Request) -> Answer {
    let (run, id) = {
        let job = find(state, request)?;
        (job.run, job.id)
    };
    state.rerun(run, |job| job.id == id)?;
    Reply::created(serde_json::json!({}))
}
