//! The one way to GitHub: every call gets its credentials, waits for its turn, has a deadline, and is noted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, DATE},
    request::Parts,
};
use jiff::Timestamp;
use runner_core::Clock;
use serde::Deserialize;
use tokio::time::timeout;

use crate::{
    app::{AskToken, Installation, InstallationToken, SentToken},
    auth::{Auth, Who},
    budget::{Budget, Call, Cost, Priority},
    error::{Answer, ApiError, Said, excerpt},
    outage::Outage,
    scope::Place,
    transport::Transport,
};

/// How far clocks may differ before it is worth a word.
const SKEW: i64 = 60;

/// Carries calls to one GitHub.
pub(crate) struct Wire {
    pub place: Place,
    pub budget: Budget,
    pub outage: Outage,
    pub clock: Clock,
    auth: Auth,
    transport: Arc<dyn Transport>,
    limit: Duration,
}

impl Wire {
    pub fn new(
        place: Place,
        auth: Auth,
        transport: Arc<dyn Transport>,
        budget: Budget,
        limit: Duration,
        clock: Clock,
    ) -> Self {
        let outage = Outage::new(place.host().to_owned());
        Self { place, budget, outage, clock, auth, transport, limit }
    }

    /// Makes one call. Credentials that are refused are renewed, once, if they can be.
    pub async fn send(&self, parts: Parts, body: Bytes) -> Answer<Response<Bytes>> {
        let call = parts.extensions.get().copied().unwrap_or_else(|| usual(&parts.method));
        let who = parts.extensions.get().copied().unwrap_or(Who::Us);
        // Credentials are for GitHub's API alone, whatever address an answer of GitHub's names.
        let is_api = parts.uri.authority().map(|to| to.as_str())
            == Some(self.place.api().authority())
            && parts.uri.scheme_str() == Some(self.place.api().scheme());
        if !is_api {
            return self.once(&parts, body, None, call).await;
        }
        let token = self.token(who).await.inspect_err(|error| self.note(error))?;
        let answer = self.once(&parts, body.clone(), Some(&token), call).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.auth.forget(&token);
        match self.token(who).await {
            Ok(renewed) if renewed != token => self.once(&parts, body, Some(&renewed), call).await,
            _ => Ok(answer),
        }
    }

    /// Makes a call of the credentials' own, as the App.
    async fn as_app(&self, method: Method, path: &str, body: Bytes) -> Answer<Bytes> {
        let proof = self.auth.proof(self.clock.now()).await?;
        let cost = if method == Method::GET { Cost::Read } else { Cost::Change };
        let uri = format!("{}{}", self.place.api().as_str().trim_end_matches('/'), path);
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(()).map_err(|error| ApiError::credentials(error.to_string()))?;
        let call = Call { priority: Priority::Running, cost };
        let answer = self.once(&request.into_parts().0, body, Some(&proof), call).await?;
        check(answer, self.clock.now()).map(Response::into_body)
    }

    /// The header that proves who we are.
    async fn token(&self, who: Who) -> Answer<HeaderValue> {
        let now = self.clock.now();
        match who {
            Who::App => return self.auth.proof(now).await,
            Who::Us => {}
        }
        if let Some(token) = self.auth.current(&self.place, now).await? {
            return Ok(token);
        }
        // One renews, the others wait for that.
        let _turn = self.auth.turn().await;
        if let Some(token) = self.auth.current(&self.place, now).await? {
            return Ok(token);
        }
        match self.exchange().await {
            Ok(token) => self.auth.keep(token),
            // What is still good for a while is used while it is.
            Err(error) => self.auth.last_resort(now).ok_or(error),
        }
    }

    async fn exchange(&self) -> Answer<InstallationToken> {
        let id = match self.auth.installation() {
            Some(id) => id,
            None => {
                let path = format!("{}/installation", self.place.scope().path());
                let body = self.as_app(Method::GET, &path, Bytes::new()).await;
                let body = body.map_err(|error| match error.status() {
                    Some(StatusCode::NOT_FOUND) => ApiError::credentials(format!(
                        "the App is not installed on {}; install it there",
                        self.place.scope()
                    )),
                    _ => error,
                })?;
                let found: Installation = read(&body, "the App's installation")?;
                if found.suspended_at.is_some() {
                    let at = self.place.scope();
                    let why = format!("the App's installation on {at} is suspended; resume it");
                    return Err(ApiError::credentials(why));
                }
                self.auth.found(found.id);
                found.id
            }
        };
        let ask = serde_json::to_vec(&AskToken {}).unwrap_or_default(); // An empty object cannot fail.
        let path = format!("/app/installations/{id}/access_tokens");
        let sent = self.as_app(Method::POST, &path, ask.into()).await;
        if let Err(error) = &sent
            && error.status() == Some(StatusCode::NOT_FOUND)
        {
            // It may have been installed anew.
            self.auth.lost();
        }
        let sent: SentToken = read(&sent?, "the installation's token")?;
        Ok(sent.into())
    }

