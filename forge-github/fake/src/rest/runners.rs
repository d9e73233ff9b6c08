//! Runners: registered with a JIT configuration, listed, taken away.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    ids::random_text,
    page,
    runner::Runner,
    state::State,
    time::seconds,
};

/// How long a registration token is good.
const TOKEN: SignedDuration = SignedDuration::from_hours(1);

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let scope = request.scope()?;
    state.knows(&scope)?;
    let wanted = request.query("name");
    let named = |runner: &&Runner| wanted.is_none_or(|name| runner.name == name);
    let runners = state.runners_of(&scope).filter(named).map(Runner::json).collect();
    page::counted(request, "runners", runners)
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, request.number("runner_id")?);
    Reply::ok(state.runner(&scope, id)?.json())
}

pub(super) fn delete(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, request.number("runner_id")?);
    let runner = state.runner(&scope, id)?;
    if runner.job.is_some() {
        return Err(Refusal::invalid(format!(
            "Bad request - Runner \"{}\" is still running a job\"",
            runner.name
        )));
    }
    state.runners.remove(&id);
    Reply::no_content()
}

pub(super) fn generate_jitconfig(state: &mut State, request: &Request) -> Answer {
    let scope = request.scope()?;
    state.knows(&scope)?;
    let name = request.field("name").as_str().unwrap_or_default();
    let group = request.field("runner_group_id").as_i64().unwrap_or_default();
    let runner = state.register(&scope, name, group, &request.texts("labels"), None)?;
    Reply::created(json!({
        "runner": runner.json(),
        "encoded_jit_config": runner.jit_config(&request.addresses),
    }))
}

pub(super) fn token(state: &mut State, request: &Request) -> Answer {
    let scope = request.scope()?;
    state.knows(&scope)?;
    let token = random_text(29).to_uppercase();
    let until = state.now().saturating_add(TOKEN).unwrap_or(jiff::Timestamp::MAX);
    // One to remove runners with registers none.
    if request.path.ends_with("/registration-token") {
        state.registration_tokens.insert(token.clone(), (scope, until));
    }
    Reply::created(json!({ "token": token, "expires_at": seconds(until) }))
}

pub(super) fn downloads(state: &mut State, request: &Request) -> Answer {
    state.knows(&request.scope()?)?;
    let downloads = state.downloads.iter().map(|download| download.json(&request.addresses));
    Reply::ok(Value::Array(downloads.collect()))
}

pub(super) fn deprecation(state: &mut State, request: &Request) -> Answer {
    state.knows(&request.scope()?)?;
    let version = request.parameters.get("version").cloned().unwrap_or_default();
    let current = state.downloads.iter().any(|download| download.version == version);
    if !current {
        return Err(Refusal::not_found());
    }
    // The newest has no end yet.
    Reply::ok(json!({
        "runner_version": version,
        "registration_deprecates_at": null,
        "runtime_deprecates_at": null,
    }))
}
