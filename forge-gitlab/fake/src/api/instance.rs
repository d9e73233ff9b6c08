//! What this GitLab says of itself.

use serde_json::json;

use crate::{
    access::Scope,
    exchange::{Answer, Reply, Request},
    state::State,
};

pub(super) fn metadata(state: &mut State, request: &Request) -> Answer {
    state.caller(request, &[Scope::ReadApi, Scope::ReadUser])?;
    Reply::ok(json!({
        "version": state.settings.version,
        "revision": "0123456789a",
        "enterprise": state.settings.version.ends_with("-ee"),
    }))
}
