//! GitLab as a forge of this service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use async_trait::async_trait;
use forge_gitlab::{
    Administration, Finding, GitlabConfig, GitlabForge, GitlabGuests, Health, ImageRule, JobPage,
    Limits, Place, ProfileConfig,
};
use jiff::Timestamp;
use poem::http::{HeaderMap, StatusCode};
use runner_core::{
    Clock, Error, JobId, OwnerId, ProfileName, Result, Secret, Status, error::chain,
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::secret;
use crate::{
    config::{self, Config, GitlabPlace, SecretPlace},
    guests::Contact,
    remote::{
        Asked, Delivered, Figures, Ill, JobPlace, JobTold, Moment, Outside, Remote, SourceFigures,
    },
};

/// How often the files of secrets are looked at.
const SECRETS_EVERY: Duration = Duration::from_secs(5);

/// How long to wait at the end until GitLab knows how jobs ended.
const TELL_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn check(url: &str, allow_http: bool) -> Result<(), String> {
    let nobody = OwnerId::new("nobody").expect("a word is a valid id");
    let url = url.parse().map_err(|_| {
        "it is not an address; write GitLab's, such as https://gitlab.example.org".to_owned()
    })?;
    let mut gitlab = GitlabConfig::new(url, PathBuf::new(), nobody);
    gitlab.allow_http = allow_http;
    gitlab.check_address().map_err(|error| error.to_string())
}

pub(super) fn check_image(rule: &config::GitlabImage) -> Result<()> {
    image(rule).check()
}

/// A forge that goes on by itself, and keeps what it must not forget in `directory`.
pub(super) async fn remote(
    section: &config::GitlabConfig,
    directory: &Path,
    owner: &OwnerId,
) -> anyhow::Result<Remote> {
    let base = Base::new(section, directory, owner.clone())?;
    if section.run_single {
        let secrets = Secrets::read_all(section)?;
        places(section).for_each(secret::warn_of);
        let forge = GitlabGuests::new(base.gitlab(section, &secrets)?, Clock::system())?;
        return Ok(Remote { forge: Arc::new(forge), outside: Arc::new(Guests) });
    }
    let secrets = Secrets::read(section);
    places(section).for_each(secret::warn_of);
    let forge = GitlabForge::open(base.gitlab(section, &secrets)?, Clock::system()).await?;
    let (wanted, edits) = watch::channel(section.clone());
    let unreadable = Arc::new(Mutex::new(secrets.unreadable.clone()));
    let following = follow_edits(forge.clone(), base, secrets, edits, unreadable.clone());
    let outside = Gitlab {
        forge: forge.clone(),
        wanted,
        unreadable,
        _following: AbortOnDropHandle::new(tokio::spawn(following)),
    };
    Ok(Remote { forge: Arc::new(forge), outside: Arc::new(outside) })
}

/// What the official runner needs to serve in place of this service.
pub(super) fn config_toml(
    section: &config::GitlabConfig,
    directory: &Path,
    executor: &str,
) -> anyhow::Result<String> {
    let base = Base::of_nobody(section, directory)?;
    let secrets = Secrets::read_all(section)?;
    Ok(forge_gitlab::config_toml(&base.gitlab(section, &secrets)?, executor)?)
}

/// Whether it can be used, asking it only.
pub(super) async fn examine(
    section: &config::GitlabConfig,
    directory: &Path,
) -> anyhow::Result<Vec<Finding>> {
    let base = Base::of_nobody(section, directory)?;
    let secrets = Secrets::read_all(section)?;
    let gitlab = base.gitlab(section, &secrets)?;
    let mut findings = forge_gitlab::examine(&gitlab, Timestamp::now()).await?;
    let open = places(section).filter_map(secret::open_file);
    findings.extend(open.map(|path| Finding::Doubtful {
        found: format!("anyone may read the token in {}", path.display()),
        way_out: format!("run: chmod o= {}", path.display()),
    }));
    Ok(findings)
}

/// What stays as it was at the start.
struct Base {
    certificates: Option<Vec<u8>>,
    directory: PathBuf,
    owner: OwnerId,
}

impl Base {
    fn new(
        section: &config::GitlabConfig,
        directory: &Path,
        owner: OwnerId,
    ) -> anyhow::Result<Self> {
        let read = |path: &PathBuf| {
            let shown = path.display();
            fs::read(path).with_context(|| format!("could not read the authorities in {shown}"))
        };
        let certificates = section.authorities.as_ref().map(read).transpose()?;
        Ok(Self { certificates, directory: directory.to_owned(), owner })
    }

    /// For looking only.
    fn of_nobody(section: &config::GitlabConfig, directory: &Path) -> anyhow::Result<Self> {
        Self::new(section, directory, OwnerId::new("nobody")?)
    }

    fn gitlab(
        &self,
        section: &config::GitlabConfig,
        secrets: &Secrets,
    ) -> anyhow::Result<GitlabConfig> {
        let url = section.url.parse().context("the address of GitLab cannot be read")?;
        let mut gitlab = GitlabConfig::new(url, &self.directory, self.owner.clone());
        gitlab.allow_http = section.allow_http;
        gitlab.certificates.clone_from(&self.certificates);
        gitlab.access = section.access.clone();
        gitlab.administration = section.administration.as_ref().map(|its| Administration {
            token: secrets.administration.clone(),
            place: match its.place {
                GitlabPlace::Instance => Place::Instance,
                GitlabPlace::Group(id) => Place::Group(id),
                GitlabPlace::Project(id) => Place::Project(id),
            },
            expose_runners: its.expose_runners,
        });
        gitlab.images = section.images.iter().map(image).collect();
        gitlab.builds_dir.clone_from(&section.builds_dir);
        let limits = section.limits;
        gitlab.limits = Limits {
            trace_bytes: limits.trace_bytes,
            artifact_bytes: limits.artifact_bytes,
            cache_bytes: limits.cache_bytes,
            ahead: limits.jobs_ahead,
            wait: limits.job_wait,
            kill_grace: limits.kill_grace,
            check_interval: limits.check_every,
            verify_interval: limits.verify_every,
            keep_alive: limits.keep_alive,
        };
        let profiles = section.profiles.iter().map(|(name, says)| {
            let mut profile = ProfileConfig::new(name.clone());
            profile.exposed = says.exposed;
            profile.token = secrets.runners.get(name).cloned();
            profile.tags.clone_from(&says.tags);
            profile.description.clone_from(&says.description);
            profile.run_untagged = says.run_untagged;
            profile.protected_only = says.protected_only;
            profile.maximum_timeout = says.maximum_timeout;
            profile.access = says.access.clone();
            profile.gateway = says.gateway;
            profile
        });
        gitlab.profiles = profiles.collect();
        Ok(gitlab)
    }
}

fn image(rule: &config::GitlabImage) -> ImageRule {
    ImageRule {
        image: rule.image.clone(),
        services: rule.services.clone(),
        profile: rule.profile.clone(),
    }
}

/// Where the secrets of a section are.
fn places(section: &config::GitlabConfig) -> impl Iterator<Item = &SecretPlace> {
    let administration = section.administration.iter().map(|its| &its.token);
    administration.chain(section.profiles.values().filter_map(|says| says.token.as_ref()))
}

/// The secrets of a section as they are now. One that cannot be read is empty: GitLab refuses it, nothing that
/// was begun with it ends, and why is told.
struct Secrets {
    administration: Secret<String>,
    runners: BTreeMap<ProfileName, Secret<String>>,
    unreadable: Option<String>,
}

impl Secrets {
    fn read(section: &config::GitlabConfig) -> Self {
        let mut unreadable = None;
        let mut read = |place: &SecretPlace| {
            secret::read(place).unwrap_or_else(|error| {
                unreadable.get_or_insert(format!("{error:#}"));
                Secret::new(String::new())
            })
        };
        let administration = match &section.administration {
            Some(its) => read(&its.token),
            None => Secret::new(String::new()),
        };
        let named = section.profiles.iter();
        let named = named.filter_map(|(name, says)| Some((name.clone(), says.token.as_ref()?)));
        let runners = named.map(|(name, place)| (name, read(place))).collect();
        Self { administration, runners, unreadable }
    }

    /// As they are now, if all can be read.
    fn read_all(section: &config::GitlabConfig) -> anyhow::Result<Self> {
        let secrets = Self::read(section);
        match secrets.unreadable {
            Some(why) => Err(anyhow::anyhow!(why)),
            None => Ok(secrets),
        }
    }

    fn is(&self, other: &Self) -> bool {
        let text = |secrets: &Self| -> Vec<String> {
            let runners = secrets.runners.iter();
            runners.map(|(name, token)| format!("{name} {}", token.expose())).collect()
        };
        self.administration.expose() == other.administration.expose() && text(self) == text(other)
    }
}

/// Takes on every edit of the section, and every secret whose file has changed.
async fn follow_edits(
    forge: GitlabForge,
    base: Base,
    mut secrets: Secrets,
    mut edits: watch::Receiver<config::GitlabConfig>,
    unreadable: Arc<Mutex<Option<String>>>,
) {
    let mut section = edits.borrow_and_update().clone();
    loop {
        tokio::select! {
            edited = edits.changed() => if edited.is_err() { return },
            () = tokio::time::sleep(SECRETS_EVERY) => (),
        }
        let wanted = edits.borrow_and_update().clone();
        let (now, reading) =
            (wanted.clone(), tokio::task::spawn_blocking(move || Secrets::read(&wanted)));
        let Ok(read) = reading.await else { continue };
        unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&read.unreadable);
        // What cannot be read for a moment, as it is being replaced, is no reason to forget what it was.
        if now == section && (read.is(&secrets) || read.unreadable.is_some()) {
            continue;
        }
        let changed = base.gitlab(&now, &read).and_then(|gitlab| Ok(forge.change(&gitlab)?));
        match changed {
            Ok(()) => {
                places(&now).for_each(secret::warn_of);
                (section, secrets) = (now, read);
            }
            // The configuration was checked, so it is its state that cannot be read.
            Err(error) => {
                tracing::error!(forge = %now.name, "An edit could not be taken on: {error:#}")
            }
        }
    }
}

