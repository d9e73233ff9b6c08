//! GitHub as a forge of this service.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use forge_github::{
    Client, ClientConfig, Credentials, GithubConfig, GithubForge, GithubProfile, Group,
    HttpTransport, Place, RepositoryName, ScaleSetListener, Scope, SecretFrom, SourceKind, Webhook,
    budget::{Limits, Priority},
    mark,
    scale_set::{ActionsService, ListenerConfig, ProgressFile, ScaleSetSpec},
    webhook::{self, Numbers, Outcome, WebhookConfig, recovery},
};
use jiff::Timestamp;
use poem::http::HeaderMap;
use runner_core::{
    Clock, Label, OwnerId, Profile, ProfileName, Result, Status, error::chain,
    status::ProfileStatus,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    config::{self, Config, GithubGroup, GithubLogin, GithubSource, SecretPlace, Wrong},
    remote::{
        BudgetFigures, Delivered, DeliveryFigures, Figures, MAX_DELIVERY_BYTES, Outside, Remote,
    },
};

const _: () = assert!(MAX_DELIVERY_BYTES == webhook::MAX_BODY_BYTES as u64);

/// How often a hook's log is read for deliveries that got lost.
const RECOVER_EVERY: Duration = Duration::from_secs(300);

/// An owner as long as they are: what a name has room for is known before one is.
const AN_OWNER: &str = "monitor-0123456789abcdef";

