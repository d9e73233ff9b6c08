//! Puts the backends together. The only file that names one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use backend_qemu::{Accel, ImageConfig, ImageStore, QemuConfig, QemuHypervisor};
use runner_core::{
    ForgeName, Hypervisor, ImageBuilder, OwnerId, ProfileName, Result,
    hypervisor::HypervisorCapabilities,
};

pub use forge_gitlab::Finding as GitlabFinding;

use crate::{
    config::{self, Config, HypervisorKind},
    data_dir,
    opening::Opening,
    remote::Remotes,
};

mod github;
mod gitlab;
pub(crate) mod secret;

pub use github::{GithubHook, GithubSurvey, HourlyLimit};

#[cfg(feature = "libvirt")]
mod libvirt;

/// What stands where libvirt would be: no configuration that asks for it is accepted.
#[cfg(not(feature = "libvirt"))]
mod libvirt {
    use std::{path::PathBuf, sync::Arc};

    use runner_core::{Error, Hypervisor, OwnerId, Result};

    use crate::config::{Config, LibvirtConfig};

    pub(super) fn check(_: &LibvirtConfig) -> Result<()> {
        Err(missing())
    }

    pub(super) fn shown(_: &LibvirtConfig) -> String {
        "libvirt".to_owned()
    }

    pub(super) async fn survey(_: &Config, _: &LibvirtConfig) -> Result<super::Libvirt> {
        Err(missing())
    }

    fn missing() -> Error {
        Error::unsupported("libvirt, as this program was built without it,")
    }

    pub(super) fn hypervisor(
        _: &Config,
        _: &LibvirtConfig,
        _: PathBuf,
        _: &OwnerId,
    ) -> Result<Arc<dyn Hypervisor>> {
        Err(missing())
    }

    pub(super) async fn trial(
        _: &Config,
        _: &LibvirtConfig,
        _: PathBuf,
        _: OwnerId,
    ) -> Result<(Arc<dyn Hypervisor>, String)> {
        Err(missing())
    }
}

/// What makes machines and images, and the forges elsewhere.
pub struct Backends {
    /// Makes the machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Makes the images.
    pub builder: Arc<dyn ImageBuilder>,
    /// The forges beside the local queue.
    pub forges: Remotes,
}

/// The backends that a configuration asks for. What they make is `owner`'s, and kept below `data_dir`.
///
/// # Errors
/// When the directory of the images cannot be used, or a webhook's secret or a forge's authorities cannot be
/// read. A hypervisor or a forge that cannot work (yet) is fine: the pool says so at every look.
pub async fn backends(
    config: &Config,
    data_dir: &Path,
    owner: &OwnerId,
) -> anyhow::Result<Backends> {
    let images = images(config, data_dir).await?;
    let root = data_dir.join("instances");
    let hypervisor: Arc<dyn Hypervisor> = match &config.hypervisor.kind {
        HypervisorKind::Qemu { .. } => {
            let qemu = qemu(config, root, owner.clone());
            let open = move || {
                let qemu = qemu.clone();
                async move {
                    let hypervisor: Arc<dyn Hypervisor> =
                        Arc::new(QemuHypervisor::open(qemu).await?);
                    Result::Ok(hypervisor)
                }
            };
            Arc::new(Opening::new(ALL, open))
        }
        HypervisorKind::Libvirt(section) => libvirt::hypervisor(config, section, root, owner)?,
    };
    let forges = forges(config, data_dir, owner).await?;
    Ok(Backends { hypervisor, builder: Arc::new(images), forges })
}

/// The forges elsewhere that a configuration names. They keep what they must not forget below `data_dir`.
///
/// # Errors
/// When a webhook's secret or a forge's authorities cannot be read.
pub async fn forges(config: &Config, data_dir: &Path, owner: &OwnerId) -> anyhow::Result<Remotes> {
    let mut forges = Remotes::new();
    for section in &config.githubs {
        let directory = forge_dir(data_dir, &section.name);
        let proof = config.servo.as_ref().and_then(|servo| servo.proof.as_ref());
        let proof = proof.filter(|proof| proof.forge == section.name);
        let remote = github::remote(section, &config.profiles, proof, &directory, owner)
            .await
            .with_context(|| format!("could not prepare forge {}", section.name))?;
        forges.insert(section.name.clone(), remote);
    }
    for section in &config.gitlabs {
        let directory = forge_dir(data_dir, &section.name);
        let remote = gitlab::remote(section, &directory, owner)
            .await
            .with_context(|| format!("could not prepare forge {}", section.name))?;
        forges.insert(section.name.clone(), remote);
    }
    Ok(forges)
}

/// Where a forge keeps what it must not forget.
fn forge_dir(data_dir: &Path, forge: &ForgeName) -> PathBuf {
    data_dir.join("forges").join(forge.as_str())
}

/// Whether GitHub can be asked for what a configuration says.
///
/// # Errors
/// What of it cannot work, and why.
pub fn check_github(section: &config::GithubConfig) -> Result<(), (config::Wrong, String)> {
    github::check(section)
}

/// Whether GitHub has room for the names of a profile's runners.
///
/// # Errors
/// `Invalid`, with the arithmetic.
pub fn check_github_profile(profile: &ProfileName) -> Result<()> {
    github::check_profile(profile)
}

/// Whether a text is a version of GitHub's runner program.
///
/// # Errors
/// `Invalid`, saying what one is like.
pub fn check_runner_version(version: &str) -> Result<()> {
    github::check_runner_version(version)
}

/// Whether the runners belong to one repository, which is the one to be asked then.
pub fn is_repository(section: &config::GithubConfig) -> bool {
    github::is_repository(section)
}

