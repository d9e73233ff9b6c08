//! Runners of one project that are given to another.

use crate::{
    account::{Level, Place},
    exchange::{Answer, Refusal, Reply, Request},
    ids::RunnerId,
    state::State,
};

pub(super) fn assign(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[])?;
    let project = state.project_of(request)?;
    state.must_be(caller, Level::Maintainer, Place::Project(project))?;
    let id = request.integer("runner_id")?;
    let id = id.ok_or_else(|| Refusal::parameter("runner_id is missing"))?;
    let id = u64::try_from(id).map_err(|_| Refusal::parameter("runner_id is invalid"))?;
    let now = state.now();
    let found = state.runners.get(&RunnerId(id));
    let runner = found.ok_or_else(|| Refusal::not_found("Runner"))?;
    if !matches!(runner.spec.place, Place::Project(_)) {
        let reason = format!("Runner is a {} runner", runner.kind().trim_end_matches("_type"));
        return Err(Refusal::forbidden_because(reason));
    }
    if runner.spec.locked {
        return Err(Refusal::forbidden_because("Runner is locked"));
    }
    if !state.may_manage(caller, runner) {
        return Err(Refusal::forbidden_because("No access granted"));
    }
    let runner = state.runners.get_mut(&RunnerId(id)).expect("it was found just now");
    if runner.projects.contains(&project) {
        return Err(Refusal::new(400, "400 Bad request - Runner is already assigned"));
    }
    runner.projects.push(project);
    let json = runner.brief_json(now);
    state.wake_runner(RunnerId(id));
    Reply::created(json)
}

pub(super) fn unassign(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[])?;
    let project = state.project_of(request)?;
    state.must_be(caller, Level::Maintainer, Place::Project(project))?;
    let id = RunnerId(request.number("runner_id")?);
    let runner = state.runners.get_mut(&id);
    let runner = runner.filter(|runner| runner.projects.contains(&project));
    let runner = runner.ok_or_else(|| Refusal::not_found("Runner"))?;
    if runner.projects.len() == 1 {
        let reason =
            "Only one project associated with the runner. Please remove the runner instead";
        return Err(Refusal::forbidden_because(reason));
    }
    if runner.projects.first() == Some(&project) {
        let reason =
            "You cannot unassign a runner from the owner project. Delete the runner instead";
        return Err(Refusal::forbidden_because(reason));
    }
    runner.projects.retain(|other| *other != project);
    Reply::no_content()
}
