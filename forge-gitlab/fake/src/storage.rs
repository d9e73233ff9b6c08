//! The other host, which keeps files, and must never get to know what opens GitLab.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use hyper::body::Incoming;

use crate::{
    exchange::Reply,
    server::{Cut, Response, whole},
    state::Shared,
};

/// What opens GitLab.
const SECRETS: [&str; 4] = ["authorization", "job-token", "private-token", "runner-token"];

pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: http::Request<Incoming>,
) -> Result<Response, Cut> {
    let mut state = shared.look();
    let path = request.uri().path();
    let mut told = SECRETS.into_iter().filter(|name| request.headers().contains_key(*name));
    if let Some(name) = told.next() {
        let what = format!("{name} was told to another host");
        state.record.complain(&format!("{} {path}", request.method()), false, what);
        return Ok(whole(xml(400, "InvalidRequest")));
    }
    let file = path.strip_prefix("/artifacts/").and_then(|secret| state.stored.get(secret));
    Ok(whole(match file {
        Some(file) if request.method() == Method::GET => {
            Reply::raw(200, "application/octet-stream", file.clone())
        }
        _ => xml(403, "AccessDenied"),
    }))
}

/// As such hosts speak.
fn xml(status: u16, code: &str) -> Reply {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    Reply::raw(status, "application/xml", Bytes::from(body))
}
