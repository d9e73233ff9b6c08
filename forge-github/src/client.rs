//! A client of one GitHub, for one scope: octocrab, with what it lacks.
//!
//! octocrab makes the requests and knows GitHub's models. Under it lies a service of ours, through which every
//! call goes, those of [`Client::octocrab`] too: it adds the credentials, keeps to the [budget](crate::budget),
//! sets deadlines and refuses what is not GitHub's. On top lies what a list that decides over machines needs:
//! it is whole, or it is an error.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use octocrab::{
    AuthState, OctoBody, Octocrab, OctocrabBuilder, service::middleware::base_uri::BaseUriLayer,
};
use runner_core::{Clock, Error, Result};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    auth::{Auth, Who},
    budget::{Budget, BudgetFigures, Call, Cost, Limits, Permit, Priority},
    credentials::Credentials,
    demand::Health,
    error::{Answer, ApiError, backend},
    rest::{self, Rest},
    scope::Place,
    transport::Transport,
    wire::{Wire, check, read},
};

/// How many answers are kept, to ask only whether they changed.
const KEPT: usize = 512;

/// What a client is made of.
pub struct ClientConfig {
    /// Which GitHub, and what of it.
    pub place: Place,
    /// What proves who we are.
    pub credentials: Credentials,
    /// What may be spent.
    pub limits: Limits,
    /// How long one call may take, its turn not counted.
    pub call_limit: Duration,
}

impl ClientConfig {
    /// With GitHub's own limits, and 15 s for a call.
    pub fn new(place: Place, credentials: Credentials) -> Self {
        let (limits, call_limit) = (Limits::default(), Duration::from_secs(15));
        Self { place, credentials, limits, call_limit }
    }
}

/// A client of one GitHub, for one scope. Clones share it.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    wire: Arc<Wire>,
    octocrab: Octocrab,
    kept: Mutex<Kept>,
}

/// Answers that may still hold, by path.
#[derive(Default)]
struct Kept {
    answers: HashMap<String, Page>,
    order: VecDeque<String>,
}

/// An answer to a question.
#[derive(Clone)]
pub(crate) struct Page {
    pub body: Bytes,
    pub has_next: bool,
    etag: Option<HeaderValue>,
}

impl Client {
    /// A client. It makes no call by itself.
    ///
    /// # Errors
    /// `Backend` for an address that cannot be called.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(config: ClientConfig, transport: Arc<dyn Transport>, clock: Clock) -> Result<Self> {
        let wire = Arc::new(Wire::new(
            config.place,
            Auth::new(config.credentials),
            transport,
            Budget::new(config.limits),
            config.call_limit,
            clock,
        ));
        let base: Uri = wire.place.api().as_str().parse().map_err(|error| {
            backend(format!("call {}", wire.place.api()), Box::<http::uri::InvalidUri>::new(error))
        })?;
        let under = wire.clone();
        let service = tower::service_fn(move |request: Request<OctoBody>| {
            let wire = under.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(|error| {
                    ApiError::unanswered("the request could not be made", error)
                })?;
                wire.send(parts, body.to_bytes()).await.map(|answer| answer.map(Full::new))
            }
        });
        let octocrab = OctocrabBuilder::new_empty()
            .with_service(service)
            .with_layer(&BaseUriLayer::new(base))
            .with_auth(AuthState::None)
            .build()
            .unwrap_or_else(|never| match never {});
        Ok(Self(Arc::new(Inner { wire, octocrab, kept: Mutex::new(Kept::default()) })))
    }

    /// Which GitHub, and what of it.
    pub fn place(&self) -> &Place {
        &self.0.wire.place
    }

    /// For all that GitHub offers beside runners: with the same credentials, out of the same budget.
    pub fn octocrab(&self) -> &Octocrab {
        &self.0.octocrab
    }

    /// Whether GitHub can be used at the moment.
    pub fn health(&self) -> Health {
        self.0.wire.outage.health()
    }

    /// What was spent, and what is left.
    pub fn figures(&self) -> BudgetFigures {
        self.0.wire.budget.figures()
    }

    /// Waits for the turn of a call that is made by other means, and counts as one of ours until it is dropped.
    pub(crate) async fn turn(&self, call: Call) -> Answer<Permit> {
        Ok(self.0.wire.budget.enter(call).await?)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.wire.clock
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one call; any answer but yes is an error.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Answer<Response<Bytes>> {
        check(self.answer(request).await?, self.clock().now())
    }

    /// Makes one call; every answer of GitHub's, also no, is an answer.
    pub(crate) async fn answer(&self, request: Request<Bytes>) -> Answer<Response<Bytes>> {
        let answer = self.0.octocrab.execute(request.map(Full::new).map(OctoBody::new)).await;
        let (parts, body) = answer.map_err(ours)?.into_parts();
        let body = body.collect().await.map_err(ours)?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    /// Asks, and reads the answer.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        priority: Priority,
        what: &str,
    ) -> Answer<T> {
        read(&self.page(path, priority).await?.body, what)
    }

    /// Asks, only for what changed since the same was asked last.
    pub(crate) async fn page(&self, path: &str, priority: Priority) -> Answer<Page> {
        let mut request = self.request(Method::GET, path, priority, Cost::Read)?;
        let before = self.kept().answers.get(path).cloned();
        if let Some(etag) = before.as_ref().and_then(|page| page.etag.clone()) {
            request.headers_mut().insert(header::IF_NONE_MATCH, etag);
        }
        let answer = self.send(request).await?;
        match before {
            Some(page) if answer.status() == StatusCode::NOT_MODIFIED => return Ok(page),
            None if answer.status() == StatusCode::NOT_MODIFIED => {
                return Err(ApiError::nonsense("it says 304 to a question without condition"));
            }
            _ => {}
        }
        let page = Page {
            has_next: has_next(answer.headers()),
            etag: answer.headers().get(header::ETAG).cloned(),
            body: answer.into_body(),
        };
        self.kept().put(path, page.clone());
        Ok(page)
    }

    /// Forgets answers that made no sense, so that it is not asked whether they changed: all whose path begins
    /// like this.
    pub(crate) fn forget(&self, prefix: &str) {
        self.kept().answers.retain(|path, _| !path.starts_with(prefix));
    }

    /// Changes something, with a document; returns GitHub's answer.
    pub(crate) async fn change<B: Serialize + ?Sized>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        call: Call,
    ) -> Answer<Bytes> {
        let mut request = self.request(method, path, call.priority, call.cost)?;
        if let Some(body) = body {
            let json = serde_json::to_vec(body);
            *request.body_mut() = json
                .map_err(|error| ApiError::unanswered("the request could not be written", error))?
                .into();
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
        }
        self.send(request).await.map(Response::into_body)
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        priority: Priority,
        cost: Cost,
    ) -> Answer<Request<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .extension(Call { priority, cost })
            .extension(Who::Us);
        let odd =
            |error| ApiError::unanswered(format!("{path:?} cannot be asked for"), Box::new(error));
        request.body(Bytes::new()).map_err(|error: http::Error| odd(error))
    }
}

