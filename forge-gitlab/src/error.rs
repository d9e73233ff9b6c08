//! What GitLab's answers mean to the pool.

use std::time::Duration;

use reqwest::StatusCode;
use runner_core::Error;

use crate::client::Reply;

pub(crate) const BACKEND: &str = "gitlab";

/// A call that got no answer. The address is left out: it may hold a token.
pub(crate) fn unreachable(doing: &str, error: reqwest::Error) -> Error {
    Error::backend(BACKEND, doing, error.without_url())
}

/// Something of ours failed, such as a file.
pub(crate) fn failed(
    doing: impl Into<String>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::backend(BACKEND, doing, error)
}

/// An answer that is none of those expected.
pub(crate) fn refused(doing: &str, reply: &Reply) -> Error {
    match reply.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Error::unauthorized(format!("GitLab, asked to {doing},"), reply.complaint())
        }
        StatusCode::NOT_FOUND => Error::not_found(doing),
        StatusCode::TOO_MANY_REQUESTS => {
            Error::RateLimited { wait: reply.retry_after().unwrap_or(Duration::from_secs(60)) }
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
            Error::invalid(doing, reply.complaint())
        }
        _ => Error::backend(BACKEND, doing, std::io::Error::other(reply.complaint())),
    }
}
