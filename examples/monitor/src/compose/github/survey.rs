//! Asks a GitHub what the service would need of it. Changes nothing.

use std::{collections::BTreeSet, sync::Arc};

use forge_github::{
    Client, HttpTransport, Place, Rest, Scope,
    budget::Limits,
    downloads::RunnerVersion,
    rest::{Answer, Call, Identity},
};
use jiff::{SignedDuration, Timestamp};
use poem::http::{HeaderMap, Method, StatusCode, header};
use runner_core::{Clock, Error, Result, error::chain};
use serde::Deserialize;

use super::{client, from};
use crate::config::{self, GithubGroup};

/// What a GitHub answers that is asked for what the service needs.
#[derive(Debug)]
pub struct GithubSurvey {
    /// What of which GitHub it is, for people.
    pub at: String,
    /// What the credentials need to be allowed, in words.
    pub needs: String,
    /// Whether the credentials see the runners.
    pub sees: Result<()>,
    /// Whether they may register and remove some. Not asked unless they see them.
    pub registers: Result<()>,
    /// The runner groups that profiles name; with each that is not there, what is.
    pub groups: Result<Vec<(String, Option<String>)>>,
    /// Whether the queued jobs of each repository can be asked for.
    pub queues: Vec<(String, Result<()>)>,
    /// Whether the webhook's secrets can be read.
    pub secrets: Vec<Result<()>>,
    /// Whether a hook delivers here.
    pub hook: GithubHook,
    /// By how much the clock here is ahead of GitHub's, if it told.
    pub clock_ahead: Option<SignedDuration>,
    /// What is left of the hourly limits, where there are some.
    pub limits: Result<Vec<HourlyLimit>>,
    /// The newest runner program, if any is offered.
    pub newest: Result<Option<String>>,
}

/// Whether a hook of GitHub's delivers to this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GithubHook {
    /// The configuration takes no deliveries.
    Unwanted,
    /// It does.
    Well,
    /// There is none that names this service's address.
    Missing,
    /// The one that is configured delivers to this address.
    Elsewhere(String),
    /// It is switched off.
    Off,
    /// It does not deliver workflow jobs.
    Deaf,
    /// What it delivered last was answered with this.
    Failing {
        /// The status; GitHub has some of its own, such as for a timeout.
        code: u16,
        /// The number at the end of its address.
        number: u64,
    },
    /// It cannot be looked at, for this reason.
    Unseen(String),
}

/// What is left of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourlyLimit {
    /// On which kind of call.
    pub kind: String,
    /// How many may be made within an hour.
    pub limit: u64,
    /// How many are left.
    pub remaining: u64,
    /// When that hour ends.
    pub resets_in_seconds: i64,
}

/// The number of no runner: GitHub counts from 1.
const NO_RUNNER: u64 = 0;

#[derive(Deserialize)]
struct GroupPage {
    runner_groups: Vec<NamedGroup>,
}

