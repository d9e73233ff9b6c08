//! `monitor cancel`: ends a job.

use clap::Args;

use super::{ClientArgs, out};

#[derive(Args)]
pub struct CancelArgs {
    /// The job
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn cancel(args: CancelArgs) -> anyhow::Result<u8> {
    let job = args.client.client()?.cancel(&args.id).await?;
    if job.exit_code.is_some() {
        out::line(format!("job {} is over: {}", job.id, job.says()))?;
    } else {
        out::line(format!("job {} is asked to end", job.id))?;
    }
    Ok(0)
}
