//! Pictures of screens: the last one that is known, or a new one.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use poem::{
    Request, Response, handler,
    http::StatusCode,
    web::{Data, Path},
};
use runner_core::WorkerName;

use super::{Servo, show, text};
use crate::http::door;

/// How old a picture may be that is as good as a new one.
const FRESH: Duration = Duration::from_secs(10);
/// How old one may be that is better than none.
const LAST: Duration = Duration::from_secs(60);

/// The last picture that is known; a new one, if that is old.
#[handler]
pub async fn last(request: &Request, id: Path<String>, servo: Data<&Arc<Servo>>) -> Response {
    let Some(worker) = servo.named(&id) else { return unknown(&id) };
    servo.last_or_new(request, &worker).await
}

/// A new picture.
#[handler]
pub async fn now(request: &Request, id: Path<String>, servo: Data<&Arc<Servo>>) -> Response {
    let Some(worker) = servo.named(&id) else { return unknown(&id) };
    match servo.may_look(request) {
        Ok(()) => servo.look(&worker).await,
        Err(refusal) => text::of_response(*refusal).await,
    }
}

/// What a profile's image shows, as seen on the newest machine that booted it: the build itself has no screen.
#[handler]
pub async fn of_profile(
    request: &Request,
    key: Path<String>,
    servo: Data<&Arc<Servo>>,
) -> Response {
    let status = servo.shared.status();
    if !status.profiles.keys().any(|name| name.as_str() == *key) {
        return *super::asked::unknown_profile(&key);
    }
    match show::newest_machine(&status, &key) {
        Some(worker) => servo.last_or_new(request, worker).await,
        None => {
            let detail = format!(
                "no machine of profile {} runs, and its images are built without one that has a screen; \
                 see what a build says in the events",
                *key
            );
            text::refusal(StatusCode::NOT_FOUND, detail)
        }
    }
}

impl Servo {
    fn named(&self, id: &str) -> Option<WorkerName> {
        let status = self.shared.status();
        show::worker(&status, id).map(|worker| worker.name.clone())
    }

    /// Refuses whoever has asked for too many new pictures.
    fn may_look(&self, request: &Request) -> Result<(), Box<Response>> {
        self.screenshots.iter().try_for_each(|pace| pace.check(door::address(request)))
    }

    async fn last_or_new(&self, request: &Request, worker: &WorkerName) -> Response {
        let pictures = &self.shared.0.pictures;
        if let Some(png) = pictures.within(FRESH, worker) {
            return picture(png);
        }
        match (self.may_look(request), pictures.within(LAST, worker)) {
            (Ok(()), _) => self.look(worker).await,
            (Err(_), Some(png)) => picture(png),
            (Err(refusal), None) => text::of_response(*refusal).await,
        }
    }

    async fn look(&self, worker: &WorkerName) -> Response {
        match self.shared.picture(worker).await {
            Ok(png) => picture(png),
            Err(problem) => text::of(problem),
        }
    }
}

fn picture(png: Bytes) -> Response {
    Response::builder().content_type("image/png").body(png)
}

fn unknown(id: &str) -> Response {
    let detail = format!("there is no runner {id:?} with a machine");
    text::refusal(StatusCode::NOT_FOUND, detail)
}
