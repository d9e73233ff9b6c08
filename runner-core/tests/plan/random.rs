//! What is true of any world.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use proptest::prelude::*;
use runner_core::{
    Resources, WorkerName,
    forge::RunnerStatus,
    plan::Step,
    reservation::Reservation,
    worker::{Look, Worker},
};

use crate::world::{
    World, ago, busy, gib, idle, large, marked, name, now, offline, promised, status, worker, world,
};

/// Carries a plan out as if everything succeeded at once, and looks again.
fn carry_out(world: &mut World) -> usize {
    let plan = world.plan();
    for action in &plan.actions {
        match &action.step {
            Step::Provision { worker: made, profile, .. } => {
                let size = large(profile.resources.memory_mib / 1024);
                let made = worker(made.as_str(), &[&size, &offline]);
                world.observed.next_serial += 1;
                world.observed.workers.insert(made.name.clone(), made);
            }
            Step::Retire { worker, .. } => drop(world.observed.workers.remove(worker)),
            Step::Release { reservation } | Step::Dequeue { reservation } => {
                drop(world.observed.reservations.remove(reservation));
                drop(world.observed.waiting.remove(reservation));
            }
            Step::EndOverride => world.desired.policy = None,
            _ => (),
        }
    }
    plan.actions.len()
}

#[test]
fn a_plan_that_was_carried_out_leaves_nothing_to_plan() {
    let full = world()
        .profile("a", 4, 8)
        .profile_with("b", 1, 2, |p| p.resources = gib(3))
        .profile_with("c", 1, 2, |p| p.resources = gib(6))
        .workers((1..=6).map(|n| idle(&format!("a-{n}"))))
        .jobs(2, &["c"])
        .jobs(3, &["b"]);
    let empty = world().profile("a", 9, 9).profile_with("b", 9, 9, |p| p.resources = gib(3));
    for mut world in [full, empty] {
        let mut rounds = 0;
        while carry_out(&mut world) > 0 {
            rounds += 1;
            assert!(rounds < 5, "still at it: {:#?}", world.plan().actions);
        }
        let mut used = Resources::default();
        world.observed.workers.values().filter_map(Worker::holds).for_each(|r| used.add(r));
        assert!(used.memory_mib <= 8 * 1024, "{used:?}");
    }
}

/// One profile of a random world, and its workers.
#[derive(Debug, Clone)]
struct Kind {
    gib: u64,
    min_idle: u32,
    max: u32,
    idle: u32,
    busy: u32,
    reserved: u32,
    starting: u32,
    jobs: u32,
    asked: Option<u32>,
}

impl Kind {
    fn any() -> impl Strategy<Value = Self> {
        let numbers = (1..=3_u64, 0..=5_u32, 1..=6_u32, 0..=3_u32);
        let workers = (0..=3_u32, 0..=2_u32, 0..=2_u32, 0..=2_u32);
        let asked = proptest::option::of(prop_oneof![0..=12_u32, Just(u32::MAX)]);
        (numbers, workers, asked).prop_map(|(numbers, workers, asked)| {
            let (gib, min_idle, max, jobs) = numbers;
            let (idle, busy, reserved, starting) = workers;
            let min_idle = min_idle.min(max);
            Self { gib, min_idle, max, idle, busy, reserved, starting, jobs, asked }
        })
    }

    fn taken(&self) -> u32 {
        self.busy + self.reserved
    }
}

type Change<'a> = &'a dyn Fn(&mut Worker);

/// A host of so many GiB with these kinds, under an override of those that ask for something.
fn world_of(capacity: u64, kinds: &[Kind]) -> World {
    let mut world =
        world().but(|w| w.observed.capacity.as_mut().expect("known").memory_mib = capacity * 1024);
    for (kind, profile) in kinds.iter().zip(["a", "b", "c", "d"]) {
        let phases: [(u32, Change); 4] = [
            (kind.idle, &|_| ()),
            (kind.busy, &busy),
            (kind.reserved, &|w| {
                promised(w);
                marked(w);
            }),
            (kind.starting, &offline),
        ];
        let phases = phases.iter().flat_map(|(count, phase)| (0..*count).map(move |_| *phase));
        let workers: Vec<Worker> = phases
            .enumerate()
            .map(|(n, phase)| worker(&format!("{profile}-{n}"), &[&large(kind.gib), &phase]))
            .collect();
        let reserved = workers.iter().filter(|w| w.reservation.is_some());
        let reserved: Vec<WorkerName> = reserved.map(|worker| worker.name.clone()).collect();
        world = world
            .profile_with(profile, kind.min_idle, kind.max, |p| p.resources = gib(kind.gib))
            .workers(workers)
            .jobs(kind.jobs, &[profile])
            .but(|w| {
                let promise = Reservation {
                    id: name("promise"),
                    profile: name("a"),
                    owner: "me".to_owned(),
                    purpose: "a test".to_owned(),
                    since: ago(60),
                    until: now() + SignedDuration::from_secs(60),
                    count: 1,
                    used: BTreeSet::new(),
                    used_at: None,
                    workers: BTreeSet::new(),
                };
                let promise = w.observed.reservations.entry(name("promise")).or_insert(promise);
                promise.workers.extend(reserved.iter().cloned());
            });
    }
    let asked = kinds.iter().zip(["a", "b", "c", "d"]);
    let asked: Vec<_> = asked.filter_map(|(kind, profile)| Some((profile, kind.asked?))).collect();
    if asked.is_empty() { world } else { world.overridden(&asked, &[]) }
}

