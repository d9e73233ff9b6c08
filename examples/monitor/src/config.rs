//! What an operator configures: read from a TOML file, checked in full before anything starts.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use runner_core::{
    Capacity, ForgeName, Pace, Profile, Resources,
    image::{Recipe, RecipeKind},
    local::LocalLimits,
};
use toml::Spanned;

use crate::tokens::NamedToken;

mod access;
mod diff;
mod edits;
mod file;
mod forges;
mod github;
mod gitlab;
mod guests;
mod http;
mod hypervisor;
mod numbers;
mod place;
mod secret;
mod servo;
mod tokens;
pub mod units;

pub use diff::Changes;
pub use file::LogTo;
use forges::{Forges, Said};
pub use github::{
    GithubBudget, GithubConfig, GithubGroup, GithubLimits, GithubLogin, GithubPace, GithubProfile,
    GithubSource, Hook, Wrong,
};
pub use gitlab::{
    GitlabAdministration, GitlabConfig, GitlabImage, GitlabLimits, GitlabPlace, GitlabProfile,
};
pub use guests::GuestsConfig;
pub use http::{HttpConfig, Reads, TlsFiles};
pub use hypervisor::{
    Accel, Disks, HypervisorConfig, HypervisorKind, LibvirtConfig, LibvirtNetwork, NetworkKind,
};
pub use place::ConfigError;
use place::Source;
pub use secret::SecretPlace;
pub use servo::{ProofConfig, ProofRepository, ServoConfig};
use units::Size;

/// The configuration that is used when none is named, and that explains every key.
pub const SAMPLE: &str = include_str!("../monitor.toml");

/// The size of the huge pages that machines are made of.
const HUGE_PAGE_MIB: u64 = 1024;

/// The forge that jobs of this service are queued at.
pub const LOCAL_FORGE: &str = "local";

/// Everything an operator can choose.
#[derive(Debug, Clone)]
pub struct Config {
    /// The HTTP side.
    pub http: HttpConfig,
    /// Who may come in, beside the holder of the API token.
    pub tokens: Vec<NamedToken>,
    /// Where everything is kept that must outlive the process.
    pub data_dir: PathBuf,
    /// Where things are kept that can be had again. In the data directory, if none.
    pub cache_dir: Option<PathBuf>,
    /// What makes the machines.
    pub hypervisor: HypervisorConfig,
    /// What machines may ask this service for. They may ask for nothing, if none.
    pub guests: Option<GuestsConfig>,
    /// The GitHubs that runners are registered at.
    pub githubs: Vec<GithubConfig>,
    /// The GitLabs that jobs are taken from.
    pub gitlabs: Vec<GitlabConfig>,
    /// The interface of Servo's runner monitor. There is none, if none.
    pub servo: Option<ServoConfig>,
    /// What the local queue takes on.
    pub local: LocalLimits,
    /// Where the process's own log goes.
    pub log: LogConfig,
    /// How the pool goes about its work.
    pub pace: Pace,
    /// How long a shell in a machine stays open that nobody uses.
    pub shell_idle: Duration,
    /// The kinds of runner on offer.
    pub profiles: Vec<Profile>,
}

/// Where the process's own log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Where to.
    pub to: LogTo,
    /// The file, if it is one. In the data directory, if none is named.
    pub file: Option<PathBuf>,
    /// How large the file may be until it is put aside, in bytes.
    pub max_size: usize,
    /// How many that were put aside are kept.
    pub keep: usize,
}

