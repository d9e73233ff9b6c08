//! Connections, and what can happen to them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use fake_host::{Line, Reset};
use futures::{StreamExt, stream};
use http::{HeaderName, HeaderValue, Response, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    api::{self, Raw},
    contract::Contract,
    control,
    exchange::{Addresses, Content, Refusal, Reply},
    faults::Fault,
    limits::too_fast,
    record::Call,
    scale_set,
    state::Shared,
    storage, time,
};

/// How large a request's body may be.
const BODY: usize = 64 << 20;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Which of GitHub's hosts a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// The API, pages and services.
    Main,
    /// Files.
    Storage,
}

/// Takes connections until it is dropped; they end with it.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    host: Host,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        // Out of file descriptors, say: the next one may do.
        let Ok((stream, address)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        let (tls, shared) = (tls.clone(), shared.clone());
        let reset = Reset::default();
        let line = Line::new(stream, reset.clone());
        connections.spawn(async move {
            match tls {
                None => converse(line, shared, host, address, reset).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(line).await {
                        converse(stream, shared, host, address, reset).await;
                    }
                }
            }
        });
    }
}

/// Serves one connection that came in another way.
pub(crate) async fn serve_stream(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<Shared>,
) {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    converse(stream, shared, Host::Main, nowhere, Reset::default()).await;
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<Shared>,
    host: Host,
    address: SocketAddr,
    reset: Reset,
) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (shared, reset) = (shared.clone(), reset.clone());
        async move {
            let answered = respond(&shared, host, address, request).await;
            if answered.is_err() {
                reset.set();
            }
            answered
        }
    });
    // However it ends, it has ended.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    shared: &Arc<Shared>,
    host: Host,
    from: SocketAddr,
    request: http::Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY).collect().await.map_err(io::Error::other)?.to_bytes();
    let authority = parts.uri.authority().map(ToString::to_string);
    let named = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = authority.or_else(|| named.map(str::to_owned)).unwrap_or_default();
    let addresses = addresses(shared, &authority);
    let path = parts.uri.path().to_owned();
    let raw = Raw {
        method: parts.method,
        path,
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        addresses,
    };
    if host == Host::Main && (raw.path == "/_fake" || raw.path.starts_with("/_fake/")) {
        return finish(shared, control::answer(shared, raw).await, None);
    }
    exchange(shared, host, from, raw).await
}

/// How whoever wrote `authority` as their `Host` gets everywhere.
fn addresses(shared: &Shared, authority: &str) -> Addresses {
    let options = &shared.options;
    let scheme = if options.https { "https" } else { "http" };
    let web = format!("{scheme}://{authority}");
    let api = if options.ghes { format!("{web}/api/v3") } else { web.clone() };
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let host = if name == "127.0.0.1" { options.storage_host.as_str() } else { name };
    let storage = format!("{scheme}://{host}:{}", options.storage_port);
    Addresses { web, api, storage }
}