/// What the service has of one GitLab.
struct Gitlab {
    forge: GitlabForge,
    wanted: watch::Sender<config::GitlabConfig>,
    /// Why a secret cannot be read.
    unreadable: Arc<Mutex<Option<String>>>,
    _following: AbortOnDropHandle<()>,
}

#[async_trait]
impl Outside for Gitlab {
    fn hears(&self) -> bool {
        false
    }

    fn deliver(&self, _: &HeaderMap, _: &[u8]) -> Delivered {
        nothing_delivered()
    }

    fn job(&self, id: &JobId) -> Option<JobPlace> {
        let JobPage { title, project, page } = self.forge.job(id)?;
        Some(JobPlace { title, repository: Some(project), page: Some(page.into()) })
    }

    fn figures(&self) -> Figures {
        let ill = |reason: String| Ill { since: None, reason };
        let of = |health: &Health| match health {
            Health::Well => None,
            Health::Unregistered => Some(ill("its runner has no token yet".to_owned())),
            Health::Troubled(why) => Some(ill(why.clone())),
        };
        let health = self.forge.health();
        let source = |(name, health): (&ProfileName, &Health)| SourceFigures {
            kind: "poll",
            profile: Some(name.clone()),
            ill: of(health),
        };
        let asked = |(name, health): (&ProfileName, &Health)| {
            let now = (*health == Health::Well).then_some("poll");
            (name.clone(), Asked { order: vec!["poll"], now })
        };
        Figures {
            place: self.wanted.borrow().url.to_string(),
            ill: self.trouble().map(ill).or_else(|| health.values().find_map(of)),
            sources: health.iter().map(source).collect(),
            asked: health.iter().map(asked).collect(),
            ..Figures::default()
        }
    }