impl Config {
    /// Reads and checks a file. Relative paths in it start at its directory.
    ///
    /// # Errors
    /// The first thing that is wrong, by file, line and key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ConfigError::unreadable(path, &error))?;
        Self::parse(path, &text)
    }

    /// The built-in configuration: the sample.
    pub fn built_in() -> Self {
        Self::parse(Path::new("built-in monitor.toml"), SAMPLE)
            .expect("a test parses the sample, so it is valid")
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { file: path, text };
        let file = parse_file(&source)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut http = http::http(&source, base, file.http)?;
        let tokens = tokens::tokens(&source, base, file.tokens)?;
        let pace = pace(&source, file.pace)?;
        let mut hypervisor =
            hypervisor::hypervisor(&source, base, http.listen, file.qemu, file.libvirt)?;
        let guests = guests::guests(&source, base, http.listen, &hypervisor, file.guests)?;
        if guests.is_some() && guests::speak_from_loopback(&hypervisor) {
            // What comes from this host may be a machine: looking needs a token, unless the operator says otherwise.
            http.reads = http.reads.or(Some(Reads::Token));
        }
        let githubs = github::githubs(&source, base, file.githubs)?;
        let mut taken = vec![local_forge()];
        taken.extend(githubs.iter().map(|place| place.config.name.clone()));
        let gitlabs = gitlab::gitlabs(&source, base, file.gitlabs, &taken)?;
        let mut forges = Forges { githubs, gitlabs, machines_are_heard: guests.is_some() };
        let log = log(&source, base, file.log)?;
        let shell_idle = shell_idle(&source, file.shell)?;
        if file.profiles.is_empty() {
            let problem = "offer at least one [[profile]]; the sample configuration shows how";
            return Err(source.problem(None, "profile", problem));
        }
        let mut profiles: Vec<Profile> = Vec::with_capacity(file.profiles.len());
        for (index, section) in file.profiles.into_iter().enumerate() {
            let (span, key) = (section.span(), format!("profile[{index}]"));
            let reach = section.as_ref().reach.clone();
            let said = Said {
                github: section.as_ref().of_github(),
                gitlab: section.as_ref().of_gitlab(),
                access: section.as_ref().access(),
            };
            let profile = profile(&source, base, &key, section)?;
            if let Err(problem) = hypervisor.let_reach(&profile, reach) {
                let place = source.key_in(&span, "reach");
                return Err(source.problem(Some(place), format!("{key}.reach"), problem));
            }
            if profiles.iter().any(|other| other.name == profile.name) {
                let place = source.key_in(&span, "name");
                let problem = format!("there is a profile {} already; rename one", profile.name);
                return Err(source.problem(Some(place), format!("{key}.name"), problem));
            }
            forges.serve(&source, base, (&key, span), &profile, said)?;
            profiles.push(profile);
        }
        let githubs = forges.githubs.into_iter().map(|place| place.config);
        let githubs: Vec<GithubConfig> = githubs.collect();
        let servo = servo::servo(&source, base, &githubs, file.servo)?;
        if let Some(host) = servo.as_ref().and_then(ServoConfig::host)
            && (http.is_local() || !http.names.is_empty())
        {
            http.names.push(host.to_owned());
        }
        let in_file_dir = |path: PathBuf| base.join(path);
        Ok(Self {
            http,
            tokens,
            data_dir: file.data.dir.map_or_else(crate::data_dir::default_dir, in_file_dir),
            cache_dir: file.data.cache.map(in_file_dir),
            hypervisor,
            guests,
            githubs,
            servo,
            gitlabs: forges
                .gitlabs
                .into_iter()
                .map(|place| place.finish(&source))
                .collect::<Result<_, _>>()?,
            local: local(file.local),
            log,
            pace,
            shell_idle,
            profiles,
        })
    }

    /// Refuses profiles of which not even one instance would fit on an empty host of this capacity.
    ///
    /// # Errors
    /// Naming the profile, with the arithmetic.
    pub fn check_fit(&self, capacity: &Capacity) -> Result<(), ConfigError> {
        for profile in &self.profiles {
            if let Some(shortage) = profile.never_fits(capacity) {
                let section = self.hypervisor.section();
                let problem = format!(
                    "it can never fit on this host: {shortage}; \
                     ask for less, or raise the capacity in {section}"
                );
                return Err(ConfigError::new(format!("profile {}", profile.name), problem));
            }
        }
        Ok(())
    }
}