/// A request that can go wrong.
async fn exchange(
    shared: &Arc<Shared>,
    host: Host,
    from: SocketAddr,
    mut raw: Raw,
) -> io::Result<Response<Body>> {
    let method = raw.method.to_string();
    let full = raw.target();
    let is_service = host == Host::Main && scale_set::is_for(&raw.path, shared.options.ghes);
    let prefix = if shared.options.ghes && host == Host::Main { "/api/v3" } else { "" };
    let mut outside = false;
    if !is_service {
        match raw.path.strip_prefix(prefix) {
            Some(rest) => raw.path = rest.to_owned(),
            None => outside = true,
        }
    }
    let target = raw.target();
    let operation = if host == Host::Storage {
        "storage".to_owned()
    } else if is_service {
        scale_set::operation(&raw.method, &raw.path)
    } else {
        let found = Contract::github().find(&raw.method, &raw.path);
        found.map(|(operation, _)| operation.id.to_owned()).unwrap_or_default()
    };
    let under_way = UnderWay::begin(shared, &raw);
    let fault = shared.look().faults.strike(&method, &target, &operation);
    tracing::debug!(%from, method, path = full, ?fault, "Request.");
    let log = |status, charged| {
        let call = Call {
            method: method.clone(),
            path: full.clone(),
            operation: operation.clone(),
            status,
            charged,
            fault: fault.is_some(),
        };
        shared.change(|state| state.record.calls.push(call));
    };
    match fault {
        Some(Fault::Reset) => {
            log(None, false);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Some(Fault::Hang) => {
            log(None, false);
            return std::future::pending().await;
        }
        _ => (),
    }
    let early = fault.as_ref().filter(|fault| fault.is_early());
    let (mut reply, charged) = if outside {
        let label = format!("{method} {full}");
        shared.look().record.complain(&label, false, "the API of this server is at /api/v3");
        (Refusal::not_found().into_reply(), false)
    } else if under_way.is_too_many() {
        (too_fast(Some(60)), false)
    } else if host == Host::Storage {
        let answered = storage::answer(shared, &raw);
        (early.map_or(answered, Fault::reply), false)
    } else if is_service {
        match early {
            Some(fault) => (fault.reply(), false),
            None => (scale_set::answer(shared, raw).await, false),
        }
    } else {
        let done = api::answer(shared, raw, early);
        (done.reply, done.charged)
    };
    if fault == Some(Fault::LostReply) {
        log(None, charged);
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    if fault == Some(Fault::ShortList) {
        shorten(&mut reply);
    }
    log(Some(reply.status.as_u16()), charged);
    finish(shared, reply, fault)
}

/// A request that is being answered.
struct UnderWay<'a> {
    shared: &'a Shared,
    caller: String,
    beside: u64,
}

impl<'a> UnderWay<'a> {
    fn begin(shared: &'a Shared, raw: &Raw) -> Self {
        let held = raw.headers.get(header::AUTHORIZATION);
        let caller = held.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let caller = caller.unwrap_or_default();
        let beside = shared.look().quotas.begin(&caller);
        Self { shared, caller, beside }
    }

    fn is_too_many(&self) -> bool {
        self.beside > self.shared.look().limits.concurrent
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.shared.look().quotas.end(&self.caller);
    }
}

/// Takes away the last half of a list, and that there is more.
fn shorten(reply: &mut Reply) {
    reply.headers.remove(header::LINK);
    let Content::Json(body) = &mut reply.body else { return };
    let lists = match body {
        serde_json::Value::Array(list) => vec![list],
        serde_json::Value::Object(object) => {
            object.values_mut().filter_map(|value| value.as_array_mut()).collect()
        }
        _ => Vec::new(),
    };
    for list in lists {
        list.truncate(list.len() / 2);
    }
}

fn finish(shared: &Shared, reply: Reply, fault: Option<Fault>) -> io::Result<Response<Body>> {
    let Reply { status, headers, body } = reply;
    let (content_type, mut content) = match body {
        Content::None => (None, Bytes::new()),
        Content::Json(body) => {
            (Some("application/json; charset=utf-8"), Bytes::from(body.to_string()))
        }
        Content::Raw(content_type, content) => (Some(content_type), content),
    };
    if fault == Some(Fault::Garbage) {
        content.truncate(content.len() / 2);
    }
    let length = content.len();
    let body = match fault {
        Some(Fault::Truncated) => {
            let half = content.slice(..length / 2);
            let end = stream::once(async {
                // What there is goes out first.
                tokio::task::yield_now().await;
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            });
            let frames = stream::iter([Ok(Frame::data(half))]).chain(end);
            StreamBody::new(frames).boxed_unsync()
        }
        Some(Fault::Slow { piece, pause_ms }) => slowly(content, piece, pause_ms),
        _ => Full::new(content).map_err(|never| match never {}).boxed_unsync(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let headers = response.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    if status != http::StatusCode::NO_CONTENT && status != http::StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    // By the clock that all else goes by, and not the host's.
    let date = HeaderValue::try_from(time::http_date(shared.clock.now()));
    headers.insert(header::DATE, date.map_err(io::Error::other)?);
    let id = uuid::Uuid::new_v4().simple().to_string().to_uppercase();
    let id = format!("{}:{}:{}", &id[..4], &id[4..10], &id[10..16]);
    let text = |value: &str| HeaderValue::from_str(value).expect("hexadecimal digits");
    headers.insert(HeaderName::from_static("x-github-request-id"), text(&id));
    headers.insert(header::SERVER, HeaderValue::from_static("github.com"));
    let media = HeaderValue::from_static("github.v3; format=json");
    headers.insert(HeaderName::from_static("x-github-media-type"), media);
    let version = HeaderValue::from_static("2022-11-28");
    headers.insert(HeaderName::from_static("x-github-api-version-selected"), version);
    if shared.options.ghes {
        let version = HeaderValue::from_static("3.17.0");
        headers.insert(HeaderName::from_static("x-github-enterprise-version"), version);
    }
    Ok(response)
}

fn slowly(content: Bytes, piece: usize, pause_ms: u64) -> Body {
    let piece = piece.max(1);
    let pieces: Vec<_> = (0..content.len())
        .step_by(piece)
        .map(|start| content.slice(start..content.len().min(start + piece)))
        .collect();
    let frames = stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        Ok(Frame::data(piece))
    });
    StreamBody::new(frames).boxed_unsync()
}
