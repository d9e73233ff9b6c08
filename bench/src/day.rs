//! What a day of jobs leaves in memory: 24 hours on a clock that jumps from one moment to the next.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use monitor::metrics::{Metrics, Sources};
use runner_core::{
    Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, ProfileName, Resources,
    Store,
    fake::FakeWorld,
    local::{JobSpec, LocalLimits, LocalQueue, Run},
};
use tokio::sync::Semaphore;

use crate::{fakes::resident_mib, pools::profile, table::Table};

/// Between two jobs.
const EVERY: Duration = Duration::from_secs(10);

pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        // What SQLite keeps for each thread is not what this is about.
        .max_blocking_threads(1)
        .build()?;
    runtime.block_on(run(table))
}

async fn run(table: &mut Table) -> anyhow::Result<()> {
    // In memory, where there is such a directory: a flush of the disk would only take long.
    let shared = PathBuf::from("/dev/shm");
    let dir = if shared.is_dir() { tempfile::tempdir_in(shared)? } else { tempfile::tempdir()? };
    let clock = Clock::following_tokio(Timestamp::now());
    let world = FakeWorld::new(clock);
    world.set_capacity(Resources { vcpus: 64, memory_mib: 1 << 16, ..Resources::default() });
    let store = Store::open(dir.path().join("store.sqlite")).await?;
    let events = EventLog::open(store.clone()).await?;
    let limits = LocalLimits::default();
    let queue = LocalQueue::open(store.clone(), events.clone(), clock, limits).await?;
    let local = ForgeName::new("local")?;
    let metrics = Metrics::new();
    let forge: Arc<dyn Forge> = Arc::new(queue.clone());
    let forges = BTreeMap::from([(local.clone(), metrics.forge(&local, forge))]);
    let profiles = vec![profile(4, 8)?];
    let pace = Pace::default();
    let pool = Pool::start(PoolParts {
        hypervisor: metrics.hypervisor(Arc::new(world.hypervisor())),
        forges,
        builder: Arc::new(world.builder()),
        store: store.clone(),
        events: events.clone(),
        owner: store.owner(OwnerId::new("bench")?).await?,
        profiles: profiles.clone(),
        pace,
        clock,
    })
    .await?;
    let _counting = metrics.begin(Sources {
        status: pool.statuses(),
        profiles,
        pace,
        events,
        queue: queue.clone(),
        store,
        data: dir.path().to_owned(),
        streams: (Arc::new(Semaphore::new(1)), 1),
        forges: Default::default(),
        peers: None,
        clock,
    });
    let begun = tokio::time::Instant::now();
    let mut jobs = 0;
    let mut first = None;
    for (name, hours) in [("10 min", 1.0 / 6.0), ("1 h", 1.0), ("6 h", 6.0), ("24 h", 24.0)] {
        while begun.elapsed().as_secs_f64() < hours * 3600.0 {
            let run = Run::Argv(["/bin/sh", "-c", "true"].map(str::to_owned).to_vec());
            let profile = Some(ProfileName::new("micro")?);
            let spec = JobSpec { profile, run, ..JobSpec::default() };
            let job = queue.submit(spec, Vec::new()).await?;
            queue.wait(&job.id).await?;
            jobs += 1;
            // As often as Prometheus asks.
            drop(metrics.text());
            tokio::time::sleep(EVERY).await;
        }
        let now = resident_mib()?;
        let grown = now - *first.get_or_insert(now);
        let what = format!("memory after {name} simulated, {jobs} jobs");
        let aim = if hours > 1.0 { "as after 1 h" } else { "" };
        table.number(&what, format!("{now:.1} MiB"), aim);
        table.number("  since the first", format!("{grown:+.1} MiB"), "");
    }
    pool.drain().await?;
    Ok(())
}