impl Kept {
    fn put(&mut self, path: &str, page: Page) {
        if page.etag.is_none() {
            self.answers.remove(path);
            return;
        }
        if self.answers.insert(path.to_owned(), page).is_none() {
            self.order.push_back(path.to_owned());
        }
        while self.answers.len() > KEPT {
            let Some(oldest) = self.order.pop_front() else { break };
            self.answers.remove(&oldest);
        }
        // Of what was removed on its own, the order may still tell.
        if self.order.len() > 2 * KEPT {
            self.order.retain(|path| self.answers.contains_key(path));
        }
    }
}

/// The error that our own service under octocrab returned.
fn ours(error: octocrab::Error) -> ApiError {
    match error {
        octocrab::Error::Service { source, .. } => match source.downcast::<ApiError>() {
            Ok(ours) => *ours,
            Err(other) => ApiError::Unanswered { how: other.to_string(), source: Some(other) },
        },
        other => ApiError::unanswered("octocrab could not make the call", other),
    }
}

/// Whether a `Link` header names a next page.
fn has_next(headers: &HeaderMap) -> bool {
    let links = headers.get_all(header::LINK).iter().filter_map(|link| link.to_str().ok());
    links.flat_map(|link| link.split(',')).any(|link| link.contains("rel=\"next\""))
}

#[async_trait]
impl Rest for Client {
    async fn call(&self, call: rest::Call) -> Result<rest::Answer> {
        let doing = format!("{} {}", call.method, call.path);
        let cost = if call.method == Method::GET { Cost::Read } else { Cost::Change };
        let who = match call.identity {
            rest::Identity::Installation => Who::Us,
            rest::Identity::App => Who::App,
        };
        let answer: Answer<Response<Bytes>> = async {
            let mut request = self.request(call.method, &call.path, Priority::Poll, cost)?;
            request.extensions_mut().insert(who);
            if let Some(body) = call.body {
                *request.body_mut() = body.to_string().into();
                let json = HeaderValue::from_static("application/json");
                request.headers_mut().insert(header::CONTENT_TYPE, json);
            }
            let answer = self.answer(request).await?;
            if answer.status().is_redirection() {
                return Ok(answer);
            }
            check(answer, self.clock().now())
        }
        .await;
        let place = self.place();
        let answer = answer.map_err(|error| match error.status() {
            Some(StatusCode::NOT_FOUND | StatusCode::GONE) => Error::not_found(doing.clone()),
            _ => error.explain(&doing, place.host(), &place.scope().permission()),
        })?;
        let (parts, body) = answer.into_parts();
        Ok(rest::Answer { status: parts.status, headers: parts.headers, body })
    }
}
