//! Runner scale sets: a service beside the API that GitHub does not describe. It is held to strict types here.
//!
//! A listener asks for a connection, keeps a session with one set, polls its queue, and makes runners for the
//! jobs that are assigned to the set. `sets.rs` has the sets, `sessions.rs` who listens, `messages.rs` what
//! they hear, `jobs.rs` why, `runners.rs` the runners; this file lets in and hands on.

use http::{HeaderName, Method, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use url::Url;

use crate::{
    access::unauthorized,
    api::Raw,
    contract::Parameters,
    exchange::{Content, Refusal, Reply, Request},
    ids::{hex, random_text},
    limits::Resource,
    scope::Scope,
    state::{Shared, State},
};

mod jobs;
mod messages;
mod runners;
mod sessions;
mod sets;

pub(crate) use sets::ScaleSet;

/// Where the service is. Its address is told at the registration, and nobody should guess it.
const BASE: &str = "/_services/";
/// The only version there is.
const VERSION: &str = "6.0-preview";
/// How long the token of a connection is good.
const TOKEN: SignedDuration = SignedDuration::from_hours(1);
/// What the service's replies begin with.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Why the service does not do what it is asked.
struct Exception {
    status: StatusCode,
    name: &'static str,
    message: String,
}

type Served = Result<Reply, Exception>;

impl Exception {
    fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        Self { status, name, message: message.into() }
    }

    fn not_found(what: &str) -> Self {
        let message = format!("No {what} found.");
        Self::new(StatusCode::NOT_FOUND, "RunnerScaleSetNotFoundException", message)
    }

    fn into_reply(self) -> Reply {
        let name = self.name;
        let namespace = "GitHub.Actions.Runtime.WebApi";
        marked(
            self.status,
            &json!({
                "typeName": format!("{namespace}.{name}, {namespace}"),
                "typeKey": name,
                "message": self.message,
            }),
        )
    }
}

/// Whether a path is the service's.
pub(crate) fn is_for(path: &str, ghes: bool) -> bool {
    let registration =
        if ghes { "/api/v3/actions/runner-registration" } else { "/actions/runner-registration" };
    path == registration || path.starts_with(BASE)
}

/// Our name for what is asked for.
pub(crate) fn operation(method: &Method, path: &str) -> String {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let name = match (method.as_str(), &parts[..]) {
        (_, [.., "runner-registration"]) => "register",
        (_, [.., "runnergroups"]) => "groups",
        ("GET", [.., "messages"]) => "poll",
        ("DELETE", [.., "messages", _]) => "acknowledge",
        (_, [.., "acquirejobs"]) => "acquire",
        (_, [.., "generatejitconfig"]) => "generate-jitconfig",
        ("POST", [.., "sessions"]) => "create-session",
        ("PATCH", [.., "sessions", _]) => "refresh-session",
        ("DELETE", [.., "sessions", _]) => "delete-session",
        ("GET", [.., "agents"]) => "find-agent",
        ("GET", [.., "agents", _]) => "get-agent",
        ("DELETE", [.., "agents", _]) => "delete-agent",
        ("GET", [.., "runnerscalesets"]) => "find",
        ("POST", [.., "runnerscalesets"]) => "create",
        ("GET", [.., "runnerscalesets", _]) => "get",
        ("PATCH", [.., "runnerscalesets", _]) => "update",
        ("DELETE", [.., "runnerscalesets", _]) => "delete",
        _ => "unknown",
    };
    format!("scale-set/{name}")
}

/// Does it, and answers.
pub(crate) async fn answer(shared: &Shared, raw: Raw) -> Reply {
    let request = raw.into_request(Parameters::new());
    let label = format!("{} {}", request.method, request.path);
    let served = if request.path.ends_with("/runner-registration") {
        return register(shared, &request, &label);
    } else if operation(&request.method, &request.path) == "scale-set/poll" {
        shared.poll(&request, &label).await
    } else {
        shared.change(|state| serve(state, &request, &label))
    };
    let reply = served.unwrap_or_else(Exception::into_reply);
    reply.with(HeaderName::from_static("activityid"), uuid::Uuid::new_v4().to_string())
}

