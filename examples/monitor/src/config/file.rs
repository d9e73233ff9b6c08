//! The shape of the configuration file: sections and keys, before they mean anything.

use std::{collections::BTreeSet, path::PathBuf};

use runner_core::{
    ForgeName, Label, ProfileName, access::Names, hypervisor::Network, image::UserDataDelivery,
};
use serde::Deserialize;
use toml::Spanned;

use super::{
    access::Access,
    github::{Github, GithubGroup, GithubSource, OfGithub},
    gitlab::{Gitlab, OfGitlab},
    guests::Guests,
    http::Http,
    hypervisor::{Libvirt, Qemu},
    secret::SecretPlace,
    servo::Servo,
    tokens::TokenSection,
    units::{Period, Reach, Size},
};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub http: Http,
    #[serde(rename = "token")]
    pub tokens: Vec<Spanned<TokenSection>>,
    pub data: Data,
    pub qemu: Option<Spanned<Qemu>>,
    pub libvirt: Option<Spanned<Libvirt>>,
    pub guests: Option<Guests>,
    #[serde(rename = "github")]
    pub githubs: Vec<Spanned<Github>>,
    #[serde(rename = "gitlab")]
    pub gitlabs: Vec<Spanned<Gitlab>>,
    pub servo: Option<Spanned<Servo>>,
    pub local: Local,
    pub log: Log,
    pub pace: Pace,
    pub shell: Shell,
    #[serde(rename = "profile")]
    pub profiles: Vec<Spanned<Profile>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Data {
    pub dir: Option<PathBuf>,
    pub cache: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Local {
    pub log_limit: Option<Size>,
    pub output_limit: Option<Size>,
    pub input_limit: Option<Size>,
    pub queued_jobs: Option<usize>,
    pub kept_jobs: Option<u64>,
    pub timeout: Option<Period>,
    pub kill_grace: Option<Period>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub to: LogTo,
    pub file: Option<PathBuf>,
    pub max_size: Option<Spanned<Size>>,
    pub keep: Option<usize>,
}

/// Where the process's own log goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTo {
    /// The journal where standard error leads there, and standard error elsewhere.
    #[default]
    Auto,
    /// Standard error.
    Stderr,
    /// The journal of systemd.
    Journald,
    /// A file that is begun anew when it is full.
    File,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Pace {
    pub look_every: Option<Spanned<Period>>,
    pub look_limit: Option<Period>,
    pub max_actions: Option<Spanned<usize>>,
    pub action_limit: Option<Period>,
    pub build_limit: Option<Period>,
    pub retry_first: Option<Period>,
    pub retry_most: Option<Period>,
    pub orphan_limit: Option<Period>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shell {
    pub idle: Option<Spanned<Period>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub name: ProfileName,
    pub forge: Option<ForgeName>,
    #[serde(default)]
    pub labels: BTreeSet<Label>,
    pub image: Image,
    pub vcpus: Option<u32>,
    pub memory: Spanned<Size>,
    #[serde(default)]
    pub huge_pages: bool,
    pub disk: Option<Spanned<Size>>,
    pub min_idle: Option<u32>,
    pub max: Option<u32>,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub reach: BTreeSet<Reach>,
    pub start_timeout: Option<Period>,
    pub offline_timeout: Option<Period>,
    pub image_max_age: Option<Period>,
    pub images_kept: Option<u32>,
    pub group: Option<GithubGroup>,
    pub sources: Option<Vec<GithubSource>>,
    pub scale_set: Option<String>,
    pub runner_version: Option<String>,
    pub exposed: Option<bool>,
    pub runner_token: Option<Spanned<SecretPlace>>,
    pub tags: Option<BTreeSet<Label>>,
    pub description: Option<String>,
    pub run_untagged: Option<bool>,
    pub protected_only: Option<bool>,
    pub maximum_timeout: Option<Period>,
    pub gateway: Option<bool>,
    pub deny: Option<Spanned<Names>>,
    pub allow: Option<Spanned<Names>>,
}

impl Profile {
    /// Who may use it.
    pub fn access(&self) -> Access {
        Access { deny: self.deny.clone(), allow: self.allow.clone() }
    }

    /// What it says of its GitLab.
    pub fn of_gitlab(&self) -> OfGitlab {
        OfGitlab {
            exposed: self.exposed,
            runner_token: self.runner_token.clone(),
            tags: self.tags.clone(),
            description: self.description.clone(),
            run_untagged: self.run_untagged,
            protected_only: self.protected_only,
            maximum_timeout: self.maximum_timeout,
            gateway: self.gateway,
        }
    }

    /// What it says of its GitHub.
    pub fn of_github(&self) -> OfGithub {
        OfGithub {
            group: self.group.clone(),
            sources: self.sources.clone(),
            scale_set: self.scale_set.clone(),
            runner_version: self.runner_version.clone(),
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Image {
    Micro {
        files: Option<PathBuf>,
        sha256: Option<String>,
    },
    Disk {
        path: PathBuf,
        sha256: String,
        #[serde(default)]
        user_data: UserData,
    },
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(super) enum UserData {
    #[default]
    None,
    NoCloud,
}

impl From<UserData> for UserDataDelivery {
    fn from(word: UserData) -> Self {
        match word {
            UserData::None => Self::None,
            UserData::NoCloud => Self::NoCloud,
        }
    }
}
