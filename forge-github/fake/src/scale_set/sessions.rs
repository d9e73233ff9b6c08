//! Who listens to a set: one at a time.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{Exception, Served, bearer, not_admitted, ok, token};
use crate::{
    exchange::{Reply, Request},
    state::State,
};

/// How long the queue's token is good.
const TOKEN: SignedDuration = SignedDuration::from_hours(1);
/// How long a listener can be silent before another may take its place. GitHub does not say how long that is.
const SILENT: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(super) id: String,
    owner: String,
    token: String,
    until: Timestamp,
    pub(super) seen: Timestamp,
}

/// What a client asks for a session with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Sent {
    owner_name: String,
    #[serde(rename = "sessionId")]
    _session_id: Option<String>,
}

pub(super) fn create(state: &mut State, set: i64, sent: &Sent, request: &Request) -> Served {
    let now = state.now();
    let live = |session: &&Session| now.duration_since(session.seen) <= SILENT;
    if let Some(session) = state.set(set)?.session.as_ref().filter(live) {
        let message = format!(
            "The actions runner scale set {set} already has an active session for owner {}.",
            session.owner
        );
        let name = "RunnerScaleSetSessionConflictException";
        return Err(Exception::new(StatusCode::CONFLICT, name, message));
    }
    let session = Session {
        id: Uuid::new_v4().to_string(),
        owner: sent.owner_name.clone(),
        token: String::new(),
        until: now,
        seen: now,
    };
    state.set(set)?.session = Some(session);
    renew(state, set, request)
}

pub(super) fn refresh(state: &mut State, set: i64, id: &str, request: &Request) -> Served {
    find(state, set, id)?;
    renew(state, set, request)
}

pub(super) fn delete(state: &mut State, set: i64, id: &str) -> Served {
    find(state, set, id)?;
    state.set(set)?.session = None;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

fn find(state: &mut State, set: i64, id: &str) -> Result<(), Exception> {
    let session = state.set(set)?.session.as_ref();
    if session.is_some_and(|session| session.id == id) {
        return Ok(());
    }
    let message = format!("The session {id} does not exist.");
    Err(Exception::new(StatusCode::NOT_FOUND, "RunnerScaleSetSessionNotFoundException", message))
}

/// Gives the session a new token for the queue.
fn renew(state: &mut State, id: i64, request: &Request) -> Served {
    state.spread_jobs();
    let now = state.now();
    let until = now.saturating_add(TOKEN).unwrap_or(Timestamp::MAX);
    let token = token(now, until, "queue");
    let set = state.set(id)?;
    let Some(session) = &mut set.session else { return Err(not_admitted()) };
    session.token.clone_from(&token);
    (session.until, session.seen) = (until, now);
    let (session, set) = (session.clone(), set.clone());
    let queue = format!(
        "{}/_services/{}/queue/{id}/messages?sessionId={}&api-version=6.0-preview",
        request.addresses.web,
        request.path.split('/').nth(2).unwrap_or_default(),
        session.id,
    );
    ok(&json!({
        "sessionId": session.id,
        "ownerName": session.owner,
        "runnerScaleSet": state.describe_set(&set),
        "messageQueueUrl": queue,
        "messageQueueAccessToken": token,
        "statistics": state.statistics(id),
    }))
}

impl State {
    /// The set whose queue a request is for, if it is from who listens to it.
    pub(super) fn listening(&mut self, request: &Request, id: i64) -> Result<i64, Exception> {
        let now = self.now();
        let asked = request.query("sessionId").map(str::to_owned);
        let set = self.set(id)?;
        let Some(session) = &mut set.session else { return Err(expired()) };
        if asked.is_some_and(|asked| asked != session.id) {
            return Err(expired());
        }
        if bearer(request) != Some(&session.token) || session.until <= now {
            return Err(not_admitted());
        }
        session.seen = now;
        Ok(id)
    }

    /// Ends all sessions, as when GitHub has not heard of their listeners for too long.
    pub(crate) fn expire_sessions(&mut self) {
        for set in &mut self.scale_sets {
            set.session = None;
        }
    }

    /// Ends the tokens of all queues, as if their hour were over. The sessions stay.
    pub(crate) fn expire_queue_tokens(&mut self) {
        for session in self.scale_sets.iter_mut().filter_map(|set| set.session.as_mut()) {
            session.until = Timestamp::MIN;
        }
    }
}

fn expired() -> Exception {
    let message = "The session has expired. Create a new one.";
    Exception::new(StatusCode::BAD_REQUEST, "RunnerScaleSetSessionExpiredException", message)
}
