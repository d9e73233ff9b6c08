//! Fetches deliveries that got lost: GitHub keeps a log of them for three days, and repeats nothing by itself.
//!
//! What GitHub tried to send is read out of that log, rather than sent again: it arrives even while nothing
//! from outside can reach us, which is the usual reason for the loss.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use jiff::Timestamp;
use runner_core::{Result, error::chain};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{Outcome, REPEATABLE, Webhook};
use crate::{
    rest::{Call, Identity, Rest},
    scope::RepositoryName,
};

/// How many lost deliveries one run fetches; each costs a call. The rest is left to the next run.
pub const MOST_FETCHED: usize = 100;

/// How many pages of the log, of 100 deliveries each, one run reads.
const MOST_PAGES: usize = 50;

/// A delivery may be logged later than it is dated, and is dated in whole seconds.
const OVERLAP: Duration = Duration::from_secs(300);

/// Whose log it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// A hook of an organisation. Needs the organisation permission "Webhooks: read", or `admin:org_hook`.
    Organization {
        /// The organisation.
        name: String,
        /// The hook's number: the last part of its address on GitHub.
        hook: u64,
    },
    /// A hook of a repository. Needs the repository permission "Webhooks: read", or `repo`.
    Repository {
        /// The repository.
        name: RepositoryName,
        /// The hook's number.
        hook: u64,
    },
    /// The hook of the App whose credentials are used.
    App,
}

impl Hook {
    fn path(&self) -> String {
        match self {
            Self::Organization { name, hook } => format!("/orgs/{name}/hooks/{hook}/deliveries"),
            Self::Repository { name, hook } => format!("/repos/{name}/hooks/{hook}/deliveries"),
            Self::App => "/app/hook/deliveries".to_owned(),
        }
    }

    fn call(&self, path: String) -> Call {
        let identity = if *self == Self::App { Identity::App } else { Identity::Installation };
        Call { identity, ..Call::get(path) }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization { name, hook } => write!(f, "hook {hook} of organization {name}"),
            Self::Repository { name, hook } => write!(f, "hook {hook} of repository {name}"),
            Self::App => f.write_str("the App's hook"),
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Deliveries that were lost, and taken in now.
    pub fetched: usize,
    /// Deliveries that are lost and could not be read, now or ever: what they told must be asked for.
    pub unreadable: usize,
    /// Deliveries that are lost and wait for the next run.
    pub left: usize,
}

/// Looks through a hook's log, and remembers how far.
pub struct Recovery {
    hook: Hook,
    /// All that was dated before has been looked at.
    since: Timestamp,
}

/// A line of the log.
#[derive(Debug, Deserialize)]
struct Logged {
    id: u64,
    guid: Uuid,
    delivered_at: Timestamp,
    #[serde(default)]
    status_code: u16,
    event: String,
}

#[derive(Debug, Deserialize)]
struct Detail {
    request: Request,
}

#[derive(Debug, Deserialize)]
struct Request {
    payload: Option<Box<RawValue>>,
}

impl Recovery {
    /// Will look at what was sent after `since`, and at no more than the log holds.
    pub fn new(hook: Hook, since: Timestamp) -> Self {
        Self { hook, since }
    }

    /// Finds the deliveries that never arrived, and hands them to `webhook`. Once none is missing, a webhook
    /// that was well before is well again.
    ///
    /// # Errors
    /// As [`Rest::call`]. What was not looked at is looked at by the next run.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: the next run looks at the same again.
    pub async fn run(&mut self, rest: &dyn Rest, webhook: &Webhook) -> Result<Recovered> {
        let now = webhook.clock.now();
        let oldest = (self.since - OVERLAP).max(now - REPEATABLE);
        let lost = self.lost(rest, webhook, oldest).await?;
        let mut done =
            Recovered { left: lost.len().saturating_sub(MOST_FETCHED), ..Recovered::default() };
        // The oldest first: the log ends.
        for ((sent_at, _), (id, guid)) in lost.into_iter().take(MOST_FETCHED) {
            match self.fetch(rest, webhook, id, guid).await? {
                Ok(outcome) => {
                    debug!(hook = %self.hook, %guid, %sent_at, ?outcome, "Fetched a lost delivery.");
                    done.fetched += 1;
                }
                Err(reason) => {
                    warn!(hook = %self.hook, %guid, %sent_at, reason, "A lost delivery cannot be read.");
                    done.unreadable += 1;
                }
            }
        }
        if done.left == 0 {
            self.since = now;
            if done.unreadable == 0 {
                webhook.nothing_lost(now);
            }
        }
        Ok(done)
    }

