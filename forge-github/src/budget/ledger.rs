//! The sums of the budget: what was spent, what GitHub said is left, and so when a call may begin. No clock.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Call, Cost, Limits};

/// Over what time GitHub's secondary limits count.
const WINDOW: Duration = Duration::from_secs(60);
/// How long to wait after a refusal that does not say how long, as GitHub's documentation asks.
const FIRST_REFUSAL: Duration = Duration::from_secs(60);
/// How long such a wait becomes at most, when refusals go on.
const LONGEST_REFUSAL: Duration = Duration::from_secs(15 * 60);
/// The longest wait that GitHub is believed to mean.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(2 * 3600);

/// The resource that is meant when GitHub names none.
const CORE: &str = "core";

/// What is left of one of GitHub's hourly limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    pub limit: u64,
    pub remaining: u64,
    pub reset: Instant,
}

/// Why a call may not begin yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Until then.
    Until(Instant, Rule),
    /// Until another call ends.
    Slot,
}

/// Which limit holds a call back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Refused,
    Hourly,
    Points,
    Mints,
    Pace,
}

impl Rule {
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "GitHub asked for a pause",
            Self::Hourly => "the hourly limit is used up",
            Self::Points => "too many calls in this minute",
            Self::Mints => "too many registrations in this minute",
            Self::Pace => "changes are made one after the other",
        }
    }
}

/// What an answer says about the limits.
pub(super) struct Said {
    resource: Option<String>,
    limit: Option<u64>,
    remaining: Option<u64>,
    reset: Option<Duration>,
    retry_after: Option<Duration>,
    /// It refuses because of a limit.
    pub refused: bool,
}

impl Said {
    /// Reads the headers. Times that are told as dates are taken relative to the answer's own `Date`, so
    /// that a host whose clock is wrong does not wait for hours.
    pub fn read(status: StatusCode, headers: &HeaderMap, message: &str, now: Timestamp) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name: &str| text(name).and_then(|value| value.trim().parse::<u64>().ok());
        let date = |value: &str| {
            jiff::fmt::rfc2822::parse(value.trim()).ok().map(|zoned| zoned.timestamp())
        };
        let now = text("date").and_then(date).unwrap_or(now);
        let until =
            |then: Timestamp| Duration::try_from(then.duration_since(now)).unwrap_or_default();
        let retry_after = text("retry-after").and_then(|value| {
            let seconds = value.trim().parse().ok().map(Duration::from_secs);
            seconds.or_else(|| date(value).map(until))
        });
        let remaining = number("x-ratelimit-remaining");
        let reset = number("x-ratelimit-reset")
            .and_then(|second| Timestamp::from_second(i64::try_from(second).ok()?).ok());
        let message = message.to_ascii_lowercase();
        let refused = status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::FORBIDDEN
                && (retry_after.is_some()
                    || remaining == Some(0)
                    || message.contains("rate limit")
                    || message.contains("abuse detection"));
        Self {
            resource: text("x-ratelimit-resource").map(str::to_owned),
            limit: number("x-ratelimit-limit"),
            remaining,
            reset: reset.map(until),
            retry_after: retry_after.map(|wait| wait.min(LONGEST_RETRY_AFTER)),
            refused,
        }
    }
}

/// The sums. Everything takes `now`.
pub(super) struct Ledger {
    limits: Limits,
    spent: VecDeque<(Instant, Call)>,
    points: u32,
    mints: u32,
    last_change: Option<Instant>,
    pub in_flight: usize,
    pub refused_until: Option<Instant>,
    refusals: u32,
    pub buckets: BTreeMap<String, Bucket>,
    /// Which bucket calls of a cost came out of when last told.
    resource_of: BTreeMap<Cost, String>,
}

