//! What the sections of GitLabs say, and what is wrong with it.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use runner_core::{
    ForgeName, Label, Profile,
    access::{Names, Rules, check_gateway},
};
use serde::Deserialize;
use toml::Spanned;

use super::{
    GitlabAdministration, GitlabConfig, GitlabImage, GitlabLimits, GitlabPlace, GitlabProfile,
};
use crate::{
    compose,
    config::{
        ConfigError,
        access::Access,
        numbers::Numbers,
        place::Source,
        secret::{SecretPlace, secret},
        units::{Period, Size},
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Gitlab {
    name: Spanned<ForgeName>,
    url: Spanned<String>,
    #[serde(default)]
    allow_http: bool,
    authorities: Option<PathBuf>,
    token: Option<Spanned<SecretPlace>>,
    runner_type: Option<Spanned<RunnerType>>,
    group_id: Option<Spanned<u64>>,
    project_id: Option<Spanned<u64>>,
    expose_runners: Option<Spanned<bool>>,
    deny: Option<Spanned<Names>>,
    allow: Option<Spanned<Names>>,
    #[serde(default)]
    images: Vec<Spanned<GitlabImage>>,
    trace_limit: Option<Spanned<Size>>,
    artifact_limit: Option<Spanned<Size>>,
    cache_limit: Option<Spanned<Size>>,
    jobs_ahead: Option<Spanned<usize>>,
    job_wait: Option<Spanned<Period>>,
    kill_grace: Option<Spanned<Period>>,
    check_every: Option<Spanned<Period>>,
    verify_every: Option<Spanned<Period>>,
    keep_alive: Option<Spanned<Period>>,
    builds_dir: Option<Spanned<String>>,
    run_single: Option<Spanned<bool>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RunnerType {
    Instance,
    Group,
    Project,
}

/// What a profile says of its GitLab.
pub(in crate::config) struct OfGitlab {
    pub exposed: Option<bool>,
    pub runner_token: Option<Spanned<SecretPlace>>,
    pub tags: Option<BTreeSet<Label>>,
    pub description: Option<String>,
    pub run_untagged: Option<bool>,
    pub protected_only: Option<bool>,
    pub maximum_timeout: Option<Period>,
    pub gateway: Option<bool>,
}

/// A GitLab whose profiles are not known yet.
pub(in crate::config) struct Place {
    pub config: GitlabConfig,
    key: String,
    /// Where the rules for images are.
    images_at: Vec<Range<usize>>,
}

/// The shortest that GitLab takes for `maximum_timeout`.
const SHORTEST: Duration = Duration::from_secs(600);
/// Why a key is of no use where GitLab's own runner takes the jobs; the key comes last.
const NOT_SEEN: &str = "jobs are taken in the machine, and seen here only when they run: remove ";
/// More would only be jobs that wait here and not where another runner may have them.
const MOST_AHEAD: usize = 100;

/// Reads the sections. Other forges have the names of `taken`.
pub(in crate::config) fn gitlabs(
    source: &Source<'_>,
    base: &Path,
    sections: Vec<Spanned<Gitlab>>,
    taken: &[ForgeName],
) -> Result<Vec<Place>, ConfigError> {
    let mut places: Vec<Place> = Vec::with_capacity(sections.len());
    for (index, section) in sections.into_iter().enumerate() {
        let key = format!("gitlab[{index}]");
        let name = &section.get_ref().name;
        let mut others = taken.iter().chain(places.iter().map(|place| &place.config.name));
        if others.any(|other| other == name.get_ref()) {
            let problem = format!("there is a forge {} already; rename one", name.get_ref());
            return Err(source.problem(Some(name.span()), format!("{key}.name"), problem));
        }
        places.push(place(source, base, key, section)?);
    }
    Ok(places)
}

fn place(
    source: &Source<'_>,
    base: &Path,
    key: String,
    section: Spanned<Gitlab>,
) -> Result<Place, ConfigError> {
    let head = section.span();
    let section = section.into_inner();
    if let Err(error) = compose::check_gitlab(section.url.get_ref(), section.allow_http) {
        return Err(source.problem(Some(section.url.span()), format!("{key}.url"), error));
    }
    let administration = match section.token {
        Some(token) => {
            let ids = (section.group_id, section.project_id);
            Some(GitlabAdministration {
                token: secret(source, base, &format!("{key}.token"), token)?,
                place: of_type(source, &key, head.clone(), section.runner_type, ids)?,
                expose_runners: section.expose_runners.is_none_or(Spanned::into_inner),
            })
        }
        None => {
            let given = [
                ("runner_type", section.runner_type.map(|its| its.span())),
                ("group_id", section.group_id.map(|its| its.span())),
                ("project_id", section.project_id.map(|its| its.span())),
                ("expose_runners", section.expose_runners.map(|its| its.span())),
            ];
            let given = given.into_iter().find_map(|(key, span)| Some((key, span?)));
            if let Some((field, span)) = given {
                let problem = "runners are made with a token only: token = { file = \"…\" }";
                return Err(source.problem(Some(span), format!("{key}.{field}"), problem));
            }
            None
        }
    };
    let (run_single_at, run_single) = match section.run_single {
        Some(given) => (given.span(), given.into_inner()),
        None => (head.clone(), false),
    };
    if run_single {
        let problem = match (&section.deny, &section.allow, section.images.as_slice()) {
            (Some(_), ..) | (_, Some(_), _) => Some(NOT_SEEN.to_owned() + "deny and allow"),
            (.., [_, ..]) => Some(NOT_SEEN.to_owned() + "images"),
            _ if administration.is_none() => Some(
                "each machine has a runner of its own, which is made with a token: \
                 token = { file = \"…\" }"
                    .to_owned(),
            ),
            _ => None,
        };
        if let Some(problem) = problem {
            let key = format!("{key}.run_single");
            return Err(source.problem(Some(run_single_at), key, problem));
        }
    }
    let access = Access { deny: section.deny, allow: section.allow }.rules(source, &key)?;
    for (index, rule) in section.images.iter().enumerate() {
        if let Err(error) = compose::check_gitlab_image(rule.get_ref()) {
            let key = format!("{key}.images[{index}]");
            return Err(source.problem(Some(rule.span()), key, error.to_string()));
        }
    }
    let numbers = Numbers { source, key: &key };
    let bytes = |field: &str, size: Option<Spanned<Size>>, default: u64| match size {
        Some(given) if given.get_ref().0 == 0 => {
            let problem = "it must be above zero; leave it out for the default";
            Err(source.problem(Some(given.span()), format!("{key}.{field}"), problem))
        }
        given => Ok(given.map_or(default, |given| given.get_ref().0)),
    };
    let limits = GitlabLimits {
        trace_bytes: bytes("trace_limit", section.trace_limit, 4 << 20)?,
        artifact_bytes: bytes("artifact_limit", section.artifact_limit, 4 << 30)?,
        cache_bytes: bytes("cache_limit", section.cache_limit, 16 << 30)?,
        jobs_ahead: numbers.number("jobs_ahead", section.jobs_ahead, 1, MOST_AHEAD)?,
        job_wait: numbers.period("job_wait", section.job_wait, 3600)?,
        kill_grace: numbers.period("kill_grace", section.kill_grace, 10)?,
        check_every: numbers.period("check_every", section.check_every, 3)?,
        verify_every: numbers.period("verify_every", section.verify_every, 300)?,
        keep_alive: numbers.period("keep_alive", section.keep_alive, 30)?,
    };
    let builds_dir = match section.builds_dir {
        Some(given) if !given.get_ref().starts_with('/') || given.get_ref().len() < 2 => {
            let problem = "write an absolute path in the machine; the default is /work/builds";
            return Err(source.problem(Some(given.span()), format!("{key}.builds_dir"), problem));
        }
        given => given.map_or_else(|| "/work/builds".to_owned(), Spanned::into_inner),
    };
    let config = GitlabConfig {
        name: section.name.into_inner(),
        url: section.url.into_inner(),
        allow_http: section.allow_http,
        authorities: section.authorities.map(|path| base.join(path)),
        administration,
        access,
        images: section.images.iter().map(|rule| rule.get_ref().clone()).collect(),
        limits,
        builds_dir,
        run_single,
        profiles: Default::default(),
    };
    let images_at = section.images.iter().map(Spanned::span).collect();
    Ok(Place { config, key, images_at })
}

/// Where runners of a type belong.
fn of_type(
    source: &Source<'_>,
    key: &str,
    head: Range<usize>,
    kind: Option<Spanned<RunnerType>>,
    (group, project): (Option<Spanned<u64>>, Option<Spanned<u64>>),
) -> Result<GitlabPlace, ConfigError> {
    let Some(kind) = kind else {
        let problem = "say whom its runners serve: \"instance\", \"group\" (with group_id) or \
                       \"project\" (with project_id)";
        return Err(source.problem(Some(head), format!("{key}.runner_type"), problem));
    };
    let needs = |id: &str| {
        let problem = format!("name its number, as GitLab's pages show it: {id} = 42");
        Err(source.problem(Some(kind.span()), format!("{key}.{id}"), problem))
    };
    let (place, other) = match (kind.get_ref(), group, project) {
        (RunnerType::Instance, group, project) => {
            let group = group.map(|id| ("group_id", id.span()));
            (GitlabPlace::Instance, group.or(project.map(|id| ("project_id", id.span()))))
        }
        (RunnerType::Group, Some(id), project) => {
            (GitlabPlace::Group(id.into_inner()), project.map(|id| ("project_id", id.span())))
        }
        (RunnerType::Project, group, Some(id)) => {
            (GitlabPlace::Project(id.into_inner()), group.map(|id| ("group_id", id.span())))
        }
        (RunnerType::Group, None, _) => return needs("group_id"),
        (RunnerType::Project, _, None) => return needs("project_id"),
    };
    match other {
        Some((field, span)) => {
            let problem = "its runners belong elsewhere; remove it, or change runner_type";
            Err(source.problem(Some(span), format!("{key}.{field}"), problem))
        }
        None => Ok(place),
    }
}

impl Place {
    /// Takes on a profile; or says what of it is wrong, and the way out.
    pub fn serve(
        &mut self,
        source: &Source<'_>,
        base: &Path,
        key: &str,
        profile: &Profile,
        said: OfGitlab,
        access: Rules,
    ) -> Result<(), Wrong> {
        if self.config.run_single {
            let keys = [
                ("deny", !access.deny.is_empty()),
                ("allow", !access.allow.is_empty()),
                ("runner_token", said.runner_token.is_some()),
                ("gateway", said.gateway == Some(true)),
            ];
            let given = keys.into_iter().find_map(|(key, is_there)| is_there.then_some(key));
            if let Some(field) = given {
                return Err(Wrong::Field(field, format!("{NOT_SEEN}{field}")));
            }
        }
        let token = said.runner_token;
        let token = token.map(|token| secret(source, base, &format!("{key}.runner_token"), token));
        let token = token.transpose().map_err(Wrong::Placed)?;
        let wrong = |field, problem: &str| Err(Wrong::Field(field, problem.to_owned()));
        if token.is_none() && self.config.administration.is_none() {
            let problem = "name where its runner's token is, or give its forge the token with which \
                           runners are made";
            return wrong("runner_token", problem);
        }
        let name = Label::new(profile.name.as_str()).expect("a profile's name is a valid label");
        let tags = said.tags.unwrap_or_else(|| {
            profile.labels.iter().cloned().chain(std::iter::once(name)).collect()
        });
        let run_untagged = said.run_untagged.unwrap_or(false);
        if tags.is_empty() && !run_untagged {
            return wrong("tags", "no job would find it: name one, or set run_untagged = true");
        }
        let maximum_timeout = said.maximum_timeout.map(|limit| limit.0);
        if maximum_timeout.is_some_and(|limit| limit < SHORTEST) {
            return wrong("maximum_timeout", "GitLab takes 10m at least");
        }
        let (exposed, gateway) = (said.exposed.unwrap_or(true), said.gateway.unwrap_or(false));
        if gateway && exposed && check_gateway(&access).is_err() {
            let problem =
                "its jobs get at this host: name in `allow` who may, or set exposed = false";
            return wrong("gateway", problem);
        }
        let served = GitlabProfile {
            exposed,
            token,
            tags,
            description: said.description.unwrap_or_else(|| profile.name.to_string()),
            run_untagged,
            protected_only: said.protected_only.unwrap_or(false),
            maximum_timeout,
            gateway,
            access,
        };
        self.config.profiles.insert(profile.name.clone(), served);
        Ok(())
    }

    /// The whole, once its profiles are known.
    pub fn finish(self, source: &Source<'_>) -> Result<GitlabConfig, ConfigError> {
        let rules = self.config.images.iter().zip(self.images_at).enumerate();
        for (index, (rule, span)) in rules {
            if !self.config.profiles.contains_key(&rule.profile) {
                let (key, forge) =
                    (format!("{}.images[{index}].profile", self.key), &self.config.name);
                let problem =
                    format!("there is no profile {} with forge = \"{forge}\"", rule.profile);
                return Err(source.problem(Some(span), key, problem));
            }
        }
        Ok(self.config)
    }
}

/// What is wrong with a profile.
pub(in crate::config) enum Wrong {
    /// A key of it, and why.
    Field(&'static str, String),
    /// Something that was placed already.
    Placed(ConfigError),
}

impl OfGitlab {
    /// The first key that only a profile of a GitLab has, if there is one.
    pub fn first_key(&self) -> Option<&'static str> {
        let keys = [
            ("exposed", self.exposed.is_some()),
            ("runner_token", self.runner_token.is_some()),
            ("tags", self.tags.is_some()),
            ("description", self.description.is_some()),
            ("run_untagged", self.run_untagged.is_some()),
            ("protected_only", self.protected_only.is_some()),
            ("maximum_timeout", self.maximum_timeout.is_some()),
            ("gateway", self.gateway.is_some()),
        ];
        keys.into_iter().find_map(|(key, is_there)| is_there.then_some(key))
    }
}
