//! Requests, counted by route, each with an id of its own in the log and in its answer.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use poem::{
    Endpoint, IntoResponse, PathPattern, Request, Response,
    http::{HeaderName, HeaderValue, Method},
};
use prometheus::{HistogramVec, IntCounterVec, Registry};
use tracing::Instrument;

use super::{catalogue, register};

/// The header with a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Measures requests. Clones share the counts.
#[derive(Clone)]
pub struct Meter {
    requests: IntCounterVec,
    took: HistogramVec,
}

/// Where the router's answer leaves which route it was, since what refuses a request forgets it.
#[derive(Clone, Default)]
pub struct RouteSlot(Arc<OnceLock<Arc<str>>>);

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            requests: catalogue::REQUESTS_TOTAL.counter(),
            took: catalogue::REQUEST_TIME.histogram(),
        }
    }

    pub(super) fn register(&self, registry: &Registry) {
        register(registry, &self.requests);
        register(registry, &self.took);
    }

    /// Answers a request by `endpoint`, which lets [`route`](Self::route) pass by.
    pub async fn measure<E>(&self, endpoint: Arc<E>, mut request: Request) -> poem::Result<Response>
    where
        E: Endpoint<Output = Response>,
    {
        let (began, method) = (Instant::now(), word(request.method()));
        let slot = RouteSlot::default();
        request.set_data(slot.clone());
        let id = format!("{:016x}", rand::random::<u64>());
        // Never the query, in which a careless client may have put anything.
        let path = request.uri().path().to_owned();
        let span = tracing::error_span!("request", id, method, path);
        let answered = endpoint.call(request).instrument(span.clone()).await;
        let mut response = answered.unwrap_or_else(|error| error.into_response());
        let (status, took) = (response.status(), began.elapsed());
        let route = slot.0.get().map_or("none", |route| route);
        self.requests.with_label_values(&[route, method, status.as_str()]).inc();
        self.took.with_label_values(&[route, method]).observe(took.as_secs_f64());
        span.in_scope(|| {
            let (status, ms) = (status.as_u16(), took.as_secs_f64() * 1e3);
            tracing::debug!(status, ms, "Answered.");
        });
        let id = HeaderValue::from_str(&id).expect("hexadecimal digits are valid in a header");
        response.headers_mut().insert(REQUEST_ID, id);
        Ok(response)
    }

    /// Notes which route answers, close to the router.
    pub async fn route<E: Endpoint>(endpoint: Arc<E>, request: Request) -> poem::Result<Response> {
        let slot = request.data::<RouteSlot>().cloned();
        let answered = endpoint.call(request).await.map(IntoResponse::into_response);
        let pattern = match &answered {
            Ok(response) => response.data::<PathPattern>(),
            Err(error) => error.data::<PathPattern>(),
        };
        if let (Some(slot), Some(pattern)) = (slot, pattern) {
            let _ = slot.0.set(pattern.0.clone());
        }
        answered
    }
}

/// A method that is one of a few.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
