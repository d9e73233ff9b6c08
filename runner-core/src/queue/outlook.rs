//! How long an entry is likely to wait, and whether that is worth it: pure, from what the pool published.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Place, Stand};
use crate::{
    explain::{chances, held, say},
    profile::Profile,
    status::{ProfileStatus, Status},
};

/// What an entry has to expect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// Whether it can be taken.
    pub is_ready: bool,
    /// In how long it is likely to be served, where that can be told.
    pub estimate: Option<Duration>,
    /// How long it has waited.
    pub waited: Duration,
    /// What holds it up, in words; nothing while workers come and go as usual.
    pub reasons: Vec<String>,
    /// What will free what it needs, in words, the soonest first.
    pub chances: Vec<String>,
}

/// What an entry has to expect.
pub fn outlook(place: &Place, status: &Status, now: Timestamp) -> Outlook {
    let entry = &place.entry;
    let mut outlook = Outlook {
        is_ready: place.stand == Stand::Ready,
        estimate: None,
        waited: Duration::try_from(now.duration_since(entry.since)).unwrap_or_default(),
        reasons: Vec::new(),
        chances: Vec::new(),
    };
    if place.stand != Stand::Waiting {
        outlook.estimate = Some(Duration::ZERO);
        return outlook;
    }
    if let Some(backoff) = place.backoff.as_ref().filter(|backoff| backoff.not_before > now) {
        outlook
            .reasons
            .push(format!("{}; the next try is at {:.0}", backoff.error, backoff.not_before));
    }
    let Some(profile) = status.offered.iter().find(|p| p.name == entry.profile) else {
        outlook.reasons.push(format!("profile {} is not offered any more", entry.profile));
        return outlook;
    };
    if entry.fewest_here() > profile.max {
        let elsewhere = if entry.beyond > 0 { ": the rest is asked for elsewhere" } else { "" };
        outlook.reasons.push(format!(
            "it needs {} workers of profile {}, which may have {} for now{elsewhere}",
            entry.fewest_here(),
            entry.profile,
            profile.max
        ));
        return outlook;
    }
    outlook.reasons.extend(held(profile, &profile.forge, status));
    let none = ProfileStatus::default();
    let counts = status.profiles.get(&entry.profile).unwrap_or(&none);
    let chances = chances(profile, counts, status, now);
    outlook.chances = chances.iter().map(|chance| chance.text.clone()).collect();
    let mut frees: Vec<Duration> = chances.iter().filter_map(|chance| chance.after).collect();
    frees.extend(more_to_make(profile, counts, &outlook));
    let before = place.ahead_workers.saturating_add(counts.queued);
    let usual = counts.usual;
    let again = usual.run.map(|run| run + usual.boot.unwrap_or_default());
    outlook.estimate = nth_free(frees, before.saturating_add(place.missing), again);
    outlook
}

/// Workers that can be made at once, beside the one that is among the chances already.
fn more_to_make(
    profile: &Profile,
    counts: &ProfileStatus,
    outlook: &Outlook,
) -> impl Iterator<Item = Duration> + use<> {
    let alive = counts.starting + counts.idle + counts.reserved + counts.busy + counts.unseen;
    let is_free = outlook.reasons.is_empty();
    let one_is_told_of = counts.idle + counts.starting == 0;
    let more = profile.max.saturating_sub(alive + counts.over + u32::from(one_is_told_of));
    let boot = counts.usual.boot.filter(|_| is_free);
    boot.into_iter().cycle().take(more as usize)
}

/// In how long the `nth` worker gets free, if some get free at these times and each again after as long as a
/// job and a start take together.
fn nth_free(frees: Vec<Duration>, nth: u32, again: Option<Duration>) -> Option<Duration> {
    let mut frees: BinaryHeap<Reverse<Duration>> = frees.into_iter().map(Reverse).collect();
    let mut last = Duration::ZERO;
    for _ in 0..nth {
        let Reverse(free) = frees.pop()?;
        last = last.max(free);
        frees.extend(again.map(|again| Reverse(free.saturating_add(again))));
    }
    Some(last)
}

/// What whoever waits had better do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Wait, about so long.
    Wait {
        /// How long.
        about: Duration,
    },
    /// Run elsewhere, such as on hosted runners.
    GoElsewhere {
        /// Why, in words.
        why: String,
    },
}

/// Whether waiting is worth it for somebody who waits for `patience` in all.
pub fn decide(outlook: &Outlook, patience: Duration) -> Decision {
    let left = patience.saturating_sub(outlook.waited);
    let elsewhere = |why: String| Decision::GoElsewhere { why };
    match (outlook.estimate, outlook.reasons.first()) {
        _ if outlook.is_ready => Decision::Wait { about: Duration::ZERO },
        _ if left.is_zero() => {
            elsewhere(format!("it waited for {} and is not served yet", say(outlook.waited)))
        }
        (Some(about), _) if about <= left => Decision::Wait { about },
        (Some(about), _) => elsewhere(format!(
            "it is likely to be served in {}, and has {} left",
            say(about),
            say(left)
        )),
        (None, Some(reason)) => elsewhere(reason.clone()),
        // Nothing is wrong, and nothing was learnt yet.
        (None, None) => Decision::Wait { about: left },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn workers_get_free_again_after_a_job_and_a_start() {
        let frees = || vec![seconds(10), seconds(30)];
        let of = |nth, again| nth_free(frees(), nth, again).map(|wait| wait.as_secs());
        assert_eq!(of(0, None), Some(0));
        assert_eq!([of(1, None), of(2, None), of(3, None)], [Some(10), Some(30), None]);
        // 10, 30, then 10 + 60, 30 + 60, 10 + 120.
        let again = Some(seconds(60));
        assert_eq!([of(3, again), of(4, again), of(5, again)], [Some(70), Some(90), Some(130)]);
    }

    #[test]
    fn whoever_waits_is_told_to_wait_or_to_go_elsewhere() {
        let outlook = |is_ready, estimate: Option<u64>, waited, reason: Option<&str>| Outlook {
            is_ready,
            estimate: estimate.map(seconds),
            waited: seconds(waited),
            reasons: reason.map(str::to_owned).into_iter().collect(),
            chances: Vec::new(),
        };
        let wait = |about| Decision::Wait { about: seconds(about) };
        let go = |why: &str| Decision::GoElsewhere { why: why.to_owned() };
        let rows = [
            (outlook(true, None, 999, Some("paused")), wait(0)),
            (outlook(false, Some(40), 60, None), wait(40)),
            (outlook(false, Some(240), 60, Some("its image is not built yet")), wait(240)),
            (
                outlook(false, Some(241), 60, None),
                go("it is likely to be served in 4 min 1 s, and has 4 min 0 s left"),
            ),
            (
                outlook(false, Some(1), 300, None),
                go("it waited for 5 min 0 s and is not served yet"),
            ),
            (outlook(false, None, 60, Some("profile a is paused")), go("profile a is paused")),
            (outlook(false, None, 60, None), wait(240)),
        ];
        for (outlook, expected) in rows {
            assert_eq!(decide(&outlook, seconds(300)), expected, "{outlook:?}");
        }
    }
}
