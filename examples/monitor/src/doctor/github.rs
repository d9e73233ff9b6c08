//! Whether each GitHub lets the service in, lets it do what it must, and delivers to it.

use std::{fs, os::unix::fs::MetadataExt};

use jiff::SignedDuration;
use runner_core::{Error, error::chain};

use super::{Check, Subject};
use crate::{
    compose::{self, GithubHook, GithubSurvey},
    config::{GithubConfig, GithubLogin, GithubSource, SecretPlace},
};

/// How far the clocks may differ: the proof of an App is good for some minutes only.
const SKEW: SignedDuration = SignedDuration::from_secs(30);

/// How much of an hour's limit should be left.
const LEFT: f64 = 0.1;

/// Looks at one GitHub after the other.
pub(super) async fn check(subject: &Subject, say: &impl Fn(&str)) -> Vec<Check> {
    let mut checks = Vec::new();
    for section in &subject.config.githubs {
        let name = format!("forge {}", section.name);
        say(&name);
        checks.extend(secrets(&name, section));
        match compose::survey_github(section).await {
            Ok(found) => checks.extend(of(&name, section, &found)),
            Err(error) => {
                let way_out = format!("mend it in the [[github]] named {}", section.name);
                checks.push(Check::failure(&name, chain(&error), way_out));
            }
        }
    }
    checks
}

/// Whether only the service's user reads the files with secrets.
fn secrets(name: &str, section: &GithubConfig) -> Vec<Check> {
    let login = match &section.login {
        GithubLogin::Token(place) => place,
        GithubLogin::App { key, .. } => key,
    };
    let places = [login].into_iter().chain(&section.webhook);
    places
        .filter_map(|place| match place {
            SecretPlace::File(path) => Some(path),
            SecretPlace::Environment(_) | SecretPlace::Credential(_) => None,
        })
        .map(|path| {
            let (name, shown) = (format!("{name}: secret"), path.display());
            match fs::metadata(path) {
                Ok(file) if file.mode() & 0o077 != 0 => Check::warning(
                    &name,
                    format!("{shown} can be read by others (mode {:o})", file.mode() & 0o777),
                    format!("run: chmod 600 {shown}"),
                ),
                Ok(_) => Check::ok(&name, format!("{shown} is for its owner only")),
                Err(error) => Check::failure(
                    &name,
                    format!("{shown}: {error}"),
                    format!("put it there, for the service's user only: install -m 600 -o monitor FILE {shown}"),
                ),
            }
        })
        .collect()
}

fn of(name: &str, section: &GithubConfig, found: &GithubSurvey) -> Vec<Check> {
    let mut checks = vec![access(name, found)];
    if found.sees.is_err() {
        // The same again for each of the rest would help nobody.
        return checks;
    }
    checks.extend(groups(name, found));
    checks.extend(queues(name, section, found));
    checks.push(webhook(name, section, found));
    checks.extend(clock(name, found));
    checks.push(limits(name, found));
    checks.extend(programs(name, section, found));
    checks
}

/// Whether runners can be seen, registered and removed.
fn access(name: &str, found: &GithubSurvey) -> Check {
    let name = format!("{name}: access");
    match (&found.sees, &found.registers) {
        (Ok(()), Ok(())) => {
            Check::ok(&name, format!("runners of {} can be seen, registered and removed", found.at))
        }
        (Ok(()), Err(error)) => Check::failure(
            &name,
            format!("runners can be seen, and neither registered nor removed: {}", chain(error)),
            way_in(error, found),
        ),
        (Err(error), _) => Check::failure(&name, chain(error), way_in(error, found)),
    }
}

/// What to do about a GitHub that says no.
fn way_in(error: &Error, found: &GithubSurvey) -> String {
    let swap = "write another token into its file: a service that runs takes it without a restart";
    match error {
        // What it takes is said already.
        Error::Unauthorized { .. } => format!("grant that, or {swap}"),
        Error::NotFound { .. } => format!("it takes {}; grant that, or {swap}", found.needs),
        Error::RateLimited { wait } => {
            format!("wait {} s; something else spends from the same limit", wait.as_secs())
        }
        _ => "see whether this host reaches it, through a proxy or with `authorities` if need be: \
              curl -i the address in `url`"
            .to_owned(),
    }
}

fn groups(name: &str, found: &GithubSurvey) -> Vec<Check> {
    let name = format!("{name}: runner group");
    match &found.groups {
        Err(error) => vec![Check::failure(&name, chain(error), way_in(error, found))],
        Ok(groups) => groups
            .iter()
            .map(|(group, lacks)| match lacks {
                None => Check::ok(&name, format!("{group} is there")),
                Some(there) => Check::failure(
                    &name,
                    format!("there is no runner group {group}: {there}"),
                    "name one of these as `group`, or make it in GitHub's settings under Actions, Runner groups",
                ),
            })
            .collect(),
    }
}

