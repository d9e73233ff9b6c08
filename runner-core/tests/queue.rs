//! The order of the queue, as a table and as promises that hold for any line.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;
use runner_core::{
    ProfileName, ReservationId, WorkerName,
    queue::{Claim, OVERTAKEN, Served, Turn, Turns, line, serve},
};

fn name<T: std::str::FromStr<Err = runner_core::Error>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).expect("a time")
}

/// A claim on so many workers of profile a, made so many seconds in. Change what differs.
fn claim(id: &str, round: u64, since: i64, count: u32) -> Claim {
    Claim {
        id: name(id),
        profile: name("a"),
        turn: Turn { round, came: 0 },
        since: at(since),
        kept: 0,
        missing: count,
        at_least: count,
        begun: false,
        blocked: false,
        can_grow: true,
    }
}

fn idle(profile: &str, count: u64) -> BTreeMap<ProfileName, Vec<WorkerName>> {
    let profile: ProfileName = name(profile);
    let workers = (1..=count).map(|serial| WorkerName::of(&profile, serial)).collect();
    [(profile, workers)].into()
}

fn said(served: &Served) -> String {
    let given = served.given.iter().map(|(id, workers)| {
        let names: Vec<&str> = workers.iter().map(WorkerName::as_str).collect();
        let enough = if served.enough.contains(id) { "gets" } else { "keeps" };
        format!("{id} {enough} {}", names.join(" "))
    });
    let back = served.give_back.iter().map(|id| format!("{id} gives back"));
    given.chain(back).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_line_is_first_come_first_served_and_by_turns_between_owners() {
    // Each: its owner, how many workers it asks for, and how many were served before it came.
    let order = |asks: &[(&str, u32, usize)]| {
        let mut turns = Turns::default();
        let (mut waiting, mut order) = (Vec::new(), Vec::new());
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let serve_one = |waiting: &mut Vec<Claim>, turns: &mut Turns, order: &mut Vec<String>| {
            *waiting = line(std::mem::take(waiting));
            let first = waiting.remove(0);
            turns.served(first.turn.round);
            order.push(first.id.to_string());
        };
        for (at, (owner, count, served)) in asks.iter().enumerate() {
            while order.len() < *served {
                serve_one(&mut waiting, &mut turns, &mut order);
            }
            let number = numbers.entry(owner).or_default();
            *number += 1;
            let turn = turns.enter(owner, *count);
            let asked = claim(&format!("{owner}{number}"), 0, at as i64, *count);
            waiting.push(Claim { turn, ..asked });
        }
        while !waiting.is_empty() {
            serve_one(&mut waiting, &mut turns, &mut order);
        }
        order.join(" ")
    };
    let rows = [
        ("whoever came first", &[("b", 1, 0), ("a", 1, 0)][..], "b1 a1"),
        (
            "owners take turns, however many one of them asked for first",
            &[("a", 1, 0), ("a", 1, 0), ("a", 1, 0), ("b", 1, 0), ("b", 1, 0)],
            "a1 b1 a2 b2 a3",
        ),
        (
            "so they do when one comes later, and again when it was served",
            &[("a", 1, 0), ("a", 1, 0), ("a", 1, 0), ("b", 1, 1), ("b", 1, 3)],
            "a1 b1 a2 b2 a3",
        ),
        (
            "a gang is as many turns as it has workers",
            &[("a", 3, 0), ("a", 1, 0), ("b", 1, 0), ("b", 1, 0), ("b", 1, 0), ("b", 1, 0)],
            "a1 b1 b2 b3 a2 b4",
        ),
        (
            "nobody saves turns up by asking for nothing",
            &[("a", 1, 0), ("a", 1, 0), ("a", 1, 1), ("b", 1, 2), ("b", 1, 2), ("b", 1, 2)],
            "a1 a2 b1 a3 b2 b3",
        ),
    ];
    for (promise, asks, expected) in rows {
        assert_eq!(order(asks), expected, "{promise}");
    }
    let ids = |claims: Vec<Claim>| -> Vec<String> {
        line(claims).iter().map(|claim| claim.id.to_string()).collect()
    };
    let first = || claim("first", 0, 0, 2);
    let collects = Claim { kept: 1, ..claim("late", 7, 9, 2) };
    assert_eq!(ids(vec![first(), collects]), ["late", "first"], "whoever has begun goes on");
    let holds = Claim { begun: true, ..claim("late", 7, 9, 1) };
    assert_eq!(ids(vec![first(), holds]), ["late", "first"], "and what holds is made whole");
}

#[test]
fn workers_go_to_the_first_in_line() {
    let gang = || claim("gang", 0, 0, 3);
    let one = || claim("one", 0, 1, 1);
    let two = || claim("two", 0, 1, 2);
    let other = || Claim { profile: name("b"), ..claim("other", 0, 2, 2) };
    let both = || idle("a", 2).into_iter().chain(idle("b", 1)).collect();
    let rows = [
        ("one each", vec![one(), two()], idle("a", 3), "one gets a-1, two gets a-2 a-3"),
        (
            "a gang that lacks some keeps what is there, and nobody passes it",
            vec![gang(), one()],
            idle("a", 2),
            "gang keeps a-1 a-2",
        ),
        (
            "it never keeps more than it wants",
            vec![Claim { kept: 2, missing: 1, at_least: 1, ..gang() }, one()],
            idle("a", 2),
            "gang gets a-1, one gets a-2",
        ),
        ("one gang at a time", vec![gang(), other()], both(), "gang keeps a-1 a-2"),
        (
            "others are served all at once meanwhile",
            vec![gang(), other()],
            idle("a", 2).into_iter().chain(idle("b", 2)).collect(),
            "gang keeps a-1 a-2, other gets b-1 b-2",
        ),
        (
            "one that is passed over for now gives back and holds nobody up",
            vec![Claim { blocked: true, kept: 1, missing: 2, at_least: 2, ..gang() }, one()],
            idle("a", 1),
            "one gets a-1, gang gives back",
        ),
        (
            "one for which nothing can be made takes what is there and holds nobody up",
            vec![Claim { can_grow: false, ..gang() }, one()],
            idle("a", 2),
            "one gets a-1",
        ),
        (
            "fewer will do, and as many as are there are given",
            vec![Claim { at_least: 1, ..gang() }, one()],
            idle("a", 2),
            "gang gets a-1 a-2",
        ),
        (
            "what fewer will not do for is collected",
            vec![Claim { at_least: 2, ..gang() }],
            idle("a", 1),
            "gang keeps a-1",
        ),
        (
            "of two that have begun, which cannot be, the second gives back",
            vec![
                Claim { kept: 1, missing: 2, at_least: 2, ..gang() },
                Claim { kept: 1, missing: 1, at_least: 1, ..two() },
            ],
            idle("a", 0),
            "two gives back",
        ),
    ];
    for (promise, line, idle, expected) in rows {
        assert_eq!(said(&serve(&line, &idle)), expected, "{promise}");
    }
}

/// A world of the queue alone: workers get idle, are promised for a while, and come back.
#[derive(Debug)]
struct Sim {
    now: i64,
    turns: BTreeMap<ProfileName, Turns>,
    claims: Vec<Claim>,
    /// Who asked, and in which round that was.
    owners: BTreeMap<ReservationId, (String, u64, u32)>,
    /// Idle workers of each profile.
    idle: BTreeMap<ProfileName, Vec<WorkerName>>,
    kept: BTreeMap<ReservationId, Vec<WorkerName>>,
    /// Reservations that hold: which workers, until when.
    held: Vec<(ProfileName, Vec<WorkerName>, i64)>,
    /// Who was served, when it came and when it was served.
    served: Vec<(Claim, i64)>,
}

#[derive(Debug, Clone)]
struct Ask {
    profile: usize,
    owner: usize,
    count: u32,
    /// After the one before it.
    later: i64,
    holds: i64,
}

const PROFILES: [(&str, u64); 2] = [("a", 4), ("b", 3)];

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = (0..2_usize, 0..3_usize, 1..=3_u32, 0..400_i64, 10..900_i64);
    let ask = ask.prop_map(|(profile, owner, count, later, holds)| Ask {
        profile,
        owner,
        count,
        later,
        holds,
    });
    proptest::collection::vec(ask, 1..40)
}

