//! `monitor logs`: what a job wrote.

use clap::Args;

use super::{ClientArgs, follow::Follow, out};
use crate::client::segment;

#[derive(Args)]
pub struct LogsArgs {
    /// The job
    job: String,
    /// Go on until the job is over
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn logs(args: LogsArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    if args.follow {
        // A job that does not exist is told at once.
        client.job(&args.job).await?;
        let job = Follow::new(&client, &args.job).until_over().await?;
        eprintln!("monitor: job {} {}", job.id, job.says());
        return Ok(0);
    }
    out::bytes(&client.bytes(&format!("/jobs/{}/log", segment(&args.job))).await?)?;
    Ok(0)
}
