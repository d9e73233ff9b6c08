//! What the operator decides, as TOML.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use backend_qemu::Accel;
use runner_core::{Resources, WorkerName, hypervisor::Network, image::RecipeKind};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where machines are kept. For this program alone.
    pub state_dir: PathBuf,
    /// Where images are kept: `images` in `state_dir` if none.
    images_dir: Option<PathBuf>,
    /// Where packages are kept that images are made of: `packages` in `state_dir` if none.
    packages_dir: Option<PathBuf>,
    /// What machines boot.
    pub image: RecipeKind,
    /// What a machine takes.
    machine: Machine,
    /// What a machine reaches. Jobs that fetch sources need it open.
    #[serde(default)]
    pub network: Network,
    /// How long a machine may take until it is ready, in seconds.
    #[serde(default = "start_timeout")]
    start_timeout: u64,
    /// What makes machines.
    #[serde(default)]
    pub hypervisor: Engine,
    /// What scripts are written for, and run by.
    #[serde(default)]
    pub shell: Shell,
    /// Where jobs live in the machine.
    #[serde(default = "builds_dir")]
    builds_dir: String,
    /// Where gitlab-runner's helper keeps caches in the machine.
    #[serde(default = "cache_dir")]
    cache_dir: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    vcpus: u32,
    memory_mib: u64,
    #[serde(default)]
    disk_mib: u64,
}

/// What makes machines.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Engine {
    Qemu {
        #[serde(default)]
        accel: Accel,
    },
    #[cfg(feature = "libvirt")]
    Libvirt {
        uri: String,
        /// Where machines are kept, as their user cannot reach what is ours alone.
        disks_dir: PathBuf,
        #[serde(default)]
        accel: Accel,
    },
}

impl Default for Engine {
    fn default() -> Self {
        Self::Qemu { accel: Accel::Auto }
    }
}

/// A shell that gitlab-runner writes scripts for.
#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    #[default]
    Bash,
    Sh,
}

impl Shell {
    pub fn program(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Sh => "sh",
        }
    }
}

fn start_timeout() -> u64 {
    300
}

fn builds_dir() -> String {
    "/builds".to_owned()
}

fn cache_dir() -> String {
    "/cache".to_owned()
}

impl Config {
    pub fn read(path: &Path) -> Result<Self> {
        let doing = || format!("reading {}", path.display());
        let text = fs::read_to_string(path).with_context(doing)?;
        let config: Self = toml::from_str(&text).with_context(doing)?;
        ensure!(config.state_dir.is_absolute(), "{}: state_dir must be absolute", path.display());
        for dir in [&config.builds_dir, &config.cache_dir] {
            ensure!(dir.starts_with('/'), "{}: {dir:?} must be absolute", path.display());
        }
        Ok(config)
    }

    /// What `config_exec` prints: it overrides `config.toml` of gitlab-runner.
    pub fn for_gitlab_runner(&self) -> Value {
        json!({
            "builds_dir": self.builds_dir,
            "cache_dir": self.cache_dir,
            "builds_dir_is_shared": false,
            "shell": self.shell.program(),
            "driver": { "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") },
        })
    }

    pub fn resources(&self) -> Resources {
        let Machine { vcpus, memory_mib, disk_mib } = self.machine;
        Resources { vcpus, memory_mib, disk_mib, ..Resources::default() }
    }

    pub fn start_timeout(&self) -> Duration {
        Duration::from_secs(self.start_timeout)
    }

    /// Where the machine of a job is kept; `usual` is in the job's own directory.
    pub fn machine_dir(&self, name: &WorkerName, usual: PathBuf) -> PathBuf {
        match &self.hypervisor {
            #[cfg(feature = "libvirt")]
            Engine::Libvirt { disks_dir, .. } => disks_dir.join(name.as_str()),
            Engine::Qemu { .. } => {
                let _ = name;
                usual
            }
        }
    }

    pub fn images_dir(&self) -> PathBuf {
        self.images_dir.clone().unwrap_or_else(|| self.state_dir.join("images"))
    }

    pub fn packages_dir(&self) -> PathBuf {
        self.packages_dir.clone().unwrap_or_else(|| self.state_dir.join("packages"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_readme_shows_is_understood() {
        let readme = include_str!("../README.md");
        let blocks = readme.split("```toml\n").skip(1);
        let blocks: Vec<&str> = blocks.map(|rest| rest.split("```").next().unwrap()).collect();
        let [ours, theirs] = blocks[..] else { panic!("{blocks:?}") };
        let config: Config = toml::from_str(ours).unwrap();
        assert_eq!((config.builds_dir.as_str(), config.start_timeout), ("/builds", 300));
        assert_eq!(config.resources().memory_mib, 4096);
        let theirs: toml::Table = toml::from_str(theirs).unwrap();
        let runner = &theirs["runners"][0];
        assert_eq!(runner["builds_dir"].as_str(), Some(&*config.builds_dir));
        assert_eq!(runner["custom"]["run_args"][0].as_str(), Some("run"));
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let text =
            "state_dir = '/s'\nimage = { kind = 'micro' }\nmachine = { vcpu = 1, memory_mib = 1 }";
        let error = toml::from_str::<Config>(text).err().unwrap().to_string();
        assert!(error.contains("vcpu"), "{error}");
    }
}
