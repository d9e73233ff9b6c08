//! The flight recorder, and wishes that outlive the process, on fakes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use runner_core::{
    Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile, ProfileName,
    Resources, Store,
    fake::FakeWorld,
    image::{Recipe, RecipeKind},
    local::{JobSpec, JobState, LocalLimits, LocalQueue, Run},
    pool::HoldRequest,
    wish::Adjust,
    worker::Phase,
};

struct Site {
    clock: Clock,
    world: FakeWorld,
    store: Store,
}

impl Site {
    fn new() -> Self {
        let clock = Clock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap());
        Self { clock, world: FakeWorld::new(clock), store: Store::in_memory().unwrap() }
    }

    async fn live(&self) -> (LocalQueue, Pool) {
        let events = EventLog::open(self.store.clone()).await.unwrap();
        let limits = LocalLimits::default();
        let queue =
            LocalQueue::open(self.store.clone(), events.clone(), self.clock, limits).await.unwrap();
        let (local, name) = (ForgeName::new("local").unwrap(), profile());
        let recipe = Recipe { profile: name, kind: RecipeKind::Micro {} };
        let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
        let pool = Pool::start(PoolParts {
            hypervisor: Arc::new(self.world.hypervisor()),
            forges: BTreeMap::from([(local.clone(), Arc::new(queue.clone()) as Arc<dyn Forge>)]),
            builder: Arc::new(self.world.builder()),
            store: self.store.clone(),
            events,
            owner: self.store.owner(OwnerId::new("site").unwrap()).await.unwrap(),
            profiles: vec![Profile::new(local, recipe, resources)],
            pace: Pace::default(),
            clock: self.clock,
        });
        (queue, pool.await.unwrap())
    }
}

fn profile() -> ProfileName {
    ProfileName::new("small").unwrap()
}

fn script(text: &str) -> JobSpec {
    let run = Run::Script(text.to_owned());
    JobSpec { profile: Some(profile()), run, ..JobSpec::default() }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_machine_showed_last_is_kept_and_says_why_it_went() {
    let site = Site::new();
    let (queue, pool) = site.live().await;
    let job = queue.submit(script("echo hello"), Vec::new()).await.unwrap();
    let job = queue.wait(&job.id).await.unwrap();
    assert_eq!(job.state, JobState::Succeeded);
    seconds(30).await;
    let worker = job.worker.unwrap();
    let flight = pool.store().flight(worker.clone()).await.unwrap().expect("a flight record");
    assert_eq!((&flight.worker, flight.job.as_ref()), (&worker, Some(&job.id)));
    assert!(flight.why.contains("the job is over"), "{}", flight.why);
    assert_eq!(flight.exit, None);
    assert!(flight.screenshot_at.is_some(), "{:?}", flight.missing);
    let png = pool.store().flight_screenshot(worker).await.unwrap().expect("a picture");
    assert!(png.starts_with(b"\x89PNG"), "{png:?}");
    assert_eq!(pool.store().flights(10).await.unwrap()[0], flight);
    pool.stop().await;
}

#[tokio::test(start_paused = true)]
async fn holds_and_numbers_outlive_the_process_and_a_hold_ends_by_itself() {
    let site = Site::new();
    let (queue, pool) = site.live().await;
    seconds(30).await;
    let adjust = Adjust { min_idle: Some(Some(0)), max: Some(Some(1)), ..Adjust::default() };
    pool.adjust(&profile(), adjust, "ann").await.unwrap();
    let job = queue.submit(script("sleep 30"), Vec::new()).await.unwrap();
    seconds(15).await;
    let worker = queue.job(&job.id).await.unwrap().worker.expect("it runs");
    let until = site.clock.now() + SignedDuration::from_secs(600);
    let request = HoldRequest {
        worker: worker.clone(),
        until,
        by: "ann".to_owned(),
        purpose: "to look".to_owned(),
    };
    pool.hold(request).await.unwrap();
    queue.wait(&job.id).await.unwrap();
    pool.stop().await;
    drop((queue, pool));

    let (queue, pool) = site.live().await;
    seconds(300).await;
    let status = pool.status();
    let held = status.workers.iter().find(|found| found.name == worker).expect("its machine");
    assert!(matches!(held.phase, Phase::Over(_)), "{held:?}");
    assert_eq!(held.hold.as_ref().map(|hold| hold.until), Some(until));
    assert_eq!(held.job.as_ref().or(Some(&job.id)), Some(&job.id));
    let counts = &status.profiles[&profile()];
    assert_eq!((counts.min_idle, counts.max), (0, 1));
    assert_eq!(counts.adjustment.as_ref().map(|adjusted| adjusted.by.as_str()), Some("ann"));
    let ended = queue.job(&job.id).await.unwrap();
    assert_eq!(ended.state, JobState::Succeeded);

    seconds(330).await;
    let gone = pool.status();
    assert!(gone.workers.iter().all(|found| found.name != worker), "its time is over");
    assert!(!site.world.machines().contains_key(&worker));
    pool.stop().await;
}
