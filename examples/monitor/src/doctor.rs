//! Finds out whether a service can do its work on this host, and what to do where it cannot.
//!
//! Each file looks at one thing. A check changes nothing that outlives it.

use std::path::PathBuf;

use serde::Serialize;

use crate::{compose, config::Config, reload::Source};

mod address;
mod clock;
mod disk;
mod github;
mod gitlab;
mod image;
mod libvirt;
mod machine;
mod peers;
mod permissions;
mod qemu;
mod systemd;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// It works, less well than it could.
    Warning,
    /// It does not work.
    Failure,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
}

/// What to look at.
pub struct Patient {
    /// The configuration's source.
    pub source: Source,
    /// Whether to boot a guest.
    pub boots: bool,
}

/// A configuration that was read, and where its things are.
struct Subject {
    config: Config,
    data_dir: PathBuf,
    cache_dir: PathBuf,
    boots: bool,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), outcome: Outcome::Ok, found: found.into(), way_out: None }
    }

    fn warning(name: &str, found: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, ..Self::failure(name, found, way_out) }
    }

    fn failure(name: &str, found: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            outcome: Outcome::Failure,
            found: found.into(),
            way_out: Some(way_out.into()),
        }
    }
}

/// Looks at everything, and tells `say` what it is about to look at.
pub async fn examine(patient: Patient, say: impl Fn(&str)) -> Vec<Check> {
    say("configuration");
    let shown = match &patient.source.file {
        Some(file) => file.display().to_string(),
        None => "the built-in configuration".to_owned(),
    };
    let config = match patient.source.read() {
        Ok((config, _)) => config,
        Err(error) => {
            let way_out = "mend it; everything else depends on it. `monitor check` repeats this";
            return vec![Check::failure("configuration", error.to_string(), way_out)];
        }
    };
    let names: Vec<&str> = config.profiles.iter().map(|profile| profile.name.as_str()).collect();
    let found = format!("{shown} offers {}", names.join(", "));
    let mut checks = vec![Check::ok("configuration", found)];
    let data_dir = config.data_dir.clone();
    let cache_dir = config.cache_dir.clone();
    let cache_dir = cache_dir.unwrap_or_else(|| crate::data_dir::default_cache(&data_dir));
    let subject = Subject { config, data_dir, cache_dir, boots: patient.boots };
    say("permissions");
    checks.extend(permissions::check(&subject));
    say("disk space");
    checks.extend(disk::check(&subject));
    say("clock");
    checks.extend(clock::check(&subject));
    say("address");
    checks.extend(address::check(&subject).await);
    say("systemd");
    checks.extend(systemd::check().await);
    checks.extend(github::check(&subject, &say).await);
    checks.extend(peers::check(&subject, &say).await);
    let works = match compose::program(&subject.config) {
        Some(program) => {
            say("QEMU");
            qemu::check(&program).await
        }
        None => {
            say("libvirt");
            libvirt::check(&subject).await
        }
    };
    let runs = works.iter().all(|check| check.outcome != Outcome::Failure);
    checks.extend(works);
    if !subject.config.gitlabs.is_empty() {
        say("GitLab");
        checks.extend(gitlab::check(&subject).await);
    }
    say("images");
    let (found, image) = image::check(&subject).await;
    checks.extend(found);
    if runs && subject.boots {
        checks.extend(machine::check(&subject, image, &say).await);
    }
    checks
}

/// The worst of it.
pub fn worst(checks: &[Check]) -> Outcome {
    checks.iter().map(|check| check.outcome).max().unwrap_or(Outcome::Ok)
}