impl Sim {
    fn new() -> Self {
        Self {
            now: 0,
            turns: BTreeMap::new(),
            claims: Vec::new(),
            owners: BTreeMap::new(),
            idle: PROFILES.iter().flat_map(|(profile, count)| idle(profile, *count)).collect(),
            kept: BTreeMap::new(),
            held: Vec::new(),
            served: Vec::new(),
        }
    }

    fn step(&mut self, holds: &BTreeMap<ReservationId, i64>) {
        let now = self.now;
        let (over, held): (Vec<_>, Vec<_>) =
            self.held.drain(..).partition(|(.., until)| *until <= now);
        self.held = held;
        for (profile, workers, _) in over {
            self.idle.entry(profile).or_default().extend(workers);
        }
        let line = line(self.claims.clone());
        let served = serve(&line, &self.idle);
        assert!(served.give_back.is_empty(), "whoever has begun goes on: {served:?}");
        for (id, given) in &served.given {
            let claim = self.claims.iter_mut().find(|claim| claim.id == *id).expect("a claim");
            let free = self.idle.get_mut(&claim.profile).expect("a profile");
            for worker in given {
                let at = free.iter().position(|other| other == worker).expect("it was idle");
                free.remove(at);
            }
            let count = given.len() as u32;
            claim.kept += count;
            claim.missing -= count;
            claim.at_least -= claim.at_least.min(count);
            self.kept.entry(id.clone()).or_default().extend(given.iter().cloned());
        }
        for id in &served.enough {
            let at = self.claims.iter().position(|claim| claim.id == *id).expect("a claim");
            let claim = self.claims.remove(at);
            let workers = self.kept.remove(id).unwrap_or_default();
            let until = now + holds[id];
            self.turns.entry(claim.profile.clone()).or_default().served(claim.turn.round);
            self.held.push((claim.profile.clone(), workers, until));
            self.served.push((claim, now));
        }
    }

