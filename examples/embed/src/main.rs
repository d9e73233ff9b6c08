//! The smallest honest program that embeds a pool: one profile on the local queue, one job, nothing left.
//!
//! `embed [DIR]` keeps its data in DIR, or in `cache/embed`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use backend_qemu::{ImageConfig, ImageStore, QemuConfig, QemuHypervisor};
use futures::TryStreamExt;
use runner_core::{
    Clock, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile, ProfileName,
    Resources, Store,
    image::{Recipe, RecipeKind},
    local::{JobSpec, LocalLimits, LocalQueue, Run},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "cache/embed".into()));
    std::fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;

    // What must outlive this process, and whose everything is.
    let store = Store::open(dir.join("store.sqlite")).await?;
    let owner = store.owner(OwnerId::new("embed")?).await?;
    let events = EventLog::open(store.clone()).await?;

    // Who makes machines, who makes images, and where jobs come from.
    let hypervisor = QemuHypervisor::open(QemuConfig::new(dir.join("machines"), owner.clone()));
    let images = ImageConfig::new(dir.join("images"), dir.join("../images"));
    let clock = Clock::system();
    let queue =
        LocalQueue::open(store.clone(), events.clone(), clock, LocalLimits::default()).await?;
    let forge: Arc<dyn Forge> = Arc::new(queue.clone());

    // What is on offer: at most one small machine at a time, made when a job asks for it.
    let name = ProfileName::new("micro")?;
    let local = ForgeName::new("local")?;
    let recipe = Recipe { profile: name.clone(), kind: RecipeKind::Micro {} };
    let resources = Resources { vcpus: 1, memory_mib: 256, ..Resources::default() };
    let profile = Profile { min_idle: 0, max: 1, ..Profile::new(local.clone(), recipe, resources) };

    let pool = Pool::start(PoolParts {
        hypervisor: Arc::new(hypervisor.await?),
        forges: BTreeMap::from([(local, forge)]),
        builder: Arc::new(ImageStore::open(images).await?),
        store,
        events,
        owner,
        profiles: vec![profile],
        pace: Pace::default(),
        clock,
    })
    .await?;

    let run = Run::Script("echo \"hello from $(uname -n)\"".to_owned());
    let job = JobSpec { profile: Some(name), run, ..JobSpec::default() };
    let job = queue.submit(job, Vec::new()).await?;
    let mut log = queue.log(&job.id, 0).await?;
    while let Some(part) = log.try_next().await? {
        print!("{}", String::from_utf8_lossy(&part));
    }
    println!("{}", queue.wait(&job.id).await?.state);
    pool.drain().await?;
    Ok(())
}
