//! What a runner may do with its token, and the way to one that is going out of use.

use serde_json::json;

use crate::{
    account::Place,
    exchange::{Answer, Refusal, Reply, Request},
    ids::{RunnerId, random_text},
    runner::{RunnerSpec, read_spec},
    state::State,
    time::millis,
};

fn by_token(state: &State, request: &Request) -> Result<RunnerId, Refusal> {
    Ok(state.runner_by_token(request.required("token")?)?.id)
}

pub(super) fn verify(state: &mut State, request: &Request) -> Answer {
    let id = state.runner_at_work(request)?;
    let runner = &state.runners[&id];
    Reply::ok(json!({
        "id": id,
        "token": runner.token,
        "token_expires_at": runner.token_expires.map(millis),
    }))
}

pub(super) fn unregister(state: &mut State, request: &Request) -> Answer {
    let id = by_token(state, request)?;
    state.delete_runner(id);
    Reply::no_content()
}

pub(super) fn unregister_manager(state: &mut State, request: &Request) -> Answer {
    let id = by_token(state, request)?;
    let system_id = request.required("system_id")?;
    let runner = state.runners.get_mut(&id).ok_or_else(Refusal::forbidden)?;
    match runner.managers.remove(system_id) {
        Some(_) => Reply::no_content(),
        None => Err(Refusal::not_found("Runner manager")),
    }
}

pub(super) fn reset(state: &mut State, request: &Request) -> Answer {
    let id = by_token(state, request)?;
    state.renew_token(id);
    Reply::created(state.runners[&id].token_json())
}

/// There is no job router, as in most installations.
pub(super) fn discover_router(state: &mut State, request: &Request) -> Answer {
    let token = request.header("runner-token").unwrap_or_default();
    state.runner_by_token(token)?;
    Err(Refusal::new(501, "501 Not Implemented"))
}

pub(super) fn register(state: &mut State, request: &Request) -> Answer {
    let token = request.required("token")?;
    if !state.settings.registration_tokens {
        return Err(Refusal::new(410, "410 Gone - runner registration disallowed"));
    }
    let place = if token == state.registration_token {
        Some(Place::Instance)
    } else {
        let group = state.groups.values().find(|group| group.registration_token == token);
        let mut projects = state.projects.values();
        let project = projects.find(|project| project.registration_token == token);
        let group = group.map(|group| Place::Group(group.id));
        group.or(project.map(|project| Place::Project(project.id)))
    };
    let place = place.ok_or_else(|| Refusal::forbidden_because("invalid token supplied"))?;
    let mut spec = RunnerSpec::new(place);
    // Whoever names tags wants jobs that have them.
    spec.run_untagged = request.list("tag_list").is_none_or(|tags| tags.is_empty());
    read_spec(request, &mut spec)?;
    let id = state.add_runner(spec);
    let runner = &state.runners[&id];
    let mut json = runner.token_json();
    json["id"] = json!(id);
    Reply::created(json)
}

pub(super) fn reset_registration(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[])?;
    if !state.is_admin(caller) {
        return Err(Refusal::forbidden());
    }
    state.registration_token = random_text(20);
    Reply::created(json!({ "token": state.registration_token, "token_expires_at": null }))
}
