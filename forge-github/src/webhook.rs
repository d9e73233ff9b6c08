//! Demand that GitHub tells of by itself: `workflow_job` deliveries.
//!
//! [`Webhook::accept`] takes headers and raw body, and says what to answer; it does no I/O and takes
//! microseconds, so whoever serves the route answers at once. Read `signature.rs`, then `delivery.rs`, then
//! `jobs.rs`, which is the state that deliveries add up to; [`recovery`] fetches those that got lost.
//!
//! Deliveries come late, twice, in any order, or never. The state does not mind: of all that was heard
//! about a job, the fact that is furthest along counts. The id of a delivery is not signed, so remembering
//! ids saves work and protects nothing; that an old delivery can do no harm when it is played again is the
//! state's doing.

mod delivery;
mod jobs;
pub mod recovery;
mod seen;
mod signature;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use runner_core::{Changes, Clock, Hint, JobId, Result, Secret};
use uuid::Uuid;

pub use self::jobs::{LONGEST_QUEUE, Movement, REPEATABLE};
use self::{delivery::Headers, jobs::Jobs, seen::Seen, signature::Secrets};
use crate::demand::{
    DemandSource, Freshness, Health, JobFact, JobStatus, Known, SourceKind, Waiting,
};

/// The largest body that GitHub sends, in bytes. Whoever serves the route reads no more than this.
pub const MAX_BODY_BYTES: usize = 25 << 20;

/// How long a delivery may take before another source's knowing of the job counts as its loss.
const DELIVERY_TIME: Duration = Duration::from_secs(60);

/// What can be chosen.
pub struct WebhookConfig {
    /// What deliveries are signed with; several while they are being changed.
    pub secrets: Vec<Secret<String>>,
    /// How many ids of deliveries are remembered.
    pub deliveries_kept: usize,
    /// How many jobs are remembered. Without room, what is over goes first, then what is oldest.
    pub jobs_kept: usize,
}

impl WebhookConfig {
    /// These secrets, and room for a large organisation: 10 000 deliveries and 10 000 jobs, which is below
    /// 10 MiB.
    pub fn new(secrets: impl IntoIterator<Item = Secret<String>>) -> Self {
        Self { secrets: secrets.into_iter().collect(), deliveries_kept: 10_000, jobs_kept: 10_000 }
    }
}

/// Takes deliveries and knows what they add up to.
pub struct Webhook {
    secrets: Secrets,
    clock: Clock,
    state: Mutex<State>,
    hint: Hint,
}

struct State {
    seen: Seen,
    jobs: Jobs,
    /// Ill until told that nothing is missing.
    health: Health,
    caught_up_at: Option<Timestamp>,
    numbers: Numbers,
}

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Deliveries about jobs that were taken in.
    pub accepted: u64,
    /// Deliveries that had come before.
    pub repeated: u64,
    /// Deliveries of other events, and of actions that say nothing about demand.
    pub ignored: u64,
    /// What was not signed by GitHub, or could not be read.
    pub refused: u64,
    /// Deliveries that got lost and were fetched.
    pub recovered: u64,
    /// Jobs that another source found although their delivery should have come.
    pub lost: u64,
    /// Jobs forgotten for want of room while they were not over.
    pub forgotten: u64,
    /// When the last delivery came that was signed.
    pub last_heard_at: Option<Timestamp>,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It told of a job.
    Job {
        /// What it told.
        fact: Box<JobFact>,
        /// What that changed.
        movement: Movement,
    },
    /// It had come before.
    Repeated(Uuid),
    /// GitHub tried whether the hook works.
    Ping,
    /// It is signed, and no concern of ours.
    Ignored {
        /// What it is about, such as `push`.
        event: String,
    },
    /// It was not taken in.
    Refused(Refusal),
}

impl Outcome {
    /// What to answer. GitHub shows it to the owner of the hook, and takes any of 200 to 299 for success.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Job { .. } | Self::Repeated(_) | Self::Ping => StatusCode::OK,
            Self::Ignored { .. } => StatusCode::ACCEPTED,
            Self::Refused(refusal) => refusal.status(),
        }
    }
}

