//! The API, from a request to its reply: who asks, whether they may, how often, and what comes of it; held
//! to the description on the way in and out.

use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use jiff::SignedDuration;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    access::{Caller, Need, identify, unauthorized},
    contract::{Contract, Operation, Parameters},
    exchange::{Addresses, Answer, Content, Refusal, Reply, Request},
    faults::Fault,
    ids::hex,
    limits::{Resource, too_fast},
    rest,
    state::{Shared, State},
};

/// The version of the API that this is. `X-GitHub-Api-Version` can ask for it, or be left out.
const VERSION: &str = "2022-11-28";

/// A request before anyone has looked at it.
pub(crate) struct Raw {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) raw_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: bytes::Bytes,
    pub(crate) addresses: Addresses,
}

impl Raw {
    /// The path with the query, as it was sent.
    pub(crate) fn target(&self) -> String {
        if self.raw_query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.raw_query)
        }
    }

    pub(crate) fn into_request(self, parameters: Parameters) -> Request {
        let query = url::form_urlencoded::parse(self.raw_query.as_bytes());
        Request {
            query: query.into_owned().collect(),
            json: serde_json::from_slice(&self.body).ok(),
            method: self.method,
            path: self.path,
            headers: self.headers,
            body: self.body,
            parameters,
            addresses: self.addresses,
            caller: Caller::Anonymous,
        }
    }
}

/// What came of a request.
pub(crate) struct Done {
    pub(crate) reply: Reply,
    pub(crate) charged: bool,
    /// Whether it is what this fake means to say, and thus held to the description.
    pub(crate) honest: bool,
}

/// Answers a request. `fault` is what goes wrong before it has an effect.
pub(crate) fn answer(shared: &Shared, raw: Raw, fault: Option<&Fault>) -> Done {
    let label = format!("{} {}", raw.method, raw.target());
    let Some((operation, parameters)) = Contract::github().find(&raw.method, &raw.path) else {
        shared.look().record.complain(&label, false, "GitHub describes no such operation");
        let reply = Refusal::not_found().into_reply();
        return Done { reply, charged: false, honest: true };
    };
    let mut request = raw.into_request(parameters);
    shared.change(|state| {
        let mut done = decide(state, operation, &mut request, &label, fault);
        if done.honest {
            let body = match &done.reply.body {
                Content::Json(body) => Some(body),
                _ => None,
            };
            let complaints = Contract::github().check_reply(operation, done.reply.status, body);
            for complaint in complaints {
                state.record.complain(&label, true, complaint);
            }
        }
        let need = Need::of(&operation.method, operation.template);
        if let (Caller::Classic { scopes, .. }, Need::Permission { scopes: wanted, .. }) =
            (&request.caller, need)
        {
            done.reply = done
                .reply
                .with(HeaderName::from_static("x-oauth-scopes"), scopes.join(", "))
                .with(HeaderName::from_static("x-accepted-oauth-scopes"), wanted.join(", "));
        } else if let Some(accepted) = need.accepted() {
            let name = HeaderName::from_static("x-accepted-github-permissions");
            done.reply = done.reply.with(name, accepted);
        }
        let (now, quota) = (state.now(), request.caller.quota());
        let limits = state.limits;
        done.reply = state.quotas.tell(&limits, &quota, Resource::Core, now, done.reply);
        done
    })
}

