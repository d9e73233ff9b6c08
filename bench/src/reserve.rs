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
    wish::Adjust,
};
use tokio::task::JoinSet;

use crate::table::Table;

const CLIENTS: usize = 100;
const ROUNDS: usize = 20;

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    for idle in [1, 10, 50] {
        let dir = tempfile::tempdir_in("cache")?;
        let pool = Arc::new(pool(dir.path(), idle).await?);
        let (mut alone, mut crowd) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            until_free(&pool, idle).await?;
            let (took, id) = take(&pool, format!("alone-{idle}-{round}")).await?;
            let Some(id) = id else { anyhow::bail!("an idle worker could not be had") };
            alone.push(took);
            pool.release(&id).await?;
            until_free(&pool, idle).await?;
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

/// Waits until so many workers can be had: one whose mark is not off yet is idle, and cannot.
async fn until_free(pool: &Pool, idle: u32) -> anyhow::Result<()> {
    loop {
        // One more than there are, so that none is taken.
        let request = ReserveRequest { count: idle + 1, ..request("none".to_owned())? };
        match pool.reserve(request).await {
            Err(runner_core::Error::Exhausted { available, .. })
                if available == idle.to_string() =>
            {
                return Ok(());
            }
            Err(runner_core::Error::Exhausted { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => anyhow::bail!("there are more than {idle}"),
        }
    }
}

fn request(id: String) -> anyhow::Result<ReserveRequest> {
    Ok(ReserveRequest {
        id: ReservationId::new(id)?,
        profile: ProfileName::new("micro")?,
        count: 1,
        at_least: None,
        owner: "bench".to_owned(),
        purpose: "to measure".to_owned(),
        until: jiff::Timestamp::now() + Duration::from_secs(3600),
    })
}

/// Asks for one worker; says how long the answer took, and what was promised, if anything.
async fn take(pool: &Pool, id: String) -> anyhow::Result<(Duration, Option<ReservationId>)> {
    let request = request(id)?;
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
    let profile =
        Profile { min_idle: idle, max: idle + 1, ..Profile::new(forge.clone(), recipe, resources) };
    let name = profile.name.clone();
    let the_forge: Arc<dyn Forge> = Arc::new(world.forge(forge.clone()));
    let pool = Pool::start(PoolParts {
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
    .await?;
    // What is reserved is not replaced: as many are idle after a release as before. One more is configured, so that
    // it can be asked for.
    let most = Adjust { max: Some(Some(idle)), ..Adjust::default() };
    pool.adjust(&name, most, "bench").await?;
    Ok(pool)
}