/// Why a delivery was not taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is larger than GitHub makes them.
    TooLarge,
    /// It is not signed with a secret of ours.
    NotSigned,
    /// It is signed, and cannot be read.
    Unreadable(String),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotSigned => StatusCode::UNAUTHORIZED,
            Self::Unreadable(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "the body is larger than {MAX_BODY_BYTES} bytes"),
            Self::NotSigned => f.write_str(
                "it is not signed with this hook's secret: X-Hub-Signature-256 is missing or wrong",
            ),
            Self::Unreadable(reason) => f.write_str(reason),
        }
    }
}

impl Webhook {
    /// Knows of no job yet, and says so: it is ill until [caught up](Self::caught_up).
    ///
    /// # Errors
    /// `Invalid` without a secret, or with an empty one.
    pub fn new(config: &WebhookConfig, clock: Clock) -> Result<Self> {
        let reason = "jobs that were queued before this start have not been asked for yet";
        Ok(Self {
            secrets: Secrets::new(&config.secrets)?,
            clock,
            state: Mutex::new(State {
                seen: Seen::new(config.deliveries_kept),
                jobs: Jobs::new(config.jobs_kept),
                health: Health::Ill { since: clock.now(), reason: reason.to_owned() },
                caught_up_at: None,
                numbers: Numbers::default(),
            }),
            hint: Hint::default(),
        })
    }

    /// Takes in a delivery. `body` is what came, byte for byte. From memory, at once; never panics,
    /// whatever comes.
    pub fn accept(&self, headers: &HeaderMap, body: &[u8]) -> Outcome {
        let now = self.clock.now();
        let outcome = self.judge(headers, body, now);
        self.lock().numbers.count(&outcome, now);
        if matches!(&outcome, Outcome::Job { movement, .. } if movement.moved()) {
            self.hint.hint();
        }
        outcome
    }

    fn judge(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Outcome {
        if body.len() > MAX_BODY_BYTES {
            return Outcome::Refused(Refusal::TooLarge);
        }
        let headers = Headers::of(headers);
        // Before anything else is read.
        if !self.secrets.sign(body, headers.signature) {
            return Outcome::Refused(Refusal::NotSigned);
        }
        match headers.identity() {
            Ok((event, delivery)) => self
                .read(event, delivery, now, || headers.payload(body))
                .unwrap_or_else(|reason| Outcome::Refused(Refusal::Unreadable(reason))),
            Err(reason) => Outcome::Refused(Refusal::Unreadable(reason)),
        }
    }

    /// What is behind the signature. An id is remembered only once its payload has been read, so that a
    /// delivery which could not be is welcome again.
    fn read<'a>(
        &self,
        event: &str,
        delivery: Uuid,
        now: Timestamp,
        payload: impl FnOnce() -> Result<std::borrow::Cow<'a, [u8]>, String>,
    ) -> Result<Outcome, String> {
        match event {
            "workflow_job" => {}
            "ping" => return Ok(Outcome::Ping),
            other => return Ok(Outcome::Ignored { event: other.to_owned() }),
        }
        if self.lock().seen.contains(&delivery) {
            return Ok(Outcome::Repeated(delivery));
        }
        let fact = delivery::job(&payload()?)
            .map_err(|error| format!("the payload is not that of a workflow_job: {error}"))?;
        let mut state = self.lock();
        if !state.seen.insert(delivery) {
            return Ok(Outcome::Repeated(delivery));
        }
        let Some(fact) = fact else {
            return Ok(Outcome::Ignored { event: event.to_owned() });
        };
        let movement = state.jobs.observe(fact.clone(), now);
        Ok(Outcome::Job { fact: Box::new(fact), movement })
    }

    /// Takes in a delivery that GitHub showed when it was asked, hence without a signature.
    fn recover(&self, delivery: Uuid, payload: &[u8]) -> Result<Outcome, String> {
        let now = self.clock.now();
        let outcome = self.read("workflow_job", delivery, now, || Ok(payload.into()))?;
        if let Outcome::Job { movement, .. } = &outcome {
            self.lock().numbers.recovered += 1;
            if movement.moved() {
                self.hint.hint();
            }
        }
        Ok(outcome)
    }

