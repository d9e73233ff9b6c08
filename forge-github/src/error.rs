//! What can go wrong between us and GitHub, in words for the operator, and what the caller can do about it.

use std::{fmt, time::Duration};

use http::StatusCode;
use runner_core::{Error, Result};

use crate::budget::Refused;

const BACKEND: &str = "github";

/// How much of an answer that makes no sense is told.
const EXCERPT: usize = 120;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A call to GitHub that did not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// No answer: refused, reset, cut off, timed out. What was asked for may have been done all the same.
    #[error("{how}")]
    Unanswered {
        /// What happened, such as `no answer within 20 s`.
        how: String,
        /// In the words of the HTTP client.
        #[source]
        source: Option<Source>,
    },
    /// An answer that is not what GitHub's API sends: a page of HTML, half a document, another shape. What
    /// was asked for may have been done all the same.
    #[error("{how}")]
    Nonsense {
        /// What is wrong with it.
        how: String,
    },
    /// GitHub said no.
    #[error("{0}")]
    Status(Box<Said>),
    /// A limit on calls: GitHub's answer, or our own budget's.
    #[error("too many calls: {why}")]
    Limited {
        /// How long to wait.
        wait: Duration,
        /// Which limit.
        why: String,
    },
    /// There are no credentials that could be used.
    #[error("{reason}")]
    Credentials {
        /// What is wrong with them.
        reason: String,
    },
}

/// An answer with a status that means no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The status.
    pub status: StatusCode,
    /// GitHub's message, or the beginning of whatever came instead.
    pub message: String,
    /// What to quote to GitHub's support.
    pub request_id: Option<String>,
    /// Where GitHub says that it is instead.
    pub moved_to: Option<String>,
    /// By how many seconds this host's clock is ahead of GitHub's, where that is more than a minute.
    pub clock_ahead: Option<i64>,
    /// Whether it was JSON, as GitHub's own answers are. A proxy's are not.
    pub from_github: bool,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.from_github { "GitHub" } else { "something that is not GitHub's API" };
        write!(f, "{who} answered {}", self.status.as_u16())?;
        if !self.message.is_empty() {
            write!(f, " {:?}", self.message)?;
        }
        if let Some(place) = &self.moved_to {
            write!(f, "; it is now at {place}")?;
        }
        if let Some(seconds) = self.clock_ahead {
            let way = if seconds > 0 { "ahead of" } else { "behind" };
            write!(f, "; this host's clock is {} s {way} GitHub's", seconds.abs())?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::Limited { wait: refused.wait, why: refused.to_string() }
    }
}

impl ApiError {
    pub(crate) fn unanswered(how: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Unanswered { how: how.into(), source: Some(source.into()) }
    }

    pub(crate) fn nonsense(how: impl Into<String>) -> Self {
        Self::Nonsense { how: how.into() }
    }

    pub(crate) fn credentials(reason: impl Into<String>) -> Self {
        Self::Credentials { reason: reason.into() }
    }

    /// The status of the answer, if GitHub said no.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status(said) => Some(said.status),
            _ => None,
        }
    }

    /// Whether what was asked for may have been done although this is an error.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unanswered { .. } | Self::Nonsense { .. } => true,
            Self::Status(said) => said.status.is_server_error() || !said.from_github,
            Self::Limited { .. } | Self::Credentials { .. } => false,
        }
    }

    /// For the pool. `doing` is a verb phrase; `needs` says which credentials would be allowed to.
    pub fn explain(self, doing: &str, host: &str, needs: &str) -> Error {
        let refused = |said: &Said, meaning: &str| {
            let reason = format!("it could not {doing}: {said}; {meaning}. It takes {needs}");
            Error::unauthorized(host, reason)
        };
        match self {
            Self::Limited { wait, .. } => Error::RateLimited { wait },
            Self::Credentials { reason } => {
                Error::unauthorized(host, format!("it could not {doing}: {reason}"))
            }
            Self::Status(said) if !said.from_github => {
                Error::backend(BACKEND, doing, Self::Status(said))
            }
            Self::Status(said) => match said.status {
                StatusCode::UNAUTHORIZED => refused(
                    &said,
                    "the token is wrong, revoked or expired, or the App's key was deleted",
                ),
                StatusCode::FORBIDDEN => refused(&said, "the credentials lack a permission"),
                StatusCode::NOT_FOUND => refused(
                    &said,
                    "it does not exist, or the credentials may not see it, which GitHub does not tell apart",
                ),
                _ => Error::backend(BACKEND, doing, Self::Status(said)),
            },
            other => Error::backend(BACKEND, doing, other),
        }
    }
}

/// A failure of our own, not of a call.
pub(crate) fn backend(doing: impl Into<String>, source: impl Into<Source>) -> Error {
    Error::backend(BACKEND, doing, source)
}

/// The beginning of an answer, on one line.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * EXCERPT)]);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A number of GitHub's out of an id of ours; None for an id that GitHub never gave.
pub(crate) fn number(id: &str) -> Option<u64> {
    id.parse().ok().filter(|number: &u64| number.to_string() == id)
}

/// So that a forge's function can end in it.
pub(crate) type Answer<T> = std::result::Result<T, ApiError>;

/// Converts the error of a call.
pub(crate) trait Explain<T> {
    fn explain(self, doing: &str, client: &crate::client::Client) -> Result<T>;
}

impl<T> Explain<T> for Answer<T> {
    fn explain(self, doing: &str, client: &crate::client::Client) -> Result<T> {
        let place = client.place();
        self.map_err(|error| error.explain(doing, place.host(), &place.scope().permission()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, message: &str) -> Said {
        Said {
            status: StatusCode::from_u16(status).unwrap(),
            message: message.to_owned(),
            request_id: Some("C0:FFEE".to_owned()),
            moved_to: None,
            clock_ahead: None,
            from_github: true,
        }
    }

    #[test]
    fn a_revoked_token_says_what_to_grant_where() {
        let error = ApiError::Status(Box::new(said(401, "Bad credentials")));
        let place = crate::Place::new("https://github.com/servo").unwrap();
        let error = error.explain("list runners", place.host(), &place.scope().permission());
        assert_eq!(
            error.to_string(),
            "github.com refused the credentials: it could not list runners: GitHub answered 401 \
             \"Bad credentials\" (request C0:FFEE); the token is wrong, revoked or expired, or the App's key \
             was deleted. It takes a fine-grained token or App with the organization permission \
             \"Self-hosted runners: read and write\" on servo, or a classic token with the scope admin:org of \
             one of its owners"
        );
    }

    #[test]
    fn a_proxys_403_is_not_a_missing_permission() {
        let error = ApiError::Status(Box::new(Said { from_github: false, ..said(403, "Blocked") }));
        assert!(error.may_have_happened());
        let error = error.explain("list runners", "github.com", "");
        assert_eq!(error.kind(), "backend");
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b"<html>\n  <h1>Unicorn!</h1>"), "<html> <h1>Unicorn!</h1>");
        let long = excerpt("é".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), EXCERPT + 1);
    }

    #[test]
    fn only_an_id_that_github_gave_is_a_number() {
        assert_eq!(number("4711"), Some(4711));
        for odd in ["", "x", "-1", "+1", "007", "1 "] {
            assert_eq!(number(odd), None, "{odd}");
        }
    }
}