fn serve(state: &mut State, request: &Request, label: &str) -> Served {
    check_manners(state, request, label);
    let path = request.path.clone();
    let parts: Vec<_> = path.trim_matches('/').split('/').skip(2).collect();
    if let ["queue", set, "messages", message] = parts[..] {
        let set = state.listening(request, number(set)?)?;
        return state.acknowledge(set, number(message)?);
    }
    if let ["_apis", "runtime", "runnerscalesets", set, "acquirejobs"] = parts[..] {
        // The only one that goes by the queue's token.
        let set = state.listening(request, number(set)?)?;
        let ids: Vec<i64> = read(state, request, label)?;
        return state.acquire(set, &ids);
    }
    let scope = admitted(state, request)?;
    match (request.method.as_str(), &parts[..]) {
        ("GET", ["_apis", "runtime", "runnergroups"]) => sets::groups(state, &scope, request),
        (method, ["_apis", "runtime", "runnerscalesets", rest @ ..]) => {
            let set = |state: &State, id: &str| state.scale_set(&scope, number(id)?).map(|s| s.id);
            match (method, rest) {
                ("GET", []) => sets::find(state, &scope, request),
                ("POST", []) => {
                    let new = read(state, request, label)?;
                    sets::create(state, &scope, new)
                }
                ("GET", [id]) => sets::show(state, set(state, id)?),
                ("PATCH", [id]) => {
                    let changes = read(state, request, label)?;
                    sets::update(state, set(state, id)?, changes)
                }
                ("DELETE", [id]) => sets::delete(state, set(state, id)?),
                ("POST", [id, "sessions"]) => {
                    let new = read(state, request, label)?;
                    sessions::create(state, set(state, id)?, &new, request)
                }
                ("PATCH", [id, "sessions", session]) => {
                    sessions::refresh(state, set(state, id)?, session, request)
                }
                ("DELETE", [id, "sessions", session]) => {
                    sessions::delete(state, set(state, id)?, session)
                }
                ("POST", [id, "generatejitconfig"]) => {
                    let new = read(state, request, label)?;
                    runners::generate(state, set(state, id)?, &new, request)
                }
                _ => Err(Exception::not_found("route")),
            }
        }
        ("GET", ["_apis", "distributedtask", "pools", "0", "agents"]) => {
            runners::find(state, &scope, request.query("agentName"))
        }
        ("GET", ["_apis", "distributedtask", "pools", "0", "agents", id]) => {
            runners::show(state, &scope, number(id)?)
        }
        ("DELETE", ["_apis", "distributedtask", "pools", "0", "agents", id]) => {
            runners::delete(state, &scope, number(id)?)
        }
        _ => {
            state.record.complain(label, false, "the service has no such route");
            Err(Exception::not_found("route"))
        }
    }
}

/// Complains of what the service's clients always do and this one does not.
fn check_manners(state: &mut State, request: &Request, label: &str) {
    let agent = request.header(header::USER_AGENT).unwrap_or_default();
    if !serde_json::from_str::<Value>(agent).is_ok_and(|agent| agent.is_object()) {
        state.record.complain(label, false, "the User-Agent is no JSON object");
    }
    let is_queue = request.path.contains("/queue/");
    let accepted = request.header(header::ACCEPT).unwrap_or_default();
    let version = if is_queue && request.method == Method::GET {
        accepted.split(';').filter_map(|part| part.trim().strip_prefix("api-version=")).next()
    } else {
        request.query("api-version")
    };
    if version != Some(VERSION) {
        state.record.complain(label, false, format!("the api-version is not {VERSION}"));
    }
    for (name, _) in &request.query {
        let known = [
            "api-version",
            "groupName",
            "runnerGroupId",
            "name",
            "agentName",
            "sessionId",
            "lastMessageId",
        ];
        if !known.contains(&name.as_str()) {
            state.record.complain(label, false, format!("there is no parameter {name:?}"));
        }
    }
}

/// The connection's scope, by the token that it got.
fn admitted(state: &State, request: &Request) -> Result<Scope, Exception> {
    let token = bearer(request);
    let connection = token.and_then(|token| state.connections.get(token));
    match connection.filter(|(_, until)| *until > state.now()) {
        Some((scope, _)) => Ok(scope.clone()),
        None => Err(not_admitted()),
    }
}

