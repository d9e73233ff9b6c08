//! What was asked, and what was wrong with it.

use std::fmt;

use serde::Serialize;

/// A request, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Call {
    /// Such as `GET`.
    pub method: String,
    /// With its query, as it was sent.
    pub path: String,
    /// GitHub's name for what was asked, such as `actions/list-self-hosted-runners-for-org`; or
    /// `scale-set/…` for the service that GitHub does not describe; empty for what is neither.
    pub operation: String,
    /// `None` when there was no answer.
    pub status: Option<u16>,
    /// Whether it was charged to the caller's hourly quota.
    pub charged: bool,
    /// Whether a fault befell it that was ordered.
    pub fault: bool,
}

/// What GitHub's description does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Violation {
    /// Such as `POST /orgs/acme/actions/runners/generate-jitconfig`.
    pub request: String,
    /// Whether it is in the reply. Then it is this fake's.
    pub ours: bool,
    /// What is wrong, in words.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.ours { "reply" } else { "request" };
        write!(f, "{} ({side}): {}", self.request, self.what)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) calls: Vec<Call>,
    pub(crate) violations: Vec<Violation>,
}

impl Record {
    pub(crate) fn complain(&mut self, request: &str, ours: bool, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!(request, ours, what, "Violation.");
        self.violations.push(Violation { request: request.to_owned(), ours, what });
    }
}
