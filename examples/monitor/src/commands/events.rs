//! `monitor events`: what happened, and what happens.

use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ClientArgs, age, out};
use crate::client::{Client, ClientError};

/// How many events are asked for at once.
const PART: u32 = 1000;

/// How long to wait for a service that does not answer before asking again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub struct EventsArgs {
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only what is about this job, worker, profile, image or forge
    #[arg(long, value_name = "NAME")]
    about: Option<String>,
    /// How many at most, the newest ones
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print what the API answers; with --follow, each event on a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Value>,
    next: u64,
}

#[derive(Deserialize)]
struct Event {
    at: String,
    subject: String,
    text: String,
}

pub async fn events(args: EventsArgs) -> anyhow::Result<u8> {
    let client = args.client.client()?;
    let wanted = |event: &Value| is_about(event, args.about.as_deref());
    let (mut events, mut last) = read(&client, args.about.is_some(), args.limit).await?;
    events.retain(wanted);
    let surplus = events.len().saturating_sub(args.limit);
    events.drain(..surplus);
    if args.json && !args.follow {
        out::json(&json!({ "events": events, "next": last }))?;
        return Ok(0);
    }
    for event in events {
        print(event, args.json)?;
    }
    if !args.follow {
        return Ok(0);
    }
    let mut told = false;
    loop {
        match client.stream("/events/follow", last).await {
            Ok(mut messages) => {
                told = false;
                while let Some(message) = messages.next().await {
                    let event: Value = serde_json::from_str(&message.data)?;
                    last = event["id"].as_u64().unwrap_or(last);
                    if wanted(&event) {
                        print(event, args.json)?;
                    }
                }
            }
            Err(error) if error.is_passing() => {
                if !std::mem::replace(&mut told, true) {
                    eprintln!("monitor: {error}");
                    eprintln!("monitor: waiting for it; nothing will be missed");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The newest events, or all that are kept where a few of them are searched for; and the last number.
async fn read(client: &Client, all: bool, limit: usize) -> Result<(Vec<Value>, u64), ClientError> {
    if !all && limit <= PART as usize {
        let page: Page = client.list(&format!("/events?limit={}", limit.max(1))).await?;
        return Ok((page.events, page.next));
    }
    let (mut events, mut last) = (Vec::new(), 0);
    loop {
        let page: Page = client.list(&format!("/events?after={last}&limit={PART}")).await?;
        let is_last = page.events.len() < PART as usize;
        events.extend(page.events);
        last = page.next;
        if is_last {
            return Ok((events, last));
        }
    }
}

/// Whether a word of the subject, or all of it, is this; or the text names it.
fn is_about(event: &Value, name: Option<&str>) -> bool {
    let Some(name) = name else { return true };
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let subject = text("subject");
    let of_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_named = |text: &str| text.split(|c| !of_name(c)).any(|word| word == name);
    subject == name || is_named(&subject) || is_named(&text("text"))
}

fn print(event: Value, json: bool) -> anyhow::Result<()> {
    if json {
        return out::line(event.to_string());
    }
    let Event { at, subject, text } = serde_json::from_value(event)?;
    let text = if text.contains(&subject) { text } else { format!("{subject}: {text}") };
    out::line(format!("{}  {}", out::paint(out::Colour::Dim, &age::clock(&at)), out::tame(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_about_what_it_names_whole() {
        let event = json!({ "subject": "worker linux-17", "text": "retire worker linux-17: its job j-4 is over" });
        for name in ["linux-17", "worker linux-17", "j-4"] {
            assert!(is_about(&event, Some(name)), "{name}");
        }
        for name in ["linux-1", "linux", "17", "j"] {
            assert!(!is_about(&event, Some(name)), "{name}");
        }
    }
}