fn parse_file(source: &Source<'_>) -> Result<file::File, ConfigError> {
    let parser = toml::Deserializer::parse(source.text)
        .map_err(|error| source.problem(error.span(), "", error.message()))?;
    serde_path_to_error::deserialize(parser).map_err(|error| {
        // What wraps a value to keep its place is no key of the file.
        let path = error.path().to_string();
        let path = path.replace(".$__serde_spanned_private_value", "");
        let key = if path == "." { String::new() } else { path };
        let error = error.into_inner();
        source.problem(error.span(), key, error.message())
    })
}

fn pace(source: &Source<'_>, section: file::Pace) -> Result<Pace, ConfigError> {
    let default = Pace::default();
    let or = |period: Option<units::Period>, default| period.map_or(default, |period| period.0);
    if let Some(every) = &section.look_every
        && every.get_ref().0.is_zero()
    {
        let problem = "it must be above zero; the default is 5s";
        return Err(source.problem(Some(every.span()), "pace.look_every", problem));
    }
    if let Some(most) = &section.max_actions
        && *most.get_ref() == 0
    {
        let problem = "it must be at least 1; the default is 16";
        return Err(source.problem(Some(most.span()), "pace.max_actions", problem));
    }
    Ok(Pace {
        look_every: or(section.look_every.map(Spanned::into_inner), default.look_every),
        look_limit: or(section.look_limit, default.look_limit),
        max_actions: section.max_actions.map_or(default.max_actions, Spanned::into_inner),
        action_limit: or(section.action_limit, default.action_limit),
        build_limit: or(section.build_limit, default.build_limit),
        retry_first: or(section.retry_first, default.retry_first),
        retry_most: or(section.retry_most, default.retry_most),
        orphan_limit: or(section.orphan_limit, default.orphan_limit),
        sample_every: default.sample_every,
    })
}

fn log(source: &Source<'_>, base: &Path, section: file::Log) -> Result<LogConfig, ConfigError> {
    let span = section.max_size.as_ref().map(Spanned::span);
    let max_size = section.max_size.map_or(16 << 20, |size| size.into_inner().0);
    match usize::try_from(max_size) {
        Ok(max_size) if max_size >= 4096 => Ok(LogConfig {
            to: section.to,
            file: section.file.map(|path| base.join(path)),
            max_size,
            keep: section.keep.unwrap_or(5),
        }),
        _ => {
            let problem = "a log file holds 4KiB at least; the default is 16MiB";
            Err(source.problem(span, "log.max_size", problem))
        }
    }
}

fn shell_idle(source: &Source<'_>, section: file::Shell) -> Result<Duration, ConfigError> {
    match section.idle {
        None => Ok(Duration::from_secs(15 * 60)),
        Some(idle) if idle.get_ref().0.is_zero() => {
            let problem = "it must be above zero; the default is 15m";
            Err(source.problem(Some(idle.span()), "shell.idle", problem))
        }
        Some(idle) => Ok(idle.into_inner().0),
    }
}

fn local(section: file::Local) -> LocalLimits {
    let default = LocalLimits::default();
    let size = |size: Option<Size>, default| size.map_or(default, |size| size.0);
    let period = |period: Option<units::Period>, default| period.map_or(default, |period| period.0);
    LocalLimits {
        log_bytes: size(section.log_limit, default.log_bytes),
        output_bytes: size(section.output_limit, default.output_bytes),
        input_bytes: size(section.input_limit, default.input_bytes),
        queued_jobs: section.queued_jobs.unwrap_or(default.queued_jobs),
        kept_jobs: section.kept_jobs.unwrap_or(default.kept_jobs),
        timeout: period(section.timeout, default.timeout),
        kill_grace: period(section.kill_grace, default.kill_grace),
    }
}

