//! The interface of Servo's runner monitor: whether there is one, and what it needs to know.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use runner_core::ForgeName;
use serde::Deserialize;
use toml::Spanned;

use super::{
    ConfigError, GithubConfig,
    place::Source,
    secret::{SecretPlace, secret_at},
    units::{Period, Rate},
};

/// The interface of Servo's runner monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServoConfig {
    /// What the address of this service begins with for others, without a slash at its end.
    pub base_url: Option<String>,
    /// Who may reserve by an artifact, and how it proves them. Nobody, if none.
    pub proof: Option<ProofConfig>,
    /// How long a reservation holds until its job begins.
    pub reserve_timeout: Duration,
    /// How long an entry of the queue is kept that nobody asks for.
    pub queue_timeout: Duration,
    /// How long a workflow is to wait before it goes elsewhere.
    pub patience: Duration,
    /// What images are made of.
    pub image_deps: Option<PathBuf>,
    /// What machines would else fetch from afar.
    pub cache: Option<PathBuf>,
    /// How often each address may ask for a new picture of a screen. As often as it likes, if none.
    pub screenshot_rate: Option<Rate>,
    /// The monitors that are asked for workers, too, when somebody waits for some here.
    pub servers: Vec<PeerConfig>,
    /// For how long those keep workers for somebody who did not take them yet.
    pub hold: Duration,
}

/// What is asked of others holds so long at least: it is renewed several times within.
const SHORTEST_HOLD: Duration = Duration::from_secs(5);

/// Another monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// What it is called: the host and the port of its address.
    pub name: String,
    /// Its address, without a slash at its end.
    pub url: String,
    /// Where its token is, with the role operate.
    pub token: SecretPlace,
}

/// How artifacts prove who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofConfig {
    /// The GitHub that has them.
    pub forge: ForgeName,
    /// What an artifact's name begins with; the id follows.
    pub prefix: String,
    /// How old it may be.
    pub max_age: Duration,
    /// Whose workflows may ask.
    pub repositories: Vec<ProofRepository>,
}

/// A repository whose workflows may reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofRepository {
    /// Its whole name.
    pub name: String,
    /// How many workers it may have reserved at one time.
    pub most: u32,
    /// The events whose runs may ask. Any, if empty.
    pub events: BTreeSet<String>,
    /// Whether runs for a fork's commits may ask.
    pub forks: bool,
}

