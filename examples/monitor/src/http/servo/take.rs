//! Takes idle workers for a job: at once, or not at all.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use poem::{
    IntoResponse, Request, Response, handler,
    http::StatusCode,
    web::{Data, Json, Path},
};
use runner_core::{
    Error, ProfileName,
    error::chain,
    plan::Sight,
    reservation::{Reservation, ReserveRequest},
};
use serde_json::Value;

use super::{
    Servo,
    asked::{self, Asked, Refused},
    show,
};
use crate::{
    http::{text, workers::after},
    remote::{NotProven, Proven},
};

/// What proves too little may be proven soon, after so many seconds.
const TRY_AGAIN: u64 = 5;

/// Of how many jobs it is remembered that they proved something and got nothing for it.
const PROOFS: usize = 1_000;

/// What jobs proved and got nothing for, since when.
pub type Proofs = BTreeMap<Asked, (Instant, (ProfileName, u32))>;

/// One worker: `{id, runner}`, or `null`.
#[handler]
pub async fn one(request: &Request, key: Path<String>, servo: Data<&Arc<Servo>>) -> Response {
    let taken = async {
        let (profile, asked) = (asked::profile(&key)?, Asked::read(request)?);
        servo.take(&asked, profile, 1).await
    };
    // One that was lost is being replaced: whoever asks again gets its successor.
    answer(taken.await.map(|taken| taken.and_then(|runners| runners.into_iter().next())))
}

/// So many workers, all or none: `[{id, runner}]`, or `null`.
#[handler]
pub async fn several(
    request: &Request,
    Path((key, count)): Path<(String, String)>,
    servo: Data<&Arc<Servo>>,
) -> Response {
    let taken = async {
        let (profile, count) = (asked::profile(&key)?, asked::count(&count)?);
        servo.take(&Asked::read(request)?, profile, count).await
    };
    answer(taken.await.map(|taken| taken.map(Value::from)))
}

/// As many workers as the job's artifact says, all or none: `[{id, runner}]`, or `null`.
#[handler]
pub async fn select(request: &Request, servo: Data<&Arc<Servo>>) -> Response {
    let taken = async {
        let asked = Asked::read(request)?;
        // Whoever lost the answer asks again, and the proof was good once.
        if let Some(held) = servo.held(&asked) {
            return servo.labelled(held).await.map(Some);
        }
        let (profile, count) = match servo.excuse(&asked) {
            Some(proven) => proven,
            None => servo.prove(&asked).await?,
        };
        let taken = servo.take(&asked, profile.clone(), count).await;
        if taken.as_ref().is_err_and(|refused| refused.status().is_server_error()) {
            servo.keep_proof(asked, (profile, count));
        }
        taken
    };
    answer(taken.await.map(|taken| taken.map(Value::from)))
}

fn answer(taken: Result<Option<Value>, Refused>) -> Response {
    match taken {
        Ok(taken) => Json(taken).into_response(),
        Err(refused) => *refused,
    }
}

impl Servo {
    /// Reserves workers for a job, or finds that too few are idle.
    pub async fn take(
        &self,
        asked: &Asked,
        profile: ProfileName,
        count: u32,
    ) -> Result<Option<Vec<Value>>, Refused> {
        let request = ReserveRequest {
            id: asked.id.clone(),
            profile: profile.clone(),
            count,
            at_least: None,
            owner: asked.repository.clone(),
            purpose: asked.purpose(),
            until: after(self.config.reserve_timeout),
        };
        // Before it is asked: whoever is seen by then is counted among those that may be had.
        let unseen = self.unseen(&profile);
        match self.shared.0.pool.reserve(request).await {
            Ok(held) if is_of(&held, asked) && held.profile == profile => {
                self.labelled(held).await.map(Some)
            }
            Ok(_) => {
                let detail = format!(
                    "unique_id {} is another reservation's; make up one for each job",
                    asked.id
                );
                Err(Box::new(text::refusal(StatusCode::CONFLICT, detail)))
            }
            Err(Error::Exhausted { .. }) => match unseen {
                None => Ok(None),
                Some(why) => Err(Box::new(text::later(why, show::FIRST_LOOK))),
            },
            Err(error) => Err(refused(&error, &profile)),
        }
    }

