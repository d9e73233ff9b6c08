//! `monitor workers`: the machines there are.

use clap::Args;
use serde_json::Value;

use super::{ClientArgs, age, out, table};
use crate::client::{Worker, Workers, query};

#[derive(Args)]
pub struct WorkersArgs {
    /// Only workers of this profile
    #[arg(long)]
    profile: Option<String>,
    /// Only workers in this phase
    #[arg(long, value_parser = PHASES)]
    phase: Option<String>,
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

const PHASES: [&str; 6] = ["starting", "idle", "reserved", "busy", "unseen", "over"];

pub async fn workers(args: WorkersArgs) -> anyhow::Result<u8> {
    let wanted = query(&[("profile", &args.profile), ("phase", &args.phase)]);
    let answer: Value = args.client.client()?.list(&format!("/workers{wanted}")).await?;
    if args.json {
        out::json(&answer)?;
        return Ok(0);
    }
    let workers: Workers = serde_json::from_value(answer)?;
    let row = |worker: Worker| {
        let phase = match worker.ending {
            Some(ending) => format!("{}: {ending}", worker.phase),
            None => worker.phase,
        };
        [
            worker.name,
            worker.profile.unwrap_or_default(),
            phase,
            age::ago(&worker.since),
            worker.job.unwrap_or_default(),
        ]
    };
    let rows = workers.into_vec().into_iter().map(row).collect();
    table::print(["WORKER", "PROFILE", "PHASE", "SINCE", "JOB"], rows)?;
    Ok(0)
}