impl Ledger {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            spent: VecDeque::new(),
            points: 0,
            mints: 0,
            last_change: None,
            in_flight: 0,
            refused_until: None,
            refusals: 0,
            buckets: BTreeMap::new(),
            resource_of: BTreeMap::new(),
        }
    }

    /// Forgets what no limit counts any more.
    pub fn forget(&mut self, now: Instant) {
        while let Some((at, call)) = self.spent.front().copied()
            && at + WINDOW <= now
        {
            self.spent.pop_front();
            self.points -= call.cost.points();
            self.mints -= call.cost.mints();
        }
    }

    /// Points spent, and runners minted, in the last minute.
    pub fn last_minute(&mut self, now: Instant) -> (u32, u32) {
        self.forget(now);
        (self.points, self.mints)
    }

    /// Whether `call` must wait, when those `ahead` of it are served first. [Forget](Self::forget) before.
    pub fn hold(&self, call: Call, ahead: &[Call], now: Instant) -> Option<Hold> {
        if let Some(until) = self.refused_until.filter(|until| *until > now) {
            return Some(Hold::Until(until, Rule::Refused));
        }
        if let Some(bucket) = self.bucket_of(call.cost)
            && bucket.reset > now
            && bucket.remaining <= kept(bucket.limit, call) + ahead.len() as u64
        {
            return Some(Hold::Until(bucket.reset, Rule::Hourly));
        }
        let sum = |cost: fn(Cost) -> u32| ahead.iter().map(|call| cost(call.cost)).sum::<u32>();
        if call.cost == Cost::Mint {
            let used = self.mints + sum(Cost::mints) + 1;
            let over = used.saturating_sub(self.limits.mints_per_minute);
            if let Some(until) = self.after(over, Cost::mints) {
                return Some(Hold::Until(until, Rule::Mints));
            }
        }
        let all = self.limits.points_per_minute;
        let room = all - u32::try_from(kept(all.into(), call)).unwrap_or(0);
        let over = (self.points + sum(Cost::points) + call.cost.points()).saturating_sub(room);
        if let Some(until) = self.after(over, Cost::points) {
            return Some(Hold::Until(until, Rule::Points));
        }
        if call.cost != Cost::Read {
            let changes = ahead.iter().filter(|call| call.cost != Cost::Read).count() as u32;
            let gap = self.limits.between_changes;
            let next = self.last_change.map_or(now, |last| last + gap) + gap * changes;
            if next > now {
                return Some(Hold::Until(next, Rule::Pace));
            }
        }
        (self.in_flight + ahead.len() >= self.limits.at_once).then_some(Hold::Slot)
    }

    /// When so much of what was spent no longer counts. If less was spent at all, when the last of it does not.
    fn after(&self, mut over: u32, weight: fn(Cost) -> u32) -> Option<Instant> {
        let mut until = None;
        for (at, call) in &self.spent {
            if over == 0 {
                break;
            }
            let weight = weight(call.cost);
            if weight > 0 {
                over = over.saturating_sub(weight);
                until = Some(*at + WINDOW);
            }
        }
        until
    }

    fn bucket_of(&self, cost: Cost) -> Option<&Bucket> {
        self.buckets.get(self.resource_of.get(&cost).map_or(CORE, String::as_str))
    }

    /// A call begins.
    pub fn begin(&mut self, call: Call, now: Instant) {
        self.forget(now);
        self.spent.push_back((now, call));
        self.points += call.cost.points();
        self.mints += call.cost.mints();
        self.in_flight += 1;
        if call.cost != Cost::Read {
            self.last_change = Some(now);
        }
        let resource = self.resource_of.get(&call.cost).map_or(CORE, String::as_str);
        if let Some(bucket) = self.buckets.get_mut(resource) {
            // Until its answer tells better; so that many at once do not all see the last one.
            bucket.remaining = bucket.remaining.saturating_sub(1);
        }
    }

    /// A call was answered. Returns how long to wait if it was refused because of a limit.
    pub fn answered(&mut self, cost: Cost, said: &Said, now: Instant) -> Option<Duration> {
        let resource = said.resource.clone().unwrap_or_else(|| CORE.to_owned());
        if let (Some(limit), Some(remaining), Some(reset)) =
            (said.limit, said.remaining, said.reset)
        {
            self.note_bucket(&resource, Bucket { limit, remaining, reset: now + reset });
        }
        if said.resource.is_some() {
            self.resource_of.insert(cost, resource);
        }
        if !said.refused {
            self.refusals = 0;
            return None;
        }
        let doubled = FIRST_REFUSAL * 2u32.saturating_pow(self.refusals.min(8));
        let hourly = said.reset.filter(|_| said.remaining == Some(0));
        let wait = said.retry_after.or(hourly).unwrap_or(doubled.min(LONGEST_REFUSAL));
        if said.retry_after.is_some() || hourly.is_none() {
            self.refusals += 1;
            self.refused_until = self.refused_until.max(Some(now + wait));
        }
        Some(wait)
    }

    fn note_bucket(&mut self, resource: &str, told: Bucket) {
        let same_hour = |old: &Bucket| {
            let apart = old.reset.max(told.reset) - old.reset.min(told.reset);
            apart < Duration::from_secs(5)
        };
        let bucket = match self.buckets.get(resource) {
            // Answers overtake each other: within the hour it only becomes less.
            Some(old) if same_hour(old) && self.in_flight > 1 => {
                Bucket { remaining: old.remaining.min(told.remaining), ..told }
            }
            _ => told,
        };
        self.buckets.insert(resource.to_owned(), bucket);
    }
}

