//! Domains of others on the same daemon, and a look at them afterwards: nobody may have touched them.

use std::sync::Arc;

use backend_libvirt::{DiskMode, LibvirtConfig, LibvirtHypervisor, StorageConfig};
use runner_core::{Hypervisor, OwnerId, hypervisor::InstanceSpec};
use tempfile::TempDir;

use super::libvirtd::Libvirtd;

/// Domains that are not ours: named like ours, made by hand, transient, and of another owner.
pub struct Neighbours {
    libvirtd: Arc<Libvirtd>,
    before: Vec<String>,
    _directory: TempDir,
}

/// Names as profiles of ours have them.
const LIKE_OURS: &str = "a-7";
const BY_HAND: &str = "Database (do not touch)";
const TRANSIENT: &str = "a-8";
const OTHERS: &str = "a-9";

impl Neighbours {
    /// Moves them in. `spec` is for an instance of the other owner.
    pub async fn new(
        libvirtd: Arc<Libvirtd>,
        mut config: LibvirtConfig,
        spec: InstanceSpec,
    ) -> Self {
        libvirtd.virsh_document(&["define"], &document(LIKE_OURS));
        libvirtd.virsh_document(&["define"], &document(BY_HAND));
        // Paused, they take nothing from the machines under test.
        libvirtd.virsh(&["start", "--paused", BY_HAND]);
        libvirtd.virsh_document(&["create", "--paused"], &document(TRANSIENT));
        let directory = TempDir::new().unwrap();
        config.owner = OwnerId::new("neighbour").unwrap();
        let path = directory.path().to_owned();
        config.storage = StorageConfig::Directory { path, disks: DiskMode::Auto };
        let other = LibvirtHypervisor::open(config).await.unwrap();
        assert_eq!(spec.name.as_str(), OTHERS);
        other.create(&spec).await.unwrap();
        libvirtd.virsh(&["suspend", OTHERS]);
        let before = look(&libvirtd);
        Self { libvirtd, before, _directory: directory }
    }

    pub const OTHERS: &str = OTHERS;
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(look(&self.libvirtd), self.before, "a neighbour was touched");
        }
    }
}

/// Everything about each: whether it runs, and as what process.
fn look(libvirtd: &Libvirtd) -> Vec<String> {
    let look = |name| {
        let about = |what| libvirtd.virsh(&[what, name]);
        format!("{}{}{}", about("domstate"), about("domid"), about("dumpxml"))
    };
    [LIKE_OURS, BY_HAND, TRANSIENT, OTHERS].map(look).into()
}

fn document(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    )
}
