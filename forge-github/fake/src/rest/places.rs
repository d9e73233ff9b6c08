//! What there is: organisations, repositories, GitHub itself.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::StatusCode;
use serde_json::json;

use super::jobs::repository;
use crate::{
    contract::Contract,
    exchange::{Answer, Refusal, Reply, Request},
    ids::hex,
    scope::Scope,
    state::State,
};

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    let addresses = &request.addresses;
    match request.scope()? {
        Scope::Organisation(login) => {
            let account = state.account(&login)?;
            if account.is_user {
                return Err(Refusal::not_found());
            }
            Reply::ok(account.full_json(addresses))
        }
        Scope::Repository { owner, name } => {
            Reply::ok(state.repository(&owner, &name)?.full_json(state, addresses))
        }
        Scope::Enterprise(_) => Err(Refusal::not_found()),
    }
}

pub(super) fn contents(state: &mut State, request: &Request) -> Answer {
    use sha2::{Digest, Sha256};
    let repository = repository(state, request)?;
    let path = request.parameters.get("path").cloned().unwrap_or_default();
    let content = state.files.get(&(repository, path.clone())).ok_or_else(Refusal::not_found)?;
    let full_name = state.repository_by_id(repository).map(|r| r.full_name()).unwrap_or_default();
    let sha = hex(&Sha256::digest(content)[..20]);
    let url = format!("{}/repos/{full_name}/contents/{path}", request.addresses.api);
    let git = format!("{}/repos/{full_name}/git/blobs/{sha}", request.addresses.api);
    let html = format!("{}/{full_name}/blob/main/{path}", request.addresses.web);
    Reply::ok(json!({
        "type": "file",
        "encoding": "base64",
        "size": content.len(),
        "name": path.rsplit('/').next().unwrap_or_default(),
        "path": path,
        "content": BASE64.encode(content),
        "sha": sha,
        "url": url,
        "git_url": git,
        "html_url": html,
        "download_url": null,
        "_links": { "git": git, "html": html, "self": url },
    }))
}

pub(super) fn meta(_: &mut State, _: &Request) -> Answer {
    let mut overview = Contract::example("api-overview");
    // The example has numbers where there are none.
    if let Some(prints) = overview["ssh_key_fingerprints"].as_object_mut() {
        prints.values_mut().for_each(|print| *print = print.to_string().into());
    }
    Reply::ok(overview)
}

pub(super) fn rate_limit(state: &mut State, request: &Request) -> Answer {
    if state.limits.core == u64::MAX {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "Rate limiting is not enabled."));
    }
    let now = state.now();
    let quota = request.caller.quota();
    Reply::ok(state.quotas.json(&state.limits, &quota, now))
}
