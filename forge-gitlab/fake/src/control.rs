//! Routes of this fake's own, under `/_fake/`, for whoever has a shell and no Rust.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    access::Scope,
    account::{ADMIN, Place},
    exchange::{Answer, Refusal, Reply, Request},
    faults::{Fault, FaultKind},
    ids::{JobId, PipelineId, RunnerId},
    job::Job,
    job_spec::{JobSpec, Variable},
    runner::RunnerSpec,
    state::State,
};

/// What all of these routes begin with.
pub(crate) const PREFIX: &str = "/_fake/";

/// What `GET /_fake/` says.
const HELP: &str = include_str!("control.txt");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProject {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRunner {
    project: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    user: String,
    scopes: Vec<Scope>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Later {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPipeline {
    project: String,
    user: Option<String>,
    jobs: Vec<NewJob>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewJob {
    /// Said by its pipeline, if it is one of several.
    project: Option<String>,
    name: String,
    script: Vec<String>,
    stage: Option<String>,
    #[serde(default)]
    after_script: Vec<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    timeout: Option<u64>,
    #[serde(default)]
    manual: bool,
    artifacts: Option<Vec<String>>,
    needs: Option<Vec<String>>,
    #[serde(default)]
    payload: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFault {
    kind: Option<String>,
    status: Option<u16>,
    retry_after: Option<u64>,
    route: Option<String>,
    after: Option<u32>,
    times: Option<u32>,
    probability: Option<f64>,
}

/// Does what a request asks for. Jobs are whoever's administers the instance.
pub(crate) fn answer(state: &mut State, request: &Request) -> Answer {
    let path = request.path.strip_prefix(PREFIX).unwrap_or_default();
    let parts: Vec<_> = path.split('/').collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", [""]) => return Ok(Reply::text(200, HELP)),
        ("GET", ["calls"]) => return Reply::ok(json!(state.record.calls)),
        ("GET", ["violations"]) => return Reply::ok(json!(state.record.violations)),
        ("POST", ["projects"]) => {
            let NewProject { path } = read(request)?;
            return Reply::created(json!({ "id": state.add_project(&path) }));
        }
        ("POST", ["runners"]) => return new_runner(state, read(request)?),
        ("DELETE", ["runners", id]) => {
            state.delete_runner(RunnerId(number(id)?));
        }
        ("POST", ["tokens"]) => {
            let NewToken { user, scopes } = read(request)?;
            let user = state.add_user(&user, false);
            return Reply::created(json!({ "token": state.add_access_token(user, &scopes, None) }));
        }
        ("POST", ["jobs"]) => return new_job(state, read(request)?),
        ("POST", ["pipelines"]) => return new_pipeline(state, read(request)?),
        ("GET", ["jobs"]) => return Reply::ok(state.jobs.values().map(brief).collect()),
        ("GET", ["jobs", id]) => return job(state, id),
        ("POST", ["jobs", id, "cancel"]) => {
            state.cancel(JobId(number(id)?), false);
        }
        ("DELETE", ["jobs", id]) => {
            state.delete_job(JobId(number(id)?));
        }
        ("POST", ["faults"]) => new_fault(state, read(request)?)?,
        ("DELETE", ["faults"]) => state.faults.clear(),
        ("POST", ["down"]) => state.down = true,
        ("POST", ["up"]) => state.down = false,
        ("POST", ["clock"]) => {
            let Later { seconds } = read(request)?;
            state.clock.advance(Duration::from_secs(seconds));
        }
        _ => return Err(Refusal::not_found("Route")),
    }
    Reply::no_content()
}

fn number(id: &str) -> Result<u64, Refusal> {
    id.parse().map_err(|_| Refusal::parameter("id is invalid"))
}

fn read<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    serde_json::from_slice(&request.body).map_err(|error| Refusal::parameter(error.to_string()))
}

fn new_runner(state: &mut State, new: NewRunner) -> Answer {
    let project = new.project.map(|path| Place::Project(state.add_project(&path)));
    let place = project.unwrap_or(Place::Instance);
    let spec = if new.tags.is_empty() {
        RunnerSpec::new(place)
    } else {
        RunnerSpec::tagged(place, new.tags)
    };
    let id = state.add_runner(spec);
    Reply::created(json!({ "id": id, "token": state.runners[&id].token }))
}

fn new_job(state: &mut State, mut new: NewJob) -> Answer {
    let project = new.project.take().ok_or_else(|| Refusal::parameter("project is missing"))?;
    let (pipeline, jobs) = add_pipeline(state, &project, None, vec![new])?;
    Reply::created(json!({ "id": jobs[0], "pipeline": pipeline }))
}

fn new_pipeline(state: &mut State, new: NewPipeline) -> Answer {
    let (pipeline, jobs) = add_pipeline(state, &new.project, new.user, new.jobs)?;
    Reply::created(json!({ "id": pipeline, "jobs": jobs }))
}

/// As the user of a name, or as whoever administers the instance.
fn add_pipeline(
    state: &mut State,
    project: &str,
    user: Option<String>,
    jobs: Vec<NewJob>,
) -> Result<(PipelineId, Vec<JobId>), Refusal> {
    if jobs.is_empty() || jobs.iter().any(|job| job.project.is_some()) {
        return Err(Refusal::parameter("a pipeline has jobs, and a project for all of them"));
    }
    let user = match user {
        Some(name) => state.add_user(&name, false),
        None => state.add_user(ADMIN, true),
    };
    let project = state.add_project(project);
    let pipeline = state.add_pipeline(project, user, jobs.into_iter().map(spec).collect());
    Ok((pipeline, state.pipelines[&pipeline].jobs.clone()))
}

fn spec(new: NewJob) -> JobSpec {
    let mut spec = JobSpec::new(new.name, new.script).tags(new.tags);
    if !new.after_script.is_empty() {
        spec = spec.after(new.after_script);
    }
    if let Some(stage) = new.stage {
        spec = spec.stage(stage);
    }
    if let Some(seconds) = new.timeout {
        spec = spec.timeout(Duration::from_secs(seconds));
    }
    for (key, value) in new.variables {
        spec = spec.variable(Variable::new(key, value));
    }
    for (pointer, value) in new.payload {
        spec = spec.with_payload(pointer, value);
    }
    if let Some(paths) = new.artifacts {
        spec = spec.artifacts(paths);
    }
    if let Some(jobs) = new.needs {
        spec = spec.needs(jobs);
    }
    spec.manual = new.manual;
    spec
}

fn brief(job: &Job) -> Value {
    json!({
        "id": job.id,
        "name": job.spec.name,
        "status": job.status,
        "failure_reason": job.failure_reason,
        "exit_code": job.exit_code,
        "runner": job.runner,
    })
}

fn job(state: &State, id: &str) -> Answer {
    let job = state.jobs.get(&JobId(number(id)?)).ok_or_else(|| Refusal::not_found("Job"))?;
    let mut json = brief(job);
    json["trace"] = job.view().log().into();
    Reply::ok(json)
}

fn new_fault(state: &mut State, new: NewFault) -> Result<(), Refusal> {
    let mut fault = match (new.kind.as_deref(), new.status) {
        (None, Some(status)) if (200..600).contains(&status) => Fault::status(status),
        (Some("reset"), None) => Fault::new(FaultKind::Reset),
        (Some("lost_answer"), None) => Fault::new(FaultKind::LostAnswer),
        (Some("truncated"), None) => Fault::new(FaultKind::Truncated),
        (Some("hang"), None) => Fault::new(FaultKind::Hang),
        _ => return Err(Refusal::parameter("either a kind that there is, or a status")),
    };
    if let Some(seconds) = new.retry_after {
        fault = fault.retry_after(Duration::from_secs(seconds));
    }
    if let Some(route) = new.route {
        fault = fault.on(&route);
    }
    if let Some(requests) = new.after {
        fault = fault.after(requests);
    }
    if let Some(times) = new.times {
        fault = fault.times(times);
    }
    if let Some(probability) = new.probability {
        fault = fault.probability(probability);
    }
    let refuse = |error: crate::faults::UnknownRoute| Refusal::parameter(error.to_string());
    state.faults.inject(fault).map_err(refuse)?;
    Ok(())
}
