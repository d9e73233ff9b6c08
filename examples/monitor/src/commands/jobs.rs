//! `monitor jobs`: what waits, runs and ran.

use clap::Args;
use serde_json::Value;

use super::{ClientArgs, table};
use crate::client::{Job, JobPage};

#[derive(Args)]
pub struct JobsArgs {
    /// Only jobs in this state
    #[arg(long, value_parser = STATES)]
    state: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

const STATES: [&str; 7] =
    ["queued", "running", "succeeded", "failed", "cancelled", "timed_out", "interrupted"];

pub async fn jobs(args: JobsArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    let mut path = format!("/jobs?limit={}", args.limit);
    if let Some(state) = &args.state {
        path.push_str(&format!("&state={state}"));
    }
    let answer: Value = client.list(&path).await?;
    if args.json {
        println!("{answer:#}");
        return Ok(0);
    }
    let page: JobPage = serde_json::from_value(answer)?;
    let rows = page.jobs.into_iter().map(row).collect();
    let header = ["JOB", "STATE", "PROFILE", "WORKER", "QUEUED", "WHAT"];
    table::print(header, rows);
    Ok(0)
}

fn row(job: Job) -> [String; 6] {
    let says = job.says();
    let what = match &job.argv {
        _ if !job.title.is_empty() => job.title,
        Some(argv) => argv.join(" "),
        None => "(script)".to_owned(),
    };
    [
        job.id,
        says,
        job.profile.unwrap_or_default(),
        job.worker.unwrap_or_default(),
        job.queued_at,
        what.chars().take(60).collect(),
    ]
}
