//! The HTTP side of a configuration: where it listens, whom it lets in, and how much of it each may take.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    ConfigError,
    place::Source,
    units::{Period, Rate, Size},
};

/// The HTTP side of a configuration.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether that may be an address that other hosts reach.
    pub allow_remote: bool,
    /// Host names that requests may be for, beside `localhost`.
    pub names: Vec<String>,
    /// Where the API token is. In the data directory, if none.
    pub token_file: Option<PathBuf>,
    /// Who may look. By default everybody on this host, and elsewhere who has a token.
    pub reads: Option<Reads>,
    /// What the service proves itself with. It speaks plain HTTP, if none.
    pub tls: Option<TlsFiles>,
    /// How large a request's body may be, in bytes.
    pub body_limit: u64,
    /// How long a connection may take to bring the head of a request.
    pub header_timeout: Duration,
    /// How long a body's sender may be silent, or slow.
    pub body_timeout: Duration,
    /// How long a client may leave unread what was sent to it.
    pub stall_timeout: Duration,
    /// How many connections there may be at once.
    pub max_connections: usize,
    /// How many streams may be followed at once.
    pub max_streams: usize,
    /// How many changes each address may ask for. As many as it likes, if none.
    pub rate: Option<Rate>,
    /// How many deliveries of webhooks each address may send. As many as it likes, if none.
    pub webhook_rate: Option<Rate>,
}

/// Who may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// Everybody.
    Open,
    /// Who has a token.
    Token,
}

/// A certificate and its key, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that vouch for it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    listen: Option<Spanned<SocketAddr>>,
    allow_remote: bool,
    names: Vec<Spanned<String>>,
    token_file: Option<PathBuf>,
    reads: Option<Reads>,
    tls: Option<Tls>,
    body_limit: Option<Spanned<Size>>,
    header_timeout: Option<Spanned<Period>>,
    body_timeout: Option<Spanned<Period>>,
    stall_timeout: Option<Spanned<Period>>,
    max_connections: Option<Spanned<usize>>,
    max_streams: Option<Spanned<usize>>,
    rate: Option<Limit>,
    webhook_rate: Option<Limit>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    cert: PathBuf,
    key: PathBuf,
}

/// A rate, or the word for none.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Limit(Option<Rate>);

impl TryFrom<String> for Limit {
    type Error = super::units::NotAUnit;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|rate| Self(Some(rate))) }
    }
}

impl HttpConfig {
    /// Refuses an address that other hosts reach, unless that is what the operator wants.
    ///
    /// # Errors
    /// Naming the address and the way out.
    pub fn check_listen(&self) -> Result<(), ConfigError> {
        match self.listen_problem() {
            Some(problem) => Err(ConfigError::new("listen", problem)),
            None => Ok(()),
        }
    }

    /// Who may look.
    pub fn reads(&self) -> Reads {
        self.reads.unwrap_or(if self.is_local() { Reads::Open } else { Reads::Token })
    }

    /// Whether only this host reaches it.
    pub fn is_local(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// What its addresses begin with.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn listen_problem(&self) -> Option<String> {
        (!self.is_local() && !self.allow_remote).then(|| {
            format!(
                "{} can be reached from other hosts; listen on 127.0.0.1, \
                 or set allow_remote = true in [http]",
                self.listen
            )
        })
    }
}

pub(super) fn http(
    source: &Source<'_>,
    base: &Path,
    section: Http,
) -> Result<HttpConfig, ConfigError> {
    let span = section.listen.as_ref().map(Spanned::span);
    let number = |key: &str, number: Option<Spanned<usize>>, default: usize| match number {
        Some(number) if *number.get_ref() == 0 => {
            let problem = format!("it must be at least 1; the default is {default}");
            Err(source.problem(Some(number.span()), format!("http.{key}"), problem))
        }
        number => Ok(number.map_or(default, Spanned::into_inner)),
    };
    let period = |key: &str, period: Option<Spanned<Period>>, default: u64| match period {
        Some(period) if period.get_ref().0.is_zero() => {
            let problem = format!("it must be above zero; the default is {default}s");
            Err(source.problem(Some(period.span()), format!("http.{key}"), problem))
        }
        Some(period) => Ok(period.into_inner().0),
        None => Ok(Duration::from_secs(default)),
    };
    if let Some(limit) = section.body_limit.as_ref().filter(|limit| limit.get_ref().0 == 0) {
        let problem = "no job could be submitted; the default is 96MiB";
        return Err(source.problem(Some(limit.span()), "http.body_limit", problem));
    }
    let mut names = Vec::with_capacity(section.names.len());
    for (index, name) in section.names.into_iter().enumerate() {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if name.get_ref().is_empty() || !name.get_ref().bytes().all(plain) {
            let problem =
                format!("{:?} is not a host name; leave out scheme and port", name.get_ref());
            return Err(source.problem(Some(name.span()), format!("http.names[{index}]"), problem));
        }
        names.push(name.into_inner());
    }
    let http = HttpConfig {
        listen: section
            .listen
            .map_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8000)), Spanned::into_inner),
        allow_remote: section.allow_remote,
        names,
        token_file: section.token_file.map(|path| base.join(path)),
        reads: section.reads,
        tls: section.tls.map(|tls| TlsFiles { cert: base.join(tls.cert), key: base.join(tls.key) }),
        body_limit: section.body_limit.map_or(96 << 20, |size| size.into_inner().0),
        header_timeout: period("header_timeout", section.header_timeout, 20)?,
        body_timeout: period("body_timeout", section.body_timeout, 30)?,
        stall_timeout: period("stall_timeout", section.stall_timeout, 60)?,
        max_connections: number("max_connections", section.max_connections, 4096)?,
        max_streams: number("max_streams", section.max_streams, 2048)?,
        rate: section.rate.map_or(Some(Rate::DEFAULT), |limit| limit.0),
        webhook_rate: section.webhook_rate.map_or(Some(Rate::WEBHOOK), |limit| limit.0),
    };
    match http.listen_problem() {
        Some(problem) => Err(source.problem(span, "http.listen", problem)),
        None => Ok(http),
    }
}
