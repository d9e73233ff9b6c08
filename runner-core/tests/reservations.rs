//! Reservations and their queue in a whole pool, on a fake host by a paused clock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use runner_core::{
    Capacity, Clock, Error, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile,
    ProfileName, ReservationId, Resources, Status, Store,
    explain::{waiting_job, waiting_reservation},
    fake::{Call, FakeJobState, FakeWorld, Fault},
    image::{Recipe, RecipeKind},
    queue::{Decision, EnqueueRequest, Stand, Take, decide, outlook},
    reservation::{Reservation, ReserveRequest},
    wish::Adjust,
};

fn name<T: std::str::FromStr<Err = runner_core::Error>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// What outlives a process.
struct Site {
    clock: Clock,
    world: FakeWorld,
    store: Store,
    min_idle: u32,
    max: u32,
    pace: Pace,
}

impl Site {
    /// A host for eight machines, and one profile of which so many are kept ready.
    fn new(min_idle: u32, max: u32) -> Self {
        let clock = Clock::following_tokio("2026-01-01T00:00:00Z".parse().expect("a time"));
        let world = FakeWorld::new(clock);
        world.set_capacity(Capacity { vcpus: 64, memory_mib: 8 << 10, ..Capacity::default() });
        let store = Store::in_memory().expect("a store");
        Self { clock, world, store, min_idle, max, pace: Pace::default() }
    }

    async fn live(&self) -> Pool {
        let recipe = Recipe { profile: name("small"), kind: RecipeKind::Micro {} };
        let resources = Resources { vcpus: 1, memory_mib: 1024, ..Resources::default() };
        let mut profile = Profile::new(name("hub"), recipe, resources);
        (profile.min_idle, profile.max) = (self.min_idle, self.max);
        let forges: BTreeMap<ForgeName, Arc<dyn Forge>> =
            [(name("hub"), Arc::new(self.world.forge(name("hub"))) as Arc<dyn Forge>)].into();
        Pool::start(PoolParts {
            hypervisor: Arc::new(self.world.hypervisor()),
            forges,
            builder: Arc::new(self.world.builder()),
            store: self.store.clone(),
            events: EventLog::open(self.store.clone()).await.expect("events"),
            owner: self.store.owner(OwnerId::new("site").expect("a name")).await.expect("owner"),
            profiles: vec![profile],
            pace: self.pace,
            clock: self.clock,
        })
        .await
        .expect("a pool")
    }

    fn wish(&self, id: &str, count: u32) -> ReserveRequest {
        ReserveRequest {
            id: name(id),
            profile: name("small"),
            count,
            at_least: None,
            owner: "me".to_owned(),
            purpose: "a test".to_owned(),
            until: self.clock.now() + seconds(1000),
        }
    }

    fn job(&self, reservation: Option<&str>, takes: u64) -> runner_core::JobId {
        let id: Option<ReservationId> = reservation.map(name);
        self.world.submit_for(&name("hub"), &name("small"), id.as_ref(), seconds(takes))
    }

    fn state(&self, job: &runner_core::JobId) -> FakeJobState {
        self.world.jobs().into_iter().find(|other| other.id == *job).expect("a job").state
    }
}

fn entry(id: &str, owner: &str, count: u32) -> EnqueueRequest {
    EnqueueRequest {
        id: name(id),
        profile: name("small"),
        count,
        at_least: None,
        owner: owner.to_owned(),
        purpose: "a test".to_owned(),
        duration: seconds(600),
        patience: seconds(60),
        beyond: 0,
    }
}

/// Waits until the pool is as it should be, for a day.
async fn until(pool: &Pool, what: &str, is_so: impl Fn(&Status) -> bool) -> Arc<Status> {
    let mut statuses = pool.statuses();
    let wait = statuses.wait_for(|status| is_so(status));
    match tokio::time::timeout(seconds(86_400), wait).await {
        Ok(status) => status.expect("the pool runs").clone(),
        Err(_) => panic!("never {what}: {:#?}", pool.status()),
    }
}

async fn until_idle(pool: &Pool, count: u32) {
    let idle = |status: &Status| status.profiles.values().map(|p| p.idle).sum::<u32>() == count;
    until(pool, "idle", idle).await;
}