    /// The machines of a GitLab's jobs are driven from here: they ask for nothing.
    fn user_data(
        &self,
        _: &ProfileName,
        secret: &Secret<String>,
        _: &Contact,
    ) -> Result<Secret<String>> {
        Ok(secret.clone())
    }

    fn job_told(&self, _: &ProfileName, _: Moment, _: &[u8]) -> Result<JobTold> {
        Err(Error::unsupported("what the machine of a GitLab's job tells"))
    }

    fn trouble(&self) -> Option<String> {
        let unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone();
        unreadable.or_else(|| {
            self.forge.health().into_iter().find_map(|(name, health)| match health {
                Health::Troubled(why) => Some(format!("no jobs for profile {name}: {why}")),
                Health::Well | Health::Unregistered => None,
            })
        })
    }

    fn news(&self) -> Vec<String> {
        self.forge.news()
    }

    fn follow(&self, status: &Status) {
        let takes_none = |name: &ProfileName| {
            status.profiles.get(name).is_some_and(|profile| {
                !profile.offered || profile.adjustment.as_ref().is_some_and(|its| its.paused)
            })
        };
        let profiles = self.wanted.borrow().profiles.keys().cloned().collect::<BTreeSet<_>>();
        self.forge.pause_profiles(profiles.into_iter().filter(takes_none).collect());
        if status.draining {
            self.forge.pause(true);
            let why = "the service is being stopped, and no machine was free for it";
            if let Err(error) = self.forge.turn_away(why) {
                tracing::error!(error = chain(&error), "Jobs that wait could not be ended.");
            }
        }
    }

