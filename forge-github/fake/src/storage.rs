//! The other host: files behind addresses that are good for a while, and the runner's program.

use http::{Method, StatusCode, header};

use crate::{
    api::Raw,
    exchange::{Content, Reply},
    state::Shared,
};

/// Whoever sends a token here has given it away.
pub(crate) fn answer(shared: &Shared, raw: &Raw) -> Reply {
    let mut state = shared.look();
    if raw.headers.contains_key(header::AUTHORIZATION) {
        let label = format!("{} {}", raw.method, raw.target());
        state.record.complain(&label, false, "Authorization was sent to another host");
        let message = "InvalidAuthenticationInfo: Server failed to authenticate the request.";
        return Reply::text(StatusCode::BAD_REQUEST, message);
    }
    if raw.method != Method::GET && raw.method != Method::HEAD {
        return Reply::text(StatusCode::METHOD_NOT_ALLOWED, "UnsupportedHttpVerb");
    }
    if let Some(signature) = raw.path.strip_prefix("/files/") {
        let now = state.now();
        return match state.storage_links.get(signature).filter(|link| link.until > now) {
            Some(link) => file(link.content_type, link.content.clone()),
            None => {
                Reply::text(StatusCode::FORBIDDEN, "AuthenticationFailed: Signature not valid.")
            }
        };
    }
    let name = raw.path.rsplit('/').next().unwrap_or_default();
    match state.downloads.iter().find(|download| download.filename() == name) {
        Some(download) => file("application/octet-stream", download.content.clone().into()),
        None => Reply::text(StatusCode::NOT_FOUND, "BlobNotFound"),
    }
}

fn file(content_type: &'static str, content: bytes::Bytes) -> Reply {
    Reply { body: Content::Raw(content_type, content), ..Reply::empty(StatusCode::OK) }
}
