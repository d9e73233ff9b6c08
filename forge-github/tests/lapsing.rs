//! GitHub removes by itself what was not connected for a day. Ours is replaced before, or gone without a fuss.

mod github;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use forge_github::runners::FORGETS_AFTER;
use github::{MARKED, OWNER, PROFILE, fixture};
use runner_core::{
    Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile, ProfileName,
    Resources, Store,
    event::What,
    fake::FakeWorld,
    image::{Recipe, RecipeKind},
    plan::Why,
    profile::Timeouts,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn what_github_removed_by_itself_is_gone_and_no_error() {
    let fixture = fixture().await;
    let never = fixture.register("a-1").await.unwrap();
    let lost = fixture.register("a-2").await.unwrap();
    let session = fixture.github.connect(lost.secret.unwrap().expose()).unwrap();
    assert_eq!(fixture.names().await.unwrap(), ["a-1", "a-2"]);
    fixture.github.disconnect(&session).unwrap();
    fixture.github.advance(FORGETS_AFTER);
    assert_eq!(fixture.truth(), [""; 0], "GitHub has removed them");
    assert_eq!(fixture.names().await.unwrap(), [""; 0]);
    fixture.deregister(&never.id).await.unwrap();
    fixture.abandon(&lost.id).await.unwrap();
    assert!(fixture.github.connect(never.secret.unwrap().expose()).is_err());
    // The name is free.
    let again = fixture.register("a-1").await.unwrap();
    assert_ne!(again.id, never.id);
    assert_eq!(fixture.truth(), [MARKED]);
    fixture.assert_clean();
}

/// A pool on machines that never come online, whose operator has all the patience in the world.
async fn patient_pool(forge: Arc<dyn Forge>) -> Pool {
    let clock = Clock::following_tokio(jiff::Timestamp::now());
    let world = FakeWorld::new(clock);
    world.set_capacity(Resources { vcpus: 8, memory_mib: 8 << 10, ..Resources::default() });
    let name = ForgeName::new("github").unwrap();
    let recipe = Recipe { profile: ProfileName::new(PROFILE).unwrap(), kind: RecipeKind::Micro {} };
    let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
    let mut profile = Profile::new(name.clone(), recipe, resources);
    (profile.min_idle, profile.max) = (1, 1);
    profile.timeouts = Timeouts { start: 2 * FORGETS_AFTER, offline: 2 * FORGETS_AFTER };
    let store = Store::in_memory().unwrap();
    let parts = PoolParts {
        hypervisor: Arc::new(world.hypervisor()),
        forges: BTreeMap::from([(name, forge)]),
        builder: Arc::new(world.builder()),
        events: EventLog::open(store.clone()).await.unwrap(),
        store,
        owner: OwnerId::new(OWNER).unwrap(),
        profiles: vec![profile],
        pace: Pace { look_every: Duration::from_millis(250), ..Pace::default() },
        clock,
    };
    Pool::start(parts).await.unwrap()
}

#[tokio::test]
async fn a_worker_whose_runner_stays_offline_is_replaced_before_github_removes_it() {
    let fixture = fixture().await;
    let pool = patient_pool(fixture.forge.clone()).await;
    let mut statuses = pool.statuses();
    let starting = statuses.wait_for(|status| {
        status.workers.iter().any(|worker| worker.runner.is_some() && worker.instance.is_some())
    });
    let starting = tokio::time::timeout(PATIENCE, starting).await.expect("it starts");
    let first = starting.unwrap().workers[0].name.clone();
    let before = fixture.truth();
    assert_eq!(before, [format!("{first}_{OWNER}")]);

    // GitHub, the pool and the forge go by the same clock.
    tokio::time::pause();
    tokio::time::advance(FORGETS_AFTER - FORGETS_AFTER / 24).await;
    tokio::time::resume();
    let replaced = fixture.github.until(|github| {
        let now: Vec<String> = github.runners().into_iter().map(|runner| runner.name).collect();
        now.len() == 1 && now != before
    });
    tokio::time::timeout(PATIENCE, replaced).await.expect("it is replaced");
    let removals = fixture.github.calls().into_iter().filter(|call| call.method == "DELETE");
    let answers: Vec<_> = removals.map(|call| call.status).collect();
    assert_eq!(answers, [Some(204)], "it was there until we removed it");
    let events = pool.events().latest(100).await.unwrap();
    let reasons: Vec<&Why> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Decided { action, why } if action == "retire" => Some(why),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [&Why::Lapses { after: FORGETS_AFTER }]);
    pool.stop().await;
    fixture.assert_clean();
}
