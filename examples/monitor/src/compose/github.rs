//! GitHub as a forge of this service.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use forge_github::{
    Client, ClientConfig, Credentials, GithubConfig, GithubForge, GithubProfile, Group, Health,
    HttpTransport, Place, RepositoryName, ScaleSetListener, Scope, SecretFrom, SourceKind, Webhook,
    artifact::{Claim, NoProof, NonceDirectory, Prover, ProverConfig, Refusal, RepositoryPolicy},
    budget::{Limits, Priority},
    demand::Known,
    downloads::RunnerVersion,
    guest, mark,
    scale_set::{ActionsService, ListenerConfig, ProgressFile, ScaleSetSpec},
    webhook::{self, Numbers, Outcome, WebhookConfig, recovery},
};
use jiff::Timestamp;
use poem::http::HeaderMap;
use runner_core::{
    Clock, Error, ForgeName, JobId, Label, OwnerId, Profile, ProfileName, Result, Secret, Status,
    error::chain, status::ProfileStatus,
};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    config::{self, Config, GithubGroup, GithubLogin, GithubSource, SecretPlace, Wrong},
    guests::Contact,
    remote::{
        self, Asked, BudgetFigures, Delivered, DeliveryFigures, Figures, Ill, JobPlace, JobTold,
        MAX_DELIVERY_BYTES, Moment, NotProven, Note, Outside, Proven, Remote, SourceFigures,
    },
};

mod access;
mod programs;
mod survey;

