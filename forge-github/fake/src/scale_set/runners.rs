//! The runners of sets, and any runner as the service sees it.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Exception, Served, ok};
use crate::{
    exchange::{Reply, Request},
    runner::Runner,
    scope::Scope,
    state::State,
};

/// What a client asks for a runner with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Sent {
    name: String,
    #[serde(rename = "workFolder")]
    _work_folder: Option<String>,
}

fn json(runner: &Runner) -> Value {
    json!({
        "id": runner.id,
        "name": runner.name,
        "runnerScaleSetId": runner.scale_set.unwrap_or(0),
    })
}

pub(super) fn generate(state: &mut State, set: i64, sent: &Sent, request: &Request) -> Served {
    let (scope, group) = {
        let set = state.set(set)?;
        (set.scope.clone(), set.group)
    };
    // A scale set's runners have no labels.
    let runner = state.register(&scope, &sent.name, group, &[], Some(set)).map_err(|refusal| {
        let name = match refusal.status {
            StatusCode::CONFLICT => "AgentExistsException",
            _ => "ArgumentException",
        };
        Exception::new(refusal.status, name, refusal.message)
    })?;
    let (runner, config) = (json(runner), runner.jit_config(&request.addresses));
    ok(&json!({ "runner": runner, "encodedJITConfig": config }))
}

pub(super) fn find(state: &State, scope: &Scope, name: Option<&str>) -> Served {
    let runners =
        state.runners_of(scope).filter(|runner| name.is_none_or(|name| runner.name == name));
    let runners: Vec<_> = runners.map(json).collect();
    ok(&json!({ "count": runners.len(), "value": runners }))
}

pub(super) fn show(state: &mut State, scope: &Scope, id: i64) -> Served {
    let runner = state.runner(scope, id).map_err(|_| gone(id))?;
    ok(&json(runner))
}

pub(super) fn delete(state: &mut State, scope: &Scope, id: i64) -> Served {
    let runner = state.runner(scope, id).map_err(|_| gone(id))?;
    if runner.job.is_some() {
        let message = format!("The job assigned to runner {} is still running.", runner.name);
        return Err(Exception::new(StatusCode::BAD_REQUEST, "JobStillRunningException", message));
    }
    state.runners.remove(&id);
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

fn gone(id: i64) -> Exception {
    let message = format!("No agent found with identifier {id}.");
    Exception::new(StatusCode::NOT_FOUND, "AgentNotFoundException", message)
}
