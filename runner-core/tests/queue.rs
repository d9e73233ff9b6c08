//! The order of the queue, as a table and as promises that hold for any line.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use runner_core::{
    ProfileName, ReservationId, WorkerName,
    queue::{Claim, MOST, Served, line, serve},
};

fn name<T: std::str::FromStr<Err = runner_core::Error>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).expect("a time")
}

/// A claim of `owner` on so many workers of profile a, made so many seconds in. Change what differs.
fn claim(id: &str, owner: &str, since: i64, count: u32) -> Claim {
    Claim {
        id: name(id),
        profile: name("a"),
        owner: owner.to_owned(),
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
fn the_line_is_first_come_first_served_and_fair_between_owners() {
    let order = |claims: Vec<Claim>, held: &[(&str, u32)]| {
        let held = held.iter().map(|(owner, count)| ((name("a"), (*owner).to_owned()), *count));
        let line = line(claims, &held.collect());
        line.iter().map(|claim| claim.id.to_string()).collect::<Vec<_>>().join(" ")
    };
    let of = |ids: &[(&str, &str, i64)]| -> Vec<Claim> {
        ids.iter().map(|(id, owner, since)| claim(id, owner, *since, 1)).collect()
    };
    let rows = [
        ("whoever came first", of(&[("2", "b", 5), ("1", "a", 0)]), &[][..], "1 2"),
        (
            "owners take turns, however many one of them asked for first",
            of(&[("a1", "a", 0), ("a2", "a", 0), ("a3", "a", 0), ("b1", "b", 60), ("b2", "b", 61)]),
            &[],
            "a1 b1 a2 b2 a3",
        ),
        (
            "whoever has workers already comes after those who have none",
            of(&[("a1", "a", 0), ("b1", "b", 60)]),
            &[("a", 1)],
            "b1 a1",
        ),
        (
            "but is not put back by more than an hour, whatever it has",
            of(&[("a1", "a", 0), ("b1", "b", 3599), ("c1", "c", 3601)]),
            &[("a", 500)],
            "b1 a1 c1",
        ),
        (
            "whoever has begun to collect goes on",
            vec![claim("1", "a", 0, 2), Claim { kept: 1, ..claim("2", "b", 9, 2) }],
            &[],
            "2 1",
        ),
        (
            "a reservation that holds is made whole first",
            vec![claim("1", "a", 0, 1), Claim { begun: true, ..claim("2", "b", 9, 1) }],
            &[("b", 9)],
            "2 1",
        ),
    ];
    for (promise, claims, held, expected) in rows {
        assert_eq!(order(claims, held), expected, "{promise}");
    }
}

#[test]
fn workers_go_to_the_first_in_line() {
    let gang = || claim("gang", "a", 0, 3);
    let one = || claim("one", "b", 1, 1);
    let two = || claim("two", "b", 1, 2);
    let other = || Claim { profile: name("b"), ..claim("other", "b", 2, 2) };
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
    claims: Vec<Claim>,
    /// Idle workers of each profile.
    idle: BTreeMap<ProfileName, Vec<WorkerName>>,
    kept: BTreeMap<ReservationId, Vec<WorkerName>>,
    /// Reservations that hold: whose, which workers, until when.
    held: Vec<(ProfileName, String, Vec<WorkerName>, i64)>,
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
            claims: Vec::new(),
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
        for (profile, _, workers, _) in over {
            self.idle.entry(profile).or_default().extend(workers);
        }
        let mut shares: BTreeMap<(ProfileName, String), u32> = BTreeMap::new();
        for (profile, owner, workers, _) in &self.held {
            *shares.entry((profile.clone(), owner.clone())).or_default() += workers.len() as u32;
        }
        let line = line(self.claims.clone(), &shares);
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
            self.held.push((claim.profile.clone(), claim.owner.clone(), workers, until));
            self.served.push((claim, now));
        }
    }

    /// Every worker is in one place, and there is one that is collected for at most.
    fn check(&self) {
        let idle = self.idle.values().flatten();
        let held = self.held.iter().flat_map(|(_, _, workers, _)| workers);
        let all: Vec<&WorkerName> =
            idle.chain(self.kept.values().flatten()).chain(held).collect();
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
        while let Some((number, ask)) =
            asks.next_if(|(_, ask)| comes + ask.later <= sim.now)
        {
            comes += ask.later;
            let (id, owner) = (format!("r{number:03}"), format!("owner-{}", ask.owner));
            let profile = name(PROFILES[ask.profile].0);
            sim.claims.push(Claim { profile, ..claim(&id, &owner, comes, ask.count) });
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

    /// First in, first out for each owner and profile; and for everybody who comes much later.
    #[test]
    fn nobody_is_overtaken_by_its_own_or_by_those_who_come_much_later(asks in asks()) {
        let sim = run(&asks);
        let most = SignedDuration::try_from(MOST).expect("a short time");
        for (at, (later, _)) in sim.served.iter().enumerate() {
            let overtaken = sim.served[at + 1..].iter().filter(|(c, _)| c.profile == later.profile);
            for (earlier, _) in overtaken {
                let own = earlier.owner == later.owner && (earlier.since, &earlier.id) < (later.since, &later.id);
                prop_assert!(!own, "{} went before {}", later.id, earlier.id);
                let far = later.since.duration_since(earlier.since) > most;
                prop_assert!(!far, "{} went before {}", later.id, earlier.id);
            }
        }
    }

    /// An owner that asks for one thing is served among the first, however much others asked for before it.
    #[test]
    fn a_flood_of_one_owner_holds_up_another_for_one_worker_at_most(flood in 1..60_usize) {
        let mut claims: Vec<Claim> =
            (0..flood).map(|n| claim(&format!("f{n:02}"), "flood", 0, 1)).collect();
        claims.push(claim("other", "other", 299, 1));
        let line = line(claims, &BTreeMap::new());
        let place = line.iter().position(|claim| claim.id.as_str() == "other");
        prop_assert_eq!(place, Some(1));
    }
}