#[derive(Deserialize)]
struct NamedGroup {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct LimitPage {
    resources: std::collections::BTreeMap<String, Limit>,
}

#[derive(Deserialize)]
struct Limit {
    limit: u64,
    remaining: u64,
    reset: i64,
}

#[derive(Deserialize)]
struct HookPage {
    id: u64,
    #[serde(default = "yes")]
    active: bool,
    #[serde(default)]
    events: Vec<String>,
    config: HookConfig,
    #[serde(default)]
    last_response: LastResponse,
}

#[derive(Deserialize)]
struct HookConfig {
    #[serde(default)]
    url: String,
}

#[derive(Deserialize, Default)]
struct LastResponse {
    code: Option<u16>,
}

fn yes() -> bool {
    true
}

/// Asks for everything in turn; what fails does not keep the rest from being asked.
pub(in crate::compose) async fn survey(section: &config::GithubConfig) -> Result<GithubSurvey> {
    let place = Place::new(&section.url)?;
    let authorities = match &section.authorities {
        Some(path) => tokio::fs::read(path).await.map_err(|error| {
            Error::backend("monitor", format!("read the authorities in {}", path.display()), error)
        })?,
        None => Vec::new(),
    };
    let transport = Arc::new(HttpTransport::new(&authorities)?);
    let mut settings = client(section, place.clone());
    // A few calls, now: what a service beside it spends is not this one's to know.
    settings.limits = Limits::default();
    let client = Client::new(settings, transport, Clock::system())?;
    let mut secrets = Vec::new();
    for place in &section.webhook {
        secrets.push(from(place).read().await.map(|_| ()));
    }
    let ask = Ask { client: &client, scope: place.scope() };
    let path = place.scope().path();
    let began = Timestamp::now();
    let runners = ask.get(format!("{path}/actions/runners?per_page=1")).await;
    let now = Timestamp::now();
    let (clock_ahead, limits) = match &runners {
        Ok(answer) => (clock_ahead(&answer.headers, began, now), ask.limits(now).await),
        Err(_) => (None, Ok(Vec::new())),
    };
    let registers = match &runners {
        Ok(_) => ask.may_register().await,
        Err(_) => Ok(()),
    };
    let mut queues = Vec::new();
    for name in &section.repositories {
        let path = format!("/repos/{name}/actions/runs?status=queued&per_page=1");
        queues.push((name.clone(), ask.get(path).await.map(|_| ())));
    }
    Ok(GithubSurvey {
        at: place.to_string(),
        needs: place.scope().permission(),
        sees: runners.map(|_| ()),
        registers,
        groups: ask.groups(&wanted(section)).await,
        queues,
        secrets,
        hook: ask.hook(section).await,
        clock_ahead,
        limits,
        newest: client.runner_programs().await.map(|offered| {
            let newest = offered.iter().map(|program| program.version).max();
            newest.map(|version: RunnerVersion| version.to_string())
        }),
    })
}

/// Whether a version is older than another.
pub(in crate::compose) fn is_older(version: &str, newest: &str) -> bool {
    match (version.parse::<RunnerVersion>(), newest.parse::<RunnerVersion>()) {
        (Ok(version), Ok(newest)) => version < newest,
        _ => false,
    }
}

/// The runner groups that profiles name.
fn wanted(section: &config::GithubConfig) -> BTreeSet<String> {
    let groups = section.profiles.values().filter_map(|profile| profile.group.as_ref());
    groups
        .map(|group| match group {
            GithubGroup::Id(id) => id.to_string(),
            GithubGroup::Name(name) => name.clone(),
        })
        .collect()
}

/// By how much the clock here is ahead of GitHub's. The answer was made between these two moments, and tells
/// whole seconds.
fn clock_ahead(headers: &HeaderMap, began: Timestamp, now: Timestamp) -> Option<SignedDuration> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    let second = SignedDuration::from_secs(1);
    if theirs > now {
        return Some(now.duration_since(theirs));
    }
    let latest = theirs.saturating_add(second).unwrap_or(theirs);
    Some(if latest < began { began.duration_since(latest) } else { SignedDuration::ZERO })
}

/// Makes the calls.
struct Ask<'a> {
    client: &'a Client,
    scope: &'a Scope,
}

