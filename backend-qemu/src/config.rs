//! What the operator chooses.

use std::path::PathBuf;

use runner_core::{Capacity, OwnerId};
use serde::{Deserialize, Serialize};

/// How QEMU is run on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuConfig {
    /// Where instances live, on a disk with room for what they write. Made when missing; one process at a
    /// time uses it, and no other owner ever.
    pub root: PathBuf,
    /// Whose instances these are. Two owners share a host in different roots.
    pub owner: OwnerId,
    /// The program, by path or found in `PATH`.
    pub qemu: PathBuf,
    /// What runs the guests' code.
    pub accel: Accel,
    /// What to offer to all instances together; what the host has, if none.
    pub capacity: Option<Capacity>,
}

impl QemuConfig {
    /// Instances of `owner` in `root`, with QEMU from `PATH`, the best accelerator that works and all the host has.
    pub fn new(root: impl Into<PathBuf>, owner: OwnerId) -> Self {
        Self {
            root: root.into(),
            owner,
            qemu: "qemu-system-x86_64".into(),
            accel: Accel::Auto,
            capacity: None,
        }
    }
}

/// What runs the guests' code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM if a guest was seen to run on it, otherwise TCG.
    #[default]
    Auto,
    /// The host's processor.
    Kvm,
    /// QEMU's translator: works everywhere, several times slower.
    Tcg,
}
