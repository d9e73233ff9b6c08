//! What is measured on fake machines: our own time, and what many workers cost.

use std::{fs, sync::Arc, time::Duration};

use runner_core::{Clock, Resources, fake::FakeWorld};

use crate::{
    pools::{Bench, between, profile},
    table::Table,
};

async fn bench(
    dir: &std::path::Path,
    min_idle: u32,
    max: u32,
) -> anyhow::Result<(Bench, FakeWorld)> {
    let world = FakeWorld::new(Clock::system());
    world.set_boot_time(Duration::ZERO);
    let room = Resources { vcpus: 1 << 20, memory_mib: 1 << 30, ..Resources::default() };
    world.set_capacity(room);
    let (hypervisor, builder) = (Arc::new(world.hypervisor()), Arc::new(world.builder()));
    Ok((Bench::start(dir, hypervisor, builder, profile(min_idle, max)?).await?, world))
}

/// From a job's submission to its command's start where a guest takes no time at all: all of it is ours,
/// the flushes of the disk included.
pub async fn measure_own_time(table: &mut Table) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in("cache")?;
    let (bench, _) = bench(dir.path(), 1, 1).await?;
    let (mut starts, mut replacements) = (Vec::new(), Vec::new());
    let mut ended = None;
    for _ in 0..50 {
        bench.idle(1).await;
        let made = bench.pool.status().workers.iter().find_map(|worker| worker.created_at);
        if let (Some(ended), Some(_)) = (ended, made) {
            replacements.push(between(ended, made));
        }
        let job = bench.run("true").await?;
        starts.push(between(job.queued_at, job.started_at));
        ended = job.ended_at;
    }
    table.times("job submitted -> command started, idle worker, own time", &starts, "under 50 ms");
    let what = "worker over -> replacement decided on, own time";
    table.times(what, &replacements, "under 50 ms");
    bench.pool.drain().await?;
    Ok(())
}

/// What a thousand idle workers cost this process.
pub async fn measure_many(table: &mut Table) -> anyhow::Result<()> {
    const WORKERS: u32 = 1_000;
    let dir = tempfile::tempdir_in("cache")?;
    let before = resident_mib()?;
    let (bench, _world) = bench(dir.path(), WORKERS, WORKERS).await?;
    bench.idle(WORKERS).await;
    let after = resident_mib()?;
    let what = "memory with 1,000 fake workers (whole process)";
    table.number(what, format!("{after:.1} MiB"), "under 50 MiB");
    table.number("  of it for the workers", format!("{:.1} MiB", after - before), "");
    // Let what came with the start settle.
    tokio::time::sleep(Duration::from_secs(5)).await;
    const WATCH: Duration = Duration::from_secs(20);
    let before = processor_seconds()?;
    tokio::time::sleep(WATCH).await;
    let share = (processor_seconds()? - before) / WATCH.as_secs_f64() * 100.0;
    table.number("processor, 1,000 idle workers, nothing to do", format!("{share:.2} %"), "");
    drop(bench);
    let dir = tempfile::tempdir_in("cache")?;
    let (bench, _world) = self::bench(dir.path(), 2, 4).await?;
    bench.idle(2).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = processor_seconds()?;
    tokio::time::sleep(WATCH).await;
    let share = (processor_seconds()? - before) / WATCH.as_secs_f64() * 100.0;
    let what = "processor, 2 idle workers, nothing to do";
    table.number(what, format!("{share:.2} %"), "under 0.5 %");
    Ok(())
}

pub fn resident_mib() -> anyhow::Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn processor_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> =
        fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    // Linux counts a hundred ticks a second here on every architecture.
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
