//! What was asked, and what was wrong with it.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

/// A request, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Call {
    /// When it came, by GitLab's clock.
    pub at: Timestamp,
    /// Such as `POST /api/v4/jobs/request`: the method and the path's template, or the path itself where GitLab
    /// has no such path.
    pub route: String,
    /// The path without its query.
    pub path: String,
    /// `None` when there was no answer, or not a whole one, or none yet.
    pub status: Option<u16>,
    /// What the client says it is.
    pub user_agent: Option<String>,
}

/// What GitLab's description does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Violation {
    /// Such as `PUT /api/v4/jobs/7`.
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
    /// Takes a request down; the number is for [`Record::answered`].
    pub(crate) fn asked(&mut self, call: Call) -> usize {
        self.calls.push(call);
        self.calls.len() - 1
    }

    pub(crate) fn answered(&mut self, number: usize, status: u16) {
        if let Some(call) = self.calls.get_mut(number) {
            call.status = Some(status);
        }
    }

    pub(crate) fn complain(&mut self, request: &str, ours: bool, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!(request, ours, what, "Violation.");
        self.violations.push(Violation { request: request.to_owned(), ours, what });
    }
}
