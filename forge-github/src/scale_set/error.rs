//! What the Actions service refuses, sorted by what can be done about it.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use runner_core::{Error, error::chain};
use serde::Deserialize;

use crate::error::ApiError;

/// As GitHub asks for where it says no time.
const UNKNOWN_WAIT: Duration = Duration::from_secs(60);

/// Why a call of the service failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    /// It answered, and said no.
    #[error("{refusal}")]
    Refused { doing: String, refusal: Box<Refusal> },
    /// It did not answer, or not in full.
    #[error("the Actions service did not answer")]
    NoAnswer {
        doing: String,
        #[source]
        source: ApiError,
    },
    /// It answered something that is not what it should be.
    #[error("the Actions service's answer cannot be read")]
    Unreadable {
        doing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// GitHub's REST interface failed before the service was reached.
    #[error(transparent)]
    Rest(#[from] Error),
}

/// A refusal in full, for the log: with it, GitHub's support finds the call.
#[derive(Debug, thiserror::Error)]
#[error("{status} {kind}: {message} (activity {activity}, request {request})")]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The name of the exception, such as `AgentExistsException`, where it said one.
    kind: String,
    message: String,
    activity: String,
    request: String,
    wait: Option<Duration>,
}

/// The body of a refusal.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Exception {
    type_name: String,
    message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or("none").to_owned()
        };
        let exception = serde_json::from_slice(body).unwrap_or_else(|_| Exception {
            type_name: String::new(),
            message: "no reason given".to_owned(),
        });
        Self {
            status,
            kind: exception.type_name,
            message: exception.message.chars().take(300).collect(),
            activity: text("activityid"),
            request: text("x-github-request-id"),
            wait: text("retry-after").parse().ok().map(Duration::from_secs),
        }
    }
}

impl Refusal {
    fn is_limit(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }
}

impl ServiceError {
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    fn says(&self, status: u16, kind: &str) -> bool {
        self.refusal()
            .is_some_and(|refusal| refusal.status == status || refusal.kind.contains(kind))
    }

    /// The token is too old: get another.
    pub(super) fn is_expired_token(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == StatusCode::UNAUTHORIZED)
    }

    /// Somebody else has the scale set's one session: wait.
    pub(super) fn is_session_conflict(&self) -> bool {
        self.refusal().is_some_and(|refusal| {
            let unnamed = refusal.status == StatusCode::CONFLICT && refusal.kind.is_empty();
            unnamed || refusal.kind.contains("SessionConflictException")
        })
    }

    /// The session is no more: make another.
    pub(super) fn is_session_gone(&self) -> bool {
        self.says(404, "SessionExpiredException") || self.says(410, "SessionNotFoundException")
    }

    /// There is no such thing (any more).
    pub(super) fn is_missing(&self) -> bool {
        self.says(404, "NotFoundException")
    }

    /// There is a runner of that name.
    pub(super) fn is_name_taken(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.kind.contains("AgentExistsException"))
    }

    /// The runner has a job.
    pub(super) fn is_running(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.kind.contains("JobStillRunningException"))
    }

    /// The same call will be refused again, in this session and in the next.
    pub(super) fn is_final(&self) -> bool {
        let passes = [401, 408, 409, 429].map(|status| StatusCode::from_u16(status).ok());
        !self.is_session_gone()
            && self.refusal().is_some_and(|refusal| {
                refusal.status.is_client_error() && !passes.contains(&Some(refusal.status))
            })
    }

    /// How long it asked to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Rest(Error::RateLimited { wait }) => Some(*wait),
            _ => self.refusal()?.wait,
        }
    }
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Self {
        let doing = match &error {
            ServiceError::Rest(_) => String::new(),
            ServiceError::Refused { doing, .. }
            | ServiceError::NoAnswer { doing, .. }
            | ServiceError::Unreadable { doing, .. } => doing.clone(),
        };
        match error {
            ServiceError::Rest(error) => error,
            _ if error.is_expired_token() => {
                Self::unauthorized("the Actions service", chain(&error))
            }
            ServiceError::Refused { refusal, .. } if refusal.is_limit() => {
                Self::RateLimited { wait: refusal.wait.unwrap_or(UNKNOWN_WAIT) }
            }
            error => Self::backend("github", doing, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> ServiceError {
        let status = StatusCode::from_u16(status).unwrap();
        let refusal = Refusal::new(status, &HeaderMap::new(), body.as_bytes());
        ServiceError::Refused { doing: "ask".to_owned(), refusal: refusal.into() }
    }

    #[test]
    fn refusals_are_told_apart_by_status_and_by_name() {
        let name = "GitHub.Actions.Runtime.WebApi.RunnerScaleSetSessionConflictException";
        let named = |name: &str| format!(r#"{{"typeName": "{name}", "message": "m"}}"#);
        assert!(refused(409, &named(name)).is_session_conflict());
        assert!(refused(400, &named("RunnerScaleSetSessionExpiredException")).is_session_gone());
        assert!(refused(404, "<html>").is_session_gone());
        assert!(!refused(400, "").is_session_gone());
        assert!(refused(409, &named("AgentExistsException")).is_name_taken());
        assert!(refused(400, &named("JobStillRunningException")).is_running());
        assert!(refused(401, "").is_expired_token());
    }

    #[test]
    fn a_refusal_says_what_githubs_support_asks_for() {
        let headers = [("activityid", "a-1"), ("x-github-request-id", "r-1")];
        let headers = headers.map(|(name, value)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        });
        let body = br#"{"typeName": "OddException", "message": "why"}"#;
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, &headers.into_iter().collect(), body);
        assert_eq!(
            refusal.to_string(),
            "400 Bad Request OddException: why (activity a-1, request r-1)"
        );
    }
}
