//! What is measured on real machines, beside what the machine alone takes in the same run.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use backend_qemu::{ImageConfig, ImageStore, QemuConfig, QemuHypervisor};
use runner_core::{
    Hypervisor, ImageBuilder, OwnerId, ProcessId, WorkerName,
    guest::Command,
    hypervisor::{InstanceSpec, Network},
    image::BuildLog,
};

use crate::{
    pools::{Bench, between, profile},
    table::{Table, median},
};

const ROUNDS: usize = 8;

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let cache = PathBuf::from("cache/images");
    std::fs::create_dir_all(&cache)?;
    let cache = cache.canonicalize()?;
    let dir = tempfile::tempdir_in(&cache)?;
    let images = ImageStore::open(ImageConfig::new(dir.path().join("images"), cache)).await?;
    let machines = dir.path().join("machines");
    let config = QemuConfig::new(machines.clone(), OwnerId::new("bench")?);
    let hypervisor = QemuHypervisor::open(config).await?;
    let alone = alone(&hypervisor, &images).await?;
    table.times("QEMU created", &alone.create, "");
    table.times("machine made -> guest answers, the machine alone", &alone.boot, "");
    table.times("command started in an idle guest, the guest alone", &alone.spawn, "");
    table.times("machine destroyed", &alone.destroy, "");

    let bench = Bench::start(dir.path(), Arc::new(hypervisor), Arc::new(images), profile(1, 1)?);
    let bench = bench.await?;
    let (mut warm, mut over) = (Vec::new(), Vec::new());
    let mut ended = None;
    for _ in 0..ROUNDS {
        bench.idle(1).await;
        let status = bench.pool.status();
        let made = status.workers.iter().find_map(|worker| worker.instance.as_ref());
        if let (Some(ended), Some(made)) = (ended, made) {
            // Written in the moment before QEMU is started.
            let argv = machines.join("instances").join(made.name.as_str()).join("argv");
            let spawned = std::fs::metadata(argv)?.modified()?.try_into()?;
            over.push(between(ended, Some(spawned)));
        }
        let job = bench.run("true").await?;
        warm.push(between(job.queued_at, job.started_at));
        ended = job.ended_at;
    }
    table.times("job submitted -> command started, idle worker", &warm, "");
    ratio(table, "  against the guest alone", &warm, &alone.spawn);
    let own = median(&warm).saturating_sub(median(&alone.spawn));
    table.number("  of it our own", format!("{:.2} ms", own.as_secs_f64() * 1e3), "under 50 ms");
    table.times("worker over -> replacement's QEMU spawned", &over, "under 50 ms");
    let cold = profile(0, 1)?;
    bench.pool.offer(vec![cold]).await?;
    while !bench.pool.status().workers.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut colds = Vec::new();
    for _ in 0..ROUNDS / 2 {
        let job = bench.run("true").await?;
        colds.push(between(job.queued_at, job.started_at));
        while !bench.pool.status().workers.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    table.times("job submitted -> command started, cold", &colds, "");
    ratio(table, "  against the machine alone", &colds, &alone.boot);
    bench.pool.drain().await?;
    Ok(())
}

fn ratio(table: &mut Table, what: &str, ours: &[Duration], alone: &[Duration]) {
    let ratio = median(ours).as_secs_f64() / median(alone).as_secs_f64();
    table.number(what, format!("{ratio:.2} x"), "");
}

/// The times of the machine without a pool.
#[derive(Default)]
struct Alone {
    create: Vec<Duration>,
    boot: Vec<Duration>,
    spawn: Vec<Duration>,
    destroy: Vec<Duration>,
}

async fn alone(hypervisor: &QemuHypervisor, images: &ImageStore) -> anyhow::Result<Alone> {
    let profile = profile(1, 1)?;
    let image = images.build(&profile.recipe, BuildLog::silent()).await?;
    let mut times = Alone::default();
    for round in 0..ROUNDS / 2 {
        let name = WorkerName::new(format!("alone-{round}"))?;
        let spec = InstanceSpec {
            name: name.clone(),
            profile: profile.name.clone(),
            image: image.clone(),
            resources: profile.resources.clone(),
            network: Network::Open,
            user_data: None,
        };
        let began = Instant::now();
        hypervisor.create(&spec).await?;
        times.create.push(began.elapsed());
        let guest = hypervisor.guest(&name).await?;
        guest.ready().await?;
        times.boot.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
        for number in 0..5 {
            let began = Instant::now();
            let id = ProcessId::new(format!("p{number}"))?;
            guest.spawn(&id, &Command::new(["/bin/sh", "-c", "true"])).await?;
            times.spawn.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let began = Instant::now();
        hypervisor.destroy(&name).await?;
        times.destroy.push(began.elapsed());
    }
    Ok(times)
}