fn profile(
    source: &Source<'_>,
    base: &Path,
    key: &str,
    section: Spanned<file::Profile>,
) -> Result<Profile, ConfigError> {
    let span = section.span();
    let section = section.into_inner();
    let problem_with = |field: &str, problem: String| {
        let place = source.key_in(&span, field);
        source.problem(Some(place), format!("{key}.{field}"), problem)
    };
    let forge = section.forge.unwrap_or_else(local_forge);
    let kind = match section.image {
        file::Image::Micro { files: None, sha256: None } => RecipeKind::Micro {},
        file::Image::Micro { files: Some(files), sha256: Some(sha256) } => {
            let sha256 = digits(&files, &sha256).map_err(|why| problem_with("image", why))?;
            RecipeKind::MicroWith { files: base.join(files), sha256 }
        }
        file::Image::Micro { .. } => {
            let problem = "set files and sha256 together, or none of them".to_owned();
            return Err(problem_with("image", problem));
        }
        file::Image::Disk { path, sha256, user_data } => {
            let sha256 = digits(&path, &sha256).map_err(|why| problem_with("image", why))?;
            RecipeKind::Disk { path: base.join(path), sha256, user_data: user_data.into() }
        }
    };
    let recipe = Recipe { profile: section.name, kind };
    let span_of_memory = section.memory.span();
    let memory = mib(source, &format!("{key}.memory"), Some(section.memory))?.unwrap_or(0);
    let (memory_mib, huge_memory_mib) = match section.huge_pages {
        true if memory % HUGE_PAGE_MIB != 0 => {
            let problem = "a machine of huge pages has a whole number of GiB";
            let key = format!("{key}.memory");
            return Err(source.problem(Some(span_of_memory), key, problem));
        }
        true => (0, memory),
        false => (memory, 0),
    };
    let resources = Resources {
        vcpus: section.vcpus.unwrap_or(1),
        memory_mib,
        huge_memory_mib,
        disk_mib: mib(source, &format!("{key}.disk"), section.disk)?.unwrap_or(0),
        ..Resources::default()
    };
    let mut profile = Profile::new(forge, recipe, resources);
    profile.labels = section.labels;
    profile.network = section.network;
    profile.min_idle = section.min_idle.unwrap_or(profile.min_idle);
    profile.max = section.max.unwrap_or(profile.max.max(profile.min_idle));
    if let Some(limit) = section.start_timeout {
        profile.timeouts.start = limit.0;
    }
    if let Some(limit) = section.offline_timeout {
        profile.timeouts.offline = limit.0;
    }
    profile.image_max_age = section.image_max_age.map(|age| age.0);
    profile.images_kept = section.images_kept.unwrap_or(profile.images_kept);
    if profile.min_idle > profile.max {
        let (min, max) = (profile.min_idle, profile.max);
        let problem = format!("{min} is above max = {max}; lower it or raise max");
        return Err(problem_with("min_idle", problem));
    }
    if profile.max == 0 {
        let problem = "it must be at least 1; remove the profile to offer none".to_owned();
        return Err(problem_with("max", problem));
    }
    match profile.check() {
        Ok(()) => Ok(profile),
        Err(error) => Err(source.problem(Some(span), key, error.to_string())),
    }
}

/// The hash of a file as it is compared.
fn digits(path: &Path, sha256: &str) -> Result<String, String> {
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(format!(
            "sha256 must be 64 hexadecimal digits; `sha256sum {}` prints them",
            path.display()
        ));
    }
    Ok(sha256.to_ascii_lowercase())
}

/// The name of the local queue.
pub fn local_forge() -> ForgeName {
    ForgeName::new(LOCAL_FORGE).expect("a lower-case word is a valid name")
}

fn mib(
    source: &Source<'_>,
    key: &str,
    size: Option<Spanned<Size>>,
) -> Result<Option<u64>, ConfigError> {
    let Some(size) = size else { return Ok(None) };
    match size.get_ref().whole_mib() {
        Some(mib) => Ok(Some(mib)),
        None => {
            let problem = "it must be a whole number of MiB";
            Err(source.problem(Some(size.span()), key, problem))
        }
    }
}
