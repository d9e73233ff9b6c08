//! One budget for every call to one GitHub with one set of credentials.
//!
//! GitHub counts twice. Its *primary* limit is so many calls an hour, told in each answer's
//! `x-ratelimit-*` headers; answers of 304 are free of it. Its *secondary* limits are
//! 900 points a minute, where reading costs 1 and changing 5 (which makes 180 registrations), and 100 calls at
//! once; whoever runs into them is told `retry-after`, and banned if that goes on
//! (docs.github.com, "Rate limits for the REST API"). So every call waits here for its turn: what running jobs
//! need comes first, polling last, and the last tenth of anything is never polled away.

mod ledger;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use ledger::{Hold, Ledger, Rule, Said};

/// How much a call matters. The first matters most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// What running jobs need: credentials, and whether a runner may go.
    Running,
    /// Registering a runner for a job that waits.
    Provision,
    /// Seeing which runners there are.
    Look,
    /// Seeing what waits, and everything that can wait.
    Poll,
}

impl Priority {
    /// Which part of every limit is kept for those that matter more.
    fn keeps_percent(self) -> u64 {
        match self {
            Self::Running => 0,
            Self::Provision => 2,
            Self::Look => 10,
            Self::Poll => 50,
        }
    }
}

/// What a call costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// It reads: 1 point.
    Read,
    /// It changes something: 5 points.
    Change,
    /// It registers a runner: 5 points, and it is counted on its own.
    Mint,
}

impl Cost {
    fn points(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Change | Self::Mint => 5,
        }
    }

    fn mints(self) -> u32 {
        u32::from(self == Self::Mint)
    }
}

/// One call to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// How much it matters.
    pub priority: Priority,
    /// What it costs.
    pub cost: Cost,
}

/// What may be spent. The defaults are GitHub's own limits for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Points within any 60 seconds. GitHub allows 900.
    pub points_per_minute: u32,
    /// Registrations within any 60 seconds. More than 180 would exceed GitHub's 900 points.
    pub mints_per_minute: u32,
    /// Calls under way at one time. GitHub allows 100, shared by all that use the same credentials.
    pub at_once: usize,
    /// The least time between the beginnings of two calls that change something.
    pub between_changes: Duration,
    /// How long a call waits for its turn before it fails with `RateLimited` instead.
    pub patience: Duration,
}

impl Limits {
    /// For a server of one's own, whose limits are off unless somebody switched them on
    /// (docs.github.com, "Configuring rate limits"): as fast as it answers.
    pub const NONE: Self = Self {
        points_per_minute: u32::MAX,
        mints_per_minute: u32::MAX,
        at_once: 20,
        between_changes: Duration::ZERO,
        patience: Duration::from_secs(15),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            points_per_minute: 900,
            mints_per_minute: 180,
            at_once: 20,
            between_changes: Duration::from_millis(334),
            patience: Duration::from_secs(15),
        }
    }
}

/// A call that may not begin within its patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// How long until it may.
    pub wait: Duration,
    why: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; the next call is in {} s", self.why, self.wait.as_secs())
    }
}

impl std::error::Error for Refused {}

/// What is left of one of GitHub's hourly limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HourlyFigures {
    /// How many calls an hour.
    pub limit: u64,
    /// How many of them are left.
    pub remaining: u64,
    /// How many seconds until there are all of them again.
    pub reset_in_seconds: u64,
}

/// The budget in numbers, for metrics. The counters only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BudgetFigures {
    /// Calls that were begun, by priority.
    pub calls: BTreeMap<Priority, u64>,
    /// How many of all calls registered a runner.
    pub mints: u64,
    /// How many of all calls were answered 304, which is free of the hourly limit.
    pub unchanged: u64,
    /// Calls that GitHub refused because of a limit. Above zero means that others spend from the same budget.
    pub refused: u64,
    /// Calls that were never made, because their turn would have come too late.
    pub given_up: u64,
    /// Milliseconds that calls waited for their turn, together.
    pub waited_ms: u64,
    /// Calls under way.
    pub in_flight: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Points spent in the last minute.
    pub points_last_minute: u32,
    /// Runners registered in the last minute.
    pub mints_last_minute: u32,
    /// Seconds until GitHub wants to be called again, after it refused.
    pub paused_seconds: Option<u64>,
    /// GitHub's hourly limits, by the name of the resource.
    pub hourly: BTreeMap<String, HourlyFigures>,
}

/// The budget. Clones share it.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    ended: Notify,
    patience: Duration,
}

struct State {
    ledger: Ledger,
    /// Who waits, those that matter more and came earlier first.
    waiting: BTreeMap<(Priority, u64), Call>,
    serial: u64,
    figures: BudgetFigures,
}