    /// The deliveries since `oldest` of which no attempt succeeded, by the time of their first one.
    async fn lost(
        &self,
        rest: &dyn Rest,
        webhook: &Webhook,
        oldest: Timestamp,
    ) -> Result<BTreeMap<(Timestamp, u64), (u64, Uuid)>> {
        let doing = format!("read the deliveries of {}", self.hook);
        let mut attempts: HashMap<Uuid, (bool, Timestamp, u64)> = HashMap::new();
        let mut path = format!("{}?per_page=100", self.hook.path());
        for _ in 0..MOST_PAGES {
            let answer = rest.call(self.hook.call(path)).await?;
            let page: Vec<Logged> = answer.json(&doing)?;
            let past = page.iter().any(|line| line.delivered_at < oldest);
            for line in page {
                if line.event != "workflow_job" || line.delivered_at < oldest {
                    continue;
                }
                let arrived = (200..300).contains(&line.status_code);
                let entry =
                    attempts.entry(line.guid).or_insert((arrived, line.delivered_at, line.id));
                entry.0 |= arrived;
                entry.1 = entry.1.min(line.delivered_at);
            }
            match next_page(&answer.headers) {
                Some(cursor) if !past => {
                    path = format!("{}?per_page=100&cursor={cursor}", self.hook.path());
                }
                _ => break,
            }
        }
        Ok(attempts
            .into_iter()
            .filter(|(guid, (arrived, ..))| !arrived && !webhook.has_seen(guid))
            .map(|(guid, (_, sent_at, id))| ((sent_at, id), (id, guid)))
            .collect())
    }

    /// The outer error is for the next run, the inner one for ever.
    async fn fetch(
        &self,
        rest: &dyn Rest,
        webhook: &Webhook,
        id: u64,
        guid: Uuid,
    ) -> Result<Result<Outcome, String>> {
        let answer = match rest.call(self.hook.call(format!("{}/{id}", self.hook.path()))).await {
            Ok(answer) => answer,
            Err(error) if error.is_not_found() => return Ok(Err(error.to_string())),
            Err(error) => return Err(error),
        };
        let detail: Detail = match answer.json("read a delivery") {
            Ok(detail) => detail,
            Err(error) => return Ok(Err(chain(&error))),
        };
        let Some(payload) = detail.request.payload else {
            return Ok(Err("GitHub no longer has its payload".to_owned()));
        };
        Ok(webhook.recover(guid, payload.get().as_bytes()))
    }
}

/// The cursor of the page that follows, out of the header `Link`.
fn next_page(headers: &http::HeaderMap) -> Option<String> {
    let links = headers.get(http::header::LINK)?.to_str().ok()?;
    let link = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let address = link.split_once('<')?.1.split_once('>')?.0;
    let query = address.split_once('?')?.1;
    let cursor =
        url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "cursor")?.1;
    Some(url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_the_links() {
        let find = |links: &str| {
            next_page(&[(http::header::LINK, links.parse().unwrap())].into_iter().collect())
        };
        let next = r#"<https://x/deliveries?per_page=100&cursor=v1_12%2B>; rel="next""#;
        assert_eq!(find(next).as_deref(), Some("v1_12%2B"));
        let both = format!("<https://x/y?cursor=1>; rel=\"prev\", {next}");
        assert_eq!(find(&both).as_deref(), Some("v1_12%2B"));
        assert_eq!(find(r#"<https://x/y?cursor=1>; rel="prev""#), None);
        assert_eq!(find("garbage"), None);
    }
}
