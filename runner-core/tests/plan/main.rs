//! The plan as a table: a world, what is done about it, what is held, and why. Each row is named for the
//! promise that it shows, and there is a row for every reason that the planner can give.

use std::{collections::BTreeSet, time::Duration};

use runner_core::{
    plan::{Step, Why, WhyNot},
    worker::{Ending, Phase, Worker},
};

mod endings;
mod images;
mod numbers;
mod people;
mod random;
mod reservations;
mod room;
mod row;
mod sharing;
mod world;

use self::{
    row::{Row, say_action, say_held},
    world::{idle, never_online, no_machine, no_record, no_runner, now, offline, stopped, worker},
};

fn rows() -> Vec<Row> {
    let all = [
        numbers::numbers(),
        sharing::sharing(),
        sharing::overrides(),
        people::holds(),
        people::guests(),
        room::room(),
        endings::blindness(),
        endings::endings(),
        reservations::reservations(),
        images::images(),
    ];
    all.into_iter().flatten().collect()
}

#[test]
fn every_world_gives_its_plan() {
    let mut broken = String::new();
    for Row { promise, world, does, holds } in rows() {
        let plan = world.plan();
        let did: Vec<String> = plan.actions.iter().map(say_action).collect();
        let held: Vec<String> = plan.held.iter().map(say_held).collect();
        if did != does || held != holds {
            broken += &format!("{promise}:\n  does {did:#?}\n  not {does:#?}\n");
            broken += &format!("  holds {held:#?}\n  not {holds:#?}\n");
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// The names of all variants of an enum, which the compiler checks, and the name of a value's.
macro_rules! variants {
    ($all:ident, $of:ident, $type:ident: $($variant:ident)*) => {
        const $all: &[&str] = &[$(stringify!($variant)),*];

        fn $of(value: &$type) -> &'static str {
            match value {
                $($type::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants!(WHYS, why_word, Why:
    JobsWait ReservationsWait NotMarked NobodyAsks BelowMinIdle Overridden GivesWay Over SilentOrphan Lapses Surplus ProfileRemoved Draining MakesRoom Paused Asked Unattended Promised
    NotPromised Expired Spent NoImage ImageTooOld Superseded ImageOfNoProfile);
variants!(WHY_NOTS, why_not_word, WhyNot:
    Unseen NoRoom AtMax Allotted GivesWay NoImage Paused KeptFor BackingOff NoReservation NoProfileServes);
variants!(ENDINGS, ending_word, Ending:
    RunnerGone Stopped Vanished NeverRegistered StartTimedOut LostContact Orphan Ghost Retiring);
variants!(STEPS, step_word, Step:
    Provision Retire Attach Mark Unmark Release Dequeue EndOverride Build DeleteImage);

fn missing<'a>(all: &[&'a str], seen: &BTreeSet<&str>) -> Vec<&'a str> {
    all.iter().filter(|word| !seen.contains(**word)).copied().collect()
}

#[test]
fn every_reason_step_and_ending_has_a_row() {
    let (mut whys, mut why_nots) = (BTreeSet::new(), BTreeSet::new());
    let (mut endings, mut steps) = (BTreeSet::new(), BTreeSet::new());
    for row in rows() {
        let plan = row.world.plan();
        whys.extend(plan.actions.iter().map(|action| why_word(&action.why)));
        steps.extend(plan.actions.iter().map(|action| step_word(&action.step)));
        why_nots.extend(plan.held.iter().map(|held| why_not_word(&held.why_not)));
        for worker in row.world.observed.workers.values() {
            let profile = worker.profile();
            let profiles = &row.world.desired.profiles;
            let profile = profiles.iter().find(|p| Some(&p.name) == profile.as_ref());
            let timeouts = profile.map(|profile| profile.timeouts).unwrap_or_default();
            if let Phase::Over(ending) = worker.phase(&timeouts, now()) {
                endings.insert(ending_word(&ending));
            }
        }
    }
    assert_eq!(missing(WHYS, &whys), [""; 0], "Why without a row");
    assert_eq!(missing(WHY_NOTS, &why_nots), [""; 0], "WhyNot without a row");
    assert_eq!(missing(ENDINGS, &endings), [""; 0], "Ending without a row");
    assert_eq!(missing(STEPS, &steps), [""; 0], "Step without a row");
}

#[test]
fn only_a_worker_that_was_never_of_use_slows_its_profile_down() {
    let fails = |worker: &Worker| {
        let Phase::Over(ending) = worker.phase(&Default::default(), now()) else {
            panic!("{worker:?} is not over");
        };
        Why::Over(ending).is_start_failure(worker)
    };
    let unused: &dyn Fn(&mut Worker) = &|worker| worker.last_online = None;
    assert!(fails(&worker("a-1", &[&never_online])));
    assert!(fails(&worker("a-1", &[&stopped, unused])));
    assert!(fails(&worker("a-1", &[&no_machine, unused])));
    assert!(!fails(&worker("a-1", &[&stopped])));
    assert!(!fails(&worker("a-1", &[&no_runner])));
    assert!(!fails(&worker("a-1", &[&no_record, &no_machine])));
    assert!(!Why::Draining.is_start_failure(&idle("a-1")));
    let lapses = Why::Lapses { after: Duration::from_secs(24 * 3600) };
    assert!(lapses.is_start_failure(&worker("a-1", &[&never_online])));
    assert!(!lapses.is_start_failure(&worker("a-1", &[&offline])));
}