fn queues(name: &str, section: &GithubConfig, found: &GithubSurvey) -> Vec<Check> {
    let name = format!("{name}: queued jobs");
    let is_needed = section.profiles.values().all(|its| its.sources == [GithubSource::Poll]);
    let fails: Vec<_> =
        found.queues.iter().filter_map(|(of, can)| Some((of, can.as_ref().err()?))).collect();
    let check = |(repository, error): &(&String, &Error)| {
        let found = format!("those of {repository} cannot be asked for: {}", chain(*error));
        let way_out = format!(
            "grant the repository permission \"Actions: read\" on {repository}, or a classic token the \
             scope repo; or take it out of `repositories`"
        );
        let make = if is_needed { Check::failure } else { Check::warning };
        make(&name, found, way_out)
    };
    match (&fails[..], &found.queues[..]) {
        ([], []) => Vec::new(),
        ([], all) => {
            let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
            vec![Check::ok(&name, format!("those of {} can be asked for", names.join(", ")))]
        }
        (fails, _) => fails.iter().map(check).collect(),
    }
}

fn webhook(name: &str, section: &GithubConfig, found: &GithubSurvey) -> Check {
    let name = format!("{name}: webhook");
    if let Some(Err(error)) = found.secrets.iter().find(|secret| secret.is_err()) {
        let way_out = "write the secret that the hook has at GitHub there";
        return Check::failure(&name, chain(error), way_out);
    }
    let address =
        format!("https://THIS-SERVICE{}/forges/{}/webhook", crate::http::API, section.name);
    match &found.hook {
        GithubHook::Unwanted => {
            let sets =
                |its: &crate::config::GithubProfile| its.sources.contains(&GithubSource::ScaleSet);
            let why = if section.profiles.values().all(sets) {
                "scale sets tell at once".to_owned()
            } else {
                format!(
                    "jobs are asked for every {} s, and start sooner with one",
                    section.pace.poll_every.as_secs()
                )
            };
            Check::ok(&name, format!("there is none: {why}"))
        }
        GithubHook::Well => Check::ok(&name, "a hook delivers workflow jobs here"),
        GithubHook::Missing => Check::failure(
            &name,
            "no hook delivers here",
            format!(
                "make one in GitHub's settings under Webhooks, for workflow jobs, to {address}"
            ),
        ),
        GithubHook::Elsewhere(url) => Check::failure(
            &name,
            format!("the hook that is configured delivers to {url}"),
            format!("change its address to {address}, or `hook` to the number of another"),
        ),
        GithubHook::Off => Check::failure(
            &name,
            "the hook is switched off",
            "tick \"Active\" in its settings at GitHub",
        ),
        GithubHook::Deaf => Check::failure(
            &name,
            "the hook delivers no workflow jobs",
            "tick \"Workflow jobs\" among its events at GitHub",
        ),
        GithubHook::Failing { code, number } => Check::warning(
            &name,
            format!("what hook {number} delivered last was answered with {code}"),
            "look at \"Recent deliveries\" there: 401 is another secret than `webhook` has, 421 a host name that \
             `names` in [http] lacks, 502 to 504 something between",
        ),
        GithubHook::Unseen(why) => Check::warning(
            &name,
            format!("whether a hook delivers here cannot be seen: {why}"),
            "grant \"Webhooks: read\", or a classic token the scope admin:org_hook or read:repo_hook; or look at \
             \"Recent deliveries\" of the hook at GitHub",
        ),
    }
}

fn clock(name: &str, found: &GithubSurvey) -> Option<Check> {
    let name = format!("{name}: clock");
    let ahead = found.clock_ahead?;
    if ahead.abs() <= SKEW {
        return Some(Check::ok(&name, "it agrees with GitHub's"));
    }
    let way = if ahead.is_positive() { "ahead of" } else { "behind" };
    let found = format!("this host's clock is {} s {way} GitHub's", ahead.abs().as_secs());
    Some(Check::failure(&name, found, "set it: timedatectl set-ntp true, or date -s"))
}

fn limits(name: &str, found: &GithubSurvey) -> Check {
    let name = format!("{name}: calls left");
    let limits = match &found.limits {
        Ok(limits) => limits,
        Err(error) => return Check::warning(&name, chain(error), way_in(error, found)),
    };
    if limits.is_empty() {
        return Check::ok(&name, "this GitHub has no limits");
    }
    let shown = limits.iter().map(|its| {
        let (left, all, minutes) = (its.remaining, its.limit, its.resets_in_seconds / 60);
        format!("{left} of {all} of {} for {minutes} min", its.kind)
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    if limits.iter().any(|its| (its.remaining as f64) < its.limit as f64 * LEFT) {
        let way_out = "find what else uses these credentials, or use a GitHub App of its own; lower \
                       points_per_minute where they are shared";
        return Check::warning(&name, shown, way_out);
    }
    Check::ok(&name, shown)
}

/// The runner programs in images, against the newest.
fn programs(name: &str, section: &GithubConfig, found: &GithubSurvey) -> Vec<Check> {
    let name = format!("{name}: runner program");
    let newest = match &found.newest {
        Ok(Some(newest)) => newest,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![Check::warning(&name, chain(error), way_in(error, found))],
    };
    let said = section.profiles.iter();
    let said = said.filter_map(|(profile, its)| Some((profile, its.runner_version.as_ref()?)));
    said.map(|(profile, version)| match compose::is_older_runner(version, newest) {
        true => Check::warning(
            &name,
            format!("the image of profile {profile} has {version}; GitHub offers {newest}"),
            format!("rebuild it with {newest} within 30 days of its release, after which GitHub refuses {version}"),
        ),
        false => Check::ok(&name, format!("the image of profile {profile} has the newest, {version}")),
    })
    .collect()
}
