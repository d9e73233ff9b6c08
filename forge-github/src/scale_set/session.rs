//! A message session: the one line on which a scale set hears of its jobs.

use std::time::Duration;

use http::{Method, StatusCode, header};
use runner_core::Secret;
use serde_json::json;
use url::Url;

use super::{
    connection::{ANSWER_TIME, ActionsService, Token, VERSION, bare, read, request, with_token},
    error::ServiceError,
    wire::{List, Message, Statistics, WireSession},
};

const NOTHING: Option<&()> = None;

/// Tells the queue how many jobs we can take.
const CAPACITY: &str = "x-scalesetmaxcapacity";

/// A session, open.
pub(super) struct Session {
    service: ActionsService,
    scale_set: i64,
    id: String,
    queue: Url,
    token: Secret<String>,
}

impl Session {
    /// Opens the scale set's one session, for `owner`, a name for people.
    pub(super) async fn open(
        service: &ActionsService,
        scale_set: i64,
        owner: &str,
    ) -> Result<(Self, Statistics), ServiceError> {
        let doing = format!("open a session of scale set {scale_set}");
        let path = sessions(scale_set);
        let body = json!({ "ownerName": owner });
        let opened: WireSession =
            service.call(&doing, Method::POST, &path, &[], Some(&body), Token::Admin).await?;
        let statistics = opened.statistics.unwrap_or_default();
        let session = Self {
            service: service.clone(),
            scale_set,
            id: opened.session_id,
            queue: opened.message_queue_url,
            token: Secret::new(opened.message_queue_access_token),
        };
        Ok((session, statistics))
    }

    /// Closes a session by its id: also one that another process opened.
    pub(super) async fn close(
        service: &ActionsService,
        scale_set: i64,
        id: &str,
    ) -> Result<(), ServiceError> {
        let doing = format!("close session {id} of scale set {scale_set}");
        let path = format!("{}/{id}", sessions(scale_set));
        match service.call_raw(&doing, Method::DELETE, &path, &[], NOTHING, Token::Admin).await {
            Err(error) if !error.is_session_gone() => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the message after `last`: none came within the time that the service keeps a call, about
    /// 50 s. `patience` must be longer than that.
    pub(super) async fn poll(
        &self,
        last: i64,
        capacity: u32,
        patience: Duration,
    ) -> Result<Option<Message>, ServiceError> {
        let doing = format!("wait for messages of scale set {}", self.scale_set);
        let mut url = self.queue.clone();
        if last > 0 {
            url.query_pairs_mut().append_pair("lastMessageId", &last.to_string());
        }
        let request = with_token(request(&Method::GET, &url), "Bearer", self.token.expose())
            .header(header::ACCEPT, format!("application/json; api-version={VERSION}"))
            .header(CAPACITY, capacity);
        let (status, body) = self.service.send(&doing, bare(&doing, request)?, patience).await?;
        if status == StatusCode::ACCEPTED {
            return Ok(None);
        }
        let message = Message::read(&body);
        message.map(Some).map_err(|error| ServiceError::Unreadable { doing, source: error.into() })
    }

    /// Says that a message has been dealt with. One that is gone has been.
    pub(super) async fn acknowledge(&self, message: i64) -> Result<(), ServiceError> {
        let doing = format!("acknowledge message {message} of scale set {}", self.scale_set);
        let mut url = self.queue.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(&message.to_string());
        }
        let request = with_token(request(&Method::DELETE, &url), "Bearer", self.token.expose());
        match self.service.send(&doing, bare(&doing, request)?, ANSWER_TIME).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes jobs that are on offer. Gives those that were got.
    pub(super) async fn acquire(&self, requests: &[i64]) -> Result<Vec<i64>, ServiceError> {
        let doing = format!("acquire {} jobs for scale set {}", requests.len(), self.scale_set);
        let path = format!("_apis/runtime/runnerscalesets/{}/acquirejobs", self.scale_set);
        let token = Token::Queue(&self.token);
        let list: List<i64> =
            self.service.call(&doing, Method::POST, &path, &[], Some(&requests), token).await?;
        Ok(list.value)
    }

    /// Gets a new token for the queue.
    pub(super) async fn refresh(&mut self) -> Result<Option<Statistics>, ServiceError> {
        let doing = format!("refresh session {} of scale set {}", self.id, self.scale_set);
        let path = format!("{}/{}", sessions(self.scale_set), self.id);
        let call = self.service.call_raw(&doing, Method::PATCH, &path, &[], NOTHING, Token::Admin);
        let fresh: WireSession = read(&doing, &call.await?)?;
        self.id = fresh.session_id;
        self.queue = fresh.message_queue_url;
        self.token = Secret::new(fresh.message_queue_access_token);
        Ok(fresh.statistics)
    }
}

fn sessions(scale_set: i64) -> String {
    format!("_apis/runtime/runnerscalesets/{scale_set}/sessions")
}
