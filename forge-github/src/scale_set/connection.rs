//! The way to the Actions service: GitHub trades a registration token for the service's address and a token.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header, request::Builder};
use jiff::Timestamp;
use runner_core::{Clock, Secret};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::timeout;
use url::Url;

use super::error::{Refusal, ServiceError};
use crate::{
    error::ApiError,
    rest::{Call, Rest},
    scope::Place,
    transport::Transport,
};

/// For everything but the queue of messages.
pub(super) const VERSION: &str = "6.0-preview";

/// A token is renewed when it is this close to its end.
const MARGIN: Duration = Duration::from_secs(60);

/// For a token that does not say when it ends.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);

/// How long anything but a long poll may take.
pub(super) const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Some answers of the service begin with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Calls the Actions service of one place. Clones share one connection.
#[derive(Clone)]
pub struct ActionsService(Arc<Inner>);

struct Inner {
    rest: Arc<dyn Rest>,
    transport: Arc<dyn Transport>,
    place: Place,
    clock: Clock,
    user_agent: HeaderValue,
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Connection {
    url: Url,
    token: Secret<String>,
    renew_at: Timestamp,
}

#[derive(Deserialize)]
struct RegistrationToken {
    token: String,
}

#[derive(Deserialize)]
struct Registered {
    url: Url,
    token: String,
}

/// Whose token a call carries.
#[derive(Clone, Copy)]
pub(super) enum Token<'a> {
    /// The connection's, which is got and renewed as needed.
    Admin,
    /// That of a session's queue.
    Queue(&'a Secret<String>),
}

impl ActionsService {
    /// `rest` gets registration tokens, for which it needs the permission that
    /// [`Scope::permission`](crate::Scope::permission) names. `transport` carries all other calls, which are the
    /// service's and count against none of GitHub's hourly limits but that for registrations.
    pub fn new(
        rest: Arc<dyn Rest>,
        transport: Arc<dyn Transport>,
        place: Place,
        clock: Clock,
    ) -> Self {
        // The service expects an object.
        let version = env!("CARGO_PKG_VERSION");
        let user_agent = json!({
            "system": "forge-github", "version": version, "commit_sha": "", "scale_set_id": 0,
            "subsystem": "listener", "build_version": version, "build_commit_sha": "",
            "kind": "scaleset",
        });
        Self(Arc::new(Inner {
            rest,
            transport,
            place,
            clock,
            user_agent: user_agent.to_string().parse().expect("JSON of ASCII, in one line"),
            connection: Mutex::new(None),
        }))
    }

    pub(super) fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Calls `path` of the service. A token that the service no longer takes is renewed once.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&(impl Serialize + Sync)>,
        token: Token<'_>,
    ) -> Result<T, ServiceError> {
        let answer = self.call_raw(doing, method, path, query, body, token).await?;
        read(doing, &answer)
    }

    pub(super) async fn call_raw(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&(impl Serialize + Sync)>,
        token: Token<'_>,
    ) -> Result<Bytes, ServiceError> {
        let mut renewed = false;
        loop {
            let connection = self.connection().await?;
            let url = address(&connection.url, path, query);
            let token_text = match token {
                Token::Admin => connection.token.expose(),
                Token::Queue(token) => token.expose(),
            };
            let request = with_token(request(&method, &url), "Bearer", token_text);
            let request = match body {
                Some(body) => with_json(doing, request, body)?,
                None => bare(doing, request)?,
            };
            match self.send(doing, request, ANSWER_TIME).await {
                Err(error)
                    if error.is_expired_token() && matches!(token, Token::Admin) && !renewed =>
                {
                    renewed = true;
                    self.forget(&connection);
                }
                Err(error) => return Err(error),
                Ok((_, body)) => return Ok(body),
            }
        }
    }

    /// Sends what is ready but for what every call has in common, and waits for the answer for so long.
    pub(super) async fn send(
        &self,
        doing: &str,
        mut request: Request<Bytes>,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), ServiceError> {
        let failed = |source| ServiceError::NoAnswer { doing: doing.to_owned(), source };
        request.headers_mut().insert(header::USER_AGENT, self.0.user_agent.clone());
        let answer = timeout(patience, self.0.transport.send(request)).await.unwrap_or_else(|_| {
            let how = format!("no answer within {} s", patience.as_secs());
            Err(ApiError::Unanswered { how, source: None })
        });
        let (parts, mut body) = answer.map_err(failed)?.into_parts();
        if body.starts_with(BYTE_ORDER_MARK) {
            body = body.slice(BYTE_ORDER_MARK.len()..);
        }
        if !parts.status.is_success() {
            let refusal = Refusal::new(parts.status, &parts.headers, &body).into();
            return Err(ServiceError::Refused { doing: doing.to_owned(), refusal });
        }
        Ok((parts.status, body))
    }

    async fn connection(&self) -> Result<Arc<Connection>, ServiceError> {
        let now = self.0.clock.now();
        let known = self.lock().clone();
        if let Some(known) = known.filter(|known| now < known.renew_at) {
            return Ok(known);
        }
        // Two that come at once both connect: that costs two calls, and each result is good.
        let fresh = Arc::new(self.connect(now).await?);
        *self.lock() = Some(fresh.clone());
        Ok(fresh)
    }

