//! Connections: how many there are, how long a client may take over its part, and how they end.

use std::{convert::Infallible, io, pin::Pin, sync::Arc, time::Duration};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use poem::{
    Addr, Endpoint, IntoResponse, Request,
    http::{self, StatusCode, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::{Problem, tls::Tls};
use crate::config::HttpConfig;

mod activity;

use activity::{Activity, BusyBody};

/// How long requests get to end once the service stops.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// How large the head of a request may be.
const HEAD: usize = 64 << 10;

/// How many requests one connection may carry at once.
const STREAMS_EACH: u32 = 128;

/// How many clients are told at once that there are too many.
const TURNED_AWAY: usize = 64;

/// How long one of them gets to read that.
const TURN_AWAY_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait when connections cannot be taken, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection of HTTP/2 is asked, whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(20);

/// Takes connections.
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    limits: Limits,
}

#[derive(Clone, Copy)]
struct Limits {
    connections: usize,
    header: Duration,
    stall: Duration,
}

/// What one connection is answered with.
struct Connection<E> {
    endpoint: Arc<E>,
    limits: Limits,
    local: LocalAddr,
    remote: RemoteAddr,
    scheme: Scheme,
}

impl Server {
    /// Takes connections on `listener`, as it is configured.
    ///
    /// # Errors
    /// For a certificate that cannot be used.
    pub fn new(listener: TcpListener, http: &HttpConfig) -> anyhow::Result<Self> {
        let limits = Limits {
            connections: http.max_connections.min(Semaphore::MAX_PERMITS),
            header: http.header_timeout,
            stall: http.stall_timeout,
        };
        Ok(Self { listener, tls: http.tls.clone().map(Tls::open).transpose()?, limits })
    }

    /// Answers with `endpoint` until `stop`, and then for as long as the last requests may take.
    ///
    /// # Errors
    /// When the address cannot be told.
    pub async fn run(
        mut self,
        endpoint: impl Endpoint + 'static,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let local = LocalAddr(Addr::SocketAddr(self.listener.local_addr()?));
        let endpoint = Arc::new(endpoint);
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
        let graceful = GracefulShutdown::new();
        let cut = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "A connection could not be taken.");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Events are small, and wanted at once.
            let _ = stream.set_nodelay(true);
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(%address, limit = self.limits.connections, "Too many connections.");
                if let (Ok(turn), None) = (turned_away.clone().try_acquire_owned(), &self.tls) {
                    tokio::spawn(async move {
                        let detail = "there are too many connections; try again later, or raise \
                                      max_connections in [http]";
                        turn_away(stream, StatusCode::SERVICE_UNAVAILABLE, detail).await;
                        drop(turn);
                    });
                }
                continue;
            };
            let tls = self.tls.as_mut().map(Tls::acceptor);
            let connection = Connection {
                endpoint: endpoint.clone(),
                limits: self.limits,
                local: local.clone(),
                remote: RemoteAddr(Addr::SocketAddr(address)),
                scheme: if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP },
            };
            let (watcher, cut) = (graceful.watcher(), cut.clone());
            tokio::spawn(async move {
                let serving = connection.serve(stream, tls, watcher);
                tokio::select! {
                    () = serving => (),
                    () = cut.cancelled() => (),
                }
                drop(place);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
            cut.cancel();
        }
        Ok(())
    }
}

impl<E: Endpoint + 'static> Connection<E> {
    async fn serve(
        self,
        stream: TcpStream,
        tls: Option<tokio_rustls::TlsAcceptor>,
        watcher: Watcher,
    ) {
        let Some(tls) = tls else {
            let stream = self.timed(stream);
            return self.serve_http(stream, watcher).await;
        };
        let limit = self.limits.header;
        let handshake = async {
            // Whoever forgot the s of https is told so.
            let mut first = [0];
            if stream.peek(&mut first).await.is_ok() && first[0].is_ascii_uppercase() {
                let detail = "this service speaks HTTPS only; write https:// instead of http://";
                turn_away(stream, StatusCode::BAD_REQUEST, detail).await;
                return None;
            }
            tls.accept(self.timed(stream)).await.ok()
        };
        let Ok(Some(stream)) = tokio::time::timeout(limit, handshake).await else { return };
        self.serve_http(stream, watcher).await;
    }

    /// A stream that fails when its client leaves unread for too long what it is sent.
    fn timed(&self, stream: TcpStream) -> Pin<Box<TimeoutStream<TcpStream>>> {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.stall));
        Box::pin(stream)
    }

    async fn serve_http(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        watcher: Watcher,
    ) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .max_buf_size(HEAD)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(self.limits.header)
            .max_concurrent_streams(STREAMS_EACH)
            .max_header_list_size(HEAD as u32);
        let activity = Activity::new();
        let idle = activity.clone();
        let limit = self.limits.header;
        let service = service_fn(move |request: http::Request<Incoming>| {
            let busy = activity.begin();
            let (local, remote) = (self.local.clone(), self.remote.clone());
            let request = Request::from((request, local, remote, self.scheme.clone()));
            let endpoint = self.endpoint.clone();
            async move {
                let response: http::Response<_> = endpoint.get_response(request).await.into();
                Ok::<_, Infallible>(response.map(|body| BusyBody::new(body, busy)))
            }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::select! {
            // A client that leaves is no concern of anyone's.
            _ = watcher.watch(connection) => (),
            () = idle.idle_for(limit) => (),
        }
    }
}

/// Answers a client without having read what it asks for.
async fn turn_away(mut stream: TcpStream, status: StatusCode, detail: &str) {
    let body = Problem::new(status, detail).into_response().into_body();
    let Ok(body) = body.into_string().await else { return };
    let reason = status.canonical_reason().unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\
         Connection: close\r\nRetry-After: 1\r\n\r\n{body}",
        status.as_u16(),
        body.len()
    );
    let told = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        // What is left unread when it is closed would take the answer with it.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(TURN_AWAY_LIMIT, told).await;
}