    fn configure(&self, config: &Config) {
        self.wanted.send_if_modified(|wanted| {
            // Without a section it goes with the next start; until then it serves whom the pool still has.
            let section = config.gitlabs.iter().find(|section| section.name == wanted.name);
            let mut now = section.unwrap_or(wanted).clone();
            let has = |name: &ProfileName| {
                let mut all = config.profiles.iter();
                all.any(|profile| profile.name == *name && profile.forge == wanted.name)
            };
            now.profiles.retain(|name, _| has(name));
            for (name, says) in wanted.profiles.iter().filter(|(name, _)| has(name)) {
                now.profiles.entry(name.clone()).or_insert_with(|| says.clone());
            }
            let changes = now != *wanted;
            *wanted = now;
            changes
        });
    }

    async fn stop(&self) {
        self.forge.pause(true);
        // The next start tells what is not told then.
        let _ = tokio::time::timeout(TELL_LIMIT, self.forge.told()).await;
    }
}

fn nothing_delivered() -> Delivered {
    let said = "a GitLab delivers nothing: it is asked".to_owned();
    Delivered { status: StatusCode::NOT_FOUND, said }
}

/// What the service has of one GitLab whose jobs are taken in machines: its lists tell all.
struct Guests;

#[async_trait]
impl Outside for Guests {
    fn hears(&self) -> bool {
        false
    }

    fn deliver(&self, _: &HeaderMap, _: &[u8]) -> Delivered {
        nothing_delivered()
    }

    fn user_data(
        &self,
        _: &ProfileName,
        secret: &Secret<String>,
        _: &Contact,
    ) -> Result<Secret<String>> {
        Ok(secret.clone())
    }

    fn job_told(&self, _: &ProfileName, _: Moment, _: &[u8]) -> Result<JobTold> {
        Err(Error::unsupported("what the machine of a GitLab's job tells"))
    }

    fn figures(&self) -> Figures {
        Figures::default()
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn news(&self) -> Vec<String> {
        Vec::new()
    }

    fn configure(&self, _: &Config) {}

    fn follow(&self, _: &Status) {}

    async fn stop(&self) {}
}
