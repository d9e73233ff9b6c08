//! `monitor console`: what a machine writes to its serial console.

use std::time::Duration;

use clap::Args;
use reqwest::StatusCode;

use super::{ClientArgs, out};
use crate::client::{ClientError, LogPart, segment};

/// How long to wait before a console whose stream broke is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct ConsoleArgs {
    /// The worker
    worker: String,
    /// Go on with what it writes from now on, until it ends
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn console(args: ConsoleArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    let path = format!("/workers/{}/console", segment(&args.worker));
    if !args.follow {
        out::bytes(&client.bytes(&path).await?)?;
        return Ok(0);
    }
    let path = format!("{path}/follow");
    let (mut offset, mut heard) = (0, false);
    loop {
        match client.stream(&path, offset).await {
            Ok(mut messages) => {
                heard = true;
                while let Some(message) = messages.next().await {
                    if message.event == "end" {
                        return Ok(0);
                    }
                    let part: LogPart = serde_json::from_str(&message.data)?;
                    let from = part.from;
                    let bytes = part.bytes()?;
                    let known = usize::try_from(offset.saturating_sub(from)).unwrap_or(usize::MAX);
                    if let Some(news) = bytes.get(known..) {
                        out::bytes(news)?;
                    }
                    offset = offset.max(from + bytes.len() as u64);
                }
            }
            // It was there, and is gone.
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) if heard => {
                return Ok(0);
            }
            Err(error) if error.is_passing() && heard => (),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