    /// Every worker is in one place, and there is one that is collected for at most.
    fn check(&self) {
        let idle = self.idle.values().flatten();
        let held = self.held.iter().flat_map(|(_, workers, _)| workers);
        let all: Vec<&WorkerName> = idle.chain(self.kept.values().flatten()).chain(held).collect();
        let once: BTreeSet<&&WorkerName> = all.iter().collect();
        assert_eq!(all.len(), once.len(), "a worker is promised twice: {self:#?}");
        assert_eq!(all.len() as u64, PROFILES.iter().map(|(_, count)| count).sum::<u64>());
        assert!(self.kept.values().filter(|kept| !kept.is_empty()).count() <= 1, "{self:#?}");
    }
}

fn run(asks: &[Ask]) -> Sim {
    let mut sim = Sim::new();
    let mut holds = BTreeMap::new();
    let mut comes = 0;
    let mut asks = asks.iter().enumerate().peekable();
    // The last comes after 16,000 s at most; forty holds of 900 s, one after the other, take 36,000 s.
    while sim.now < 60_000 && (asks.peek().is_some() || !sim.claims.is_empty()) {
        while let Some((number, ask)) = asks.next_if(|(_, ask)| comes + ask.later <= sim.now) {
            comes += ask.later;
            let (id, owner) = (format!("r{number:03}"), format!("owner-{}", ask.owner));
            let profile: ProfileName = name(PROFILES[ask.profile].0);
            let turns = sim.turns.entry(profile.clone()).or_default();
            let (now, turn) = (turns.now(), turns.enter(&owner, ask.count));
            sim.owners.insert(name(&id), (owner, now, ask.count));
            sim.claims.push(Claim { profile, turn, ..claim(&id, 0, comes, ask.count) });
            holds.insert(name(&id), ask.holds);
        }
        sim.step(&holds);
        sim.check();
        sim.now += 10;
    }
    sim
}