    fn has_seen(&self, delivery: &Uuid) -> bool {
        self.lock().seen.contains(delivery)
    }

    /// Says that nothing is missing: whoever calls this has asked GitHub for everything that waits, from
    /// `asked_at` on, and has [told](DemandSource::learn) it here.
    pub fn caught_up(&self, asked_at: Timestamp) {
        let mut state = self.lock();
        state.health = Health::Well;
        state.caught_up_at = Some(asked_at);
        drop(state);
        self.hint.hint();
    }

    /// Says that of all deliveries until `asked_at` none is missing. What was delivered before the start is
    /// forgotten, not lost; so this changes nothing before the first [`caught_up`](Self::caught_up).
    fn nothing_lost(&self, asked_at: Timestamp) {
        let caught_up_before = self.lock().caught_up_at.is_some();
        if caught_up_before {
            self.caught_up(asked_at);
        }
    }

    /// Every job that a runner has, as far as is known.
    pub fn running(&self) -> Vec<JobFact> {
        self.lock().jobs.in_state(JobStatus::InProgress).cloned().collect()
    }

    /// Counts since the start.
    pub fn numbers(&self) -> Numbers {
        let state = self.lock();
        Numbers { forgotten: state.jobs.forgotten(), ..state.numbers }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn count(&mut self, outcome: &Outcome, now: Timestamp) {
        let counter = match outcome {
            Outcome::Job { .. } => &mut self.accepted,
            Outcome::Repeated(_) => &mut self.repeated,
            Outcome::Ping | Outcome::Ignored { .. } => &mut self.ignored,
            Outcome::Refused(_) => &mut self.refused,
        };
        *counter += 1;
        if !matches!(outcome, Outcome::Refused(_)) {
            self.last_heard_at = Some(now);
        }
    }
}

#[async_trait]
impl DemandSource for Webhook {
    fn kind(&self) -> SourceKind {
        SourceKind::Webhook
    }

    fn health(&self) -> Health {
        self.lock().health.clone()
    }

    /// Never fails: it only hears, and says what it knows.
    async fn queued(&self, _freshness: Freshness) -> Result<Vec<Waiting>> {
        let mut state = self.lock();
        state.jobs.expire(self.clock.now());
        let mut all: Vec<Waiting> =
            state.jobs.in_state(JobStatus::Queued).filter_map(JobFact::waiting).collect();
        all.sort_by_key(|waiting| (waiting.job.queued_at, waiting.number));
        Ok(all)
    }

    fn job_of(&self, runner: &str) -> Option<JobId> {
        let state = self.lock();
        let mut running = state.jobs.in_state(JobStatus::InProgress);
        running.find(|fact| fact.runner.as_deref() == Some(runner)).map(JobFact::id)
    }

    fn job(&self, id: &JobId) -> Option<Known> {
        let number = id.as_str().parse().ok()?;
        self.lock().jobs.fact(number).map(JobFact::known)
    }

    fn is_over(&self, runner: &str) -> bool {
        self.lock().jobs.is_over(runner)
    }

    fn caught_up(&self, asked_at: Timestamp) {
        Webhook::caught_up(self, asked_at);
    }

    fn learn(&self, fact: &JobFact) {
        let now = self.clock.now();
        let mut state = self.lock();
        let movement = state.jobs.observe(fact.clone(), now);
        if movement == Movement::New
            && fact.status == JobStatus::Queued
            && state.caught_up_at.is_some_and(|at| fact.queued_at > at)
            && now > fact.queued_at + DELIVERY_TIME
        {
            state.numbers.lost += 1;
            state.health = Health::Ill {
                since: now,
                reason: format!(
                    "job {} of {} waits since {}, and no delivery told of it: look at the hook's recent \
                     deliveries on GitHub",
                    fact.number, fact.repository, fact.queued_at
                ),
            };
        }
        drop(state);
        if movement.moved() {
            self.hint.hint();
        }
    }

    fn forget(&self, number: u64) {
        self.lock().jobs.remove(number);
        self.hint.hint();
    }

    fn changes(&self) -> Changes {
        self.hint.changes()
    }
}