/// Asks for an entry until it can be had.
async fn have(pool: &Pool, id: &str) -> Reservation {
    for _ in 0..1_000 {
        match pool.take(&name(id)).await.expect("it waits or holds") {
            Take::Taken(reservation) => return reservation,
            Take::Waits(_) => tokio::time::sleep(seconds(5)).await,
        }
    }
    panic!("never served: {:#?}", pool.status());
}

async fn events(pool: &Pool) -> String {
    let events = pool.events().latest(1_000).await.expect("events");
    events.iter().map(|event| format!("{event}\n")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_gang_is_all_or_nothing_unless_fewer_will_do() {
    let site = Site::new(2, 4);
    let pool = site.live().await;
    until_idle(&pool, 2).await;
    let refused = pool.reserve(site.wish("three", 3)).await.unwrap_err();
    assert!(matches!(refused, Error::Exhausted { .. }), "{refused:?}");
    assert_eq!(pool.status().reservations, []);
    let fewer = ReserveRequest { at_least: Some(1), ..site.wish("fewer", 3) };
    let held = pool.reserve(fewer).await.unwrap();
    assert_eq!((held.workers.len(), held.count), (2, 2));
    let marked = pool.marked(&held.id).await.unwrap();
    assert_eq!(marked.workers, held.workers);
}

/// The reservation, which is marked within a few seconds.
async fn marked_soon(pool: &Pool, id: &ReservationId) -> Reservation {
    let marked = tokio::time::timeout(seconds(5), pool.marked(id)).await;
    marked.expect("it is not marked").expect("it holds")
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_marked_while_as_many_machines_are_made_as_may_be() {
    let site = Site { pace: Pace { max_actions: 1, ..Pace::default() }, ..Site::new(1, 3) };
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    site.world.misbehave(|call| matches!(call, Call::Create(_)).then_some(Fault::Hang));
    let more = Adjust { min_idle: Some(Some(3)), ..Adjust::default() };
    pool.adjust(&name("small"), more, "me").await.unwrap();
    until(&pool, "at work", |status| status.in_flight == 1).await;
    let held = pool.reserve(site.wish("r1", 1)).await.unwrap();
    marked_soon(&pool, &held.id).await;
    pool.release(&held.id).await.unwrap();
    let free = |status: &Status| status.workers.iter().all(|worker| worker.marked.is_none());
    until(&pool, "free", free).await;
    let starting = pool.status().profiles[&name::<ProfileName>("small")].starting;
    assert_eq!(starting, 1, "the limit holds for machines");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_mark_does_not_wait_for_the_list_that_shows_it() {
    let site = Site::new(1, 1);
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    let slow = |call: &Call| matches!(call, Call::Runners(_)).then_some(Fault::Slow(seconds(15)));
    site.world.misbehave(slow);
    let held = pool.reserve(site.wish("r1", 1)).await.unwrap();
    marked_soon(&pool, &held.id).await;
    let job = site.job(Some("r1"), 10);
    until(&pool, "spent", |status| status.reservations.is_empty()).await;
    assert_eq!(site.state(&job), FakeJobState::Done);
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_is_refused_at_once_with_the_arithmetic() {
    let site = Site::new(0, 9);
    let pool = site.live().await;
    until(&pool, "seen", |status| status.capacity.is_some()).await;
    for (count, reason) in [
        (10, "it may have 9; ask for at most 9, or raise its max"),
        (9, "they never fit on this host: memory: 9216 MiB needed, 8192 MiB of 8192 MiB free"),
    ] {
        let refused = [
            pool.enqueue(entry("many", "me", count)).await.unwrap_err(),
            pool.reserve(site.wish("many", count)).await.unwrap_err(),
        ];
        for error in refused {
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(reason), "{text}");
        }
    }
    let fewer = EnqueueRequest { at_least: Some(8), ..entry("fewer", "me", 10) };
    pool.enqueue(fewer).await.unwrap();
    assert_eq!(have(&pool, "fewer").await.workers.len(), 8);
}

#[tokio::test(start_paused = true)]
async fn an_entry_gets_workers_made_and_goes_when_it_was_taken() {
    let site = Site::new(0, 3);
    let pool = site.live().await;
    let place = pool.enqueue(entry("r1", "me", 2)).await.unwrap();
    assert_eq!((place.stand, place.ahead, place.missing), (Stand::Waiting, 0, 2));
    let ready = |status: &Status| status.queue.iter().any(|place| place.stand == Stand::Ready);
    let status = until(&pool, "ready", ready).await;
    assert_eq!(status.queue.len(), 1, "it is there until it was taken");
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let Take::Taken(held) = pool.take(&name("r1")).await.unwrap() else {
            panic!("it is ready");
        };
        tokens.push(held);
    }
    assert_eq!(tokens[0], tokens[1], "an answer that was lost is given again");
    assert_eq!(tokens[0].until, site.clock.now() + seconds(600), "its time begins now");
    let jobs = [site.job(Some("r1"), 10), site.job(Some("r1"), 10)];
    until(&pool, "over", |status| status.reservations.is_empty()).await;
    assert_eq!(pool.status().queue, []);
    assert!(jobs.iter().all(|job| site.state(job) == FakeJobState::Done));
    let gone = pool.ask_after(&name("r1")).await.unwrap_err();
    assert_eq!(
        gone.to_string(),
        "reservation r1, which ended: none of its workers is left, does not exist"
    );
}

#[tokio::test(start_paused = true)]
async fn what_others_promise_is_not_needed_here_and_outlives_the_process() {
    let site = Site::new(1, 2);
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    // More than can ever be here, as others may give some.
    let refused = pool.enqueue(entry("r1", "me", 4)).await.unwrap_err();
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
    let beyond = |id: &str, count| EnqueueRequest {
        beyond: 3,
        patience: seconds(86_400),
        ..entry(id, "me", count)
    };
    pool.enqueue(beyond("r1", 4)).await.unwrap();
    pool.enqueue(beyond("r2", 1)).await.unwrap();
    // What cannot be served here holds nobody up.
    until(&pool, "passed", |status| status.queue.iter().any(|p| p.stand == Stand::Ready)).await;
    assert!(matches!(pool.take(&name("r1")).await.unwrap(), Take::Waits(_)));
    assert_eq!(have(&pool, "r2").await.workers.len(), 1);
    let place = pool.count_elsewhere(&name("r1"), 3).await.unwrap();
    assert_eq!((place.entry.elsewhere, place.missing), (3, 1));
    drop(pool);
    let pool = site.live().await;
    let held = have(&pool, "r1").await;
    assert_eq!((held.workers.len(), held.count), (1, 1), "the others are elsewhere");

    // All of it, and then not.
    pool.enqueue(beyond("r3", 2)).await.unwrap();
    assert_eq!(pool.count_elsewhere(&name("r3"), 2).await.unwrap().stand, Stand::Ready);
    let short = pool.count_elsewhere(&name("r3"), 0).await.unwrap();
    assert_eq!((short.stand, short.missing), (Stand::Waiting, 2));
    pool.count_elsewhere(&name("r3"), 2).await.unwrap();
    let Take::Taken(held) = pool.take(&name("r3")).await.unwrap() else { panic!("it is ready") };
    assert_eq!((held.count, held.workers.len()), (0, 0));
    assert!(pool.ask_after(&name("r3")).await.is_err(), "it waits no more");
    let refused = pool.count_elsewhere(&name("r3"), 1).await.unwrap_err().to_string();
    assert!(refused.contains("does not exist"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_short_again_gives_up_no_worker_that_it_has_here() {
    let site = Site::new(1, 2);
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    let wish = EnqueueRequest { beyond: 3, patience: seconds(86_400), ..entry("r1", "me", 3) };
    pool.enqueue(wish).await.unwrap();
    pool.count_elsewhere(&name("r1"), 2).await.unwrap();
    let ready = |status: &Status| status.queue.iter().any(|place| place.stand == Stand::Ready);
    let status = until(&pool, "ready", ready).await;
    let here = status.reservations[0].workers.clone();
    assert_eq!(here.len(), 1);
    let more = pool.count_elsewhere(&name("r1"), 3).await.unwrap_err().to_string();
    assert!(more.contains("has its workers here"), "{more}");
    let place = pool.count_elsewhere(&name("r1"), 1).await.unwrap();
    assert_eq!((place.stand, place.missing, &place.entry.kept), (Stand::Waiting, 1, &here));
    assert!(matches!(pool.take(&name("r1")).await.unwrap(), Take::Waits(_)));
    let held = have(&pool, "r1").await;
    assert_eq!(held.workers.len(), 2);
    assert!(held.workers.is_superset(&here));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_is_prolonged_never_shortened_and_its_end_is_told() {
    let site = Site::new(1, 1);
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    let held = pool.reserve(site.wish("r1", 1)).await.unwrap();
    let later = held.until + seconds(500);
    assert_eq!(pool.prolong(&held.id, later).await.unwrap().until, later);
    assert_eq!(pool.prolong(&held.id, held.until).await.unwrap().until, later);
    drop(pool);
    let pool = site.live().await;
    until(&pool, "known", |status| status.reservations.len() == 1).await;
    assert_eq!(pool.status().reservations[0].until, later);
    pool.release_because(&held.id, "nobody wants it").await.unwrap();
    let gone = pool.prolong(&held.id, later).await.unwrap_err().to_string();
    assert!(gone.contains("nobody wants it"), "{gone}");
    let told = events(&pool).await;
    assert!(told.contains("it ends: nobody wants it"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_gang_at_the_head_is_collected_for_and_nobody_passes_it() {
    let site = Site::new(0, 2);
    let pool = site.live().await;
    let long = site.job(None, 300);
    until(&pool, "busy", |status| status.profiles.get(&name("small")).is_some_and(|p| p.busy == 1))
        .await;
    pool.enqueue(entry("gang", "a", 2)).await.unwrap();
    let keeps = |status: &Status| status.queue.iter().any(|place| place.entry.kept.len() == 1);
    until(&pool, "kept for", keeps).await;
    let late = EnqueueRequest { patience: seconds(86_400), ..entry("late", "b", 1) };
    let place = pool.enqueue(late).await.unwrap();
    assert_eq!((place.ahead, place.ahead_workers), (1, 1));
    let told = waiting_reservation(&name("late"), &pool.status(), site.clock.now()).unwrap();
    assert!(told.summary.starts_with("1 are served before it"), "{told:#?}");
    // A job that comes now does not get what is kept.
    let job = site.job(None, 10);
    for _ in 0..8 {
        tokio::time::sleep(seconds(30)).await;
        pool.ask_after(&name("late")).await.unwrap();
        assert!(matches!(pool.take(&name("gang")).await.unwrap(), Take::Waits(_)));
        assert_eq!(site.state(&job), FakeJobState::Queued);
    }
    let gang = have(&pool, "gang").await;
    assert_eq!(gang.workers.len(), 2);
    assert_eq!(site.state(&long), FakeJobState::Done);
    pool.release(&gang.id).await.unwrap();
    assert_eq!(have(&pool, "late").await.workers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_goes_before_those_who_ask_now() {
    let site = Site::new(1, 2);
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    pool.adjust(&name("small"), Adjust { paused: Some(true), ..Adjust::default() }, "ann")
        .await
        .unwrap();
    pool.enqueue(entry("first", "a", 1)).await.unwrap();
    pool.adjust(&name("small"), Adjust { paused: Some(false), ..Adjust::default() }, "ann")
        .await
        .unwrap();
    let now = pool.reserve(site.wish("now", 1)).await.unwrap_err();
    assert!(matches!(now, Error::Exhausted { .. }), "{now:?}");
    have(&pool, "first").await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_survives_the_process_at_every_step() {
    let site = Site::new(0, 2);
    let pool = site.live().await;
    pool.enqueue(entry("r1", "me", 2)).await.unwrap();
    drop(pool);
    let pool = site.live().await;
    let ready = |status: &Status| status.queue.iter().any(|place| place.stand == Stand::Ready);
    until(&pool, "ready", ready).await;
    drop(pool);
    let pool = site.live().await;
    let held = have(&pool, "r1").await;
    drop(pool);
    let pool = site.live().await;
    let Take::Taken(again) = pool.take(&name("r1")).await.unwrap() else {
        panic!("it was taken");
    };
    assert_eq!(again, held);
    let job = site.job(Some("r1"), 10);
    until(&pool, "over", |status| status.profiles[&name("small")].over > 0).await;
    assert_eq!(site.state(&job), FakeJobState::Done);
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_nobody_asks_after_is_given_up_with_all_that_it_had() {
    let site = Site::new(1, 2);
    let pool = site.live().await;
    pool.enqueue(entry("left", "me", 1)).await.unwrap();
    pool.enqueue(entry("asked", "you", 1)).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(seconds(30)).await;
        pool.ask_after(&name("asked")).await.unwrap();
    }
    let status = pool.status();
    let ids: Vec<&str> = status.queue.iter().map(|place| place.entry.id.as_str()).collect();
    assert_eq!(ids, ["asked"]);
    let held: Vec<&str> = status.reservations.iter().map(|held| held.id.as_str()).collect();
    assert_eq!(held, ["asked"], "what was promised to it is free again");
    let told = events(&pool).await;
    assert!(told.contains("dequeue reservation left: nobody asked after it for 60 s"), "{told}");
    drop(pool);
    let pool = site.live().await;
    assert!(pool.ask_after(&name("left")).await.is_err(), "also for the next process");
}

#[tokio::test(start_paused = true)]
async fn a_forge_that_refuses_to_mark_ends_the_reservation_visibly_and_frees_its_workers() {
    let site = Site::new(2, 2);
    let pool = site.live().await;
    until_idle(&pool, 2).await;
    let refused = pool.status().workers[0].runner.clone().unwrap();
    site.world.misbehave(move |call| {
        matches!(call, Call::Mark(id) if *id == refused).then_some(Fault::Before)
    });
    let held = pool.reserve(site.wish("r1", 2)).await.unwrap();
    assert_eq!(held.workers.len(), 2);
    let error = pool.marked(&held.id).await.unwrap_err().to_string();
    assert!(error.contains("its forge did not mark worker small-"), "{error}");
    assert!(error.contains("tried 5 times"), "{error}");
    let told = events(&pool).await;
    assert!(told.contains("release reservation r1: its forge did not mark worker"), "{told}");
    until_idle(&pool, 2).await;
    let unmarked = |status: &Status| status.workers.iter().all(|worker| worker.marked.is_none());
    until(&pool, "unmarked", unmarked).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_whose_workers_cannot_be_marked_keeps_its_place_and_says_why() {
    let site = Site::new(1, 1);
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    site.world.misbehave(|call| matches!(call, Call::Mark(_)).then_some(Fault::Before));
    pool.enqueue(EnqueueRequest { patience: seconds(3600), ..entry("r1", "me", 1) }).await.unwrap();
    let backs_off = |status: &Status| status.queue[0].backoff.is_some();
    let status = until(&pool, "rolled back", backs_off).await;
    let now = site.clock.now();
    let told = waiting_reservation(&name("r1"), &status, now).unwrap();
    assert!(told.summary.contains("its forge did not mark worker"), "{told:#?}");
    site.world.behave();
    assert_eq!(have(&pool, "r1").await.workers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_run_again_gets_a_fresh_worker_under_its_reservation() {
    let site = Site::new(0, 2);
    let pool = site.live().await;
    pool.enqueue(entry("r1", "me", 1)).await.unwrap();
    have(&pool, "r1").await;
    let first = site.job(Some("r1"), 10);
    until(&pool, "spent", |status| status.reservations.is_empty()).await;
    assert_eq!(site.state(&first), FakeJobState::Done);
    drop(pool);
    // Days later, by another process.
    tokio::time::sleep(seconds(3 * 86_400)).await;
    let pool = site.live().await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(pool.status().reservations, [], "nobody asks yet");
    let again = site.job(Some("r1"), 10);
    let asked = |status: &Status| !status.ended.is_empty();
    let status = until(&pool, "asked for again", asked).await;
    let forge: ForgeName = name("hub");
    let job = status.queued[&forge][0].clone();
    let told = waiting_job(&job, &forge, &status, site.clock.now());
    assert_eq!(told.summary, "it gets a fresh worker of profile small under reservation r1");
    until(&pool, "held again", |status| !status.reservations.is_empty()).await;
    until(&pool, "spent again", |status| status.reservations.is_empty()).await;
    assert_eq!(site.state(&again), FakeJobState::Done);
    let told = events(&pool).await;
    let text = "a waiting job asks for it again, after none of its workers is left";
    assert!(told.contains(text), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_lost_before_its_job_is_replaced() {
    let site = Site::new(2, 3);
    let pool = site.live().await;
    until_idle(&pool, 2).await;
    let held = pool.reserve(site.wish("r1", 2)).await.unwrap();
    pool.marked(&held.id).await.unwrap();
    let lost = held.workers.first().unwrap().clone();
    site.world.crash(&lost);
    let replaced = |status: &Status| {
        let held = status.reservations.first();
        held.is_some_and(|held| held.workers.len() == 2 && !held.workers.contains(&lost))
    };
    until(&pool, "replaced", replaced).await;
    pool.marked(&held.id).await.unwrap();
    let jobs = [site.job(Some("r1"), 10), site.job(Some("r1"), 10)];
    until(&pool, "spent", |status| status.reservations.is_empty()).await;
    assert!(jobs.iter().all(|job| site.state(job) == FakeJobState::Done));
    let told = events(&pool).await;
    assert!(told.contains(&format!("worker {lost} is lost to it (it had no job of it)")), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_a_job_takes_before_it_is_marked_is_replaced() {
    let site = Site::new(1, 3);
    let pool = site.live().await;
    until_idle(&pool, 1).await;
    site.world.misbehave(|call| matches!(call, Call::Mark(_)).then_some(Fault::Slow(seconds(5))));
    let held = pool.reserve(site.wish("r1", 1)).await.unwrap();
    let thief = site.job(None, 500);
    let (first, id) = (held.workers.first().unwrap().clone(), held.id);
    let marked = pool.marked(&id).await.unwrap();
    assert!(!marked.workers.contains(&first), "{marked:?}");
    assert!(matches!(site.state(&thief), FakeJobState::Running(worker, _) if worker == first));
    let mine = site.job(Some("r1"), 10);
    until(&pool, "spent", |status| status.reservations.is_empty()).await;
    assert_eq!(site.state(&mine), FakeJobState::Done);
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_or_being_built_waits_and_is_told_why() {
    let site = Site::new(0, 1);
    let pool = site.live().await;
    let pause = |paused| Adjust { paused: Some(paused), ..Adjust::default() };
    pool.adjust(&name("small"), pause(true), "ann").await.unwrap();
    let patience = seconds(86_400);
    pool.enqueue(EnqueueRequest { patience, ..entry("r1", "me", 1) }).await.unwrap();
    tokio::time::sleep(seconds(60)).await;
    let (status, now) = (pool.status(), site.clock.now());
    let seen = outlook(&status.queue[0], &status, now);
    assert_eq!(seen.reasons, ["profile small is paused by ann"]);
    let why = "profile small is paused by ann".to_owned();
    assert_eq!(decide(&seen, seconds(600)), Decision::GoElsewhere { why });
    pool.adjust(&name("small"), pause(false), "ann").await.unwrap();
    have(&pool, "r1").await;
    pool.release(&name("r1")).await.unwrap();

    // Nothing builds: it waits, and says so.
    drop(pool);
    let site = Site::new(0, 1);
    site.world.misbehave(|call| matches!(call, Call::Build(_)).then_some(Fault::Before));
    let pool = site.live().await;
    pool.enqueue(EnqueueRequest { patience, ..entry("r1", "me", 1) }).await.unwrap();
    let said = |status: &Status| {
        let seen = outlook(&status.queue[0], status, site.clock.now());
        seen.reasons.iter().any(|reason| reason.contains("its image is not built yet"))
    };
    until(&pool, "waiting for its image", said).await;
    site.world.behave();
    have(&pool, "r1").await;
}

#[tokio::test(start_paused = true)]
async fn owners_take_turns() {
    let site = Site::new(0, 1);
    let pool = site.live().await;
    let patience = seconds(86_400);
    for (id, owner) in [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")] {
        pool.enqueue(EnqueueRequest { patience, ..entry(id, owner, 1) }).await.unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        let ready = |status: &Status| status.queue.iter().any(|p| p.stand == Stand::Ready);
        let status = until(&pool, "ready", ready).await;
        let first = status.queue.iter().find(|place| place.stand == Stand::Ready).unwrap();
        let id = first.entry.id.clone();
        assert!(matches!(pool.take(&id).await.unwrap(), Take::Taken(_)));
        order.push(id.to_string());
        site.job(Some(id.as_str()), 10);
        until(&pool, "over", |status| status.reservations.iter().all(|held| held.id != id)).await;
    }
    assert_eq!(order[..2], ["a1", "b1"], "{order:?}");
    assert_eq!(order[2..], ["a2", "a3"], "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_in_the_status() {
    let clock = Clock::system();
    let world = FakeWorld::new(clock);
    world.set_boot_time(Duration::ZERO);
    world.set_capacity(Capacity { vcpus: 999, memory_mib: 1 << 30, ..Capacity::default() });
    // It has everything at once, long before there is a plan.
    let store = Store::in_memory().unwrap();
    let site = Site { clock, world, store, min_idle: 50, max: 50, pace: Pace::default() };
    let pool = Arc::new(site.live().await);
    until_idle(&pool, 50).await;
    let all_have_one = Arc::new(tokio::sync::Barrier::new(50));
    let asks = (0..50).map(|number| {
        let (pool, wish) = (pool.clone(), site.wish(&format!("r{number}"), 1));
        let all_have_one = all_have_one.clone();
        tokio::spawn(async move {
            let id = pool.reserve(wish).await.unwrap().id;
            let is_told = |pool: &Pool| pool.status().reservations.iter().any(|it| it.id == id);
            assert!(is_told(&pool), "{id} is promised");
            all_have_one.wait().await;
            pool.release(&id).await.unwrap();
            assert!(!is_told(&pool), "{id} has ended");
            let waits = pool.enqueue(entry(&format!("e{id}"), "me", 1)).await.unwrap().entry.id;
            let is_told = pool.status().queue.iter().any(|place| place.entry.id == waits);
            assert!(is_told, "{waits} waits");
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        ask.await.unwrap();
    }
}

/// Servo's numbers: a hundred ask for one of fifty, again and again, and the process dies in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_takes_at_once_exactly_as_many_succeed_as_there_are_workers() {
    for kill in [false, true] {
        let clock = Clock::system();
        let world = FakeWorld::new(clock);
        world.set_boot_time(Duration::ZERO);
        world.set_capacity(Capacity { vcpus: 999, memory_mib: 1 << 30, ..Capacity::default() });
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store.sqlite")).await.unwrap();
        let site = Site { clock, world, store, min_idle: 50, max: 50, pace: Pace::default() };
        let mut pool = Arc::new(site.live().await);
        until_idle(&pool, 50).await;
        let ask = |pool: &Arc<Pool>, number: u32| {
            let (pool, wish) = (pool.clone(), site.wish(&format!("r{number}"), 1));
            tokio::spawn(async move { pool.reserve(wish).await })
        };
        let asks: Vec<_> = (0..100).map(|number| ask(&pool, number)).collect();
        let mut granted = BTreeMap::new();
        if kill {
            // The first answers are there; the others may have been given or not.
            let mut asks = asks.into_iter();
            asks.next().unwrap().await.unwrap().unwrap();
            asks.for_each(|ask| ask.abort());
            tokio::task::yield_now().await;
            while Arc::strong_count(&pool) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(pool);
            pool = Arc::new(site.live().await);
            let seen = |status: &Status| {
                let known = status.profiles.values().map(|p| p.idle + p.reserved).sum::<u32>();
                known == 50
            };
            until(&pool, "seen again", seen).await;
        }
        let asks: Vec<_> = (0..100).map(|number| ask(&pool, number)).collect();
        for (number, asked) in asks.into_iter().enumerate() {
            match asked.await.unwrap() {
                Ok(held) => drop(granted.insert(number, held)),
                Err(error) => assert!(matches!(error, Error::Exhausted { .. }), "{error:?}"),
            }
        }
        let workers: std::collections::BTreeSet<_> =
            granted.values().flat_map(|held| held.workers.clone()).collect();
        assert_eq!((granted.len(), workers.len()), (50, 50), "killed: {kill}");
        for held in granted.values() {
            let marked = pool.marked(&held.id).await.unwrap();
            assert_eq!(marked.workers, held.workers);
        }
    }
}
