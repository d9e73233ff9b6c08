//! The host that everybody talks to: workhorse, which holds requests, before Rails, which answers them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Map;
use url::form_urlencoded;

use crate::{
    api,
    contract::Contract,
    control,
    exchange::{Media, Parameters, Refusal, Reply, Request},
    faults::{FaultKind, route},
    ids::random_hex,
    record::Call,
    repository,
    server::{Cut, Response, half, whole},
    state::Shared,
};

const JOB_REQUEST: &str = "POST /api/v4/jobs/request";

/// The longest request for a job that workhorse reads, in bytes.
const LONGEST_JOB_REQUEST: usize = 32 * 1024;

/// What a request may have beside the file in it, in bytes.
const ROOM: usize = 16 << 20;

/// What a proxy says to people.
const PAGE: &str = "<html><body><h1>Whoops, something went wrong.</h1></body></html>\n";

pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: http::Request<Incoming>,
) -> Result<Response, Cut> {
    if request.uri().path().starts_with(control::PREFIX) {
        return control(&shared, request).await;
    }
    let down = shared.until(|state| state.down.then_some(()));
    tokio::select! {
        biased;
        () = down => Err(Cut),
        answer = exchange(&shared, request) => answer,
    }
}

/// What is asked of this fake, and not of GitLab. Nothing goes wrong here on purpose.
async fn control(shared: &Shared, request: http::Request<Incoming>) -> Result<Response, Cut> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, ROOM).collect().await.map_err(|_| Cut)?.to_bytes();
    let request = read(head, body, shared.https);
    let answer = shared.change(|state| control::answer(state, &request));
    Ok(whole(answer.unwrap_or_else(Refusal::into_reply)))
}

/// What is asked of GitLab.
async fn exchange(shared: &Shared, request: http::Request<Incoming>) -> Result<Response, Cut> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let route = route(&head.method, &path);
    let agent = head.headers.get(header::USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok()).map(str::to_owned);
    let (number, fault) = shared.change(|state| {
        let at = state.now();
        let call = Call { at, route: route.clone(), path, status: None, user_agent: agent };
        (state.record.asked(call), state.faults.draw(&route))
    });
    match fault {
        Some(FaultKind::Reset) => return Err(Cut),
        Some(FaultKind::Hang) => std::future::pending().await,
        _ => (),
    }
    let limit = usize::try_from(shared.look().settings.artifact_limit).unwrap_or(usize::MAX);
    let body = Limited::new(body, limit.saturating_add(ROOM)).collect().await;
    let too_long = body.as_ref().is_err_and(|error| error.is::<LengthLimitError>());
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(_) if too_long => Bytes::new(),
        // A client that went away gets no answer.
        Err(_) => return Err(Cut),
    };
    let mut request = read(head, body, shared.https);
    let reply = if too_long {
        Refusal::new(413, "413 Request Entity Too Large").into_reply()
    } else {
        let is_git = repository::split(&request.path).is_some();
        let readable = if is_git { Ok(()) } else { inspect(shared, &mut request).await };
        match &fault {
            Some(FaultKind::Status { status, retry_after }) => on_purpose(*status, *retry_after),
            Some(FaultKind::Html(status)) => {
                Reply::raw(*status, "text/html", Bytes::from_static(PAGE.as_bytes()))
            }
            _ if is_git => repository::answer(shared, &request).await,
            _ => handle(shared, &route, &request, readable).await,
        }
    };
    match fault {
        Some(FaultKind::LostAnswer) => return Err(Cut),
        Some(FaultKind::Truncated) => return half(reply),
        Some(FaultKind::Slow(time)) => tokio::time::sleep(time).await,
        _ => (),
    }
    shared.change(|state| state.record.answered(number, reply.status.as_u16()));
    let reply = reply.with("x-request-id", random_hex(13));
    let polling = route == JOB_REQUEST && !shared.look().settings.long_poll.is_zero();
    Ok(whole(if polling { reply.with("gitlab-ci-builds-polling", "yes") } else { reply }))
}

fn read(head: http::request::Parts, body: Bytes, https: bool) -> Request {
    let scheme = if https { "https" } else { "http" };
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let base = format!("{scheme}://{}", host.unwrap_or("gitlab.example.com"));
    let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
    Request {
        query: query.into_owned().collect(),
        path: head.uri.path().to_owned(),
        method: head.method,
        headers: head.headers,
        body,
        parameters: Parameters::new(),
        fields: Map::new(),
        files: Vec::new(),
        base,
    }
}

/// Finds out what a request says, and holds it to the description.
async fn inspect(shared: &Shared, request: &mut Request) -> Result<(), Refusal> {
    let readable = request.read_body().await;
    let wrong = match Contract::gitlab().find(&request.method, &request.path) {
        Some((operation, parameters)) => {
            request.parameters = parameters;
            operation.check_request(request)
        }
        None => vec!["GitLab has no such route, or nobody described it".to_owned()],
    };
    complain(shared, request, false, wrong);
    readable
}

/// Does what is asked, and holds the reply to the description.
async fn handle(
    shared: &Shared,
    route: &str,
    request: &Request,
    readable: Result<(), Refusal>,
) -> Reply {
    let held = if route == JOB_REQUEST { hold(shared, request).await } else { None };
    let reply = match (held, readable) {
        (Some(reply), _) => reply,
        (None, Err(refusal)) => refusal.into_reply(),
        (None, Ok(())) => shared
            .change(|state| api::answer(state, route, request))
            .unwrap_or_else(Refusal::into_reply),
    };
    if let Some((operation, _)) = Contract::gitlab().find(&request.method, &request.path)
        && !reply.odd
    {
        complain(shared, request, true, operation.check_reply(&reply));
    }
    reply
}

fn complain(shared: &Shared, request: &Request, ours: bool, wrong: Vec<String>) {
    let mut state = shared.look();
    for what in wrong {
        state.record.complain(&format!("{} {}", request.method, request.path), ours, what);
    }
}

fn on_purpose(status: u16, retry_after: Option<Duration>) -> Reply {
    let reply = Refusal::new(status, format!("{status} on purpose")).into_reply();
    match retry_after {
        Some(wait) => reply.with(header::RETRY_AFTER, wait.as_secs()),
        None => reply,
    }
}

/// What workhorse does with a request for a job: whoever was told how things are waits here until they change.
/// `None` lets it through to Rails.
///
/// Things that have changed already let it through; things that change while it waits do not. The client asks
/// again and is told then (`workhorse/internal/builds/register.go`).
async fn hold(shared: &Shared, request: &Request) -> Option<Reply> {
    let long_poll = shared.look().settings.long_poll;
    if long_poll.is_zero() {
        return None;
    }
    if request.body.len() > LONGEST_JOB_REQUEST {
        return Some(Refusal::new(413, "413 Request Entity Too Large").into_reply());
    }
    if request.method != Method::POST || request.media() != Media::Json {
        return None;
    }
    let seen = request.text("last_update").filter(|seen| !seen.is_empty())?;
    let token = request.text("token").filter(|token| !token.is_empty())?;
    let waits = shared.change(|state| {
        let waits = state.is_latest_for(token, seen);
        state.held += usize::from(waits);
        waits
    });
    if !waits {
        return None;
    }
    let _held = Held(shared);
    let news = shared.until(|state| (!state.is_latest_for(token, seen)).then_some(()));
    // Both ways it is told nothing.
    let _ = tokio::time::timeout(long_poll, news).await;
    Some(Reply::empty(204))
}

/// A request that is held, until it is answered or its client goes away.
struct Held<'a>(&'a Shared);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.held -= 1);
    }
}
