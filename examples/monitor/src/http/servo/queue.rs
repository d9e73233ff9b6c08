//! The queue: a place in it, and what one stands for.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use poem::{
    IntoResponse, Request, Response, handler,
    http::StatusCode,
    web::{Data, Json, Path},
};
use runner_core::{
    Error, ProfileName, ReservationId,
    queue::{Decision, EnqueueRequest, Place, Stand, decide, outlook},
};
use serde_json::{Value, json};

use super::{
    Servo,
    asked::{self, Asked, Refused},
    show,
    take::refused,
};
use crate::{
    http::text,
    peers::{Peers, Taken},
    seal::Purpose,
};

/// How long whoever waits is told to wait before it asks again, at least and at most.
const RETRY_AFTER: (u64, u64) = (1, 30);
/// The same, where nobody can tell how long it takes.
const RETRY_SOON: u64 = 5;
/// How long a workflow may say that it waits.
const LONGEST_PATIENCE: u64 = 7 * 24 * 3600;

/// A place in the queue, by the job's artifact. The answer is the token to take it with.
#[handler]
pub async fn enqueue(request: &Request, servo: Data<&Arc<Servo>>) -> Response {
    let placed = async {
        let asked = Asked::read(request)?;
        let (profile, count) = servo.prove(&asked).await?;
        servo.enqueue(&asked, profile, count).await
    };
    token(placed.await)
}

/// A place in the queue for one worker.
#[handler]
pub async fn enqueue_one(
    request: &Request,
    key: Path<String>,
    servo: Data<&Arc<Servo>>,
) -> Response {
    let placed = async {
        let (profile, asked) = (asked::profile(&key)?, Asked::read(request)?);
        servo.enqueue(&asked, profile, 1).await
    };
    token(placed.await)
}

/// A place in the queue for so many workers at once.
#[handler]
pub async fn enqueue_several(
    request: &Request,
    Path((key, count)): Path<(String, String)>,
    servo: Data<&Arc<Servo>>,
) -> Response {
    let placed = async {
        let (profile, count) = (asked::profile(&key)?, asked::count(&count)?);
        servo.enqueue(&Asked::read(request)?, profile, count).await
    };
    token(placed.await)
}

/// What a place stands for, when its turn has come: `{id, runner}`, or a list of them where several were asked
/// for. Until then 503, with the time after which to ask again.
#[handler]
pub async fn take(request: &Request, id: Path<String>, servo: Data<&Arc<Servo>>) -> Response {
    match servo.take_place(request, &id).await {
        Ok(taken) => Json(taken).into_response(),
        Err(refused) => *refused,
    }
}

/// How a place stands, and whether to wait for it.
#[handler]
pub fn stand(request: &Request, id: Path<String>, servo: Data<&Arc<Servo>>) -> Response {
    match servo.stand(request, &id) {
        Ok(told) => Json(told).into_response(),
        Err(refused) => *refused,
    }
}

fn token(placed: Result<String, Refused>) -> Response {
    match placed {
        Ok(token) => Response::builder().content_type("text/plain; charset=utf-8").body(token),
        Err(refused) => *refused,
    }
}

impl Servo {
    async fn enqueue(
        &self,
        asked: &Asked,
        profile: ProfileName,
        count: u32,
    ) -> Result<String, Refused> {
        let request = EnqueueRequest {
            id: asked.id.clone(),
            profile: profile.clone(),
            count,
            at_least: None,
            owner: asked.repository.clone(),
            purpose: asked.purpose(),
            duration: self.config.reserve_timeout,
            patience: self.config.queue_timeout,
            beyond: self.peers().map_or(0, |peers| peers.most(&profile)),
        };
        let placed = self.shared.0.pool.enqueue(request).await;
        let place = placed.map_err(|error| match error {
            Error::Exhausted { .. } => Box::new(text::later(error.to_string(), RETRY_AFTER.1)),
            error => refused(&error, &profile),
        })?;
        let entry = &place.entry;
        let same = entry.owner == asked.repository
            && entry.purpose == asked.purpose()
            && entry.profile == profile
            && entry.count == count;
        if !same {
            let detail =
                format!("unique_id {} waits for another job; make up one for each", asked.id);
            return Err(Box::new(text::refusal(StatusCode::CONFLICT, detail)));
        }
        let word = self.seal.word(Purpose::Place, asked.id.as_str());
        Ok(word.expose().clone())
    }

