//! `monitor profiles`: the kinds of runner on offer, and how many of each.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value};

use super::{ClientArgs, WrongUse, out, table};
use crate::client::{Profile, segment};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ProfilesArgs {
    #[command(subcommand)]
    command: Option<ProfilesCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Subcommand)]
enum ProfilesCommand {
    /// List profiles with their counts
    List(ListArgs),
    /// Change a profile's numbers until they are changed again, over restarts too
    Set(SetArgs),
}

#[derive(Args)]
struct ListArgs {
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct SetArgs {
    /// The profile
    name: String,
    /// How many idle workers to keep ready
    #[arg(long, value_name = "N")]
    min_idle: Option<u32>,
    /// How many workers there may be at once
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Make no new workers; jobs that run go on
    #[arg(long)]
    pause: bool,
    /// Make workers again
    #[arg(long, conflicts_with = "pause")]
    resume: bool,
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

pub async fn profiles(args: ProfilesArgs) -> anyhow::Result<u8> {
    match args.command {
        None => list(args.list).await,
        Some(ProfilesCommand::List(args)) => list(args).await,
        Some(ProfilesCommand::Set(args)) => set(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<u8> {
    let answer: Value = args.client.client()?.list("/profiles").await?;
    if args.json {
        out::json(&answer)?;
        return Ok(0);
    }
    let profiles: Vec<Profile> = serde_json::from_value(answer)?;
    let row = |profile: Profile| {
        let counts = profile.counts.unwrap_or_default();
        [
            profile.name,
            if profile.paused { "paused".to_owned() } else { counts.min_idle.to_string() },
            counts.max.to_string(),
            counts.idle.to_string(),
            counts.busy.to_string(),
            counts.starting.to_string(),
            counts.queued.to_string(),
            profile.labels.join(" "),
        ]
    };
    let rows = profiles.into_iter().map(row).collect();
    let header = ["PROFILE", "MIN IDLE", "MAX", "IDLE", "BUSY", "STARTING", "QUEUED", "LABELS"];
    table::print(header, rows)?;
    Ok(0)
}

async fn set(args: SetArgs) -> anyhow::Result<u8> {
    let mut wish = Map::new();
    wish.extend(args.min_idle.map(|n| ("min_idle".to_owned(), n.into())));
    wish.extend(args.max.map(|n| ("max".to_owned(), n.into())));
    if args.pause || args.resume {
        wish.insert("paused".to_owned(), args.pause.into());
    }
    if wish.is_empty() {
        let problem = "say what to set: --min-idle N, --max N, --pause or --resume";
        return Err(WrongUse(problem.to_owned()).into());
    }
    let words: Vec<String> = wish.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let path = format!("/profiles/{}", segment(&args.name));
    let client = args.client.client()?;
    let answer = client.call(Method::PATCH, &path, Some(&wish.into())).await?;
    if args.json {
        out::json(&answer)?;
    } else {
        out::line(format!("profile {}: {}", args.name, words.join(", ")))?;
    }
    Ok(0)
}
