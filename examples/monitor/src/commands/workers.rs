//! `monitor workers`: the machines there are.

use clap::Args;
use serde_json::Value;

use super::{ClientArgs, table};
use crate::client::Worker;

#[derive(Args)]
pub struct WorkersArgs {
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn workers(args: WorkersArgs) -> anyhow::Result<u8> {
    let answer: Value = args.client.client()?.list("/workers").await?;
    if args.json {
        println!("{answer:#}");
        return Ok(0);
    }
    let workers: Vec<Worker> = serde_json::from_value(answer)?;
    let row = |worker: Worker| {
        let phase = match worker.ending {
            Some(ending) => format!("{}: {ending}", worker.phase),
            None => worker.phase,
        };
        [
            worker.name,
            worker.profile.unwrap_or_default(),
            phase,
            worker.since,
            worker.job.unwrap_or_default(),
        ]
    };
    let rows = workers.into_iter().map(row).collect();
    table::print(["WORKER", "PROFILE", "PHASE", "SINCE", "JOB"], rows);
    Ok(0)
}
