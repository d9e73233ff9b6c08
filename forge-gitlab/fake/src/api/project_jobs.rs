//! Jobs and pipelines, for the people of a project.

use crate::{
    access::Scope,
    account::{Level, Place},
    exchange::{Answer, Refusal, Reply, Request},
    ids::{JobId, PipelineId, ProjectId, UserId},
    job::{Job, Status},
    page::page,
    state::State,
};

const LOOK: [Scope; 1] = [Scope::ReadApi];

fn project(
    state: &State,
    request: &Request,
    scopes: &[Scope],
    level: Level,
) -> Result<(UserId, ProjectId), Refusal> {
    let caller = state.caller(request, scopes)?;
    let project = state.project_of(request)?;
    state.must_be(caller, level, Place::Project(project))?;
    Ok((caller, project))
}

fn job<'a>(state: &'a State, request: &Request, project: ProjectId) -> Result<&'a Job, Refusal> {
    let job = state.jobs.get(&JobId(request.number("job_id")?));
    job.filter(|job| job.project == project).ok_or_else(|| Refusal::new(404, "404 Not found"))
}

/// A job to do something with.
fn job_to_change(state: &State, request: &Request) -> Result<(UserId, JobId), Refusal> {
    let (caller, project) = project(state, request, &[], Level::Developer)?;
    Ok((caller, job(state, request, project)?.id))
}

/// Those of `jobs` that have one of the statuses that a request names.
fn with_status<'a>(
    state: &State,
    request: &Request,
    jobs: impl Iterator<Item = &'a Job>,
) -> Answer {
    let scope = request.list("scope").or_else(|| {
        let named = request.query.iter().filter(|(name, _)| name == "scope[]");
        let named: Vec<_> = named.map(|(_, status)| status.clone()).collect();
        (!named.is_empty()).then_some(named)
    });
    let wanted = |job: &&Job| {
        scope.as_ref().is_none_or(|scope| scope.iter().any(|name| name == job.status.name()))
    };
    page(request, jobs.filter(wanted).map(|job| job.json(state, &request.base)).collect())
}

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let (_, project) = project(state, request, &LOOK, Level::Reporter)?;
    let jobs = state.jobs.values().rev().filter(|job| job.project == project);
    with_status(state, request, jobs)
}

pub(super) fn one(state: &mut State, request: &Request) -> Answer {
    let (_, project) = project(state, request, &LOOK, Level::Reporter)?;
    Reply::ok(job(state, request, project)?.json(state, &request.base))
}

pub(super) fn trace(state: &mut State, request: &Request) -> Answer {
    let (_, project) = project(state, request, &LOOK, Level::Reporter)?;
    let trace = job(state, request, project)?.trace.content();
    Ok(Reply::raw(200, "text/plain", trace))
}

pub(super) fn artifacts(state: &mut State, request: &Request) -> Answer {
    let (_, project) = project(state, request, &LOOK, Level::Reporter)?;
    let archive = job(state, request, project)?.archive(state.now());
    archive.map(super::artifacts::file).ok_or_else(|| Refusal::new(404, "404 Not Found"))
}

pub(super) fn delete_artifacts(state: &mut State, request: &Request) -> Answer {
    let (_, id) = job_to_change(state, request)?;
    if let Some(job) = state.jobs.get_mut(&id) {
        job.artifacts.clear();
    }
    Reply::no_content()
}

pub(super) fn cancel(state: &mut State, request: &Request) -> Answer {
    let (_, id) = job_to_change(state, request)?;
    let force = request.flag("force")?.unwrap_or(false);
    if !state.cancel(id, force) {
        return Err(Refusal::forbidden_because("Job is not cancelable"));
    }
    Reply::created(state.jobs[&id].json(state, &request.base))
}

pub(super) fn erase(state: &mut State, request: &Request) -> Answer {
    let (_, id) = job_to_change(state, request)?;
    let is_over = state.jobs[&id].status.is_over();
    if !is_over || !state.erase(id) {
        return Err(Refusal::forbidden_because("Job is not erasable!"));
    }
    Reply::created(state.jobs[&id].json(state, &request.base))
}

pub(super) fn play(state: &mut State, request: &Request) -> Answer {
    let (_, id) = job_to_change(state, request)?;
    if state.jobs[&id].status != Status::Manual {
        return Err(Refusal::new(400, "400 Bad request - Unplayable Job"));
    }
    let given = request.fields.get("job_variables_attributes").and_then(|list| list.as_array());
    for variable in given.into_iter().flatten() {
        let text = |name: &str| variable[name].as_str().unwrap_or_default().to_owned();
        let variable = crate::job_spec::Variable::new(text("key"), text("value"));
        if let Some(job) = state.jobs.get_mut(&id) {
            job.spec.variables.push(variable);
        }
    }
    state.enqueue(id);
    Reply::ok(state.jobs[&id].brief_json(state, &request.base))
}

pub(super) fn retry(state: &mut State, request: &Request) -> Answer {
    let (caller, id) = job_to_change(state, request)?;
    match state.retry(id, caller) {
        Some(again) => Reply::created(state.jobs[&again].json(state, &request.base)),
        None => Err(Refusal::forbidden_because("Job is not retryable")),
    }
}

fn pipeline_of(
    state: &State,
    request: &Request,
    project: ProjectId,
) -> Result<PipelineId, Refusal> {
    let id = PipelineId(request.number("pipeline_id")?);
    let found = state.pipelines.get(&id).filter(|pipeline| pipeline.project == project);
    found.map(|pipeline| pipeline.id).ok_or_else(|| Refusal::not_found("Pipeline"))
}

pub(super) fn pipeline(state: &mut State, request: &Request) -> Answer {
    let (_, project) = project(state, request, &LOOK, Level::Reporter)?;
    let id = pipeline_of(state, request, project)?;
    Reply::ok(state.pipelines[&id].json(state, &request.base))
}

pub(super) fn of_pipeline(state: &mut State, request: &Request) -> Answer {
    let (_, project) = project(state, request, &LOOK, Level::Reporter)?;
    let id = pipeline_of(state, request, project)?;
    let retried = request.flag("include_retried")?.unwrap_or(false);
    let jobs = state.pipelines[&id].jobs.iter().rev().filter_map(|id| state.jobs.get(id));
    with_status(state, request, jobs.filter(|job| retried || !job.retried))
}

/// With all its jobs, those that run too.
pub(super) fn delete_pipeline(state: &mut State, request: &Request) -> Answer {
    let (_, project) = project(state, request, &[], Level::Owner)?;
    let id = pipeline_of(state, request, project)?;
    state.delete_pipeline(id);
    Reply::no_content()
}
