//! `monitor jobs`: what waits, runs and ran.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{ClientArgs, age, out, table};
use crate::client::{Job, JobPage, segment};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: Option<JobsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Subcommand)]
enum JobsCommand {
    /// List jobs, newest first
    List(ListArgs),
    /// Show everything about one job
    Show(ShowArgs),
}

#[derive(Args)]
struct ListArgs {
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

#[derive(Args)]
struct ShowArgs {
    /// The job
    id: String,
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

const STATES: [&str; 7] =
    ["queued", "running", "succeeded", "failed", "cancelled", "timed_out", "interrupted"];

pub async fn jobs(args: JobsArgs) -> anyhow::Result<u8> {
    match args.command {
        None => list(args.list).await,
        Some(JobsCommand::List(args)) => list(args).await,
        Some(JobsCommand::Show(args)) => show(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    let mut path = format!("/jobs?limit={}", args.limit);
    if let Some(state) = &args.state {
        path.push_str(&format!("&state={state}"));
    }
    let answer: Value = client.list(&path).await?;
    if args.json {
        out::json(&answer)?;
        return Ok(0);
    }
    let page: JobPage = serde_json::from_value(answer)?;
    let rows = page.jobs.into_iter().map(row).collect();
    table::print(["JOB", "STATE", "PROFILE", "WORKER", "AGE", "WHAT"], rows)?;
    Ok(0)
}

async fn show(args: ShowArgs) -> anyhow::Result<u8> {
    let path = format!("/jobs/{}", segment(&args.id));
    let answer: Value = args.client.client()?.list(&path).await?;
    if args.json {
        out::json(&answer)?;
        return Ok(0);
    }
    let Value::Object(fields) = answer else { anyhow::bail!("the service told no job") };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in fields {
        let shown = match value {
            Value::Null => continue,
            Value::String(text) if text.is_empty() => continue,
            Value::Array(list) if list.is_empty() => continue,
            Value::String(text) => text,
            other => other.to_string(),
        };
        let key = key.replace('_', " ");
        for (index, line) in shown.lines().enumerate() {
            let key = if index == 0 { key.as_str() } else { "" };
            out::line(format!("{key:width$}  {}", out::tame(line)))?;
        }
    }
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
        age::ago(&job.queued_at),
        what,
    ]
}