fn decide(
    state: &mut State,
    operation: &Operation,
    request: &mut Request,
    label: &str,
    fault: Option<&Fault>,
) -> Done {
    let free = |reply, honest| Done { reply, charged: false, honest };
    let refuse = |refusal: Refusal| free(refusal.into_reply(), true);
    if request.header(header::USER_AGENT).is_none_or(str::is_empty) {
        let message = "Request forbidden by administrative rules. Please make sure your request has a User-Agent header";
        state.record.complain(label, false, "there is no User-Agent");
        return refuse(Refusal::forbidden(message));
    }
    if let Some(version) = request.header("x-github-api-version")
        && version != VERSION
    {
        let message = format!("{version} is not a supported version of the API");
        return refuse(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    match identify(state, request) {
        Ok(caller) => request.caller = caller,
        Err(refusal) => return refuse(refusal),
    }
    let (now, quota, limits) = (state.now(), request.caller.quota(), state.limits);
    if let Some(fault) = fault {
        return free(befall(state, request, fault), false);
    }
    // It is free.
    if operation.template != "/rate_limit" {
        if let Err(wait) =
            state.quotas.pace(&limits, &quota, &request.method, operation.template, now)
        {
            return free(too_fast(u64::try_from(wait).ok()), true);
        }
        if let Err(refusal) = state.quotas.has_room(&limits, &quota, Resource::Core, now) {
            return refuse(refusal);
        }
    }
    let answer = perform(state, operation, request, label);
    let reply = answer.unwrap_or_else(Refusal::into_reply);
    let (reply, fresh) = tagged(request, reply);
    let charged = fresh && operation.template != "/rate_limit";
    if charged {
        state.quotas.charge(&quota, Resource::Core, now);
    }
    Done { reply, charged, honest: true }
}

/// The reply to a request that a fault befalls.
fn befall(state: &mut State, request: &Request, fault: &Fault) -> Reply {
    let (now, quota, limits) = (state.now(), request.caller.quota(), state.limits);
    match fault {
        Fault::PrimaryLimit { reset_after } => {
            let after = SignedDuration::from_secs(i64::try_from(*reset_after).unwrap_or(i64::MAX));
            state.quotas.exhaust(&limits, &quota, Resource::Core, now, after);
            let refusal = state.quotas.has_room(&limits, &quota, Resource::Core, now);
            let message = format!("API rate limit exceeded for {quota}.");
            refusal.err().unwrap_or_else(|| Refusal::forbidden(&message)).into_reply()
        }
        Fault::ExpiredToken => {
            let held = request.header(header::AUTHORIZATION);
            if let Some((_, token)) = held.and_then(|value| value.split_once(' ')) {
                state.tokens.remove(token);
            }
            unauthorized("Bad credentials").into_reply()
        }
        fault => fault.reply(),
    }
}

impl Fault {
    /// Whether it strikes before anything has happened.
    pub(crate) fn is_early(&self) -> bool {
        matches!(
            self,
            Self::Status { .. }
                | Self::PrimaryLimit { .. }
                | Self::SecondaryLimit { .. }
                | Self::ExpiredToken
                | Self::Html { .. }
        )
    }

    /// What is answered in place of the answer.
    pub(crate) fn reply(&self) -> Reply {
        match self {
            Self::Status { status, retry_after, message } => {
                let status = StatusCode::from_u16(*status);
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let usual = status.canonical_reason().unwrap_or("Server Error");
                let message = message.clone().unwrap_or_else(|| usual.to_owned());
                let reply = Refusal::new(status, message).into_reply();
                match retry_after {
                    Some(seconds) => reply.with(header::RETRY_AFTER, seconds.to_string()),
                    None => reply,
                }
            }
            Self::SecondaryLimit { retry_after } => too_fast(*retry_after),
            Self::Html { status } => {
                let page = "<!DOCTYPE html>\n<html><head><title>Unicorn! &middot; GitHub</title></head>\
                            <body><p>No server is currently available to service your request.</p></body></html>\n";
                let mut reply = Reply::empty(StatusCode::from_u16(*status).unwrap_or_default());
                reply.body = Content::Raw("text/html; charset=utf-8", page.into());
                reply
            }
            _ => Reply::empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

fn perform(state: &mut State, operation: &Operation, request: &Request, label: &str) -> Answer {
    let complain = |state: &mut State, complaints: Vec<String>| {
        for complaint in complaints {
            state.record.complain(label, false, complaint);
        }
    };
    complain(state, operation.check_parameters(&request.parameters, &request.query));
    if !request.body.is_empty() && request.json.is_none() {
        state.record.complain(label, false, "the body is no JSON");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "Problems parsing JSON"));
    }
    complain(state, operation.check_body(request.json.as_ref()));
    Need::of(&operation.method, operation.template).check(state, request)?;
    let nothing = Value::Object(serde_json::Map::new());
    let body = request.json.as_ref().unwrap_or(&nothing);
    let missing: Vec<_> = operation
        .missing_fields(body)
        .into_iter()
        .map(|field| format!("\"{field}\" wasn't supplied."))
        .collect();
    if !missing.is_empty() {
        return Err(Refusal::invalid(format!("Invalid request.\n\n{}", missing.join("\n"))));
    }
    if operation.refuses_body(body) {
        let complaints = operation.check_body(Some(body));
        return Err(Refusal::invalid(format!("Invalid request.\n\n{}", complaints.join("\n"))));
    }
    match rest::handler(operation) {
        Some(handler) => handler(state, request),
        None => Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "Not Implemented")),
    }
}

/// A reply that says which version of the answer it is; or that it is the one the client has, and then it
/// is not fresh.
fn tagged(request: &Request, reply: Reply) -> (Reply, bool) {
    if request.method != Method::GET || reply.status != StatusCode::OK {
        return (reply, true);
    }
    let Content::Json(body) = &reply.body else { return (reply, true) };
    let tag = format!("W/\"{}\"", hex(&Sha256::digest(body.to_string())));
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let held = request.header(header::IF_NONE_MATCH).unwrap_or_default();
    if held.split(',').any(|held| strong(held) == strong(&tag)) {
        let reply = Reply { status: StatusCode::NOT_MODIFIED, body: Content::None, ..reply };
        return (reply.with(header::ETAG, tag), false);
    }
    (reply.with(header::ETAG, tag), true)
}
