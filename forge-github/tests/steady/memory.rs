//! HTTP through memory: simulated time and sockets do not go together.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use fake_github::FakeGitHub;
use forge_github::{Transport, error::ApiError};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

use super::notebook::Notebook;

/// How much is under way in one direction at most.
const ROOM: usize = 1 << 20;

/// A connection for each call. Whoever drops a call breaks its connection.
pub struct InMemory {
    github: Arc<FakeGitHub>,
    notebook: Notebook,
    /// Calls of the REST interface: what the budget should have counted.
    rest: AtomicU64,
    crimes: Mutex<Vec<String>>,
}

impl InMemory {
    pub fn new(github: Arc<FakeGitHub>, notebook: Notebook) -> Self {
        Self { github, notebook, rest: AtomicU64::new(0), crimes: Mutex::default() }
    }

    /// How many calls of the REST interface there were.
    pub fn rest_calls(&self) -> u64 {
        self.rest.load(Ordering::Relaxed)
    }

    /// What should never have been said.
    pub fn crimes(&self) -> Vec<String> {
        self.crimes.lock().unwrap().clone()
    }

    fn watch(&self, request: &Request<Bytes>) {
        let path = request.uri().path();
        let is_service = path.starts_with("/_services/") || path.ends_with("/runner-registration");
        self.rest.fetch_add(u64::from(!is_service), Ordering::Relaxed);
        if request.method() != Method::DELETE {
            return;
        }
        let acknowledged = path.split_once("/messages/").and_then(|(_, id)| id.parse().ok());
        let written = self.notebook.last_message();
        if acknowledged.is_some_and(|message: i64| message > written) {
            let crime = format!("{path} was acknowledged, and message {written} is written down");
            self.crimes.lock().unwrap().push(crime);
        }
    }
}

#[async_trait]
impl Transport for InMemory {
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
        let broken = |error: hyper::Error| ApiError::Unanswered {
            how: "the connection broke".to_owned(),
            source: Some(Box::new(error)),
        };
        self.watch(&request);
        let (here, there) = tokio::io::duplex(ROOM);
        let github = self.github.clone();
        let serve = tokio::spawn(async move { github.serve(there).await });
        let _served = AbortOnDropHandle::new(serve);
        let (mut sender, connection) = handshake(TokioIo::new(here)).await.map_err(broken)?;
        let _talking = AbortOnDropHandle::new(tokio::spawn(connection));
        let host = request.uri().authority().unwrap().as_str().parse().unwrap();
        request.headers_mut().insert("host", host);
        let agent = HeaderValue::from_static("simulation");
        request.headers_mut().entry("user-agent").or_insert(agent);
        *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
        let answer = sender.send_request(request.map(Full::new)).await.map_err(broken)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}
