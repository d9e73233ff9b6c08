//! `monitor hold`, `unhold` and `retire`: what an operator does with a machine.

use anyhow::Context;
use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ClientArgs, WrongUse, out};
use crate::{
    client::{Client, ClientError, segment},
    config::units::Period,
};

#[derive(Args)]
pub struct HoldArgs {
    /// The worker, or the job it has or had
    #[arg(value_name = "JOB|WORKER")]
    subject: String,
    /// How long to keep its machine, such as 30m or 4h
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    time: String,
    /// What for; it is kept in the event log
    #[arg(long, default_value = "")]
    why: String,
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub struct UnholdArgs {
    /// The worker, or the job it has or had
    #[arg(value_name = "JOB|WORKER")]
    subject: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
pub struct RetireArgs {
    /// The worker; one that runs a job is refused
    worker: String,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn hold(args: HoldArgs) -> anyhow::Result<u8> {
    let time = args.time.parse::<Period>();
    time.map_err(|error| WrongUse(format!("--for: {error}")))?;
    let client = args.client.client()?;
    let worker = worker(&client, &args.subject).await?;
    let wish = json!({ "for": args.time, "purpose": args.why });
    let path = format!("/workers/{}/hold", segment(&worker));
    let answer = client.call(Method::POST, &path, Some(&wish)).await?;
    if args.json {
        out::json(&answer)?;
    } else {
        let time = &args.time;
        out::line(format!(
            "worker {worker} is held for {time}; `monitor unhold {worker}` ends that"
        ))?;
    }
    Ok(0)
}

pub async fn unhold(args: UnholdArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    let worker = worker(&client, &args.subject).await?;
    let path = format!("/workers/{}/hold", segment(&worker));
    client.call(Method::DELETE, &path, None).await?;
    out::line(format!("worker {worker} is not held"))?;
    Ok(0)
}

pub async fn retire(args: RetireArgs) -> anyhow::Result<u8> {
    let path = format!("/workers/{}/retire", segment(&args.worker));
    args.client.client()?.call(Method::POST, &path, None).await?;
    let worker = &args.worker;
    out::line(format!("worker {worker} is being retired"))?;
    Ok(0)
}

/// The worker of this name, or that of the job of this id.
async fn worker(client: &Client, subject: &str) -> anyhow::Result<String> {
    let found: Result<Value, ClientError> =
        client.list(&format!("/workers/{}", segment(subject))).await;
    match found {
        Ok(_) => return Ok(subject.to_owned()),
        Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => (),
        Err(error) => return Err(error.into()),
    }
    match client.job(subject).await {
        Ok(job) => job.worker.with_context(|| {
            format!("job {subject} has no machine yet; `monitor explain {subject}` says why")
        }),
        Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
            Err(super::unknown(subject).into())
        }
        Err(error) => Err(error.into()),
    }
}
