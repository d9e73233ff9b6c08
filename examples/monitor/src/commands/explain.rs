//! `monitor explain`: why a job waits, what became of it, and what happened to a worker.

use clap::Args;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::{ClientArgs, age, out};
use crate::client::{ClientError, segment};

#[derive(Args)]
pub struct ExplainArgs {
    /// A job or a worker, ended ones included
    #[arg(value_name = "JOB|WORKER")]
    subject: String,
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Deserialize)]
struct Explanation {
    subject: String,
    summary: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    at: Option<String>,
    text: String,
}

pub async fn explain(args: ExplainArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    let id = segment(&args.subject);
    for kind in ["jobs", "workers"] {
        let answer: Result<Value, ClientError> =
            client.list(&format!("/{kind}/{id}/explain")).await;
        match answer {
            Ok(answer) if args.json => {
                out::json(&answer)?;
                return Ok(0);
            }
            Ok(answer) => {
                print(serde_json::from_value(answer)?)?;
                return Ok(0);
            }
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => (),
            Err(error) => return Err(error.into()),
        }
    }
    Err(super::unknown(&args.subject).into())
}

fn print(explanation: Explanation) -> anyhow::Result<()> {
    let Explanation { subject, summary, lines } = explanation;
    out::line(format!("{}: {}", out::tame(&subject), out::tame(&summary)))?;
    let timed = lines.iter().any(|line| line.at.is_some());
    for line in lines {
        let at = line.at.as_deref().map(age::clock).unwrap_or_default();
        let at = if timed { format!("{at:20}  ") } else { String::new() };
        out::line(format!("  {at}{}", out::tame(&line.text)).trim_end())?;
    }
    Ok(())
}
