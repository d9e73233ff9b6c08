//! GitLab's two hosts on the network: the one that everybody talks to, and the one that keeps files.

use std::{convert::Infallible, fmt, future::Future, sync::Arc};

use bytes::Bytes;
use fake_host::{Line, Reset};
use http::{HeaderValue, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    exchange::{Content, Reply},
    state::Shared,
};

/// The connection ends without an answer, or without all of it. On purpose.
#[derive(Debug)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

pub(crate) type Body = UnsyncBoxBody<Bytes, Cut>;
pub(crate) type Response = http::Response<Body>;

/// Serves connections until `stop`.
pub(crate) async fn serve<Handler, Answer>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    handler: Handler,
) where
    Handler: Fn(Arc<Shared>, http::Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Result<Response, Cut>> + Send,
{
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        // What went wrong is the client's, or will go wrong again at once.
        let Ok((stream, _)) = accepted else { continue };
        // Without it answers are late, and nothing else is wrong.
        let _ = stream.set_nodelay(true);
        let reset = Reset::default();
        let line = Line::new(stream, reset.clone());
        let (tls, shared, stop, handler) =
            (tls.clone(), shared.clone(), stop.clone(), handler.clone());
        tokio::spawn(async move {
            let answer = move |request| {
                let (answer, reset) = (handler(shared.clone(), request), reset.clone());
                async move { answer.await.inspect_err(|_| reset.set()) }
            };
            let conversation = async {
                match tls {
                    None => converse(line, answer).await,
                    // Who does not trust the certificate goes away.
                    Some(tls) => {
                        if let Ok(line) = tls.accept(line).await {
                            converse(line, answer).await;
                        }
                    }
                }
            };
            stop.run_until_cancelled(conversation).await;
        });
    }
}

async fn converse<Answer>(
    line: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(http::Request<Incoming>) -> Answer,
) where
    Answer: Future<Output = Result<Response, Cut>>,
{
    // A client that goes away is no news.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(line), service_fn(answer))
        .await;
}

/// A reply as HTTP.
pub(crate) fn whole(reply: Reply) -> Response {
    let (head, content) = split(reply);
    head.map(|()| Full::new(content).map_err(|never: Infallible| match never {}).boxed_unsync())
}

/// The same with half of its body, after which the connection is cut. Without a body there is no half.
pub(crate) fn half(reply: Reply) -> Result<Response, Cut> {
    let (mut head, content) = split(reply);
    if content.is_empty() {
        return Err(Cut);
    }
    head.headers_mut().insert(header::CONTENT_LENGTH, content.len().into());
    let half = content.slice(..content.len() / 2);
    let frames = futures::stream::unfold(Some(half), |half| async move {
        match half {
            Some(half) => Some((Ok(Frame::data(half)), None)),
            // What was given so far goes out while this waits.
            None => {
                tokio::task::yield_now().await;
                Some((Err(Cut), None))
            }
        }
    });
    Ok(head.map(|()| StreamBody::new(frames).boxed_unsync()))
}

fn split(reply: Reply) -> (http::Response<()>, Bytes) {
    let (kind, content) = match reply.body {
        Content::None => (None, Bytes::new()),
        Content::Json(value) => (Some("application/json"), Bytes::from(value.to_string())),
        Content::Raw(kind, content) => (Some(kind), content),
    };
    let mut head = http::Response::new(());
    *head.status_mut() = reply.status;
    *head.headers_mut() = reply.headers;
    if let Some(kind) = kind {
        let kind = HeaderValue::from_static(kind);
        head.headers_mut().entry(header::CONTENT_TYPE).or_insert(kind);
    }
    (head, content)
}
