//! The table of a job's times: from its submission to the machine that takes its place.

use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;

use crate::client::{Client, Job, Workers};

/// How long to wait for a replacement.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often to look for it.
const PAUSE: Duration = Duration::from_millis(100);

/// Prints the table on standard error, having waited until the job's machine is replaced.
///
/// # Errors
/// For times that are none.
pub async fn print(client: &Client, job: &Job) -> anyhow::Result<()> {
    let queued = time(&job.queued_at)?;
    let mut rows = vec![("queued", Some(queued))];
    let steps = [
        ("machine ready", &job.assigned_at),
        ("command started", &job.started_at),
        ("first line", &job.first_output_at),
        ("done", &job.ended_at),
    ];
    for (step, at) in steps {
        rows.push((step, at.as_deref().map(time).transpose()?));
    }
    rows.push(("replacement ready", replacement(client, job, queued).await));
    eprintln!("{:<18} {:>11} {:>11}", "", "since start", "since last");
    let mut last = queued;
    for (step, at) in rows {
        let Some(at) = at else {
            eprintln!("{step:<18} {:>11}", "-");
            continue;
        };
        let seconds = |from: Timestamp| at.duration_since(from).as_secs_f64();
        eprintln!("{step:<18} {:>9.3} s {:>+9.3} s", seconds(queued), seconds(last));
        last = at;
    }
    Ok(())
}

/// When a machine that was not the job's became idle after the job was queued.
async fn replacement(client: &Client, job: &Job, queued: Timestamp) -> Option<Timestamp> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let workers: Workers = client.list("/workers").await.ok()?;
        let workers = workers.into_vec();
        let fresh = workers.iter().find_map(|worker| {
            let since = time(&worker.since).ok()?;
            let other = Some(&worker.name) != job.worker.as_ref();
            (worker.phase == "idle" && other && since > queued).then_some(since)
        });
        if fresh.is_some() {
            return fresh;
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

fn time(text: &str) -> anyhow::Result<Timestamp> {
    text.parse().with_context(|| format!("{text:?} is not a time"))
}
