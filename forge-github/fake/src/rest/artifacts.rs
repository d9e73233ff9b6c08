//! Artifacts: listed here, fetched elsewhere.

use http::StatusCode;
use serde_json::Value;

use super::jobs::repository;
use crate::{
    artifact::Artifact,
    exchange::{Answer, Refusal, Reply, Request},
    page,
    state::State,
};

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let repository = repository(state, request)?;
    let run = match request.parameters.contains_key("run_id") {
        true => Some(state.run(repository, request.number("run_id")?)?.id),
        false => None,
    };
    let wanted = |artifact: &&Artifact| {
        artifact.repository == repository
            && run.is_none_or(|run| artifact.run == run)
            && request.query("name").is_none_or(|name| artifact.name == name)
    };
    let mut artifacts: Vec<Value> = state
        .artifacts
        .values()
        .filter(wanted)
        .map(|artifact| artifact.json(state, &request.addresses))
        .collect();
    if request.query("direction") != Some("asc") {
        artifacts.reverse();
    }
    page::counted(request, "artifacts", artifacts)
}

fn find<'a>(state: &'a State, request: &Request) -> Result<&'a Artifact, Refusal> {
    let (repository, id) = (repository(state, request)?, request.number("artifact_id")?);
    let artifact = state.artifacts.get(&id).filter(|one| one.repository == repository);
    artifact.ok_or_else(Refusal::not_found)
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    Reply::ok(find(state, request)?.json(state, &request.addresses))
}

pub(super) fn delete(state: &mut State, request: &Request) -> Answer {
    let id = find(state, request)?.id;
    state.artifacts.remove(&id);
    Reply::no_content()
}

pub(super) fn download(state: &mut State, request: &Request) -> Answer {
    let artifact = find(state, request)?;
    if request.parameters.get("archive_format").is_none_or(|format| format != "zip") {
        return Err(Refusal::not_found());
    }
    if artifact.is_expired(state.now()) {
        return Err(Refusal::new(StatusCode::GONE, "Artifact has expired"));
    }
    let archive = artifact.archive.clone();
    let link = state.link(&request.addresses, "application/zip", archive);
    Reply::redirect(&link)
}