use access::Access;
use programs::Programs;
pub use survey::{GithubHook, GithubSurvey, HourlyLimit};
pub(super) use survey::{is_older, survey};

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
    if section.budget.limits == config::GithubLimits::None && !place.is_server() {
        let problem = format!("{} has limits; leave it out", place.host());
        return Err((Wrong::Limits, problem));
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

pub(super) fn check_runner_version(version: &str) -> Result<()> {
    version.parse::<RunnerVersion>().map(|_| ())
}

pub(super) fn is_repository(section: &config::GithubConfig) -> bool {
    Place::new(&section.url).is_ok_and(|place| matches!(place.scope(), Scope::Repository(_)))
}

/// A forge that goes on by itself, and keeps what it must not forget below `directory`.
pub(super) async fn remote(
    section: &config::GithubConfig,
    profiles: &[Profile],
    proof: Option<&config::ProofConfig>,
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
    let transport = Arc::new(HttpTransport::new(&authorities)?);
    let clock = Clock::system();
    let client = Client::new(client(section, place.clone()), transport.clone(), clock)?;
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
        let rest = Arc::new(client.clone());
        let service = ActionsService::new(rest, transport.clone(), place.clone(), clock);
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
    let prover = match proof {
        Some(proof) => {
            let used = Arc::new(NonceDirectory::new(directory.join("used-proofs")));
            let (rest, http) = (Arc::new(client.clone()), transport.http().clone());
            Some(Prover::new(prover(proof)?, rest, http, used, clock))
        }
        None => None,
    };
    let forge = Arc::new(GithubForge::start(client.clone(), github)?);
    let programs = Arc::new(Programs::open(program_versions(section)?, directory));
    let (asking, asked) = (programs.clone(), client.clone());
    let asking = tokio::spawn(async move { asking.attend(&asked).await });
    let orders = section.profiles.iter().map(|(name, says)| {
        let order = says.sources.iter().map(|its| kind(*its).word());
        (name.clone(), order.collect())
    });
    let outside = Github {
        name: section.name.clone(),
        access: Access::new(section),
        place: place.to_string(),
        orders: orders.collect(),
        programs,
        forge: forge.clone(),
        webhook,
        listeners,
        stop,
        sessions: tokio::sync::Mutex::new(sessions),
        told: Mutex::new(None),
        prover,
        _asking: AbortOnDropHandle::new(asking),
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
    let limits = match section.budget.limits {
        config::GithubLimits::Github => Limits {
            points_per_minute: section.budget.points_per_minute,
            mints_per_minute: section.budget.registrations_per_minute,
            ..client.limits
        },
        config::GithubLimits::None => Limits::NONE,
    };
    client.limits = Limits { at_once: section.budget.calls_at_once, ..limits };
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

fn prover(proof: &config::ProofConfig) -> Result<ProverConfig> {
    let repositories = proof.repositories.iter().map(|repository| {
        let policy = RepositoryPolicy {
            most_workers: repository.most,
            events: repository.events.clone(),
            forks: repository.forks,
        };
        Ok((RepositoryName::new(repository.name.as_str())?, policy))
    });
    let mut prover = ProverConfig::new(repositories.collect::<Result<_>>()?);
    prover.prefix.clone_from(&proof.prefix);
    prover.longest_age = proof.max_age;
    Ok(prover)
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

/// The versions of the runner program that profiles say their images have.
fn program_versions(
    section: &config::GithubConfig,
) -> Result<BTreeMap<ProfileName, RunnerVersion>> {
    let profiles = section.profiles.iter();
    let said = profiles.filter_map(|(name, its)| Some((name, its.runner_version.as_deref()?)));
    said.map(|(name, version)| Ok((name.clone(), version.parse()?))).collect()
}

/// What the service has of one GitHub.
struct Github {
    name: ForgeName,
    place: String,
    access: Access,
    /// Whom the configuration says to ask for each profile.
    orders: BTreeMap<ProfileName, Vec<&'static str>>,
    programs: Arc<Programs>,
    forge: Arc<GithubForge>,
    webhook: Option<Arc<Webhook>>,
    listeners: BTreeMap<ProfileName, Arc<ScaleSetListener>>,
    stop: CancellationToken,
    sessions: tokio::sync::Mutex<Vec<JoinHandle<()>>>,
    /// When the last note was made that was told, and how many were made then.
    told: Mutex<Option<(Timestamp, usize)>>,
    /// Checks who reserves by an artifact.
    prover: Option<Prover>,
    _asking: AbortOnDropHandle<()>,
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

    fn user_data(
        &self,
        profile: &ProfileName,
        secret: &Secret<String>,
        contact: &Contact,
    ) -> Result<Secret<String>> {
        let url = contact.url.parse().map_err(|_| {
            Error::invalid("the address of [guests]", format!("{:?} is no URL", contact.url))
        })?;
        let monitor = guest::Monitor {
            url,
            token: contact.token.clone(),
            when_unheard: self.access.when_unheard(profile),
        };
        guest::user_data(secret, Some(&monitor))
    }

    async fn prove(
        &self,
        claim: &remote::Claim,
        held: u32,
    ) -> std::result::Result<Proven, NotProven> {
        let Some(prover) = &self.prover else {
            return Err(NotProven::Refused("no repository may reserve by an artifact".to_owned()));
        };
        let run = claim.run.to_string();
        let claim = match Claim::parse(&claim.unique_id, &claim.repository, &run) {
            Ok(claim) => claim,
            Err(refusal) => return Err(NotProven::Malformed(refusal.to_string())),
        };
        match prover.prove(&claim, held).await {
            Ok(proof) => Ok(Proven { profile: proof.profile, count: proof.count }),
            Err(NoProof::Refused(refusal)) => Err(match refusal {
                Refusal::Malformed(why) => NotProven::Malformed(why),
                Refusal::TooMany { .. } => NotProven::TooMany(refusal.to_string()),
                refusal => NotProven::Refused(refusal.to_string()),
            }),
            Err(NoProof::Failed(error)) => Err(NotProven::Failed(error)),
        }
    }

    fn job_told(&self, profile: &ProfileName, moment: Moment, report: &[u8]) -> Result<JobTold> {
        self.access.judge(profile, moment, report)
    }

    fn job(&self, id: &JobId) -> Option<JobPlace> {
        let Known { number, repository, run, title } = self.forge.job(id)?;
        let place = self.forge.client().place();
        let page = repository.as_ref().zip(run);
        let page = page.map(|(repository, run)| place.job_page(repository, run, number));
        Some(JobPlace { title, repository: repository.map(|name| name.to_string()), page })
    }

    fn figures(&self) -> Figures {
        let all = self.forge.figures();
        let source = |its: forge_github::forge::SourceFigures| SourceFigures {
            kind: its.kind.word(),
            profile: its.profile,
            ill: ill(its.health),
        };
        let asked = |(name, order): (&ProfileName, &Vec<&'static str>)| {
            let now = all.active.get(name).copied().flatten().map(SourceKind::word);
            (name.clone(), Asked { order: order.clone(), now })
        };
        let notes = self.forge.notes().into_iter();
        let budget = all.budget;
        Figures {
            place: self.place.clone(),
            ill: ill(all.health),
            asked: self.orders.iter().map(asked).collect(),
            sources: all.sources.into_iter().map(source).collect(),
            notes: notes.map(|note| Note { at: note.at, text: note.text }).collect(),
            programs: self.programs.all(Timestamp::now()),
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

    fn configure(&self, config: &Config) {
        // Without a section it goes with the next start; until then it serves whom the pool still has.
        let own = config.githubs.iter().find(|section| section.name == self.name);
        if let Some(section) = own {
            self.access.configure(section);
            // Checked when the configuration was read.
            if let Ok(versions) = program_versions(section) {
                self.programs.configure(versions);
            }
        }
    }

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
        news.extend(self.programs.news(Timestamp::now()));
        news
    }

    fn follow(&self, status: &Status) {
        self.programs.follow(status);
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

fn ill(health: Health) -> Option<Ill> {
    match health {
        Health::Well => None,
        Health::Ill { since, reason } => Some(Ill { since: Some(since), reason }),
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
