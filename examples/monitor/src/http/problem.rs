//! Refusals as RFC 9457 has them: `application/problem+json`.

use poem::{IntoResponse, Response, http::StatusCode};
use poem_openapi::{ApiResponse, Object, payload::Json};
use runner_core::error::chain;

/// What refusals are.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Why a request was refused.
#[derive(Debug, Object)]
pub struct ProblemDetails {
    /// Always `about:blank`: the status says which kind of problem it is.
    #[oai(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What is wrong with this request, and the way out.
    detail: String,
}

/// A refusal.
#[derive(Debug, ApiResponse)]
pub enum Problem {
    /// The request cannot be granted as it is.
    #[oai(status_range = "4XX", content_type = "application/problem+json")]
    Refused(StatusCode, Json<ProblemDetails>),
    /// The service failed.
    #[oai(status_range = "5XX", content_type = "application/problem+json")]
    Failed(StatusCode, Json<ProblemDetails>),
}

impl Problem {
    /// A refusal with this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let details = ProblemDetails {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Refused").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        };
        if status.is_client_error() {
            Self::Refused(status, Json(details))
        } else {
            Self::Failed(status, Json(details))
        }
    }

    /// The request breaks a rule.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Nobody knows who asks. `why` goes before the way out.
    pub fn unauthorized(why: &str) -> Self {
        let detail = format!("{why}; send it as Authorization: Bearer TOKEN");
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// The thing does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The request is larger than it may be.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// Its status and what it says, for where no answer can carry it.
    pub fn told(self) -> (u16, String) {
        let (Self::Refused(_, Json(details)) | Self::Failed(_, Json(details))) = self;
        (details.status, details.detail)
    }

    /// There is too much of it already.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail)
    }
}

impl From<runner_core::Error> for Problem {
    fn from(error: runner_core::Error) -> Self {
        use runner_core::Error;
        let status = match &error {
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::Busy { .. } => StatusCode::CONFLICT,
            Error::Exhausted { .. } | Error::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
            Error::Unauthorized { .. } => StatusCode::BAD_GATEWAY,
            _ => {
                tracing::error!(error = chain(&error), "A request failed.");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<Problem> for Box<Response> {
    fn from(problem: Problem) -> Self {
        Box::new(problem.into_response())
    }
}

/// Turns whatever a framework refused into a problem.
pub fn respond(error: poem::Error) -> Response {
    if error.is_from_response() {
        return error.into_response();
    }
    let status = error.status();
    if status == StatusCode::UNAUTHORIZED {
        // What reads may be asked for without a token, until a route wants one.
        return Problem::unauthorized("this needs the API token").into_response();
    }
    let detail = match status {
        StatusCode::NOT_FOUND => "there is nothing at this path".to_owned(),
        _ => error.to_string(),
    };
    Problem::new(status, detail).into_response()
}