    async fn take_place(&self, request: &Request, id: &str) -> Result<Value, Refused> {
        let unknown = || {
            let detail = format!("nothing called {id:?} waits here: it was given up, or never did");
            Box::new(text::refusal(StatusCode::NOT_FOUND, detail))
        };
        let reservation = ReservationId::new(id).map_err(|_| unknown())?;
        let parameters = asked::parameters(request)?;
        let token = parameters.get("token").map(String::as_str).unwrap_or_default();
        if !self.seal.is_about(Purpose::Place, id, token) {
            let status = self.shared.promises();
            let waits = status.queue.iter().any(|place| place.entry.id == reservation);
            let holds = status.reservations.iter().any(|held| held.id == reservation);
            let refusal = if waits || holds {
                let detail = "this is not the token that /enqueue gave for it";
                Box::new(text::refusal(StatusCode::FORBIDDEN, detail))
            } else {
                unknown()
            };
            return Err(refusal);
        }
        let taken = match self.peers() {
            Some(peers) => peers.take(&reservation).await,
            None => self.shared.0.pool.take(&reservation).await.map(Taken::from),
        };
        match taken {
            Ok(Taken::Taken { here, elsewhere }) => {
                let mut runners = here.as_ref().map_or_else(Vec::new, |held| self.runners(held));
                let count = here.map_or(0, |held| held.count as usize) + elsewhere.len();
                runners.extend(
                    elsewhere
                        .iter()
                        .map(|(monitor, name)| show::runner_elsewhere(name, monitor, &reservation)),
                );
                match (count, runners.first()) {
                    (_, None) => {
                        let detail = "its worker was lost, and another is made";
                        Err(Box::new(text::later(detail, RETRY_SOON)))
                    }
                    (1, Some(runner)) => Ok(runner.clone()),
                    _ => Ok(runners.into()),
                }
            }
            Ok(Taken::Waits(place)) => Err(Box::new(self.wait(&place))),
            Ok(Taken::Later(why)) => Err(Box::new(text::later(why, RETRY_SOON))),
            Err(Error::NotFound { .. }) => Err(unknown()),
            Err(error) => Err(Box::new(text::later(format!("{error}; try again"), RETRY_SOON))),
        }
    }

    fn peers(&self) -> Option<&Peers> {
        self.shared.0.peers.as_ref()
    }

    /// 503, with what it waits for.
    fn wait(&self, place: &Place) -> Response {
        let told = outlook(place, &self.shared.status(), Timestamp::now());
        let (least, most) = RETRY_AFTER;
        // Whoever asks is remembered for that long: it is to come again well before.
        let most = most.min(place.entry.patience.as_secs() / 3).max(least);
        let after = told.estimate.map_or(RETRY_SOON, |about| about.as_secs() / 2);
        let mut detail = format!("position {} in the queue", place.ahead + 1);
        if let Some(about) = told.estimate {
            detail += &format!(", about {} s to go", about.as_secs());
        }
        let beyond = self.peers().map_or_else(Vec::new, |peers| peers.reasons(place));
        for reason in told.reasons.iter().chain(&told.chances).chain(&beyond) {
            detail += &format!("\n{reason}");
        }
        text::later(detail, after.clamp(least, most))
    }

    fn stand(&self, request: &Request, id: &str) -> Result<Value, Refused> {
        let patience = match asked::parameters(request)?.get("patience") {
            None => self.config.patience,
            Some(text) => text
                .parse::<u64>()
                .ok()
                .filter(|seconds| *seconds <= LONGEST_PATIENCE)
                .map(Duration::from_secs)
                .ok_or_else(|| {
                    asked::bad(format!("patience must be a number of seconds, not {text:?}"))
                })?,
        };
        let (promises, status) = (self.shared.promises(), self.shared.status());
        let Some(place) = promises.queue.iter().find(|place| place.entry.id.as_str() == id) else {
            let elsewhere = ReservationId::new(id).ok().zip(self.peers());
            if promises.reservations.iter().any(|held| held.id.as_str() == id)
                || elsewhere.is_some_and(|(id, peers)| peers.is_taken(&id))
            {
                return Ok(json!({ "state": "taken", "decision": "wait", "about_seconds": 0 }));
            }
            let detail = format!("nothing called {id:?} waits here");
            return Err(Box::new(text::refusal(StatusCode::NOT_FOUND, detail)));
        };
        let mut told = outlook(place, &status, Timestamp::now());
        told.reasons.extend(self.peers().into_iter().flat_map(|peers| peers.reasons(place)));
        let (decision, about, why) = match decide(&told, patience) {
            Decision::Wait { about } => ("wait", Some(about.as_secs()), None),
            Decision::GoElsewhere { why } => ("elsewhere", None, Some(why)),
        };
        Ok(json!({
            "state": match place.stand {
                Stand::Waiting => "waiting",
                Stand::Marking => "marking",
                Stand::Ready => "ready",
            },
            "profile": place.entry.profile,
            "count": place.entry.count,
            "elsewhere": place.entry.elsewhere,
            "position": place.ahead + 1,
            "waited_seconds": told.waited.as_secs(),
            "estimate_seconds": told.estimate.map(|about| about.as_secs()),
            "decision": decision,
            "about_seconds": about,
            "why": why,
            "reasons": told.reasons,
            "chances": told.chances,
        }))
    }
}