/// How much of a limit is kept for calls that matter more.
fn kept(limit: u64, call: Call) -> u64 {
    limit * call.priority.keeps_percent() / 100
}

#[cfg(test)]
mod tests {
    use super::{super::Priority, *};

    fn call(priority: Priority, cost: Cost) -> Call {
        Call { priority, cost }
    }

    const READ: Call = Call { priority: Priority::Running, cost: Cost::Read };
    const MINT: Call = Call { priority: Priority::Running, cost: Cost::Mint };

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()
    }

    fn said(status: u16, pairs: &[(&'static str, &'static str)], message: &str) -> Said {
        let status = StatusCode::from_u16(status).unwrap();
        Said::read(status, &headers(pairs), message, Timestamp::UNIX_EPOCH)
    }

    /// Begins calls as fast as they may begin; returns how many do within `time`.
    fn as_many_as_possible(ledger: &mut Ledger, call: Call, start: Instant, time: Duration) -> u32 {
        let (mut now, mut count) = (start, 0);
        while now < start + time {
            ledger.forget(now);
            match ledger.hold(call, &[], now) {
                None => {
                    ledger.begin(call, now);
                    ledger.in_flight -= 1;
                    count += 1;
                }
                Some(Hold::Until(then, _)) => now = then,
                Some(Hold::Slot) => unreachable!("each call ends at once"),
            }
        }
        count
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_has_more_than_180_mints_or_900_points() {
        let limits = Limits { between_changes: Duration::ZERO, ..Limits::default() };
        let start = Instant::now();
        let mut ledger = Ledger::new(limits);
        assert_eq!(as_many_as_possible(&mut ledger, MINT, start, WINDOW), 180);
        assert_eq!(ledger.last_minute(start + WINDOW / 2), (900, 180));
        let read = ledger.hold(READ, &[], start + WINDOW / 2);
        assert_eq!(read, Some(Hold::Until(start + WINDOW, Rule::Points)));
        assert_eq!(as_many_as_possible(&mut ledger, MINT, start + WINDOW, WINDOW), 180);
    }

    #[tokio::test(start_paused = true)]
    async fn polling_leaves_room_for_what_matters_more() {
        let start = Instant::now();
        let mut ledger = Ledger::new(Limits::default());
        let poll = call(Priority::Poll, Cost::Read);
        let polled = as_many_as_possible(&mut ledger, poll, start, WINDOW);
        assert_eq!(polled, 450);
        assert_eq!(ledger.hold(READ, &[], start), None);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_paced_and_reads_are_not() {
        let limits = Limits::default();
        let (start, mut ledger) = (Instant::now(), Ledger::new(limits));
        ledger.begin(MINT, start);
        let next = start + limits.between_changes;
        assert_eq!(ledger.hold(MINT, &[], start), Some(Hold::Until(next, Rule::Pace)));
        assert_eq!(ledger.hold(READ, &[], start), None);
        assert_eq!(ledger.hold(MINT, &[], next), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_of_an_hour_is_for_running_jobs() {
        let (now, mut ledger) = (Instant::now(), Ledger::new(Limits::default()));
        let hour = [
            ("x-ratelimit-limit", "5000"),
            ("x-ratelimit-remaining", "200"),
            ("x-ratelimit-reset", "600"),
            ("x-ratelimit-resource", "core"),
        ];
        assert_eq!(ledger.answered(Cost::Read, &said(200, &hour, ""), now), None);
        let reset = now + Duration::from_secs(600);
        let look = ledger.hold(call(Priority::Look, Cost::Read), &[], now);
        assert_eq!(look, Some(Hold::Until(reset, Rule::Hourly)));
        assert_eq!(ledger.hold(READ, &[], now), None);
        assert_eq!(ledger.hold(call(Priority::Poll, Cost::Read), &[], reset), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_call_of_an_hour_is_not_made_twice() {
        let (now, mut ledger) = (Instant::now(), Ledger::new(Limits::default()));
        let hour = [
            ("x-ratelimit-limit", "60"),
            ("x-ratelimit-remaining", "1"),
            ("x-ratelimit-reset", "600"),
        ];
        ledger.answered(Cost::Read, &said(200, &hour, ""), now);
        assert_eq!(ledger.hold(READ, &[], now), None);
        ledger.begin(READ, now);
        assert!(ledger.hold(READ, &[], now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_holds_everything() {
        let (now, mut ledger) = (Instant::now(), Ledger::new(Limits::default()));
        let wait = ledger.answered(Cost::Read, &said(403, &[("retry-after", "30")], ""), now);
        assert_eq!(wait, Some(Duration::from_secs(30)));
        let until = now + Duration::from_secs(30);
        assert_eq!(ledger.hold(READ, &[], now), Some(Hold::Until(until, Rule::Refused)));
        assert_eq!(ledger.hold(READ, &[], until), None);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_without_a_time_double_and_end_with_the_first_success() {
        let (now, mut ledger) = (Instant::now(), Ledger::new(Limits::default()));
        let refusal = said(403, &[], "You have exceeded a secondary rate limit.");
        let waits = [60, 120, 240, 480, 900, 900].map(Duration::from_secs);
        for wait in waits {
            assert_eq!(ledger.answered(Cost::Read, &refusal, now), Some(wait));
        }
        ledger.answered(Cost::Read, &said(200, &[], ""), now);
        assert_eq!(ledger.answered(Cost::Read, &refusal, now), Some(waits[0]));
    }

    #[test]
    fn a_missing_permission_is_no_rate_limit() {
        assert!(!said(403, &[], "Resource not accessible by integration").refused);
        assert!(said(403, &[("x-ratelimit-remaining", "0")], "").refused);
        assert!(said(429, &[], "").refused);
        assert!(!said(404, &[("x-ratelimit-remaining", "0")], "").refused);
    }

    /// Both dates are GitHub's, so that a wrong clock here does not matter.
    #[test]
    fn times_are_relative_to_the_answers_date() {
        let date = ("date", "Sat, 21 Nov 2026 08:00:00 GMT");
        let reset = ("x-ratelimit-reset", "1795248060"); // 08:01:00
        assert_eq!(said(200, &[date, reset], "").reset, Some(Duration::from_secs(60)));
        let retry = ("retry-after", "Sat, 21 Nov 2026 08:00:07 GMT");
        assert_eq!(said(429, &[date, retry], "").retry_after, Some(Duration::from_secs(7)));
    }
}