/// A place among those who wait; given up when dropped.
struct Place<'a>(&'a Budget, (Priority, u64));

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Still there only if it was not served: then whoever is behind it may go earlier.
        if self.0.state().waiting.remove(&self.1).is_some() {
            self.0.0.ended.notify_waiters();
        }
    }
}

/// The right to make one call; over when dropped.
pub(crate) struct Permit {
    budget: Budget,
    cost: Cost,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.ledger.in_flight -= 1;
        if !state.waiting.is_empty() {
            self.budget.0.ended.notify_waiters();
        }
    }
}

impl Permit {
    /// Takes in what the answer says about the limits. Returns how long to wait, if it refuses because of one.
    pub fn answered(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        message: &str,
        now: Timestamp,
    ) -> Option<Duration> {
        let said = Said::read(status, headers, message, now);
        let mut state = self.budget.state();
        let wait = state.ledger.answered(self.cost, &said, Instant::now());
        state.figures.refused += u64::from(wait.is_some());
        state.figures.unchanged += u64::from(status == StatusCode::NOT_MODIFIED);
        wait
    }
}

impl Budget {
    /// A budget of which nothing is spent.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            ledger: Ledger::new(limits),
            waiting: BTreeMap::new(),
            serial: 0,
            figures: BudgetFigures::default(),
        };
        let (state, ended) = (Mutex::new(state), Notify::new());
        Self(Arc::new(Shared { state, ended, patience: limits.patience }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Sums are changed as a whole, so a panic elsewhere leaves nothing half-changed.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the call's turn.
    ///
    /// # Errors
    /// When the turn would come later than the patience allows: at once where that is known.
    ///
    /// # Cancel safety
    /// Cancel safe: the place is given up.
    pub(crate) async fn enter(&self, call: Call) -> Result<Permit, Refused> {
        let began = Instant::now();
        let deadline = began + self.0.patience;
        let place = {
            let mut state = self.state();
            state.serial += 1;
            let key = (call.priority, state.serial);
            state.waiting.insert(key, call);
            Place(self, key)
        };
        loop {
            // Listen before looking, so that nothing falls between.
            let ended = self.0.ended.notified();
            let now = Instant::now();
            let (until, rule) = {
                let mut state = self.state();
                match state.hold(place.1, call, now) {
                    None => {
                        state.waiting.remove(&place.1);
                        state.ledger.begin(call, now);
                        state.figures.note(call, now - began);
                        break;
                    }
                    Some(Hold::Until(until, rule)) if until > deadline => {
                        state.figures.given_up += 1;
                        return Err(Refused { wait: until - now, why: rule.words() });
                    }
                    Some(Hold::Until(until, rule)) => (until, rule),
                    Some(Hold::Slot) if now >= deadline => {
                        state.figures.given_up += 1;
                        let why = "GitHub does not answer the calls under way";
                        return Err(Refused { wait: self.0.patience, why });
                    }
                    Some(Hold::Slot) => (deadline, Rule::Pace),
                }
            };
            tracing::trace!(?call, why = rule.words(), "A call waits for its turn.");
            // Either way it looks again.
            let _ = timeout_at(until, ended).await;
        }
        drop(place);
        Ok(Permit { budget: self.clone(), cost: call.cost })
    }

    /// The budget in numbers.
    pub fn figures(&self) -> BudgetFigures {
        let (mut state, now) = (self.state(), Instant::now());
        let (points_last_minute, mints_last_minute) = state.ledger.last_minute(now);
        let paused = state.ledger.refused_until.filter(|until| *until > now);
        let hourly = state.ledger.buckets.iter().map(|(name, bucket)| {
            let reset_in_seconds = bucket.reset.saturating_duration_since(now).as_secs();
            let over = reset_in_seconds == 0;
            let remaining = if over { bucket.limit } else { bucket.remaining };
            (name.clone(), HourlyFigures { limit: bucket.limit, remaining, reset_in_seconds })
        });
        BudgetFigures {
            in_flight: state.ledger.in_flight,
            waiting: state.waiting.len(),
            points_last_minute,
            mints_last_minute,
            paused_seconds: paused.map(|until| (until - now).as_secs()),
            hourly: hourly.collect(),
            ..state.figures.clone()
        }
    }
}

impl State {
    /// Whether the call must wait. Those ahead of it count as served first, but only as far as they could go
    /// now: one that waits for a limit of its own holds up nobody.
    fn hold(&mut self, key: (Priority, u64), call: Call, now: Instant) -> Option<Hold> {
        self.ledger.forget(now);
        let (mut ahead, mut held) = (Vec::new(), Vec::new());
        for (_, other) in self.waiting.range(..key) {
            // What holds one holds all of its kind behind it.
            if held.contains(other) {
                continue;
            }
            match self.ledger.hold(*other, &ahead, now) {
                None => ahead.push(*other),
                Some(_) => held.push(*other),
            }
        }
        self.ledger.hold(call, &ahead, now)
    }
}

impl BudgetFigures {
    fn note(&mut self, call: Call, waited: Duration) {
        *self.calls.entry(call.priority).or_default() += 1;
        self.mints += u64::from(call.cost == Cost::Mint);
        self.waited_ms += u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, future::join_all, stream::FuturesUnordered};

    use super::*;

    const fn call(priority: Priority, cost: Cost) -> Call {
        Call { priority, cost }
    }

    #[tokio::test(start_paused = true)]
    async fn what_matters_more_overtakes() {
        let budget = Budget::new(Limits { at_once: 1, ..Limits::default() });
        let first = budget.enter(call(Priority::Poll, Cost::Read)).await.unwrap();
        let order = [Priority::Poll, Priority::Look, Priority::Running];
        let mut turns: FuturesUnordered<_> = order
            .map(async |priority| {
                drop(budget.enter(call(priority, Cost::Read)).await.unwrap());
                priority
            })
            .into_iter()
            .collect();
        assert!(futures::poll!(turns.next()).is_pending());
        assert_eq!(budget.figures().waiting, 3);
        drop(first);
        let turns: Vec<Priority> = turns.collect().await;
        assert_eq!(turns, [Priority::Running, Priority::Look, Priority::Poll]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_limit_of_its_own_holds_up_nobody() {
        let budget = Budget::new(Limits::default());
        drop(budget.enter(call(Priority::Running, Cost::Mint)).await.unwrap());
        let mut mint = std::pin::pin!(budget.enter(call(Priority::Running, Cost::Mint)));
        assert!(futures::poll!(&mut mint).is_pending());
        let mut read = std::pin::pin!(budget.enter(call(Priority::Look, Cost::Read)));
        assert!(futures::poll!(&mut read).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_up_holds_up_nobody() {
        let budget = Budget::new(Limits { at_once: 1, ..Limits::default() });
        let first = budget.enter(call(Priority::Look, Cost::Read)).await.unwrap();
        {
            let mut dropped = std::pin::pin!(budget.enter(call(Priority::Running, Cost::Read)));
            assert!(futures::poll!(&mut dropped).is_pending());
        }
        drop(first);
        budget.enter(call(Priority::Poll, Cost::Read)).await.unwrap();
        assert_eq!(budget.figures().waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_comes_too_late_is_refused_at_once_with_the_time() {
        let budget = Budget::new(Limits::default());
        let permit = budget.enter(call(Priority::Look, Cost::Read)).await.unwrap();
        let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, "40".parse().unwrap())]);
        permit.answered(StatusCode::TOO_MANY_REQUESTS, &headers, "", Timestamp::UNIX_EPOCH);
        drop(permit);
        let refused = budget.enter(call(Priority::Running, Cost::Read)).await.err().unwrap();
        assert_eq!(refused.to_string(), "GitHub asked for a pause; the next call is in 40 s");
        let figures = budget.figures();
        assert_eq!((figures.refused, figures.given_up, figures.paused_seconds), (1, 1, Some(40)));
    }

    /// Nothing in flight ends: GitHub hangs.
    #[tokio::test(start_paused = true)]
    async fn a_turn_that_never_comes_is_refused_in_the_end() {
        let budget = Budget::new(Limits { at_once: 1, ..Limits::default() });
        let _hangs = budget.enter(call(Priority::Look, Cost::Read)).await.unwrap();
        assert!(budget.enter(call(Priority::Running, Cost::Read)).await.is_err());
    }

    /// Many at once, of all kinds: no minute is overspent, and all are served.
    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_served_within_the_limits() {
        let limits = Limits { patience: Duration::from_secs(3600), ..Limits::default() };
        let budget = Budget::new(limits);
        let kinds = [(Priority::Provision, Cost::Mint), (Priority::Poll, Cost::Read)];
        let most = join_all((0..600).map(async |i: usize| {
            let (priority, cost) = kinds[i % 2];
            let permit = budget.enter(call(priority, cost)).await.unwrap();
            let figures = budget.figures();
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(permit);
            (figures.points_last_minute, figures.mints_last_minute, figures.in_flight)
        }))
        .await;
        for (points, mints, in_flight) in most {
            assert!(points <= 900 && mints <= 180 && in_flight <= limits.at_once);
        }
        assert_eq!(budget.figures().mints, 300);
    }
}
