//! What the operator chooses.

use std::{path::PathBuf, time::Duration};

use machine_disks::DiskMode;
use runner_core::{Capacity, OwnerId};
use serde::{Deserialize, Serialize};

use crate::{network::NetworkConfig, storage::StorageConfig, uri::LibvirtUri};

/// How libvirt is used.
#[derive(Debug, Clone)]
pub struct LibvirtConfig {
    /// The daemon.
    pub uri: LibvirtUri,
    /// Whose instances these are: written into every domain. Owners may share a daemon.
    pub owner: OwnerId,
    /// What runs the guests' code.
    pub virt: Virt,
    /// What to offer to all instances together; what the host has, if none.
    pub capacity: Option<Capacity>,
    /// Where instances' disks and records live.
    pub storage: StorageConfig,
    /// What instances are plugged into.
    pub network: NetworkConfig,
    /// Where profiles have directories of their own, with a template, user data and the like; see the module
    /// `profile_dir` for what is in them. A profile without one has the built-in template.
    pub profiles: Option<PathBuf>,
    /// How long the daemon may take for one thing, 1 s at least. A start may take this long.
    pub patience: Duration,
}

impl LibvirtConfig {
    /// Instances of `owner` at `uri`, with their disks in `directory`, the best accelerator that works
    /// and all the host has.
    pub fn new(uri: LibvirtUri, owner: OwnerId, directory: impl Into<PathBuf>) -> Self {
        Self {
            uri,
            owner,
            virt: Virt::Auto,
            capacity: None,
            storage: StorageConfig::Directory { path: directory.into(), disks: DiskMode::Auto },
            network: NetworkConfig::default(),
            profiles: None,
            patience: Duration::from_secs(30),
        }
    }
}

/// What runs the guests' code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Virt {
    /// KVM if a guest was seen to run on it, otherwise QEMU's translator.
    #[default]
    Auto,
    /// The host's processor.
    Kvm,
    /// QEMU's translator: works everywhere, several times slower.
    Qemu,
}
