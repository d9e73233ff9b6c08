//! `monitor override`: other numbers for a while, all at once.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ClientArgs, WrongUse, out, table};
use crate::{client::ClientError, config::units::Period};

#[derive(Args)]
pub struct OverrideArgs {
    #[command(subcommand)]
    command: OverrideCommand,
}

#[derive(Subcommand)]
enum OverrideCommand {
    /// Show the policy override
    Show(ShowArgs),
    /// Have some profiles get other numbers of workers for a while; the others give way
    Set(SetArgs),
    /// End it: every profile has its own numbers again
    End(EndArgs),
}

#[derive(Args)]
struct ShowArgs {
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct SetArgs {
    /// How many workers each of these profiles is to have
    #[arg(required = true, value_name = "PROFILE=COUNT", value_parser = count)]
    counts: Vec<(String, u32)>,
    /// How long at most, such as 90m or 6h; it ends before when all its workers were there and are gone
    #[arg(long = "for", value_name = "DURATION", default_value = "6h")]
    time: String,
    /// What for; it is kept in the event log
    #[arg(long, default_value = "")]
    why: String,
    /// Only tell what would come of it
    #[arg(long)]
    dry_run: bool,
    /// Print what the API answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args)]
struct EndArgs {
    #[command(flatten)]
    client: ClientArgs,
}

fn count(text: &str) -> Result<(String, u32), String> {
    let (profile, count) = text.split_once('=').ok_or("write it as PROFILE=COUNT")?;
    let count = count.parse().map_err(|_| format!("{count:?} is not a count of workers"))?;
    Ok((profile.to_owned(), count))
}

/// What came of an override, or would.
#[derive(Deserialize)]
struct Answer {
    allotted: BTreeMap<String, Allotment>,
    #[serde(default)]
    by: String,
    #[serde(default)]
    purpose: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    actions: Vec<Planned>,
}

#[derive(Deserialize)]
struct Allotment {
    requested: bool,
    wanted: u32,
    granted: u32,
    explanation: String,
}

#[derive(Deserialize)]
struct Planned {
    action: String,
    subject: String,
    why: String,
}

pub async fn overriding(args: OverrideArgs) -> anyhow::Result<u8> {
    match args.command {
        OverrideCommand::Show(args) => show(args).await,
        OverrideCommand::Set(args) => set(args).await,
        OverrideCommand::End(args) => end(args).await,
    }
}

async fn show(args: ShowArgs) -> anyhow::Result<u8> {
    let found: Result<Value, ClientError> = args.client.client()?.list("/override").await;
    let answer = match found {
        Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Value::Null,
        other => other?,
    };
    if args.json {
        out::json(&answer)?;
    } else if answer.is_null() {
        out::line("nothing overrides the policy")?;
    } else {
        tell(serde_json::from_value(answer)?)?;
    }
    Ok(0)
}

async fn set(args: SetArgs) -> anyhow::Result<u8> {
    let time = args.time.parse::<Period>();
    time.map_err(|error| WrongUse(format!("--for: {error}")))?;
    let mut counts = BTreeMap::new();
    for (profile, count) in args.counts {
        if counts.insert(profile.clone(), count).is_some() {
            return Err(WrongUse(format!("profile {profile} is there twice")).into());
        }
    }
    let wish = json!({ "counts": counts, "duration": args.time, "purpose": args.why });
    let path = if args.dry_run { "/override/preview" } else { "/override" };
    let answer = args.client.client()?.call(Method::POST, path, Some(&wish)).await?;
    if args.json {
        out::json(&answer)?;
    } else {
        tell(serde_json::from_value(answer)?)?;
    }
    Ok(0)
}

async fn end(args: EndArgs) -> anyhow::Result<u8> {
    args.client.client()?.call(Method::DELETE, "/override", None).await?;
    out::line("nothing overrides the policy")?;
    Ok(0)
}

fn tell(answer: Answer) -> anyhow::Result<()> {
    if !answer.by.is_empty() {
        let (by, until) = (&answer.by, &answer.until);
        let purpose = out::tame(&answer.purpose);
        let purpose = if purpose.is_empty() { purpose } else { format!(": {purpose}") };
        out::line(format!("{by} overrides the policy until {until}{purpose}"))?;
    }
    let row = |(name, allotment): (String, Allotment)| {
        let requested = if allotment.requested { "asked for" } else { "" };
        [
            name,
            allotment.wanted.to_string(),
            allotment.granted.to_string(),
            requested.to_owned(),
            if allotment.granted < allotment.wanted {
                allotment.explanation
            } else {
                String::new()
            },
        ]
    };
    let rows = answer.allotted.into_iter().map(row).collect();
    table::print(["PROFILE", "WANTED", "GETS", "OVERRIDE", "WHY NOT MORE"], rows)?;
    for Planned { action, subject, why } in answer.actions {
        out::line(format!("would {action} {subject}: {why}"))?;
    }
    Ok(())
}
