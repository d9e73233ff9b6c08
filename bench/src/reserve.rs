//! How long taking a worker takes, from the call to the durable answer, with many clients at once.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use runner_core::{
    Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile, ProfileName,
    ReservationId, Resources, Store,
    fake::FakeWorld,
    image::{Recipe, RecipeKind},
    reservation::ReserveRequest,
};
use tokio::task::JoinSet;

use crate::table::Table;

const CLIENTS: usize = 100;
const ROUNDS: usize = 20;

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    for idle in [1, 10, 50] {
        let dir = tempfile::tempdir_in("cache")?;
        let pool = Arc::new(pool(dir.path(), idle).await?);
        let mut statuses = pool.statuses();
        let ready = |status: &Arc<runner_core::Status>| {
            status.profiles.values().map(|profile| profile.idle).sum::<u32>() == idle
        };
        let (mut alone, mut crowd) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let _ = statuses.wait_for(ready).await;
            let (took, id) = take(&pool, format!("alone-{idle}-{round}")).await?;
            let Some(id) = id else { anyhow::bail!("an idle worker could not be had") };
            alone.push(took);
            pool.release(&id).await?;
            let _ = statuses.wait_for(ready).await;
            let mut asks = JoinSet::new();
            for client in 0..CLIENTS {
                let pool = pool.clone();
                asks.spawn(async move { take(&pool, format!("c-{idle}-{round}-{client}")).await });
            }
            let mut had = Vec::new();
            while let Some(answer) = asks.join_next().await {
                let (took, id) = answer??;
                crowd.push(took);
                had.extend(id);
            }
            anyhow::ensure!(had.len() == idle as usize, "{} of {idle} were had", had.len());
            for id in had {
                pool.release(&id).await?;
            }
        }
        let what = format!("take, {idle} idle workers, one client");
        table.times(&what, &alone, "under 2 ms");
        let what = format!("take, {idle} idle workers, {CLIENTS} clients at once");
        table.times(&what, &crowd, "under 2 ms");
    }
    Ok(())
}

/// Asks for one worker; says how long the answer took, and what was promised, if anything.
async fn take(pool: &Pool, id: String) -> anyhow::Result<(Duration, Option<ReservationId>)> {
    let request = ReserveRequest {
        id: ReservationId::new(id)?,
        profile: ProfileName::new("micro")?,
        count: 1,
        at_least: None,
        owner: "bench".to_owned(),
        purpose: "to measure".to_owned(),
        until: jiff::Timestamp::now() + Duration::from_secs(3600),
    };
    let began = Instant::now();
    let answer = pool.reserve(request).await;
    let took = began.elapsed();
    match answer {
        Ok(held) => Ok((took, Some(held.id))),
        Err(runner_core::Error::Exhausted { .. }) => Ok((took, None)),
        Err(error) => Err(error.into()),
    }
}

/// A pool on a store in a file, and a forge that answers at once.
async fn pool(dir: &Path, idle: u32) -> anyhow::Result<Pool> {
    let clock = Clock::system();
    let world = FakeWorld::new(clock);
    world.set_boot_time(Duration::ZERO);
    world.set_capacity(Resources { vcpus: 1 << 20, memory_mib: 1 << 30, ..Resources::default() });
    let store = Store::open(dir.join("store.sqlite")).await?;
    let forge = ForgeName::new("fake")?;
    let recipe = Recipe { profile: ProfileName::new("micro")?, kind: RecipeKind::Micro {} };
    let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
    // What is reserved is not replaced: as many are idle after a release as before.
    let profile =
        Profile { min_idle: idle, max: idle, ..Profile::new(forge.clone(), recipe, resources) };
    let the_forge: Arc<dyn Forge> = Arc::new(world.forge(forge.clone()));
    Ok(Pool::start(PoolParts {
        hypervisor: Arc::new(world.hypervisor()),
        forges: BTreeMap::from([(forge, the_forge)]),
        builder: Arc::new(world.builder()),
        events: EventLog::open(store.clone()).await?,
        owner: store.owner(OwnerId::new("bench")?).await?,
        store,
        profiles: vec![profile],
        pace: Pace::default(),
        clock,
    })
    .await?)
}
