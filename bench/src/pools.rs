//! Pools to measure.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use runner_core::{
    Clock, EventLog, Forge, ForgeName, Hypervisor, ImageBuilder, OwnerId, Pace, Pool, PoolParts,
    Profile, ProfileName, Resources, Store,
    image::{Recipe, RecipeKind},
    local::{Job, JobSpec, LocalLimits, LocalQueue, Run},
};

/// A pool with the local queue, on a store in a file.
pub struct Bench {
    pub pool: Pool,
    pub queue: LocalQueue,
}

pub fn profile(min_idle: u32, max: u32) -> anyhow::Result<Profile> {
    let recipe = Recipe { profile: ProfileName::new("micro")?, kind: RecipeKind::Micro {} };
    let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
    Ok(Profile { min_idle, max, ..Profile::new(ForgeName::new("local")?, recipe, resources) })
}

impl Bench {
    pub async fn start(
        dir: &Path,
        hypervisor: Arc<dyn Hypervisor>,
        builder: Arc<dyn ImageBuilder>,
        profile: Profile,
    ) -> anyhow::Result<Self> {
        let store = Store::open(dir.join("store.sqlite")).await?;
        let events = EventLog::open(store.clone()).await?;
        let clock = Clock::system();
        let limits = LocalLimits::default();
        let queue = LocalQueue::open(store.clone(), events.clone(), clock, limits).await?;
        let forge: Arc<dyn Forge> = Arc::new(queue.clone());
        let owner = store.owner(OwnerId::new("bench")?).await?;
        let forges = BTreeMap::from([(ForgeName::new("local")?, forge)]);
        let profiles = vec![profile];
        let pace = Pace::default();
        let parts =
            PoolParts { hypervisor, forges, builder, store, events, owner, profiles, pace, clock };
        Ok(Self { pool: Pool::start(parts).await?, queue })
    }

    /// Waits until so many workers are idle.
    pub async fn idle(&self, count: u32) {
        let mut statuses = self.pool.statuses();
        let enough = |status: &Arc<runner_core::Status>| {
            status.profiles.values().map(|profile| profile.idle).sum::<u32>() >= count
        };
        // The pool lives as long as this borrow of it.
        let _ = statuses.wait_for(enough).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    /// Runs a job to its end.
    pub async fn run(&self, script: &str) -> anyhow::Result<Job> {
        let run = Run::Argv(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
        let profile = Some(ProfileName::new("micro")?);
        let job = self.queue.submit(JobSpec { profile, run, ..JobSpec::default() }, Vec::new());
        let job = job.await?;
        Ok(self.queue.wait(&job.id).await?)
    }
}

/// The time between two moments of a job.
pub fn between(from: jiff::Timestamp, to: Option<jiff::Timestamp>) -> Duration {
    let passed = to.map(|to| to.duration_since(from)).unwrap_or_default();
    Duration::try_from(passed).unwrap_or_default()
}