    /// Why nobody knows which workers of a profile are idle, if so: what is not seen is not gone.
    fn unseen(&self, profile: &ProfileName) -> Option<String> {
        let status = self.shared.status();
        let offered = status.offered.iter().find(|offered| offered.name == *profile);
        let forge = offered.and_then(|offered| status.forges.get(&offered.forge));
        let sights = [("its machines", Some(&status.hypervisor)), ("its runners", forge)];
        sights.into_iter().find_map(|(what, sight)| match sight {
            Some(Sight::Seen) => None,
            Some(Sight::Blind(why)) => Some(format!("{what} cannot be seen: {why}; try again")),
            None | Some(Sight::Unasked) => {
                Some(format!("{what} were not looked at yet; try again"))
            }
        })
    }

    /// The workers of a reservation, once the forge keeps them for its job.
    async fn labelled(&self, held: Reservation) -> Result<Vec<Value>, Refused> {
        match self.shared.labelled(held).await {
            Ok(held) => Ok(self.runners(&held)),
            Err(not) => Err(Box::new(text::later(not.told(), TRY_AGAIN))),
        }
    }

    /// Keeps what was proven for somebody who got nothing for it: a proof is good once, and was not used.
    fn keep_proof(&self, asked: Asked, proven: (ProfileName, u32)) {
        let mut kept = self.proofs();
        if kept.len() >= PROOFS {
            kept.clear();
        }
        kept.insert(asked, (Instant::now(), proven));
    }

    /// What this job proved before, and got nothing for. Good once.
    fn excuse(&self, asked: &Asked) -> Option<(ProfileName, u32)> {
        let (since, proven) = self.proofs().remove(asked)?;
        let max_age = self.config.proof.as_ref()?.max_age;
        (since.elapsed() < max_age).then_some(proven)
    }

    fn proofs(&self) -> MutexGuard<'_, Proofs> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reservation that this job has already.
    pub fn held(&self, asked: &Asked) -> Option<Reservation> {
        let status = self.shared.promises();
        let mut held = status.reservations.iter().filter(|held| held.id == asked.id);
        held.find(|held| is_of(held, asked)).cloned()
    }

    /// What a job's artifact proves: which workers it may have, and how many.
    pub async fn prove(&self, asked: &Asked) -> Result<(ProfileName, u32), Refused> {
        let refuse = |detail: &str| Box::new(text::refusal(StatusCode::FORBIDDEN, detail));
        let Some(prover) = &self.prover else {
            return Err(refuse(
                "no repository may reserve by an artifact here; name some in repositories of [servo]",
            ));
        };
        let status = self.shared.promises();
        let of_repository = status
            .reservations
            .iter()
            .filter(|held| held.owner.eq_ignore_ascii_case(&asked.repository));
        let held = of_repository.map(|held| held.workers.len()).sum::<usize>();
        let proven = prover.prove(&asked.claim(), u32::try_from(held).unwrap_or(u32::MAX)).await;
        match proven {
            Ok(Proven { profile: Some(profile), count }) => Ok((profile, count)),
            Ok(Proven { profile: None, .. }) => {
                Err(refuse("the artifact names no profile: self_hosted_image_name is missing"))
            }
            Err(NotProven::Malformed(why)) => Err(asked::bad(why)),
            Err(NotProven::TooMany(why)) => Err(Box::new(text::refusal(StatusCode::CONFLICT, why))),
            Err(NotProven::Refused(why)) => {
                tracing::info!(
                    repository = asked.repository,
                    run = asked.run,
                    why,
                    "A proof was refused."
                );
                Err(refuse(&why))
            }
            Err(NotProven::Failed(error)) => {
                tracing::warn!(error = chain(&error), "A proof could not be checked.");
                let detail = format!("{error}; try again");
                Err(Box::new(text::later(detail, TRY_AGAIN)))
            }
        }
    }

    /// The workers of a reservation, as they are told.
    pub fn runners(&self, held: &Reservation) -> Vec<Value> {
        let status = self.shared.status();
        let told = held.workers.iter().map(|worker| {
            let seen = status.workers.iter().find(|seen| seen.name == *worker);
            show::runner(worker, seen, Some(held), &status)
        });
        told.collect()
    }
}

/// Whether a reservation is this job's.
fn is_of(held: &Reservation, asked: &Asked) -> bool {
    held.owner == asked.repository && held.purpose == asked.purpose()
}

/// What the pool refused.
pub fn refused(error: &Error, profile: &ProfileName) -> Refused {
    match error {
        Error::NotFound { .. } => asked::unknown_profile(profile.as_str()),
        Error::Invalid { .. } => asked::bad(error.to_string()),
        Error::Busy { .. } => Box::new(text::refusal(StatusCode::CONFLICT, error.to_string())),
        _ => {
            tracing::error!(error = chain(error), "A request failed.");
            Box::new(text::later(format!("{error}; try again"), TRY_AGAIN))
        }
    }
}