    async fn once(
        &self,
        parts: &Parts,
        body: Bytes,
        token: Option<&HeaderValue>,
        call: Call,
    ) -> Answer<Response<Bytes>> {
        let permit = self.budget.enter(call).await?;
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = parts.uri.clone();
        let headers = request.headers_mut();
        *headers = parts.headers.clone();
        headers.remove(AUTHORIZATION);
        headers.entry("accept").or_insert(HeaderValue::from_static("application/vnd.github+json"));
        headers.insert("x-github-api-version", HeaderValue::from_static("2022-11-28"));
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        let answer = match timeout(self.limit, self.transport.send(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                let how = format!("no answer within {} s", self.limit.as_secs());
                Err(ApiError::Unanswered { how, source: None })
            }
        };
        let answer = answer.inspect_err(|error| self.note(error))?;
        let now = self.clock.now();
        let message = match answer.status().is_client_error() {
            true => message_of(answer.body()).unwrap_or_default(),
            false => String::new(),
        };
        let wait = permit.answered(answer.status(), answer.headers(), &message, now);
        if let Some(wait) = wait {
            let why = format!("GitHub answered {} {message:?}", answer.status().as_u16());
            let error = ApiError::Limited { wait, why };
            self.note(&error);
            return Err(error);
        }
        if answer.status().is_server_error() || answer.status() == StatusCode::UNAUTHORIZED {
            self.note(&refusal(&answer, now));
        } else if is_github(&answer) {
            self.outage.well(now);
        }
        Ok(answer)
    }

    pub fn note(&self, error: &ApiError) {
        self.outage.ill(self.clock.now(), error);
    }
}

fn usual(method: &Method) -> Call {
    match *method {
        Method::GET | Method::HEAD => Call { priority: Priority::Look, cost: Cost::Read },
        _ => Call { priority: Priority::Provision, cost: Cost::Change },
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
    #[serde(default)]
    errors: Vec<serde_json::Value>,
}

/// What an answer in GitHub's form says went wrong.
fn message_of(body: &[u8]) -> Option<String> {
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    let details = body.errors.iter().filter_map(|error| match error {
        serde_json::Value::String(text) => Some(text.as_str()),
        error => error.get("message")?.as_str(),
    });
    Some(details.fold(body.message.clone(), |all, detail| format!("{all}: {detail}")))
}

/// Whether an answer is GitHub's own: JSON, or nothing at all.
fn is_github(answer: &Response<Bytes>) -> bool {
    let json = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    match answer.status().is_success() {
        true => answer.body().is_empty() || json.is_some_and(|kind| kind.contains("json")),
        false => message_of(answer.body()).is_some() || answer.status() == StatusCode::NOT_MODIFIED,
    }
}

/// An answer whose status means no, as an error.
fn refusal(answer: &Response<Bytes>, now: Timestamp) -> ApiError {
    let header = |name: &str| {
        answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let theirs = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
    let theirs = theirs.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let ahead = theirs.map(|date| now.as_second() - date.timestamp().as_second());
    let message = message_of(answer.body());
    ApiError::Status(Box::new(Said {
        status: answer.status(),
        from_github: message.is_some(),
        message: message.unwrap_or_else(|| excerpt(answer.body())),
        request_id: header("x-github-request-id"),
        moved_to: header("location").filter(|_| answer.status().is_redirection()),
        clock_ahead: ahead
            .filter(|seconds| seconds.abs() > SKEW && answer.status() == StatusCode::UNAUTHORIZED),
    }))
}

/// Only an answer that means yes.
pub(crate) fn check(answer: Response<Bytes>, now: Timestamp) -> Answer<Response<Bytes>> {
    match answer.status().is_success() || answer.status() == StatusCode::NOT_MODIFIED {
        true => Ok(answer),
        false => Err(refusal(&answer, now)),
    }
}

/// Reads a document, and says where it is not what it should be.
pub(crate) fn read<T: serde::de::DeserializeOwned>(body: &[u8], what: &str) -> Answer<T> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // Without the document: it may hold a secret.
        let (at, why) = (error.path().to_string(), error.inner().classify());
        let excerpt = match body.trim_ascii_start().first() {
            Some(b'{' | b'[') => String::new(),
            _ => format!(", but {:?}", excerpt(body)),
        };
        ApiError::nonsense(format!(
            "{what} is not what GitHub describes{excerpt} ({why:?} at {at})"
        ))
    })?;
    json.end().map_err(|_| ApiError::nonsense(format!("{what} goes on after its end")))?;
    Ok(value)
}
