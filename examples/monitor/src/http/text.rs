//! Refusals as plain text, for clients that show what they are told: shell scripts and boot scripts.

use poem::{
    Response,
    http::{HeaderValue, StatusCode, header},
};

use super::problem::{self, Problem};

/// Says why there is nothing, where no body may.
const REASON: &str = "x-reason";

/// A refusal with this status, saying this.
pub fn refusal(status: StatusCode, detail: impl AsRef<str>) -> Response {
    let mut text = detail.as_ref().trim_end().to_owned();
    text.push('\n');
    Response::builder().status(status).content_type("text/plain; charset=utf-8").body(text)
}

/// One that is worth another try in so many seconds.
pub fn later(detail: impl AsRef<str>, seconds: u64) -> Response {
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, detail);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Has a header instead of a body say why, where curl asks again by itself: the published workflows append every
/// answer to one file, and read that as JSON in the end.
pub async fn bare(mut response: Response) -> Response {
    if !matches!(response.status().as_u16(), 408 | 429 | 500 | 502 | 503 | 504) {
        return response;
    }
    let told = response.take_body().into_bytes().await.unwrap_or_default();
    let told = String::from_utf8_lossy(&told);
    let lines: Vec<&str> = told.lines().filter(|line| !line.is_empty()).collect();
    let line = lines.join("; ").replace(|c: char| !c.is_ascii_graphic() && c != ' ', "?");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_LENGTH);
    if let Ok(line) = HeaderValue::from_str(&line) {
        headers.insert(REASON, line);
    }
    response
}

/// What another part refused.
pub fn of(problem: Problem) -> Response {
    let (status, detail) = problem.told();
    refusal(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), detail)
}

/// Whatever the framework refused.
pub fn of_error(error: poem::Error) -> Response {
    if error.is_from_response() {
        return error.into_response();
    }
    match error.status() {
        StatusCode::NOT_FOUND => refusal(StatusCode::NOT_FOUND, "there is nothing at this path"),
        status => refusal(status, error.to_string()),
    }
}

/// A refusal as it was written for other clients, for these.
pub async fn of_response(mut response: Response) -> Response {
    let is_problem = response.content_type().is_some_and(|kind| kind == problem::CONTENT_TYPE);
    if !is_problem {
        return response;
    }
    let body = response.take_body().into_bytes().await.unwrap_or_default();
    let told: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = told["detail"].as_str().unwrap_or("refused");
    let mut text = refusal(response.status(), detail);
    for name in [header::RETRY_AFTER, header::WWW_AUTHENTICATE, header::CONNECTION, header::ALLOW] {
        if let Some(value) = response.headers().get(&name) {
            text.headers_mut().insert(name, value.clone());
        }
    }
    text
}
