//! Where forges deliver what happens there. No token: that the body is signed is the proof.

use std::sync::Arc;

use poem::{
    Body, Request,
    http::{HeaderMap, Method, StatusCode, header},
};
use poem_openapi::{
    ApiRequest, ApiResponse, OpenApi,
    param::Path,
    payload::{Binary, PlainText},
};
use runner_core::ForgeName;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{API, Shared, problem::Problem};
use crate::remote::{MAX_DELIVERY_BYTES, Remote};

/// What all bodies that are being read may take together, in KiB: nobody knows yet whose they are.
const ROOM_KIB: usize = 128 << 10;

pub struct WebhooksApi(pub Shared);

/// A delivery as the forge sends it. It is signed byte for byte.
#[derive(ApiRequest)]
enum Delivery {
    /// The payload.
    #[oai(content_type = "application/json")]
    Json(Binary<Body>),
    /// The payload as a form's only field.
    #[oai(content_type = "application/x-www-form-urlencoded")]
    Form(Binary<Body>),
}

#[derive(ApiResponse)]
enum Taken {
    /// It was taken in, or was known.
    #[oai(status = 200)]
    Done(PlainText<String>),
    /// It is signed, and of no concern.
    #[oai(status = 202)]
    Ignored(PlainText<String>),
}

#[OpenApi]
impl WebhooksApi {
    /// Deliver an event
    ///
    /// For forges, not for people: the body is signed with the webhook's secret, in `X-Hub-Signature-256`, and
    /// needs no token. Answered from memory, at once.
    #[oai(path = "/forges/:forge/webhook", method = "post", operation_id = "deliver_event")]
    async fn deliver(
        &self,
        forge: Path<String>,
        headers: &HeaderMap,
        delivery: Delivery,
    ) -> Result<Taken, Problem> {
        let remote = self.forge(&forge)?;
        let _held_while_the_body_is_there = self.0.0.room.take(headers)?;
        let (Delivery::Json(Binary(body)) | Delivery::Form(Binary(body))) = delivery;
        let body = body.into_bytes().await;
        let body = body.map_err(|error| Problem::bad_request(error.to_string()))?;
        let taken = remote.outside.deliver(headers, &body);
        match taken.status {
            StatusCode::OK => Ok(Taken::Done(PlainText(taken.said))),
            StatusCode::ACCEPTED => Ok(Taken::Ignored(PlainText(taken.said))),
            status => Err(Problem::new(status, taken.said)),
        }
    }
}

impl WebhooksApi {
    fn forge(&self, name: &str) -> Result<&Remote, Problem> {
        let forges = &self.0.0.forges;
        let found = ForgeName::new(name).ok().and_then(|name| forges.get(&name));
        found
            .filter(|remote| remote.outside.hears())
            .ok_or_else(|| Problem::not_found(format!("there is no forge {name:?} with a webhook")))
    }
}

/// Whether a request is a delivery, by its path as it was sent.
pub fn is_delivery(request: &Request) -> bool {
    *request.method() == Method::POST && is_for_deliveries(request.original_uri().path())
}

fn is_for_deliveries(path: &str) -> bool {
    let forge = path
        .strip_prefix(API)
        .and_then(|path| path.strip_prefix("/forges/"))
        .and_then(|path| path.strip_suffix("/webhook"));
    forge.is_some_and(|forge| !forge.is_empty() && !forge.contains('/'))
}

/// Room for bodies.
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_KIB)))
    }
}

impl Room {
    /// Room for the body that a head announces.
    fn take(&self, headers: &HeaderMap) -> Result<SemaphorePermit<'_>, Problem> {
        let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let bytes = announced.and_then(|length| length.parse().ok()).unwrap_or(MAX_DELIVERY_BYTES);
        // Over HTTP/2 a body may come unannounced; the door cuts off what is larger than this.
        let kib = u32::try_from(bytes.min(MAX_DELIVERY_BYTES) >> 10).unwrap_or(u32::MAX) + 1;
        self.0.try_acquire_many(kib).map_err(|_| {
            let detail = "too much is being delivered at once; deliver it again later";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_known_by_its_path() {
        assert!(is_for_deliveries("/api/v2/forges/github/webhook"));
        for other in [
            "/api/v2/forges//webhook",
            "/api/v2/forges/webhook",
            "/api/v2/forges/a/../jobs/webhook",
            "/api/v2/forges/a/webhook/",
            "/api/v2/jobs",
            "/forges/a/webhook",
        ] {
            assert!(!is_for_deliveries(other), "{other}");
        }
    }

    #[test]
    fn bodies_have_room_until_they_are_gone() {
        let room = Room::default();
        let headers = HeaderMap::new();
        let held: Vec<_> = std::iter::from_fn(|| room.take(&headers).ok()).collect();
        assert_eq!(held.len() as u64, 5);
        assert!(room.take(&headers).is_err());
        drop(held);
        assert!(room.take(&headers).is_ok());
    }
}
