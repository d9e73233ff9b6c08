//! Talks to a running service.

use std::{convert::Infallible, fmt, path::Path, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::{
    Body, Method, RequestBuilder, Response, StatusCode,
    multipart::{Form, Part},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{data_dir, http::API, token::Token};

mod files;
mod reserve;
mod sse;
mod terminal;
pub(crate) mod trust;
mod wire;

pub use sse::{Message, Messages};
pub use terminal::{Heard, Hearing, Speaking};
pub use wire::{Job, JobPage, LogPart, NewJob, Profile, Reservation, Worker, Workers};

/// How long a server may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// How long a server may be silent; one that streams says something three times as often.
const SILENCE_LIMIT: Duration = Duration::from_secs(50);

/// How much of a file is sent at once.
const PIECE: usize = 64 << 10;

/// A file that goes with a job.
pub struct Attachment {
    /// Where the job finds it.
    pub path: String,
    /// Whether it can be executed.
    pub executable: bool,
    /// What it holds.
    pub content: Vec<u8>,
}

/// A service and the right to use it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<Token>,
}

/// Why a call failed.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody answers there.
    Unreachable {
        /// The server.
        server: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The service says no.
    Refused {
        /// The status.
        status: StatusCode,
        /// Why, and the way out.
        detail: String,
    },
    /// The answer ended early or makes no sense.
    Broken {
        /// The server.
        server: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl Client {
    /// A client of the service at `server`, such as `http://127.0.0.1:8000`. One at `https://` is trusted by
    /// the certificates in `ca`, or by the system's. The token is looked for as
    /// [`Token::of_client`] says, by default in `data_dir`.
    ///
    /// # Errors
    /// For an address that cannot be one, certificates that cannot be read, or a token that is refused.
    pub fn new(
        server: &str,
        token_file: Option<&Path>,
        ca: Option<&Path>,
        data_dir: &Path,
    ) -> anyhow::Result<Self> {
        let server = server.trim_end_matches('/').to_owned();
        let host = server.split_once("://").map_or(&*server, |(_, rest)| rest);
        // Never shown: it may be a password.
        if host.split('/').next().is_some_and(|host| host.contains('@')) {
            anyhow::bail!(
                "the server's address holds a name or a password, which nobody asks for; \
                 leave it out, and give the token with --token-file or MONITOR_API_TOKEN"
            );
        }
        if !server.starts_with("http://") && !server.starts_with("https://") {
            anyhow::bail!("{server:?} is not a server; write it like http://127.0.0.1:8000");
        }
        let token = Token::of_client(token_file, &data_dir::token_file(data_dir))?;
        let http = trust::builder(&server, ca)?
            .no_proxy()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .build()?;
        Ok(Self { http, server, token })
    }

    /// Where the service is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Queues a job, and tells `sent` of each number of bytes of its files that is on its way.
    ///
    /// # Errors
    /// [`ClientError`]. When the connection broke, the job may be queued all the same.
    pub async fn submit(
        &self,
        job: &NewJob,
        files: Vec<Attachment>,
        sent: impl Fn(u64) + Clone + Send + Sync + 'static,
    ) -> Result<Job, ClientError> {
        let text = serde_json::to_string(job).expect("strings and numbers are valid JSON");
        let mut form = Form::new().percent_encode_noop().text("job", text);
        for file in files {
            let name = if file.executable { "executable" } else { "file" };
            let (length, sent) = (file.content.len() as u64, sent.clone());
            let content = Bytes::from(file.content);
            let pieces = stream::iter((0..content.len()).step_by(PIECE)).map(move |from| {
                let piece = content.slice(from..content.len().min(from + PIECE));
                sent(piece.len() as u64);
                Ok::<_, Infallible>(piece)
            });
            let part = Part::stream_with_length(Body::wrap_stream(pieces), length);
            form = form.part(name, part.file_name(file.path));
        }
        let request = self.request(Method::POST, "/jobs").multipart(form);
        self.json(request).await
    }

    /// One job.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn job(&self, id: &str) -> Result<Job, ClientError> {
        self.json(self.request(Method::GET, &format!("/jobs/{}", segment(id)))).await
    }

    /// Wants a job cancelled.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel(&self, id: &str) -> Result<Job, ClientError> {
        let path = format!("/jobs/{}/cancel", segment(id));
        self.json(self.request(Method::POST, &path)).await
    }

    /// Anything that is listed at `path` with `query`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, path)).await
    }

    /// Asks for a change at `path`; none, where nothing is answered.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = self.send(request).await?;
        let answer = response.bytes().await.map_err(|error| self.broken(error))?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).map_err(|error| ClientError::Broken {
            server: self.server.clone(),
            detail: error.to_string(),
        })
    }

    /// What is at `path`, whatever it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn bytes(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let response = self.send(self.request(Method::GET, path)).await?;
        let bytes = response.bytes().await;
        bytes.map(Into::into).map_err(|error| self.broken(error))
    }

    /// The events at `path`, as they come, after the one with the id `last`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stream(&self, path: &str, last: u64) -> Result<Messages, ClientError> {
        let request = self.request(Method::GET, path).header("Last-Event-ID", last.to_string());
        Ok(Messages::new(self.send(request).await?))
    }

    /// A job's collected outputs, as a tar archive.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn outputs(&self, id: &str) -> Result<Vec<u8>, ClientError> {
        self.bytes(&format!("/jobs/{}/outputs", segment(id))).await
    }

    /// A job's log from `from` bytes on, as it comes, and the job when it is over.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow(&self, id: &str, from: u64) -> Result<Messages, ClientError> {
        self.stream(&format!("/jobs/{}/log/follow", segment(id)), from).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{API}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|source| {
            if source.is_builder() {
                return self.broken(source);
            }
            ClientError::Unreachable { server: self.server.clone(), source }
        })?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body: Option<wire::Problem> = response.json().await.ok();
        let mut detail = body.map_or_else(|| status.to_string(), |problem| problem.detail);
        if status == StatusCode::UNAUTHORIZED {
            detail = match self.token {
                Some(_) => "the service refused the API token".to_owned(),
                None => "the service wants its API token".to_owned(),
            } + "; name its file with --token-file, or set MONITOR_API_TOKEN";
        }
        Err(ClientError::Refused { status, detail })
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        response.json().await.map_err(|error| self.broken(error))
    }

    fn broken(&self, error: reqwest::Error) -> ClientError {
        ClientError::Broken {
            server: self.server.clone(),
            detail: runner_core::error::chain(&error.without_url()),
        }
    }
}

impl ClientError {
    /// Whether the same call may succeed when the service is back.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => !trust::is_missing(source),
            Self::Broken { .. } => true,
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { server, source } if trust::is_missing(source) => write!(
                f,
                "the certificate of {server} is not trusted; name that of its authority with --ca"
            ),
            Self::Unreachable { server, .. } => write!(
                f,
                "no monitor answers at {server}; start one with `monitor serve`, \
                 or name another with --server"
            ),
            Self::Refused { detail, .. } => f.write_str(detail),
            Self::Broken { server, detail } => {
                write!(f, "the answer of {server} could not be read: {detail}")
            }
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => source.source(),
            Self::Refused { .. } | Self::Broken { .. } => None,
        }
    }
}

/// The query that asks for what was chosen.
pub fn query(chosen: &[(&str, &Option<String>)]) -> String {
    let pairs = chosen
        .iter()
        .filter_map(|(key, value)| value.as_ref().map(|value| format!("{key}={}", segment(value))));
    let pairs: Vec<String> = pairs.collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// `text` as one segment of a path, whatever it holds.
pub fn segment(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            safe.push(char::from(byte));
        } else {
            safe.push_str(&format!("%{byte:02X}"));
        }
    }
    safe
}