impl Ask<'_> {
    async fn get(&self, path: impl Into<String>) -> Result<Answer> {
        self.client.call(Call::get(path)).await
    }

    /// To remove a runner that cannot be takes the permission to register one, and does nothing.
    async fn may_register(&self) -> Result<()> {
        let path = format!("{}/actions/runners/{NO_RUNNER}", self.scope.path());
        let call = Call { method: Method::DELETE, ..Call::get(path) };
        match self.client.call(call).await {
            Err(error) if error.is_not_found() => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    /// Of each group that is wanted, whether it is there; and else those that are.
    async fn groups(&self, wanted: &BTreeSet<String>) -> Result<Vec<(String, Option<String>)>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        if let Scope::Repository(_) = self.scope {
            let default = |name: &String| {
                let none = format!("{} has no runner groups", self.scope);
                (name.clone(), (name != "1").then_some(none))
            };
            return Ok(wanted.iter().map(default).collect());
        }
        let path = format!("{}/actions/runner-groups?per_page=100", self.scope.path());
        let page: GroupPage = self.get(path).await?.json("list the runner groups")?;
        let there = |name: &String| {
            let is_it = |group: &NamedGroup| {
                group.name.eq_ignore_ascii_case(name) || group.id.to_string() == *name
            };
            let names: Vec<&str> = page.runner_groups.iter().map(|group| &*group.name).collect();
            let lacks = !page.runner_groups.iter().any(is_it);
            (name.clone(), lacks.then(|| format!("there are {}", names.join(", "))))
        };
        Ok(wanted.iter().map(there).collect())
    }

    /// The hourly limits. A GitHub Enterprise Server without limits has no such page.
    async fn limits(&self, now: Timestamp) -> Result<Vec<HourlyLimit>> {
        let page: LimitPage = match self.get("/rate_limit").await {
            Ok(answer) => answer.json("read the limits")?,
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let matters = |(kind, _): &(String, Limit)| {
            ["core", "actions_runner_registration"].contains(&kind.as_str())
        };
        let limit = |(kind, its): (String, Limit)| HourlyLimit {
            kind,
            limit: its.limit,
            remaining: its.remaining,
            resets_in_seconds: (its.reset - now.as_second()).max(0),
        };
        Ok(page.resources.into_iter().filter(matters).map(limit).collect())
    }

    /// The hook that delivers here, as far as it may be seen.
    async fn hook(&self, section: &config::GithubConfig) -> GithubHook {
        if section.webhook.is_empty() {
            return GithubHook::Unwanted;
        }
        let path = self.scope.path();
        let found: Result<Vec<HookPage>> = match section.hook {
            Some(config::Hook::Number(number)) => self
                .get(format!("{path}/hooks/{number}"))
                .await
                .and_then(|answer| answer.json("read the hook").map(|hook| vec![hook])),
            Some(config::Hook::App) => {
                let call = Call { identity: Identity::App, ..Call::get("/app/hook/config") };
                self.client.call(call).await.and_then(|answer| {
                    let config: HookConfig = answer.json("read the App's hook")?;
                    // Its events are not told here.
                    let events = vec!["workflow_job".to_owned()];
                    let last_response = LastResponse::default();
                    Ok(vec![HookPage { id: 0, active: true, events, config, last_response }])
                })
            }
            None => match self.scope {
                Scope::Enterprise(_) => {
                    Err(Error::unsupported("the list of an enterprise's hooks"))
                }
                Scope::Organization(_) | Scope::Repository(_) => {
                    let answer = self.get(format!("{path}/hooks?per_page=100")).await;
                    answer.and_then(|answer| answer.json("list the hooks"))
                }
            },
        };
        let hooks = match found {
            Ok(hooks) => hooks,
            Err(error) if error.is_not_found() => return GithubHook::Missing,
            Err(error) => return GithubHook::Unseen(chain(&error)),
        };
        let end = format!("{}/forges/{}/webhook", crate::http::API, section.name);
        let ours = |hook: &HookPage| {
            hook.config.url.split(['?', '#']).next().is_some_and(|url| url.ends_with(&end))
        };
        let Some(hook) = hooks.iter().find(|hook| ours(hook)) else {
            return match (section.hook, hooks.first()) {
                (Some(_), Some(other)) => GithubHook::Elsewhere(other.config.url.clone()),
                _ => GithubHook::Missing,
            };
        };
        let hears = hook.events.iter().any(|event| event == "workflow_job" || event == "*");
        match hook.last_response.code {
            _ if !hook.active => GithubHook::Off,
            _ if !hears => GithubHook::Deaf,
            Some(code)
                if code != 0 && StatusCode::from_u16(code).is_ok_and(|it| !it.is_success()) =>
            {
                GithubHook::Failing { code, number: hook.id }
            }
            _ => GithubHook::Well,
        }
    }
}
