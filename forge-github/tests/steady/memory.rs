//! HTTP through memory: simulated time and sockets do not go together.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fake_github::FakeGitHub;
use forge_github::{Transport, error::ApiError};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio_util::task::AbortOnDropHandle;

/// How much is under way in one direction at most.
const ROOM: usize = 1 << 20;

/// A connection for each call. Whoever drops a call breaks its connection.
pub struct InMemory(pub Arc<FakeGitHub>);

#[async_trait]
impl Transport for InMemory {
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
        let broken = |error: hyper::Error| ApiError::Unanswered {
            how: "the connection broke".to_owned(),
            source: Some(Box::new(error)),
        };
        let (here, there) = tokio::io::duplex(ROOM);
        let github = self.0.clone();
        let serve = tokio::spawn(async move { github.serve(there).await });
        let _served = AbortOnDropHandle::new(serve);
        let (mut sender, connection) = handshake(TokioIo::new(here)).await.map_err(broken)?;
        let _talking = AbortOnDropHandle::new(tokio::spawn(connection));
        let host = request.uri().authority().unwrap().as_str().parse().unwrap();
        request.headers_mut().insert("host", host);
        request.headers_mut().insert("user-agent", "simulation".parse().unwrap());
        *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
        let answer = sender.send_request(request.map(Full::new)).await.map_err(broken)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}