proptest! {
    /// No starvation: as long as workers come back, everybody is served, gangs too.
    #[test]
    fn everybody_is_served_and_no_worker_is_promised_twice(asks in asks()) {
        let sim = run(&asks);
        prop_assert!(sim.claims.is_empty(), "{:#?}", sim.claims);
        prop_assert_eq!(sim.served.len(), asks.len());
    }

    /// First in, first out for each owner; and nobody waits for more of another owner's later requests than
    /// its own owner asked for before it, in workers, and one more request.
    #[test]
    fn nobody_is_overtaken_by_its_own_or_by_others_without_end(asks in asks()) {
        let sim = run(&asks);
        for (at, (claim, _)) in sim.served.iter().enumerate() {
            let (owner, began, _) = &sim.owners[&claim.id];
            let mut passed: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
            for (other, _) in &sim.served[..at] {
                let later = (other.since, &other.id) > (claim.since, &claim.id);
                if other.profile == claim.profile && later {
                    let (owner, _, count) = &sim.owners[&other.id];
                    passed.entry(owner).or_default().push(*count);
                }
            }
            prop_assert!(!passed.contains_key(owner.as_str()), "{} was overtaken by its own", claim.id);
            let lag = claim.turn.round - began;
            let all: u64 = passed.values().flatten().map(|count| u64::from(*count)).sum();
            let largest = passed.values().flatten().max().copied().unwrap_or_default();
            prop_assert!(all <= OVERTAKEN * lag + u64::from(largest), "{all} passed {}", claim.id);
            for (other, mut counts) in passed {
                counts.pop();
                let workers: u64 = counts.iter().map(|count| u64::from(*count)).sum();
                prop_assert!(workers <= lag, "{other} passed {}", claim.id);
            }
        }
    }

    /// New owners come without end, more of them than there are workers for; all that was asked for before is
    /// served, however much its owner asked for before it.
    #[test]
    fn no_stream_of_new_owners_keeps_anybody_waiting(
        asked in proptest::collection::vec(1..=3_u32, 1..8),
        stream in proptest::collection::vec(proptest::collection::vec(1..=3_u32, 1..4), 1..20),
    ) {
        let mut turns = Turns::default();
        let mut waiting: Vec<Claim> = Vec::new();
        let mut came = 0;
        let mut ask = |waiting: &mut Vec<Claim>, turns: &mut Turns, owner: &str, count: u32| {
            came += 1;
            let turn = turns.enter(owner, count);
            waiting.push(Claim { turn, ..claim(&format!("r{came:05}"), 0, came, count) });
        };
        for count in &asked {
            ask(&mut waiting, &mut turns, "early", *count);
        }
        let early: BTreeSet<ReservationId> = waiting.iter().map(|claim| claim.id.clone()).collect();
        // As many workers as may go to others, and to whoever is the last of them, and its own.
        let total: u64 = asked.iter().map(|count| u64::from(*count)).sum();
        let mut left = (OVERTAKEN + 1) * total + 3;
        let mut owners = 0;
        for counts in stream.iter().cycle() {
            for count in counts {
                owners += 1;
                ask(&mut waiting, &mut turns, &format!("new-{owners}"), *count);
            }
            waiting = line(waiting);
            let first = waiting.remove(0);
            turns.served(first.turn.round);
            prop_assert!(left >= u64::from(first.missing), "they wait still: {waiting:#?}");
            left -= u64::from(first.missing);
            if !waiting.iter().any(|claim| early.contains(&claim.id)) {
                break;
            }
        }
    }
}
