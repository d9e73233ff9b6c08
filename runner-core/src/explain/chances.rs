//! What will give those who wait a worker, and what holds workers back.

use std::time::Duration;

use jiff::Timestamp;

use super::{age, say, usually};
use crate::{
    name::ForgeName,
    plan::{Subject, WhyNot},
    profile::Profile,
    status::{ProfileStatus, Status},
    worker::Phase,
};

/// Something that will give whoever waits a worker.
pub(crate) struct Chance {
    /// In how long; none if nothing tells.
    pub after: Option<Duration>,
    pub text: String,
}

/// What will give those who wait for a profile a worker, the soonest first.
pub(crate) fn chances(
    profile: &Profile,
    counts: &ProfileStatus,
    status: &Status,
    now: Timestamp,
) -> Vec<Chance> {
    if counts.adjustment.as_ref().is_some_and(|adjustment| adjustment.paused) {
        return Vec::new();
    }
    let usual = counts.usual;
    let left = |usual: Option<Duration>, since: Timestamp| {
        usual.map(|usual| usual.saturating_sub(age(since, now)))
    };
    let mut chances = Vec::new();
    let alive = counts.starting + counts.idle + counts.reserved + counts.busy + counts.unseen;
    let building = status.held.iter().any(|held| {
        matches!(held.why_not, WhyNot::NoImage)
            && held.subject == Subject::Profile(profile.name.clone())
    });
    let blocked = !held(profile, &profile.forge, status).is_empty();
    for worker in status.workers.iter().filter(|w| w.profile.as_ref() == Some(&profile.name)) {
        let name = &worker.name;
        match &worker.phase {
            Phase::Idle => chances.push(Chance {
                after: Some(Duration::ZERO),
                text: format!("worker {name} is idle and about to take a job"),
            }),
            Phase::Starting => {
                let since = worker.created_at.unwrap_or(worker.since);
                chances.push(Chance {
                    after: left(usual.boot, since),
                    text: format!(
                        "worker {name} is starting since {}{}",
                        say(age(since, now)),
                        usually(usual.boot)
                    ),
                });
            }
            Phase::Busy => chances.push(Chance {
                // Its successor must boot.
                after: left(usual.run, worker.since)
                    .map(|run| run + usual.boot.unwrap_or_default()),
                text: format!(
                    "worker {name} is busy since {}{}; its successor will be free",
                    say(age(worker.since, now)),
                    usually(usual.run)
                ),
            }),
            Phase::Over(ending) => chances.push(Chance {
                after: worker.hold.is_none().then_some(()).and(usual.boot),
                text: match &worker.hold {
                    Some(hold) => format!(
                        "worker {name} is kept for {} until {:.0}: {}",
                        hold.by, hold.until, hold.purpose
                    ),
                    None => format!("worker {name} is going: {ending}"),
                },
            }),
            Phase::Reserved => {
                // Unless it is kept for one that waits, who is asked about here.
                let held =
                    status.reservations.iter().find(|r| Some(&r.id) == worker.reservation.as_ref());
                chances.extend(held.map(|held| Chance {
                    after: Some(age(now, held.until) + usual.boot.unwrap_or_default()),
                    text: format!(
                        "worker {name} is reserved by {} until {:.0}",
                        held.owner, held.until
                    ),
                }));
            }
            Phase::Unseen => (),
        }
    }
    if building {
        chances.push(Chance {
            after: usual.build.map(|build| build + usual.boot.unwrap_or_default()),
            text: format!("its image is being built{}", usually(usual.build)),
        });
    } else if !blocked && counts.idle + counts.starting == 0 && alive < counts.max {
        chances.push(Chance {
            after: usual.boot,
            text: format!("a worker is about to be made{}", usually(usual.boot)),
        });
    }
    // The sooner, the better known.
    chances.sort_by_key(|chance| (chance.after.is_none(), chance.after));
    chances
}

/// What holds workers of a profile back.
pub(crate) fn held(profile: &Profile, forge: &ForgeName, status: &Status) -> Vec<String> {
    let concerns = |subject: &Subject| match subject {
        Subject::Profile(name) | Subject::Build(name) => *name == profile.name,
        Subject::Builder | Subject::Hypervisor | Subject::Pool => true,
        Subject::Forge(name) => name == forge,
        _ => false,
    };
    let mut reasons: Vec<String> = Vec::new();
    let counts = status.profiles.get(&profile.name);
    let adjustment = counts.and_then(|counts| counts.adjustment.as_ref());
    if let Some(paused) = adjustment.filter(|adjustment| adjustment.paused) {
        reasons.push(format!("profile {} is paused by {}", profile.name, paused.by));
    }
    if status.draining {
        reasons.push("the pool is being emptied".to_owned());
    }
    if let Some(reason) = status.hypervisor.blind() {
        reasons.push(format!("the hypervisor cannot be seen: {reason}"));
    }
    if let Some(reason) = status.forges.get(forge).and_then(|sight| sight.blind()) {
        reasons.push(format!("forge {forge} cannot be seen: {reason}"));
    }
    let held = status.held.iter().filter(|held| concerns(&held.subject));
    reasons.extend(held.map(|held| format!("{} waits: {}", held.subject, held.why_not)));
    reasons
}