fn not_admitted() -> Exception {
    let message = "The token is not valid, or not any more.";
    Exception::new(StatusCode::UNAUTHORIZED, "VssUnauthorizedException", message)
}

fn bearer(request: &Request) -> Option<&str> {
    request.header(header::AUTHORIZATION)?.strip_prefix("Bearer ")
}

/// What a client asks for a connection with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    url: String,
    runner_event: String,
}

/// Exchanges a registration token for a connection to the service.
fn register(shared: &Shared, request: &Request, label: &str) -> Reply {
    shared.change(|state| {
        let (now, limits) = (state.now(), state.limits);
        let caller = "registration";
        let registered = connect(state, request, label, caller);
        let reply = registered.unwrap_or_else(Refusal::into_reply);
        state.quotas.tell(&limits, caller, Resource::Registration, now, reply)
    })
}

fn connect(
    state: &mut State,
    request: &Request,
    label: &str,
    caller: &str,
) -> Result<Reply, Refusal> {
    let now = state.now();
    let limits = state.limits;
    state.quotas.has_room(&limits, caller, Resource::Registration, now)?;
    state.quotas.charge(caller, Resource::Registration, now);
    if request.method != Method::POST {
        state.record.complain(label, false, "only POST is known");
        return Err(Refusal::not_found());
    }
    let held = request.header(header::AUTHORIZATION).and_then(|v| v.strip_prefix("RemoteAuth "));
    let known = held.and_then(|token| state.registration_tokens.get(token));
    let (scope, until) = known.cloned().ok_or_else(|| unauthorized("Bad credentials"))?;
    if until <= now {
        return Err(unauthorized("Token expired"));
    }
    let body: Registration = serde_json::from_slice(&request.body).map_err(|error| {
        state.record.complain(label, false, error.to_string());
        Refusal::new(StatusCode::BAD_REQUEST, error.to_string())
    })?;
    let wanted = Url::parse(&body.url)
        .ok()
        .and_then(|url| url.path().trim_matches('/').parse::<Scope>().ok());
    if wanted.as_ref() != Some(&scope) || body.runner_event != "register" {
        return Err(Refusal::not_found());
    }
    let tenant = random_text(32);
    let token = token(now, now.saturating_add(TOKEN).unwrap_or(Timestamp::MAX), "admin");
    let until = now.saturating_add(TOKEN).unwrap_or(Timestamp::MAX);
    state.connections.insert(token.clone(), (scope, until));
    let url = format!("{}{BASE}{tenant}/", request.addresses.web);
    Ok(Reply::json(
        StatusCode::OK,
        json!({ "url": url, "token": token, "token_schema": "OAuthAccessToken" }),
    ))
}

/// A token that tells when it ends to whoever reads it. Nobody outside can check the signature.
fn token(from: Timestamp, until: Timestamp, kind: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let encode = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let claims = json!({
        "nbf": from.as_second(), "exp": until.as_second(), "scp": kind, "jti": random_text(20),
    });
    let signed = format!("{}.{}", encode(json!({ "alg": "HS256", "typ": "JWT" })), encode(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hex(random_text(32).as_bytes())))
}

/// A body of just this shape.
fn read<T: DeserializeOwned>(
    state: &mut State,
    request: &Request,
    label: &str,
) -> Result<T, Exception> {
    serde_json::from_slice(&request.body).map_err(|error| {
        state.record.complain(label, false, error.to_string());
        let name = "VssRequestContentTypeNotSupportedException";
        Exception::new(StatusCode::BAD_REQUEST, name, error.to_string())
    })
}

fn number(text: &str) -> Result<i64, Exception> {
    text.parse().map_err(|_| Exception::not_found("thing of that number"))
}

fn ok(body: &Value) -> Served {
    Ok(marked(StatusCode::OK, body))
}

/// A reply as the service sends it: JSON after a byte order mark.
fn marked(status: StatusCode, body: &Value) -> Reply {
    let content = format!("{BYTE_ORDER_MARK}{body}");
    let body =
        Content::Raw("application/json; charset=utf-8; api-version=6.0-preview", content.into());
    Reply { body, ..Reply::empty(status) }
}