/// What a repository may have that says nothing of it.
const MOST: u32 = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Servo {
    external_base_url: Option<Spanned<String>>,
    forge: Option<Spanned<ForgeName>>,
    repositories: Vec<Spanned<Repository>>,
    artifact_prefix: Spanned<String>,
    artifact_max_age: Period,
    reserve_timeout: Spanned<Period>,
    queue_timeout: Spanned<Period>,
    patience: Period,
    image_deps: Option<PathBuf>,
    cache: Option<PathBuf>,
    screenshot_rate: Spanned<String>,
    queue: Queue,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Queue {
    servers: Vec<Spanned<Server>>,
    hold: Option<Spanned<Period>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    url: String,
    token: SecretPlace,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Repository {
    name: String,
    most: Option<u32>,
    #[serde(default)]
    events: BTreeSet<String>,
    #[serde(default)]
    forks: bool,
}

impl Default for Servo {
    fn default() -> Self {
        let period = |seconds| Period(Duration::from_secs(seconds));
        Self {
            external_base_url: None,
            forge: None,
            repositories: Vec::new(),
            artifact_prefix: Spanned::new(0..0, "servo-ci-runners_".to_owned()),
            artifact_max_age: period(300),
            reserve_timeout: Spanned::new(0..0, period(60)),
            queue_timeout: Spanned::new(0..0, period(60)),
            patience: period(900),
            image_deps: None,
            cache: None,
            screenshot_rate: Spanned::new(0..0, "2/s".to_owned()),
            queue: Queue::default(),
        }
    }
}

pub(super) fn servo(
    source: &Source<'_>,
    base: &Path,
    githubs: &[GithubConfig],
    section: Option<Spanned<Servo>>,
) -> Result<Option<ServoConfig>, ConfigError> {
    let Some(section) = section else { return Ok(None) };
    let head = section.span();
    let section = section.into_inner();
    let base_url = match section.external_base_url {
        Some(url) => Some(address(source, "servo.external_base_url", url)?),
        None => None,
    };
    let proof = match section.repositories.is_empty() {
        true => None,
        false => {
            let forge = match (section.forge, githubs) {
                (Some(forge), all) if all.iter().any(|github| github.name == *forge.get_ref()) => {
                    forge.into_inner()
                }
                (Some(forge), _) => {
                    let problem = format!("there is no [[github]] {}", forge.get_ref());
                    return Err(source.problem(Some(forge.span()), "servo.forge", problem));
                }
                (None, [only]) => only.name.clone(),
                (None, _) => {
                    let problem = "say which [[github]] has the repositories' artifacts";
                    return Err(source.problem(Some(head), "servo.forge", problem));
                }
            };
            let prefix = section.artifact_prefix;
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if prefix.get_ref().is_empty() || !prefix.get_ref().bytes().all(plain) {
                let problem = "use letters, digits, -, _ and ., such as servo-ci-runners_";
                let key = "servo.artifact_prefix";
                return Err(source.problem(Some(prefix.span()), key, problem));
            }
            Some(ProofConfig {
                forge,
                prefix: prefix.into_inner(),
                max_age: section.artifact_max_age.0,
                repositories: repositories(source, section.repositories)?,
            })
        }
    };
    Ok(Some(ServoConfig {
        base_url,
        proof,
        reserve_timeout: above_zero(source, "reserve_timeout", section.reserve_timeout)?,
        queue_timeout: above_zero(source, "queue_timeout", section.queue_timeout)?,
        patience: section.patience.0,
        image_deps: section.image_deps.map(|path| base.join(path)),
        cache: section.cache.map(|path| base.join(path)),
        screenshot_rate: rate(source, section.screenshot_rate)?,
        servers: servers(source, base, section.queue.servers)?,
        hold: hold(source, section.queue.hold)?,
    }))
}

fn repositories(
    source: &Source<'_>,
    all: Vec<Spanned<Repository>>,
) -> Result<Vec<ProofRepository>, ConfigError> {
    let mut repositories: Vec<ProofRepository> = Vec::with_capacity(all.len());
    for (index, repository) in all.into_iter().enumerate() {
        let (span, repository) = (repository.span(), repository.into_inner());
        let key = format!("servo.repositories[{index}]");
        let name = repository.name;
        let is_whole = |name: &str| {
            let (owner, rest) = name.split_once('/').unwrap_or_default();
            !owner.is_empty() && !rest.is_empty() && !rest.contains('/') && !name.contains('*')
        };
        if !is_whole(&name) {
            let problem = format!("{name:?} is not the whole name of a repository, OWNER/NAME");
            return Err(source.problem(Some(span), key, problem));
        }
        if repositories.iter().any(|other| other.name.eq_ignore_ascii_case(&name)) {
            return Err(source.problem(Some(span), key, format!("{name} is there already")));
        }
        let most = repository.most.unwrap_or(MOST);
        repositories.push(ProofRepository {
            name,
            most,
            events: repository.events,
            forks: repository.forks,
        });
    }
    Ok(repositories)
}

fn servers(
    source: &Source<'_>,
    base: &Path,
    all: Vec<Spanned<Server>>,
) -> Result<Vec<PeerConfig>, ConfigError> {
    let mut peers: Vec<PeerConfig> = Vec::with_capacity(all.len());
    for (index, server) in all.into_iter().enumerate() {
        let (span, server) = (server.span(), server.into_inner());
        let key = format!("servo.queue.servers[{index}]");
        let url = address(source, &key, Spanned::new(span.clone(), server.url))?;
        let (scheme, name) = url.split_once("://").unwrap_or_default();
        if scheme == "http" && !is_near(name) {
            let problem = "use https://: whoever is between would read the token";
            return Err(source.problem(Some(span), key, problem));
        }
        if peers.iter().any(|other| other.name.eq_ignore_ascii_case(name)) {
            return Err(source.problem(Some(span), key, format!("{name} is there already")));
        }
        let token = secret_at(source, base, &format!("{key}.token"), span, server.token)?;
        peers.push(PeerConfig { name: name.to_owned(), url: url.clone(), token });
    }
    Ok(peers)
}

fn hold(source: &Source<'_>, said: Option<Spanned<Period>>) -> Result<Duration, ConfigError> {
    let Some(said) = said else { return Ok(Duration::from_secs(60)) };
    if said.get_ref().0 < SHORTEST_HOLD {
        let problem = "it must be 5s at least; the default is 60s";
        return Err(source.problem(Some(said.span()), "servo.queue.hold", problem));
    }
    Ok(said.into_inner().0)
}

/// Whether an address is this host's, or one of a private network.
fn is_near(authority: &str) -> bool {
    let authority = authority.split('/').next().unwrap_or_default();
    let host = match authority.parse::<SocketAddr>() {
        Ok(address) => return is_private(address.ip()),
        Err(_) => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse().is_ok_and(is_private)
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

fn address(source: &Source<'_>, key: &str, url: Spanned<String>) -> Result<String, ConfigError> {
    let text = url.get_ref().trim_end_matches('/');
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"'\\<>`?#@".contains(&b);
    match rest {
        Some(rest) if !rest.is_empty() && rest.bytes().all(plain) => Ok(text.to_owned()),
        _ => {
            let problem = format!("{text:?} is not an address such as https://ci0.example.org");
            Err(source.problem(Some(url.span()), key, problem))
        }
    }
}

fn above_zero(
    source: &Source<'_>,
    key: &str,
    period: Spanned<Period>,
) -> Result<Duration, ConfigError> {
    if period.get_ref().0.is_zero() {
        let problem = "it must be above zero; the default is 60s";
        return Err(source.problem(Some(period.span()), format!("servo.{key}"), problem));
    }
    Ok(period.into_inner().0)
}

fn rate(source: &Source<'_>, rate: Spanned<String>) -> Result<Option<Rate>, ConfigError> {
    if rate.get_ref() == "off" {
        return Ok(None);
    }
    rate.get_ref().parse::<Rate>().map(Some).map_err(|error| {
        source.problem(Some(rate.span()), "servo.screenshot_rate", error.to_string())
    })
}

impl ServoConfig {
    /// The host that others ask for.
    pub fn host(&self) -> Option<&str> {
        let (_, rest) = self.base_url.as_deref()?.split_once("://")?;
        let authority = rest.split('/').next()?;
        Some(authority.rsplit_once(':').map_or(authority, |(host, _)| host))
    }
}
