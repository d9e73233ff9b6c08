//! HTTP to one GitLab: addresses, patience and repetition, the same for every call.
//!
//! Crate `gitlab-runner` speaks the job protocol too and is not used here. It runs jobs in its own process
//! and takes their log from `tracing`; it knows no `last_update` and no long polling, keeps no offset or
//! checksum, cannot send a trace again from where the server has it, and nothing of a job outlives it. What
//! would be left of it is the types of the payload, and those must accept more than it does.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use rand::RngExt;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode,
    header::{HeaderMap, HeaderName},
};
use runner_core::{Error, Result};
use serde::de::DeserializeOwned;
use tokio_rustls::rustls;
use url::Url;

use crate::{
    config::GitlabConfig,
    error::{self, failed},
};

/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an ordinary call may take.
pub(crate) const CALL: Duration = Duration::from_secs(60);
/// How often a call is tried whose failure may pass.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// No answer of GitLab that we read whole is nearly as long.
const MAX_BODY: usize = 32 << 20;

/// A client of one GitLab. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// Ends with `/api/v4/`.
    base: Url,
}

/// An answer, whatever its status.
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    /// For a configuration that was checked.
    ///
    /// # Errors
    /// `Invalid` for certificates that cannot be read.
    pub(crate) fn new(config: &GitlabConfig) -> Result<Self> {
        // A process has one; that another part chose it already is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("gitlab-runner-pool ", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            // What a redirect may carry on differs from call to call.
            .redirect(reqwest::redirect::Policy::none());
        if config.url.scheme() == "http" {
            // Nothing to trust by, and no need for the system to have it.
            builder = builder.tls_certs_only([]);
        } else if let Some(pem) = &config.certificates {
            let certificates = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|error| Error::invalid("certificates", error.to_string()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| error::unreachable("set up TLS", error))?;
        let mut base = config.url.clone();
        base.set_path(&format!("{}/api/v4/", base.path().trim_end_matches('/')));
        base.set_query(None);
        base.set_fragment(None);
        Ok(Self(Arc::new(Inner { http, base })))
    }

    /// A request to `path` below `/api/v4/`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // Paths are ours: words, digits and slashes.
        let url = self.0.base.join(path).expect("a relative path");
        self.0.http.request(method, url).timeout(CALL)
    }

    /// A request to another address, which GitLab named.
    pub(crate) fn elsewhere(&self, method: Method, address: &str) -> Result<RequestBuilder> {
        let url = self.0.base.join(address);
        let url = url.map_err(|_| Error::invalid("GitLab's redirect", "it is no address"))?;
        if self.0.base.scheme() == "https" && url.scheme() != "https" {
            return Err(Error::invalid("GitLab's redirect", "it leads away from TLS"));
        }
        Ok(self.0.http.request(method, url).timeout(CALL))
    }

    /// Whether an address is of GitLab itself, so that it may see a job's token.
    pub(crate) fn is_home(&self, address: &str) -> bool {
        self.0.base.join(address).is_ok_and(|url| url.origin() == self.0.base.origin())
    }
}

/// Sends a request whose body can be sent again, and repeats it when the failure may pass.
///
/// # Errors
/// `Backend` when there is no answer. Every status is an answer.
pub(crate) async fn send(doing: &str, request: RequestBuilder) -> Result<Reply> {
    let mut attempt = 1;
    loop {
        let this = request.try_clone().ok_or_else(|| failed(doing, "its body is a stream"))?;
        let outcome = send_once(doing, this).await;
        let wait = match &outcome {
            Ok(reply) if is_passing(reply.status) => reply.retry_after(),
            Ok(_) => return outcome,
            Err(_) => None,
        };
        if attempt == ATTEMPTS || wait.is_some_and(|wait| wait > LAST_PAUSE) {
            return outcome;
        }
        tokio::time::sleep(wait.unwrap_or_else(|| pause(attempt))).await;
        attempt += 1;
    }
}

/// Sends a request once.
///
/// # Errors
/// `Backend` when there is no answer. Every status is an answer.
pub(crate) async fn send_once(doing: &str, request: RequestBuilder) -> Result<Reply> {
    let id = format!("{:016x}", rand::random::<u64>());
    let response = request.header("X-Request-Id", id).send().await;
    Reply::read(doing, response.map_err(|error| error::unreachable(doing, error))?).await
}

/// How long to wait after this many failures: longer each time, and never in step with others.
pub(crate) fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(LAST_PAUSE).mul_f64(rand::rng().random_range(0.5..1.0))
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

impl Reply {
    async fn read(doing: &str, mut response: Response) -> Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = BytesMut::new();
        while let Some(piece) =
            response.chunk().await.map_err(|error| error::unreachable(doing, error))?
        {
            if body.len() + piece.len() > MAX_BODY {
                return Err(failed(doing, "the answer is far too long"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Self { status, headers, body: body.freeze() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        self.headers.get(name)?.to_str().ok().map(str::trim).filter(|value| !value.is_empty())
    }

    /// The answer, read.
    pub(crate) fn json<T: DeserializeOwned>(&self, doing: &str) -> Result<T> {
        // What is wrong is said without what was read, which may hold secrets.
        let parsed = serde_json::from_slice(&self.body);
        parsed.map_err(|error| {
            let (line, column) = (error.line(), error.column());
            failed(doing, format!("the answer cannot be read at line {line}, column {column}"))
        })
    }

    /// How long the server asks us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let seconds = |name| self.header(name)?.parse::<u64>().ok();
        if let Some(wait) = seconds("retry-after") {
            return Some(Duration::from_secs(wait));
        }
        let reset = Duration::from_secs(seconds("ratelimit-reset")?);
        reset.checked_sub(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?)
    }

    /// Status and message, in short.
    pub(crate) fn complaint(&self) -> String {
        let json: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let message = json.as_ref().and_then(|json| {
            ["message", "error_description", "error"].iter().find_map(|key| json.get(key))
        });
        let mut text = match message {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        if let Some((at, _)) = text.char_indices().nth(200) {
            text.truncate(at);
        }
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        format!("GitLab answered {} {text}", self.status.as_u16()).trim_end().to_owned()
    }
}
