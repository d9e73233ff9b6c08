//! The GitHubs of a configuration: where each is, what proves who we are, and which profiles it serves.
//! Never a secret itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use runner_core::{
    ForgeName, ProfileName,
    access::{Names, Rules},
};
use serde::Deserialize;
use toml::Spanned;

use super::{
    ConfigError,
    access::Access,
    local_forge,
    numbers::Numbers,
    place::Source,
    secret::{SecretPlace, secret, secret_at},
    units::Period,
};
use crate::compose;

mod edits;

pub(super) use edits::edits;

/// One GitHub, and what of it the runners belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubConfig {
    /// What profiles call it.
    pub name: ForgeName,
    /// The address of a repository, an organisation or an enterprise.
    pub url: String,
    /// What proves who we are.
    pub login: GithubLogin,
    /// Further certificate authorities to trust, as PEM.
    pub authorities: Option<PathBuf>,
    /// What deliveries are signed with. It takes none, if empty.
    pub webhook: Vec<SecretPlace>,
    /// Whose log of deliveries is read for those that got lost.
    pub hook: Option<Hook>,
    /// The repositories that are asked for queued jobs.
    pub repositories: Vec<String>,
    /// What may be spent.
    pub budget: GithubBudget,
    /// How often it is asked.
    pub pace: GithubPace,
    /// Who may use its runners, where the rules of a profile name nobody.
    pub access: Rules,
    /// What it must know of the profiles it serves.
    pub profiles: BTreeMap<ProfileName, GithubProfile>,
}

/// What proves to a GitHub who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GithubLogin {
    /// A personal access token.
    Token(SecretPlace),
    /// A GitHub App.
    App {
        /// Its client id or app id.
        id: String,
        /// Its private key.
        key: SecretPlace,
        /// Its installation. Found out, if none.
        installation: Option<u64>,
    },
}

/// Whose log of deliveries it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The App's own.
    App,
    /// That of the repository or organisation, by the number at the end of its address.
    Number(u64),
}

/// Which repositories may use a runner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "the name of a runner group, or its number")]
pub enum GithubGroup {
    /// By number.
    Id(u64),
    /// By name.
    Name(String),
}

/// Who is asked what waits for a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GithubSource {
    /// A runner scale set's message session.
    ScaleSet,
    /// Deliveries of a webhook.
    Webhook,
    /// Asking.
    Poll,
}

/// Which limits a GitHub has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GithubLimits {
    /// Those of GitHub's own service.
    #[default]
    Github,
    /// None: a server of one's own, as it was installed.
    None,
}

/// What may be spent of a GitHub's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GithubBudget {
    /// Which there are. If none, the next two numbers do not count.
    pub limits: GithubLimits,
    /// Points within any minute, where reading costs 1 and changing 5.
    pub points_per_minute: u32,
    /// Registrations within any minute.
    pub registrations_per_minute: u32,
    /// Calls under way at one time.
    pub calls_at_once: usize,
}

/// How often a GitHub is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GithubPace {
    /// How old the list of runners may be while something is going on.
    pub list_every: Duration,
    /// How old it may be otherwise.
    pub list_quietly_every: Duration,
    /// How often it is asked what waits, where nothing better tells.
    pub poll_every: Duration,
    /// How often it is asked all the same, for what the others may have lost.
    pub sweep_every: Duration,
    /// After how long it is asked why a job still waits.
    pub job_deadline: Duration,
}

/// What a GitHub must know of one profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubProfile {
    /// Which repositories may use its runners. The default group, if none.
    pub group: Option<GithubGroup>,
    /// Who is asked what waits for it, the best first.
    pub sources: Vec<GithubSource>,
    /// The scale set that it serves, where it is asked.
    pub scale_set: String,
    /// The version of the runner program in its image, where that is known.
    pub runner_version: Option<String>,
    /// Who may use its runners.
    pub access: Rules,
}

