//! How much a caller may ask for: per hour, per minute, and at once.

use std::collections::{HashMap, VecDeque};

use http::{HeaderName, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    contract::Contract,
    exchange::{Refusal, Reply},
};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// GitHub's limits. Each is per caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests to the API per hour. Conditional ones that find nothing new are free.
    pub core: u64,
    /// Requests to `actions/runner-registration` per hour.
    pub registration: u64,
    /// Requests without a token per hour.
    pub anonymous: u64,
    /// Requests under way at once.
    pub concurrent: u64,
    /// Points per minute and operation: a request that reads has 1, one that changes something 5.
    pub points: u64,
    /// Requests that make content, such as hooks, per minute.
    pub content: u64,
}

impl Limits {
    /// Those of github.com, for a personal token.
    pub const GITHUB: Self = Self {
        core: 5_000,
        registration: 10_000,
        anonymous: 60,
        concurrent: 100,
        points: 900,
        content: 80,
    };

    /// None, as on a GitHub Enterprise Server that was just installed.
    pub const NONE: Self = Self {
        core: u64::MAX,
        registration: u64::MAX,
        anonymous: u64::MAX,
        concurrent: u64::MAX,
        points: u64::MAX,
        content: u64::MAX,
    };
}

/// What an hourly quota is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    Core,
    Registration,
}

impl Resource {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Registration => "actions_runner_registration",
        }
    }
}

/// What callers have used.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    hours: HashMap<(String, Resource), Hour>,
    minutes: HashMap<(String, String), VecDeque<(Timestamp, u64)>>,
    under_way: HashMap<String, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Hour {
    ends: Timestamp,
    used: u64,
}

impl Quotas {
    /// Begins a request. Returns how many the caller has under way, with this one.
    pub(crate) fn begin(&mut self, caller: &str) -> u64 {
        let under_way = self.under_way.entry(caller.to_owned()).or_default();
        *under_way += 1;
        *under_way
    }

    /// Ends one that began.
    pub(crate) fn end(&mut self, caller: &str) {
        if let Some(under_way) = self.under_way.get_mut(caller) {
            *under_way -= 1;
        }
        self.under_way.retain(|_, under_way| *under_way > 0);
    }

    fn hour(&mut self, caller: &str, resource: Resource, now: Timestamp) -> &mut Hour {
        let ends = now.saturating_add(HOUR).unwrap_or(Timestamp::MAX);
        let hour = self.hours.entry((caller.to_owned(), resource));
        let hour = hour.or_insert(Hour { ends, used: 0 });
        if hour.ends <= now {
            *hour = Hour { ends, used: 0 };
        }
        hour
    }

    /// Whether a request fits into the hour, without counting it.
    pub(crate) fn has_room(
        &mut self,
        limits: &Limits,
        caller: &str,
        resource: Resource,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let limit = limits.per_hour(caller, resource);
        if self.hour(caller, resource, now).used < limit {
            return Ok(());
        }
        Err(Refusal::forbidden(&format!("API rate limit exceeded for {caller}.")))
    }

    /// Counts a request against the hour.
    pub(crate) fn charge(&mut self, caller: &str, resource: Resource, now: Timestamp) {
        self.hour(caller, resource, now).used += 1;
    }

    /// Makes the hour as good as used up, until `after` from now.
    pub(crate) fn exhaust(
        &mut self,
        limits: &Limits,
        caller: &str,
        resource: Resource,
        now: Timestamp,
        after: SignedDuration,
    ) {
        let used = limits.per_hour(caller, resource);
        let ends = now.saturating_add(after).unwrap_or(Timestamp::MAX);
        self.hours.insert((caller.to_owned(), resource), Hour { ends, used });
    }

    /// Counts a request against the limits that are for moments.
    ///
    /// # Errors
    /// When it is too much; the seconds to wait come with it.
    pub(crate) fn pace(
        &mut self,
        limits: &Limits,
        caller: &str,
        method: &Method,
        template: &str,
        now: Timestamp,
    ) -> Result<(), i64> {
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let mut spend = |what: &str, cost: u64, limit: u64| {
            let spent = self.minutes.entry((caller.to_owned(), what.to_owned())).or_default();
            while spent.front().is_some_and(|(at, _)| now.duration_since(*at) >= MINUTE) {
                spent.pop_front();
            }
            if spent.iter().map(|(_, cost)| cost).sum::<u64>().saturating_add(cost) > limit {
                return Err(MINUTE.as_secs());
            }
            spent.push_back((now, cost));
            Ok(())
        };
        spend(template, if reads { 1 } else { 5 }, limits.points)?;
        let makes_content = method == Method::POST
            && ["/hooks", "/dispatches"].iter().any(|end| template.ends_with(end));
        if makes_content { spend("content", 1, limits.content) } else { Ok(()) }
    }

    /// Tells a caller of its quota, in the headers.
    pub(crate) fn tell(
        &mut self,
        limits: &Limits,
        caller: &str,
        resource: Resource,
        now: Timestamp,
        reply: Reply,
    ) -> Reply {
        let limit = limits.per_hour(caller, resource);
        if limit == u64::MAX {
            return reply;
        }
        let hour = *self.hour(caller, resource, now);
        let header = HeaderName::from_static;
        reply
            .with(header("x-ratelimit-limit"), limit.to_string())
            .with(header("x-ratelimit-remaining"), limit.saturating_sub(hour.used).to_string())
            .with(header("x-ratelimit-used"), hour.used.to_string())
            .with(header("x-ratelimit-reset"), hour.ends.as_second().to_string())
            .with(header("x-ratelimit-resource"), resource.name())
    }

    /// All of a caller's quotas, as `GET /rate_limit` has them.
    pub(crate) fn json(&mut self, limits: &Limits, caller: &str, now: Timestamp) -> Value {
        let mut overview = Contract::example("rate-limit-overview");
        for resource in [Resource::Core, Resource::Registration] {
            let limit = limits.per_hour(caller, resource);
            let hour = *self.hour(caller, resource, now);
            overview["resources"][resource.name()] = json!({
                "limit": limit,
                "used": hour.used,
                "remaining": limit.saturating_sub(hour.used),
                "reset": hour.ends.as_second(),
            });
        }
        overview["rate"] = overview["resources"]["core"].clone();
        overview
    }
}

impl Limits {
    fn per_hour(&self, caller: &str, resource: Resource) -> u64 {
        match resource {
            Resource::Core if caller == "anonymous" => self.anonymous,
            Resource::Core => self.core,
            Resource::Registration => self.registration,
        }
    }
}

/// What GitHub says to whoever is too fast.
pub(crate) fn too_fast(retry_after: Option<u64>) -> Reply {
    let message =
        "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
    let reply = Refusal::new(StatusCode::FORBIDDEN, message).into_reply();
    match retry_after {
        Some(seconds) => reply.with(http::header::RETRY_AFTER, seconds.to_string()),
        None => reply,
    }
}
