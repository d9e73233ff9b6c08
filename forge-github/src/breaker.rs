//! Stops a profile whose machines die before they come online from eating the budget: each of them costs a
//! registration, and one that is broken makes many.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use runner_core::ProfileName;
use serde::Serialize;
use tokio::time::Instant;

use crate::runners::FORGETS_AFTER;

/// When a profile is stopped, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// After how many runners in a row that never came online.
    pub after: u32,
    /// For how long at first; doubled each time the next one fails too.
    pub first: Duration,
    /// For how long at most.
    pub most: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        let (first, most) = (Duration::from_secs(60), Duration::from_secs(1800));
        Self { after: 5, first, most }
    }
}

/// How a profile's runners fare.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BreakerFigures {
    /// How many in a row never came online.
    pub failures: u32,
    /// For how many seconds none is registered.
    pub stopped_seconds: Option<u64>,
}

#[derive(Default)]
struct Profile {
    failures: u32,
    stopped_until: Option<Instant>,
    /// One was let through after a stop, and has not come online yet.
    trying: Option<u64>,
}

#[derive(Default)]
struct State {
    profiles: BTreeMap<ProfileName, Profile>,
    /// Runners that have not come online yet, and since when they are registered.
    young: HashMap<u64, (ProfileName, Instant)>,
}

/// Watches how the runners of each profile fare.
pub(crate) struct Breaker {
    limits: BreakerLimits,
    state: Mutex<State>,
}

impl Breaker {
    pub fn new(limits: BreakerLimits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a runner may be registered. If not: how many failed, and how long to wait.
    pub fn admits(&self, profile: &ProfileName, now: Instant) -> Result<(), (u32, Duration)> {
        let state = self.state();
        let Some(known) = state.profiles.get(profile) else { return Ok(()) };
        match known.stopped_until {
            Some(until) if until > now => Err((known.failures, until - now)),
            // One is tried; how it fares decides about the next.
            _ if known.trying.is_some() => Err((known.failures, self.limits.first)),
            _ => Ok(()),
        }
    }

    /// A runner was registered.
    pub fn made(&self, profile: &ProfileName, id: u64, now: Instant) {
        let mut state = self.state();
        state.young.insert(id, (profile.clone(), now));
        if let Some(known) = state.profiles.get_mut(profile)
            && known.failures >= self.limits.after
        {
            known.trying = Some(id);
        }
    }

    /// A runner came online: its profile works.
    pub fn came_online(&self, id: u64) {
        let mut state = self.state();
        if let Some((profile, _)) = state.young.remove(&id) {
            state.profiles.remove(&profile);
        }
    }

    /// A runner is gone by itself: after its job, or because it did not come online in all the time it had.
    pub fn gone(&self, id: u64, now: Instant) {
        let since = self.state().young.get(&id).map(|(_, since)| *since);
        match since {
            Some(since) if now >= since + FORGETS_AFTER => self.removed(id, now),
            _ => self.came_online(id),
        }
    }

    /// A runner was removed by us. One that never came online has failed.
    pub fn removed(&self, id: u64, now: Instant) {
        let mut state = self.state();
        let Some((name, _)) = state.young.remove(&id) else { return };
        let profile = state.profiles.entry(name.clone()).or_default();
        if profile.trying == Some(id) {
            profile.trying = None;
        }
        profile.failures += 1;
        let Some(times) = profile.failures.checked_sub(self.limits.after) else { return };
        let wait = self.limits.first * 2u32.saturating_pow(times.min(16));
        let wait = wait.min(self.limits.most);
        profile.stopped_until = Some(now + wait);
        let (failures, seconds) = (profile.failures, wait.as_secs());
        tracing::warn!(profile = %name, failures, seconds, "Runners die before they come online: a pause.");
    }

    pub fn figures(&self, now: Instant) -> BTreeMap<ProfileName, BreakerFigures> {
        let figures = |profile: &Profile| BreakerFigures {
            failures: profile.failures,
            stopped_seconds: profile
                .stopped_until
                .filter(|until| *until > now)
                .map(|until| (until - now).as_secs()),
        };
        let state = self.state();
        state.profiles.iter().map(|(name, profile)| (name.clone(), figures(profile))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, profile: &ProfileName, id: u64, now: Instant) {
        breaker.admits(profile, now).expect("it may");
        breaker.made(profile, id, now);
        breaker.removed(id, now);
    }

    #[tokio::test(start_paused = true)]
    async fn five_in_a_row_stop_a_profile_and_one_that_comes_online_starts_it_again() {
        let breaker = Breaker::new(BreakerLimits::default());
        let [bad, good] = ["bad", "good"].map(|name| ProfileName::new(name).unwrap());
        let mut now = Instant::now();
        (0..5).for_each(|id| fail(&breaker, &bad, id, now));
        assert_eq!(breaker.admits(&bad, now), Err((5, Duration::from_secs(60))));
        assert_eq!(breaker.admits(&good, now), Ok(()), "others go on");
        now += Duration::from_secs(60);
        fail(&breaker, &bad, 5, now);
        assert_eq!(breaker.admits(&bad, now), Err((6, Duration::from_secs(120))));
        now += Duration::from_secs(120);
        breaker.made(&bad, 6, now);
        assert!(breaker.admits(&bad, now).is_err(), "one is tried, not all");
        breaker.came_online(6);
        assert_eq!(breaker.admits(&bad, now), Ok(()));
        assert_eq!(breaker.figures(now).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runner_that_came_online_before_does_not_count_and_a_pause_has_an_end() {
        let limits = BreakerLimits::default();
        let breaker = Breaker::new(limits);
        let profile = ProfileName::new("a").unwrap();
        let now = Instant::now();
        for id in 0..100 {
            breaker.made(&profile, id, now);
            breaker.came_online(id);
            breaker.removed(id, now);
        }
        assert_eq!(breaker.admits(&profile, now), Ok(()));
        let mut now = now;
        for id in 100..200 {
            fail(&breaker, &profile, id, now);
            now += limits.most;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_runner_that_github_forgot_has_failed_and_one_that_is_gone_earlier_had_its_job() {
        let breaker = Breaker::new(BreakerLimits::default());
        let profile = ProfileName::new("a").unwrap();
        let now = Instant::now();
        let failures = || breaker.figures(now).get(&profile).map_or(0, |its| its.failures);
        breaker.made(&profile, 1, now);
        breaker.gone(1, now + FORGETS_AFTER);
        assert_eq!(failures(), 1);
        breaker.made(&profile, 2, now);
        breaker.gone(2, now + FORGETS_AFTER / 2);
        assert_eq!(failures(), 0);
    }
}
