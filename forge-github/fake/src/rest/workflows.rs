//! Workflows: there is one for each name that runs have.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::jobs::repository;
use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    ids::node,
    job::{Run, workflow_id},
    page,
    state::State,
    time::seconds,
};

fn all<'a>(state: &'a State, request: &Request) -> Result<BTreeMap<i64, &'a Run>, Refusal> {
    let repository = repository(state, request)?;
    let runs = state.runs.values().filter(|run| run.repository == repository);
    Ok(runs.map(|run| (workflow_id(repository, &run.workflow), run)).collect())
}

fn json(id: i64, run: &Run, state: &State, request: &Request) -> Value {
    let name = state.repository_by_id(run.repository).map(|r| r.full_name()).unwrap_or_default();
    let (web, path) = (&request.addresses.web, ".github/workflows/ci.yml");
    json!({
        "id": id,
        "node_id": node("Workflow", id),
        "name": run.workflow,
        "path": path,
        "state": "active",
        "created_at": seconds(run.created),
        "updated_at": seconds(run.updated),
        "url": format!("{}/repos/{name}/actions/workflows/{id}", request.addresses.api),
        "html_url": format!("{web}/{name}/blob/main/{path}"),
        "badge_url": format!("{web}/{name}/actions/workflows/ci.yml/badge.svg"),
    })
}

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let workflows = all(state, request)?.into_iter();
    let workflows = workflows.map(|(id, run)| json(id, run, state, request)).collect();
    page::counted(request, "workflows", workflows)
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    let id = request.number("workflow_id")?;
    let run = all(state, request)?.remove(&id).ok_or_else(Refusal::not_found)?;
    Reply::ok(json(id, run, state, request))
}