fn used(world: &World) -> u64 {
    let mut used = Resources::default();
    world.observed.workers.values().filter_map(Worker::holds).for_each(|r| used.add(r));
    used.memory_mib / 1024
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn what_is_allotted_fits_and_is_never_below_what_works(
        capacity in 1..=16_u64,
        kinds in proptest::collection::vec(Kind::any(), 1..=4),
    ) {
        let plan = world_of(capacity, &kinds).plan();
        let limits = || kinds.iter().zip(plan.allotted.values());
        let needed: u64 = limits().map(|(k, got)| k.gib * u64::from(got.limit())).sum();
        let taken: u64 = kinds.iter().map(|k| k.gib * u64::from(k.taken())).sum();
        // What jobs wait for on workers that are there is not shared out again.
        let is_overridden = kinds.iter().any(|kind| kind.asked.is_some());
        let there = |k: &Kind| k.gib * u64::from(k.jobs.min(k.idle + k.starting));
        let kept: u64 = taken + if is_overridden { 0 } else { kinds.iter().map(there).sum() };
        prop_assert!(needed <= capacity.max(kept), "{needed} of {capacity}: {:?}", plan.allotted);
        for (kind, allotment) in limits() {
            prop_assert!(allotment.limit() >= kind.taken(), "below critical: {allotment}");
            prop_assert!(allotment.granted <= allotment.wanted.max(kind.taken()), "{allotment}");
            let is_short = allotment.granted < allotment.wanted;
            prop_assert_eq!(is_short, allotment.short.is_some(), "unexplained: {}", allotment);
        }
        // Whoever was not asked for gives way first: what is left to them would help nobody who is short.
        let short = limits().filter(|(k, got)| k.asked.is_some() && got.granted < got.wanted);
        if let Some(smallest) = short.map(|(kind, _)| kind.gib).min() {
            for (kind, allotment) in limits().filter(|(kind, _)| kind.asked.is_none()) {
                let spare = u64::from(allotment.limit() - kind.taken()) * kind.gib;
                prop_assert!(spare < smallest, "{allotment} did not give way");
            }
        }
    }

    #[test]
    fn a_shared_host_comes_to_rest_within_its_room_and_no_work_is_lost(
        capacity in 1..=16_u64,
        kinds in proptest::collection::vec(Kind::any(), 1..=4),
    ) {
        let mut world = world_of(capacity, &kinds);
        let at_most = used(&world).max(capacity);
        let works = |worker: &Worker| {
            worker.reservation.is_some()
                || matches!(&worker.runner, Look::Seen(r) if matches!(r.status, RunnerStatus::Busy(_)))
        };
        let working: BTreeSet<WorkerName> =
            world.observed.workers.values().filter(|w| works(w)).map(|w| w.name.clone()).collect();
        for round in 0.. {
            let plan = world.plan();
            if let Some(policy) = &mut world.desired.policy {
                for (profile, workers) in plan.claims {
                    policy.claimed.entry(profile).or_default().extend(workers);
                }
                for (profile, claimed) in &policy.claimed {
                    prop_assert!(claimed.len() <= policy.counts[profile] as usize);
                }
            }
            let done = carry_out(&mut world);
            prop_assert!(used(&world) <= at_most, "{} GiB of {capacity} in use", used(&world));
            let left = |worker: &WorkerName| world.observed.workers.contains_key(worker);
            prop_assert!(working.iter().all(left), "work was lost: {working:?}");
            // What was made comes online.
            let mut online = 0;
            for worker in world.observed.workers.values_mut() {
                if matches!(&worker.runner, Look::Seen(r) if r.status == RunnerStatus::Offline) {
                    status(worker, RunnerStatus::Idle);
                    online += 1;
                }
            }
            if done + online == 0 {
                break;
            }
            prop_assert!(round < 30, "it does not come to rest: {:#?}", world.plan().actions);
        }
    }
}
