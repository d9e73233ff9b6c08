//! One other monitor, by its API: what it has idle, and what is reserved there. Nothing that it answers is believed
//! before it was read in full, and it never takes longer than it may.

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect::Policy};
use runner_core::{ProfileName, ReservationId, WorkerName};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use crate::{client::trust, compose::secret, config::PeerConfig, http::API};

/// How long it may take to say what it has.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// How long a reservation may take: it is labelled at a forge before it is answered.
const RESERVE_LIMIT: Duration = Duration::from_secs(25);
/// How long the end of one may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// The largest answer that is read, in bytes.
const LARGEST: usize = 1 << 20;

/// Another monitor.
pub struct Peer {
    config: PeerConfig,
    http: reqwest::Client,
}

/// What is to be reserved there.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    pub id: &'a ReservationId,
    pub profile: &'a ProfileName,
    pub count: u32,
    pub owner: &'a str,
    pub purpose: &'a str,
    pub duration: Duration,
}

/// What it has of a profile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    pub idle: u32,
    pub max: u32,
}

/// Why nothing is known of what was asked: it may have been done or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unheard(pub String);

#[derive(Deserialize)]
struct Profile {
    name: ProfileName,
    counts: Counts,
}

#[derive(Deserialize)]
struct Held {
    id: ReservationId,
    workers: Vec<WorkerName>,
}

impl Peer {
    /// The monitor of a configuration.
    ///
    /// # Errors
    /// When this host has nothing to trust others by.
    pub fn new(config: PeerConfig) -> anyhow::Result<Self> {
        secret::warn_of(&config.token);
        // Its token goes nowhere else, whatever it answers.
        let http = trust::builder(&config.url, None)?.redirect(Policy::none()).no_proxy();
        Ok(Self { http: http.connect_timeout(LOOK_LIMIT).build()?, config })
    }

    /// Whether this is how it is to be asked.
    pub fn is_of(&self, config: &PeerConfig) -> bool {
        self.config == *config
    }

    /// What it has of each profile.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn counts(&self) -> Result<BTreeMap<ProfileName, Counts>, Unheard> {
        let asked = self.ask(Method::GET, "/profiles", LOOK_LIMIT, |request| request).await?;
        let profiles: Vec<Profile> = read(said(asked)?).await?;
        Ok(profiles.into_iter().map(|profile| (profile.name, profile.counts)).collect())
    }

    /// Reserves all of them for as long as the wish says, or has the reservation hold as long as that. None if
    /// it cannot for now.
    ///
    /// # Errors
    /// When nothing tells whether it did.
    pub async fn reserve(&self, wish: Wish<'_>) -> Result<Option<Vec<WorkerName>>, Unheard> {
        let body = json!({
            "profile": wish.profile,
            "count": wish.count,
            "owner": wish.owner,
            "purpose": wish.purpose,
            "duration": format!("{}s", wish.duration.as_secs().max(1)),
        });
        let path = format!("/reservations/{}", wish.id);
        let asked = self.ask(Method::PUT, &path, RESERVE_LIMIT, |request| request.json(&body));
        let answer = asked.await?;
        // Too few are idle, it does not have the profile, or the name is another's there.
        if matches!(answer.status().as_u16(), 400 | 404 | 409 | 503) {
            return Ok(None);
        }
        let held: Held = read(said(answer)?).await?;
        if held.id != *wish.id {
            return Err(Unheard("it answered about something else".to_owned()));
        }
        if held.workers.len() != wish.count as usize {
            return Err(Unheard("some of the workers are being replaced".to_owned()));
        }
        Ok(Some(held.workers))
    }

    /// Ends a reservation there. Fine when there is none.
    ///
    /// # Errors
    /// When nothing tells whether it did.
    pub async fn release(&self, id: &ReservationId) -> Result<(), Unheard> {
        let path = format!("/reservations/{id}");
        said(self.ask(Method::DELETE, &path, RELEASE_LIMIT, |request| request).await?).map(drop)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        limit: Duration,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Unheard> {
        // Read each time: it may be renewed at any.
        let token = secret::read(&self.config.token);
        let token = token.map_err(|error| Unheard(format!("its token: {error:#}")))?;
        let request = self.http.request(method, format!("{}{API}{path}", self.config.url));
        let request = with(request.bearer_auth(token.expose()).timeout(limit));
        request.send().await.map_err(|error| Unheard(in_words(&error)))
    }
}

/// An answer that grants what was asked.
fn said(answer: Response) -> Result<Response, Unheard> {
    match answer.status() {
        status if status.is_success() => Ok(answer),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let way_out = "give this monitor a token there whose role is operate";
            Err(Unheard(format!("it refused the token ({status}); {way_out}")))
        }
        status => Err(Unheard(format!("it answered {status}"))),
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, Unheard> {
    let (mut body, mut parts) = (Vec::new(), answer.bytes_stream());
    while let Some(part) = parts.next().await {
        body.extend_from_slice(&part.map_err(|error| Unheard(in_words(&error)))?);
        if body.len() > LARGEST {
            return Err(Unheard("its answer is too long".to_owned()));
        }
    }
    // What it says instead is not repeated: it may be anything.
    let what = "it answered what no monitor answers; is its address right?";
    serde_json::from_slice(&body).map_err(|_| Unheard(what.to_owned()))
}

/// The innermost reason, without the address.
fn in_words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    format!("it could not be reached: {reason}")
}