impl GithubProfile {
    /// The keys that changed of what GitHub was told, or is asked by: they are settled when the service starts.
    pub(super) fn unsettled(&self, before: &Self) -> Vec<&'static str> {
        let keys = [
            ("group", self.group != before.group),
            ("sources", self.sources != before.sources),
            ("scale_set", self.scale_set != before.scale_set),
        ];
        keys.into_iter().filter(|(_, is_changed)| *is_changed).map(|(key, _)| key).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Github {
    name: Spanned<ForgeName>,
    url: Spanned<String>,
    token: Option<Spanned<SecretPlace>>,
    app: Option<Spanned<App>>,
    authorities: Option<PathBuf>,
    group: Option<GithubGroup>,
    #[serde(default)]
    webhook: Vec<Spanned<SecretPlace>>,
    hook: Option<Spanned<HookWord>>,
    #[serde(default)]
    repositories: Vec<Spanned<String>>,
    limits: Option<Spanned<GithubLimits>>,
    points_per_minute: Option<Spanned<u32>>,
    registrations_per_minute: Option<Spanned<u32>>,
    calls_at_once: Option<Spanned<usize>>,
    list_every: Option<Spanned<Period>>,
    list_quietly_every: Option<Spanned<Period>>,
    poll_every: Option<Spanned<Period>>,
    sweep_every: Option<Spanned<Period>>,
    job_deadline: Option<Spanned<Period>>,
    deny: Option<Spanned<Names>>,
    allow: Option<Spanned<Names>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct App {
    id: String,
    key: SecretPlace,
    installation: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "\"app\", or the number at the end of the hook's address")]
enum HookWord {
    Number(u64),
    Word(AppWord),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum AppWord {
    App,
}

/// What a profile says of its GitHub.
pub(super) struct OfGithub {
    pub group: Option<GithubGroup>,
    pub sources: Option<Vec<GithubSource>>,
    pub scale_set: Option<String>,
    pub runner_version: Option<String>,
}

/// A GitHub whose profiles are not known yet, and what they have that say nothing.
pub(super) struct Place {
    pub config: GithubConfig,
    group: Option<GithubGroup>,
}

/// Most of GitHub's own limits: more would only be refused there.
const MOST_POINTS: u32 = 900;
const MOST_REGISTRATIONS: u32 = 180;
const MOST_AT_ONCE: usize = 100;

pub(super) fn githubs(
    source: &Source<'_>,
    base: &Path,
    sections: Vec<Spanned<Github>>,
) -> Result<Vec<Place>, ConfigError> {
    let mut places: Vec<Place> = Vec::with_capacity(sections.len());
    for (index, section) in sections.into_iter().enumerate() {
        let key = format!("github[{index}]");
        let name = &section.get_ref().name;
        let taken = name.get_ref() == &local_forge()
            || places.iter().any(|other| other.config.name == *name.get_ref());
        if taken {
            let problem = format!("there is a forge {} already; rename one", name.get_ref());
            return Err(source.problem(Some(name.span()), format!("{key}.name"), problem));
        }
        places.push(place(source, base, &key, section)?);
    }
    Ok(places)
}

fn place(
    source: &Source<'_>,
    base: &Path,
    key: &str,
    section: Spanned<Github>,
) -> Result<Place, ConfigError> {
    let head = section.span();
    let section = section.into_inner();
    let (url_at, repositories_at) =
        (section.url.span(), section.repositories.iter().map(Spanned::span).collect::<Vec<_>>());
    let login = match (section.token, section.app) {
        (Some(token), None) => {
            GithubLogin::Token(secret(source, base, &format!("{key}.token"), token)?)
        }
        (None, Some(app)) => {
            let (span, app) = (app.span(), app.into_inner());
            let key = secret_at(source, base, &format!("{key}.app.key"), span, app.key)?;
            GithubLogin::App { id: app.id, key, installation: app.installation }
        }
        (None, None) => {
            let problem = "say what proves who we are: token = { file = \"…\" }, or app";
            return Err(source.problem(Some(head), key, problem));
        }
        (Some(_), Some(app)) => {
            let problem = "a token is enough; remove either token or app";
            return Err(source.problem(Some(app.span()), format!("{key}.app"), problem));
        }
    };
    let mut webhook = Vec::with_capacity(section.webhook.len());
    for (index, place) in section.webhook.into_iter().enumerate() {
        webhook.push(secret(source, base, &format!("{key}.webhook[{index}]"), place)?);
    }
    let hook_at = section.hook.as_ref().map(Spanned::span);
    let hook = section.hook.map(|hook| match hook.into_inner() {
        HookWord::Number(number) => Hook::Number(number),
        HookWord::Word(AppWord::App) => Hook::App,
    });
    let hook_problem = match (&hook, &login) {
        (Some(_), _) if webhook.is_empty() => {
            Some("deliveries of a hook need its secret: webhook = [{ file = \"…\" }]")
        }
        (Some(Hook::App), GithubLogin::Token(_)) => {
            Some("a token is no App; write the number at the end of the hook's address")
        }
        _ => None,
    };
    if let Some(problem) = hook_problem {
        return Err(source.problem(hook_at, format!("{key}.hook"), problem));
    }
    let numbers = Numbers { source, key };
    let limits_at = section.limits.as_ref().map(Spanned::span);
    let limits = section.limits.map(Spanned::into_inner).unwrap_or_default();
    let numbered =
        section.points_per_minute.is_some() || section.registrations_per_minute.is_some();
    if limits == GithubLimits::None && numbered {
        let problem = "there are none, and a number of them below; remove either";
        return Err(source.problem(limits_at, format!("{key}.limits"), problem));
    }
    let budget = GithubBudget {
        limits,
        points_per_minute: numbers.number(
            "points_per_minute",
            section.points_per_minute,
            MOST_POINTS,
            MOST_POINTS,
        )?,
        registrations_per_minute: numbers.number(
            "registrations_per_minute",
            section.registrations_per_minute,
            MOST_REGISTRATIONS,
            MOST_REGISTRATIONS,
        )?,
        calls_at_once: numbers.number("calls_at_once", section.calls_at_once, 20, MOST_AT_ONCE)?,
    };
    let pace = GithubPace {
        list_every: numbers.period("list_every", section.list_every, 10)?,
        list_quietly_every: numbers.period(
            "list_quietly_every",
            section.list_quietly_every,
            120,
        )?,
        poll_every: numbers.period("poll_every", section.poll_every, 30)?,
        sweep_every: numbers.period("sweep_every", section.sweep_every, 300)?,
        job_deadline: numbers.period("job_deadline", section.job_deadline, 180)?,
    };
    let access = Access { deny: section.deny, allow: section.allow }.rules(source, key)?;
    let config = GithubConfig {
        access,
        name: section.name.into_inner(),
        url: section.url.into_inner(),
        login,
        authorities: section.authorities.map(|path| base.join(path)),
        webhook,
        hook,
        repositories: section.repositories.into_iter().map(Spanned::into_inner).collect(),
        budget,
        pace,
        profiles: BTreeMap::new(),
    };
    if let Err((at, error)) = compose::check_github(&config) {
        let (span, part) = match at {
            Wrong::Url => (url_at, "url".to_owned()),
            Wrong::Repository(index) => {
                (repositories_at[index].clone(), format!("repositories[{index}]"))
            }
            Wrong::Hook => (hook_at.unwrap_or(head), "hook".to_owned()),
            Wrong::Limits => (limits_at.unwrap_or(head), "limits".to_owned()),
        };
        return Err(source.problem(Some(span), format!("{key}.{part}"), error));
    }
    Ok(Place { config, group: section.group })
}

/// What of a section cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// The address.
    Url,
    /// The repository at this index.
    Repository(usize),
    /// The hook.
    Hook,
    /// The limits.
    Limits,
}

impl Place {
    /// Takes on a profile; or says what of it is wrong, and the way out.
    pub fn serve(
        &mut self,
        profile: &ProfileName,
        said: OfGithub,
        access: Rules,
    ) -> Result<(), (&'static str, String)> {
        let config = &self.config;
        let polls = !config.repositories.is_empty() || compose::is_repository(config);
        let sources = said.sources.unwrap_or_else(|| {
            let has =
                [(GithubSource::Webhook, !config.webhook.is_empty()), (GithubSource::Poll, polls)];
            has.into_iter().filter_map(|(source, has)| has.then_some(source)).collect()
        });
        let name = &config.name;
        let wrong = |problem: String| Err(("sources", problem));
        if sources.is_empty() {
            return wrong(format!(
                "nobody would tell what waits for it: give forge {name} a webhook or repositories, or \
                 set sources = [\"scale-set\"]"
            ));
        }
        if sources.iter().collect::<BTreeSet<_>>().len() < sources.len() {
            return wrong("one is there twice; name each once, the best first".to_owned());
        }
        for source in &sources {
            match source {
                GithubSource::Webhook if config.webhook.is_empty() => {
                    return wrong(format!(
                        "forge {name} has no webhook; set it there, or leave it out"
                    ));
                }
                GithubSource::Poll if !polls => {
                    return wrong(format!(
                        "forge {name} has no repositories to ask; name them there, or leave \"poll\" out"
                    ));
                }
                _ => {}
            }
        }
        if let Err(error) = compose::check_github_profile(profile) {
            return Err(("name", error.to_string()));
        }
        let scale_set = said.scale_set.unwrap_or_else(|| profile.to_string());
        let is_used = sources.contains(&GithubSource::ScaleSet);
        let mut others = self.config.profiles.values();
        if is_used
            && others.any(|other| {
                other.sources.contains(&GithubSource::ScaleSet) && other.scale_set == scale_set
            })
        {
            let problem = format!("another profile serves scale set {scale_set:?}; choose another");
            return Err(("scale_set", problem));
        }
        let group = said.group.or_else(|| self.group.clone());
        if is_used && matches!(group, Some(GithubGroup::Id(id)) if id != 1) {
            let problem = "a scale set's group goes by its name; write that".to_owned();
            return Err(("group", problem));
        }
        let runner_version = said.runner_version;
        if let Some(Err(error)) = runner_version.as_deref().map(compose::check_runner_version) {
            return Err(("runner_version", error.to_string()));
        }
        let says = GithubProfile { group, sources, scale_set, runner_version, access };
        self.config.profiles.insert(profile.clone(), says);
        Ok(())
    }
}

impl OfGithub {
    /// The first key that only a profile of a GitHub has, if there is one.
    pub fn first_key(&self) -> Option<&'static str> {
        let keys = [
            ("group", self.group.is_some()),
            ("sources", self.sources.is_some()),
            ("scale_set", self.scale_set.is_some()),
            ("runner_version", self.runner_version.is_some()),
        ];
        keys.into_iter().find_map(|(key, is_there)| is_there.then_some(key))
    }
}