    async fn connect(&self, now: Timestamp) -> Result<Connection, ServiceError> {
        let place = &self.0.place;
        let path = format!("{}/actions/runners/registration-token", place.scope().path());
        let answer = self.0.rest.call(Call::post(path)).await?;
        let RegistrationToken { token } = answer.json("read a registration token")?;

        let doing = format!("reach the Actions service of {place}");
        let url = address(place.api(), "actions/runner-registration", &[]);
        let request = with_token(request(&Method::POST, &url), "RemoteAuth", &token);
        let about = json!({ "url": place.url().as_str(), "runner_event": "register" });
        let request = with_json(&doing, request, &about)?;
        let (_, body) = self.send(&doing, request, ANSWER_TIME).await?;
        let Registered { url, token } = read(&doing, &body)?;
        let renew_at = match ends_at(&token) {
            Some(end) => end - MARGIN,
            None => now + UNKNOWN_LIFE,
        };
        Ok(Connection { url, token: Secret::new(token), renew_at })
    }

    /// Unless someone has renewed it already.
    fn forget(&self, connection: &Arc<Connection>) {
        let mut known = self.lock();
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, connection)) {
            *known = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Connection>>> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request to begin with.
pub(super) fn request(method: &Method, url: &Url) -> Builder {
    Request::builder().method(method).uri(url.as_str())
}

/// Adds a token, which no log shows.
pub(super) fn with_token(request: Builder, kind: &str, token: &str) -> Builder {
    let mut request = request.header(header::AUTHORIZATION, format!("{kind} {token}"));
    let headers = request.headers_mut();
    if let Some(value) = headers.and_then(|headers| headers.get_mut(header::AUTHORIZATION)) {
        value.set_sensitive(true);
    }
    request
}

/// Completes a request that says all in its address.
pub(super) fn bare(doing: &str, request: Builder) -> Result<Request<Bytes>, ServiceError> {
    complete(doing, request, Bytes::new())
}

fn with_json(
    doing: &str,
    request: Builder,
    body: &impl Serialize,
) -> Result<Request<Bytes>, ServiceError> {
    let json = serde_json::to_vec(body).map_err(|error| odd(doing, error))?;
    complete(doing, request.header(header::CONTENT_TYPE, "application/json"), json.into())
}

fn complete(doing: &str, request: Builder, body: Bytes) -> Result<Request<Bytes>, ServiceError> {
    request.body(body).map_err(|error| odd(doing, error))
}

/// What GitHub told us to say cannot be said.
fn odd(doing: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ServiceError {
    ServiceError::Unreadable { doing: doing.to_owned(), source: error.into() }
}

pub(super) fn read<T: DeserializeOwned>(doing: &str, body: &[u8]) -> Result<T, ServiceError> {
    serde_json::from_slice(body).map_err(|error| odd(doing, error))
}

/// `base` with `path` added, and what `base` had in its query kept.
fn address(base: &Url, path: &str, query: &[(&str, &str)]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path.split('/'));
    }
    let mut pairs = url.query_pairs_mut();
    pairs.extend_pairs(query);
    if path.starts_with("_apis/") {
        pairs.append_pair("api-version", VERSION);
    }
    drop(pairs);
    if url.query() == Some("") {
        url.set_query(None);
    }
    url
}

/// When a token ends, as it says itself. It is the service that checks it.
fn ends_at(token: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: i64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_second(claims.exp).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_address_keeps_its_path_and_query() {
        let build = |base: &str, path: &str, query: &[(&str, &str)]| {
            address(&Url::parse(base).unwrap(), path, query).to_string()
        };
        let path = "_apis/runtime/runnerscalesets";
        assert_eq!(
            build("https://broker.example/rest/", path, &[("name", "a b&c")]),
            "https://broker.example/rest/_apis/runtime/runnerscalesets?name=a+b%26c&api-version=6.0-preview"
        );
        assert_eq!(
            build("https://ghes.example/x?tenant=1", path, &[]),
            "https://ghes.example/x/_apis/runtime/runnerscalesets?tenant=1&api-version=6.0-preview"
        );
        assert_eq!(
            build("https://api.github.com/", "actions/runner-registration", &[]),
            "https://api.github.com/actions/runner-registration"
        );
    }

    #[test]
    fn a_token_says_when_it_ends() {
        let payload = URL_SAFE_NO_PAD.encode(br#"{"exp": 1800000000, "aud": "x"}"#);
        let token = |payload: &str| format!("e30.{payload}.c2ln");
        let end = Timestamp::from_second(1_800_000_000).ok();
        assert_eq!(ends_at(&token(&payload)), end);
        assert_eq!(ends_at(&token(&format!("{payload}=="))), end);
        for odd in ["", "a.b.c", "e30.e30.c2ln"] {
            assert_eq!(ends_at(odd), None, "{odd}");
        }
    }
}