/// Asks a GitHub for what the service would need of it. Changes nothing.
///
/// # Errors
/// When it cannot even be asked, such as for authorities that cannot be read.
pub async fn survey_github(section: &config::GithubConfig) -> Result<GithubSurvey> {
    github::survey(section).await
}

/// Whether a version of GitHub's runner program is older than another.
pub fn is_older_runner(version: &str, newest: &str) -> bool {
    github::is_older(version, newest)
}

/// Whether there can be a GitLab at an address.
///
/// # Errors
/// Why not, and the way out.
pub fn check_gitlab(url: &str, allow_http: bool) -> Result<(), String> {
    gitlab::check(url, allow_http)
}

/// Whether a rule for images can be read.
///
/// # Errors
/// `Invalid`, naming the pattern.
pub fn check_gitlab_image(rule: &config::GitlabImage) -> Result<()> {
    gitlab::check_image(rule)
}

/// A `config.toml` for the official `gitlab-runner`, with the runners that the service in `data_dir` keeps at a
/// GitLab. Their tokens are in it.
///
/// # Errors
/// When a token cannot be read.
pub fn gitlab_config_toml(
    section: &config::GitlabConfig,
    data_dir: &Path,
    executor: &str,
) -> anyhow::Result<String> {
    gitlab::config_toml(section, &forge_dir(data_dir, &section.name), executor)
}

/// Looks whether a GitLab can be used, asking it only.
///
/// # Errors
/// When a secret or the authorities cannot be read.
pub async fn examine_gitlab(
    section: &config::GitlabConfig,
    data_dir: &Path,
) -> anyhow::Result<Vec<GitlabFinding>> {
    gitlab::examine(section, &forge_dir(data_dir, &section.name)).await
}

/// Whether libvirt can be asked for what a configuration says.
///
/// # Errors
/// `Invalid`, naming what cannot work.
pub fn check(section: &config::LibvirtConfig) -> Result<()> {
    libvirt::check(section)
}

/// The URI of libvirt, without what is secret in it.
pub fn shown(section: &config::LibvirtConfig) -> String {
    libvirt::shown(section)
}

/// What libvirt has for machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libvirt {
    /// The daemon's version.
    pub daemon: String,
    /// The version of the emulator, if there is one.
    pub hypervisor: Option<String>,
    /// Whether either is older than what was tried.
    pub is_old: bool,
    /// The emulator that runs machines without KVM.
    pub translated: Option<String>,
    /// The emulator that runs machines with KVM, which libvirt has not tried.
    pub accelerated: Option<String>,
    /// The numbers of the user and the group that machines run as, if that is known.
    pub user: Option<(u32, u32)>,
    /// What machines are connected to.
    pub network: Need,
    /// The pool that disks are in.
    pub storage: Need,
}

/// Whether something that machines need is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is there and active; or there is no need.
    Active,
    /// It is there.
    Inactive,
    /// It will be made.
    ToBeMade,
    /// It is not there.
    Missing,
}

/// Looks at what libvirt has for the machines of a configuration. Changes nothing.
///
/// # Errors
/// When it cannot be reached.
pub async fn survey(config: &Config, section: &config::LibvirtConfig) -> Result<Libvirt> {
    libvirt::survey(config, section).await
}

/// The images that a configuration's service has in `data_dir`.
///
/// # Errors
/// When their directory cannot be used.
pub async fn images(config: &Config, data_dir: &Path) -> Result<ImageStore> {
    let cache = config.cache_dir.clone();
    let cache = cache.unwrap_or_else(|| data_dir::default_cache(data_dir));
    ImageStore::open(ImageConfig::new(data_dir.join("images"), cache)).await
}

/// A hypervisor of its own for trying one out, in a directory that is nobody else's; what it runs guests
/// with, and why.
///
/// # Errors
/// When it cannot be used.
pub async fn trial(config: &Config, root: PathBuf) -> Result<(Arc<dyn Hypervisor>, String)> {
    let owner = OwnerId::new("doctor")?;
    if let HypervisorKind::Libvirt(section) = &config.hypervisor.kind {
        return libvirt::trial(config, section, root, owner).await;
    }
    let hypervisor = QemuHypervisor::open(qemu(config, root, owner)).await?;
    let accel = hypervisor.accel();
    let engine = format!("{:?}", accel.engine).to_uppercase();
    let why = format!("{engine}: {}", accel.why);
    Ok((Arc::new(hypervisor), why))
}

/// The program that runs machines, if it is this process that runs it.
pub fn program(config: &Config) -> Option<PathBuf> {
    match &config.hypervisor.kind {
        HypervisorKind::Qemu { binary } => {
            Some(binary.clone().unwrap_or_else(|| "qemu-system-x86_64".into()))
        }
        HypervisorKind::Libvirt(_) => None,
    }
}

/// What all of them can do, known before one is there.
const ALL: HypervisorCapabilities = HypervisorCapabilities {
    changes: true,
    guest: true,
    screenshot: true,
    console: true,
    adopts: true,
};

fn qemu(config: &Config, root: PathBuf, owner: OwnerId) -> QemuConfig {
    let mut qemu = QemuConfig::new(root, owner);
    if let Some(binary) = program(config) {
        qemu.qemu = binary;
    }
    qemu.accel = match config.hypervisor.accel {
        config::Accel::Auto => Accel::Auto,
        config::Accel::Kvm => Accel::Kvm,
        config::Accel::Tcg => Accel::Tcg,
    };
    qemu.capacity.clone_from(&config.hypervisor.capacity);
    qemu
}
