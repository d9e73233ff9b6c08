//! What the hooks of a forge's runner program tell: which job is about to begin, and that it is over. A job that
//! may not run is refused here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use poem::{Body, Response, handler, http::StatusCode, web::Data};
use runner_core::{
    Clock, Error, EventLog, Result, Status, WorkerName, error::chain, event::What, plan::Subject,
};
use tokio::sync::watch;

use super::Guest;
use crate::{
    http::text,
    reload::ConfigState,
    remote::{JobTold, Moment, Remotes},
};

/// Who hears what machines tell of their jobs. Clones share it.
#[derive(Clone)]
pub struct Hooks(Arc<Inner>);

struct Inner {
    forges: Remotes,
    state: watch::Receiver<Arc<ConfigState>>,
    status: watch::Receiver<Arc<Status>>,
    events: EventLog,
    clock: Clock,
    /// What was told first. A job can tell again, for its own machine; that changes nothing.
    told: Mutex<BTreeMap<WorkerName, Told>>,
}

/// What a machine told.
#[derive(Default)]
struct Told {
    started: Option<JobTold>,
    completed: Option<JobTold>,
}

impl Hooks {
    /// Hears for these forges, and writes into `events`.
    pub fn new(
        forges: Remotes,
        state: watch::Receiver<Arc<ConfigState>>,
        status: watch::Receiver<Arc<Status>>,
        events: EventLog,
        clock: Clock,
    ) -> Self {
        let told = Mutex::default();
        Self(Arc::new(Inner { forges, state, status, events, clock, told }))
    }

    /// The answer to a machine.
    fn hear(&self, worker: &WorkerName, moment: Moment, report: &[u8]) -> Result<String> {
        let inner = &self.0;
        let status = inner.status.borrow().clone();
        let seen = status.workers.iter().find(|seen| seen.name == *worker);
        let profile = seen.and_then(|seen| seen.profile.clone());
        let profile = profile.or_else(|| worker.parts().map(|(profile, _)| profile));
        let profile = profile.ok_or_else(|| Error::not_found(format!("profile of {worker}")))?;
        let forge = seen.and_then(|seen| seen.forge.clone()).or_else(|| {
            // Just made: the pool tells of it with its next look.
            let state = inner.state.borrow();
            let offered = state.profiles.iter().find(|offered| offered.name == profile);
            offered.map(|offered| offered.forge.clone())
        });
        let remote = forge.and_then(|forge| inner.forges.get(&forge));
        let remote = remote.ok_or_else(|| Error::not_found(format!("forge of {worker}")))?;
        let fresh = remote.outside.job_told(&profile, moment, report)?;

        let mut all = inner.told.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, _| {
            name == worker || status.workers.iter().any(|living| living.name == *name)
        });
        let told = all.entry(worker.clone()).or_default();
        let told = match moment {
            Moment::Started => &mut told.started,
            Moment::Completed => &mut told.completed,
        };
        if let Some(before) = told {
            return Ok(before.answer.clone());
        }
        let text = match (moment, &fresh.refused) {
            (Moment::Started, None) => format!("its machine begins {}", fresh.job),
            (Moment::Started, Some(why)) => format!("{} was refused: {why}", fresh.job),
            (Moment::Completed, _) => format!("its machine has ended {}", fresh.job),
        };
        inner.events.record(
            inner.clock.now(),
            Subject::Worker(worker.clone()),
            What::Note { text },
        );
        Ok(told.insert(fresh).answer.clone())
    }

    async fn answer(&self, guest: &Guest, moment: Moment, body: Body) -> Response {
        let report = match body.into_bytes().await {
            Ok(report) => report,
            Err(error) => return text::refusal(StatusCode::BAD_REQUEST, error.to_string()),
        };
        match self.hear(&guest.0, moment, &report) {
            Ok(answer) => {
                Response::builder().content_type("text/plain; charset=utf-8").body(answer)
            }
            Err(error) => {
                let status = match error {
                    Error::Invalid { .. } => StatusCode::BAD_REQUEST,
                    _ => StatusCode::NOT_FOUND,
                };
                text::refusal(status, chain(&error))
            }
        }
    }
}

/// What is about to begin: `allow`, or `refuse` and why.
#[handler]
pub async fn job_started(guest: Guest, hooks: Data<&Hooks>, body: Body) -> Response {
    hooks.answer(&guest, Moment::Started, body).await
}

/// What is over.
#[handler]
pub async fn job_completed(guest: Guest, hooks: Data<&Hooks>, body: Body) -> Response {
    hooks.answer(&guest, Moment::Completed, body).await
}