pub(super) fn check(section: &config::GithubConfig) -> Result<(), (Wrong, String)> {
    let place = Place::new(&section.url).map_err(|error| (Wrong::Url, error.to_string()))?;
    for (index, name) in section.repositories.iter().enumerate() {
        let wrong = |problem: String| Err((Wrong::Repository(index), problem));
        let name = match RepositoryName::new(name.as_str()) {
            Ok(name) => name,
            Err(error) => return wrong(error.to_string()),
        };
        let is_inside = match place.scope() {
            Scope::Repository(only) => name == *only,
            Scope::Organization(owner) => name.owner().eq_ignore_ascii_case(owner),
            Scope::Enterprise(_) => true,
        };
        if !is_inside {
            return wrong(format!("{name} is not of {}, whose runners these are", place.scope()));
        }
    }
    match (section.hook, place.scope()) {
        (Some(config::Hook::Number(_)), Scope::Enterprise(_)) => {
            let problem = "the log of an enterprise's hook cannot be read; leave it out";
            Err((Wrong::Hook, problem.to_owned()))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_profile(profile: &ProfileName) -> Result<()> {
    mark::check(profile, &OwnerId::new(AN_OWNER)?)
}

pub(super) fn is_repository(section: &config::GithubConfig) -> bool {
    Place::new(&section.url).is_ok_and(|place| matches!(place.scope(), Scope::Repository(_)))
}

/// A forge that goes on by itself, and keeps what it must not forget below `directory`.
pub(super) async fn remote(
    section: &config::GithubConfig,
    profiles: &[Profile],
    directory: &Path,
    owner: &OwnerId,
) -> anyhow::Result<Remote> {
    let place = Place::new(&section.url)?;
    let authorities = match &section.authorities {
        Some(path) => tokio::fs::read(path).await.map_err(|error| {
            anyhow::anyhow!("could not read the authorities in {}: {error}", path.display())
        })?,
        None => Vec::new(),
    };
    let transport = HttpTransport::new(&authorities)?;
    let (http, clock) = (transport.http().clone(), Clock::system());
    let client = Client::new(client(section, place.clone()), Arc::new(transport), clock)?;
    let mut github = github(section, profiles, owner)?;

    let mut webhook = None;
    if !section.webhook.is_empty() {
        let mut secrets = Vec::with_capacity(section.webhook.len());
        for place in &section.webhook {
            secrets.push(from(place).read().await?);
        }
        let heard = Arc::new(Webhook::new(&WebhookConfig::new(secrets), clock)?);
        github.sources.push(heard.clone());
        webhook = Some(heard);
    }
    let stop = CancellationToken::new();
    let (mut listeners, mut sessions) = (BTreeMap::new(), Vec::new());
    for (profile, says) in &section.profiles {
        let Some(labels) = labels_of(profiles, profile) else { continue };
        if !says.sources.contains(&GithubSource::ScaleSet) {
            continue;
        }
        let service =
            ActionsService::new(Arc::new(client.clone()), http.clone(), place.clone(), clock);
        let group = match &says.group {
            Some(GithubGroup::Name(name)) => Some(name.clone()),
            Some(GithubGroup::Id(_)) | None => None,
        };
        let labels = labels.iter().map(ToString::to_string).collect();
        let set = ScaleSetSpec { name: says.scale_set.clone(), labels, group };
        tokio::fs::create_dir_all(directory).await?;
        let progress = ProgressFile::new(directory.join(format!("{profile}.json")));
        let config = ListenerConfig::new(set, profile.clone(), owner.as_str());
        let listener = Arc::new(ScaleSetListener::new(config, service, Arc::new(progress)));
        github.sources.push(listener.clone());
        github.registrars.push(listener.clone());
        let (running, until) = (listener.clone(), stop.clone());
        sessions.push(tokio::spawn(async move { running.run(&until).await }));
        listeners.insert(profile.clone(), listener);
    }
    let recovering = webhook.as_ref().zip(hook(section, &place)).map(|(webhook, hook)| {
        AbortOnDropHandle::new(tokio::spawn(recover(client.clone(), webhook.clone(), hook)))
    });
    let forge = Arc::new(GithubForge::start(client, github)?);
    let outside = Github {
        forge: forge.clone(),
        webhook,
        listeners,
        stop,
        sessions: tokio::sync::Mutex::new(sessions),
        told: Mutex::new(None),
        _recovering: recovering,
    };
    Ok(Remote { forge, outside: Arc::new(outside) })
}

fn client(section: &config::GithubConfig, place: Place) -> ClientConfig {
    let credentials = match &section.login {
        GithubLogin::Token(place) => Credentials::Token(from(place)),
        GithubLogin::App { id, key, installation } => {
            Credentials::App { id: id.clone(), key: from(key), installation: *installation }
        }
    };
    let mut client = ClientConfig::new(place, credentials);
    client.limits = Limits {
        points_per_minute: section.budget.points_per_minute,
        mints_per_minute: section.budget.registrations_per_minute,
        at_once: section.budget.calls_at_once,
        ..client.limits
    };
    client
}

fn github(
    section: &config::GithubConfig,
    profiles: &[Profile],
    owner: &OwnerId,
) -> Result<GithubConfig> {
    let mut github = GithubConfig::new(owner.clone());
    for (name, says) in &section.profiles {
        let Some(labels) = labels_of(profiles, name) else { continue };
        let mut profile = GithubProfile::new(labels.clone());
        profile.group = match &says.group {
            Some(GithubGroup::Id(id)) => Group::Id(*id),
            Some(GithubGroup::Name(name)) => Group::Name(name.clone()),
            None => Group::default(),
        };
        profile.sources = says.sources.iter().copied().map(kind).collect();
        github.profiles.insert(name.clone(), profile);
    }
    let repositories = section.repositories.iter().map(|name| RepositoryName::new(name.as_str()));
    github.repositories = repositories.collect::<Result<_>>()?;
    github.pace.list_every = section.pace.list_every;
    github.pace.list_quietly_every = section.pace.list_quietly_every;
    github.pace.demand.poll_every = section.pace.poll_every;
    github.pace.demand.sweep_every = section.pace.sweep_every;
    github.pace.demand.job_deadline = section.pace.job_deadline;
    Ok(github)
}

fn labels_of<'a>(
    profiles: &'a [Profile],
    name: &ProfileName,
) -> Option<&'a std::collections::BTreeSet<Label>> {
    profiles.iter().find(|profile| profile.name == *name).map(|profile| &profile.labels)
}

fn kind(source: GithubSource) -> SourceKind {
    match source {
        GithubSource::ScaleSet => SourceKind::ScaleSet,
        GithubSource::Webhook => SourceKind::Webhook,
        GithubSource::Poll => SourceKind::Poll,
    }
}

fn from(place: &SecretPlace) -> SecretFrom {
    match place {
        SecretPlace::File(path) => SecretFrom::File(path.clone()),
        SecretPlace::Environment(name) => SecretFrom::Environment(name.clone()),
        SecretPlace::Credential(name) => SecretFrom::Systemd(name.clone()),
    }
}

fn hook(section: &config::GithubConfig, place: &Place) -> Option<recovery::Hook> {
    match (section.hook?, place.scope()) {
        (config::Hook::App, _) => Some(recovery::Hook::App),
        (config::Hook::Number(hook), Scope::Organization(name)) => {
            Some(recovery::Hook::Organization { name: name.clone(), hook })
        }
        (config::Hook::Number(hook), Scope::Repository(name)) => {
            Some(recovery::Hook::Repository { name: name.clone(), hook })
        }
        (config::Hook::Number(_), Scope::Enterprise(_)) => None,
    }
}

/// Reads the log of a hook again and again.
async fn recover(client: Client, webhook: Arc<Webhook>, hook: recovery::Hook) {
    let mut recovery = recovery::Recovery::new(hook, Timestamp::now());
    loop {
        tokio::time::sleep(RECOVER_EVERY).await;
        match recovery.run(&client, &webhook).await {
            Ok(done) if done.fetched + done.unreadable + done.left > 0 => {
                tracing::info!(?done, "Deliveries of a webhook got lost and were fetched.");
            }
            Ok(_) => (),
            // The forge's own health tells of what concerns more than this.
            Err(error) => {
                tracing::debug!(error = chain(&error), "The log of a hook cannot be read.");
            }
        }
    }
}

/// What the service has of one GitHub.
struct Github {
    forge: Arc<GithubForge>,
    webhook: Option<Arc<Webhook>>,
    listeners: BTreeMap<ProfileName, Arc<ScaleSetListener>>,
    stop: CancellationToken,
    sessions: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    /// When the last note was made that was told, and how many were made then.
    told: Mutex<Option<(Timestamp, usize)>>,
    _recovering: Option<AbortOnDropHandle<()>>,
}

impl Drop for Github {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Outside for Github {
    fn hears(&self) -> bool {
        self.webhook.is_some()
    }

    fn deliver(&self, headers: &HeaderMap, body: &[u8]) -> Delivered {
        let Some(webhook) = &self.webhook else {
            let status = poem::http::StatusCode::NOT_FOUND;
            return Delivered { status, said: "this forge has no webhook".to_owned() };
        };
        let outcome = webhook.accept(headers, body);
        let said = match &outcome {
            Outcome::Job { fact, .. } => format!("job {} is {:?}", fact.number, fact.status),
            Outcome::Repeated(_) => "this was known".to_owned(),
            Outcome::Ping => "pong".to_owned(),
            Outcome::Ignored { event } => format!("{event} is no concern of this service"),
            Outcome::Refused(refusal) => refusal.to_string(),
        };
        Delivered { status: outcome.status(), said }
    }

    fn figures(&self) -> Figures {
        let all = self.forge.figures();
        let source = |kind: SourceKind| kind.word();
        let budget = all.budget;
        Figures {
            well: Some(all.health.is_well()),
            sources: all
                .sources
                .into_iter()
                .map(|its| (source(its.kind), its.profile, its.health.is_well()))
                .collect(),
            active: all.active.into_iter().map(|(name, kind)| (name, kind.map(source))).collect(),
            failures: all.breaker.into_iter().map(|(name, its)| (name, its.failures)).collect(),
            ghosts: all.ghosts,
            budget: Some(BudgetFigures {
                calls: budget.calls.into_iter().map(|(its, n)| (priority(its), n)).collect(),
                unchanged: budget.unchanged,
                refused: budget.refused,
                given_up: budget.given_up,
                waited_seconds: Duration::from_millis(budget.waited_ms).as_secs_f64(),
                in_flight: budget.in_flight,
                waiting: budget.waiting,
                points_last_minute: budget.points_last_minute,
                registrations_last_minute: budget.mints_last_minute,
                paused_seconds: budget.paused_seconds.unwrap_or(0) as f64,
                hourly: budget
                    .hourly
                    .into_iter()
                    .map(|(kind, its)| (kind, (its.limit, its.remaining, its.reset_in_seconds)))
                    .collect(),
            }),
            deliveries: self.webhook.as_ref().map(|webhook| deliveries(webhook.numbers())),
        }
    }

    fn trouble(&self) -> Option<String> {
        // Its lists cannot be read then, which shows by itself.
        None
    }

    fn configure(&self, _: &Config) {}

    fn news(&self) -> Vec<String> {
        let notes = self.forge.notes();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, mut skip) = told.unwrap_or((Timestamp::MIN, 0));
        let mut news = Vec::new();
        for note in notes.into_iter().filter(|note| note.at >= since) {
            if note.at == since && skip > 0 {
                skip -= 1;
                continue;
            }
            *told = match *told {
                Some((at, count)) if at == note.at => Some((at, count + 1)),
                _ => Some((note.at, 1)),
            };
            news.push(note.text);
        }
        news
    }

    fn follow(&self, status: &Status) {
        for (profile, listener) in &self.listeners {
            // A job that is assigned to a scale set waits for it: none is taken that nobody would run.
            let takes = |profile: &&ProfileStatus| {
                let is_paused = profile.adjustment.as_ref().is_some_and(|its| its.paused);
                profile.offered && !is_paused && !status.draining
            };
            let profile = status.profiles.get(profile).filter(takes);
            listener.set_capacity(profile.map_or(0, |profile| profile.max));
        }
    }

    async fn stop(&self) {
        self.stop.cancel();
        for session in self.sessions.lock().await.drain(..) {
            // One that panicked has said so.
            let _ = session.await;
        }
    }
}

fn priority(priority: Priority) -> &'static str {
    match priority {
        Priority::Running => "running",
        Priority::Provision => "provision",
        Priority::Look => "look",
        Priority::Poll => "poll",
    }
}

fn deliveries(numbers: Numbers) -> DeliveryFigures {
    DeliveryFigures {
        counts: [
            ("accepted", numbers.accepted),
            ("repeated", numbers.repeated),
            ("ignored", numbers.ignored),
            ("refused", numbers.refused),
            ("recovered", numbers.recovered),
            ("lost", numbers.lost),
            ("forgotten", numbers.forgotten),
        ],
        last_heard_at: numbers.last_heard_at,
    }
}
