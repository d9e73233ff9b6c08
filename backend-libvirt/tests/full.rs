//! A disk that is full: what is on it is listed, and can be removed to make room.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{fs, path::Path, process::Command};

use backend_libvirt::{DiskMode, StorageConfig};
use common::{
    fixture::{Fixture, name},
    libvirtd::Libvirtd,
};
use runner_core::{
    Hypervisor,
    hypervisor::{ExitReason, InstanceState},
};

const STOPPED_BY_HAND: InstanceState = InstanceState::Stopped(ExitReason::HostStopped);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_no_list_blind() {
    // Before the daemon has its own view of what is mounted.
    let prepare = |directory: &Path| {
        fs::create_dir(directory.join("data")).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(directory.join("data"));
        assert!(mount.status().unwrap().success());
    };
    let Some(libvirtd) = Libvirtd::start_with(prepare, &[]) else { return };
    let Some(mut fixture) = Fixture::on(libvirtd).await else { return };
    let data = fixture.libvirtd.directory().join("data");
    fixture.config.storage = StorageConfig::Directory { path: data.clone(), disks: DiskMode::Auto };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    let fill = data.join("fill");
    let full = fs::write(&fill, vec![1; 32 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    fixture.libvirtd.virsh(&["destroy", "linux-1"]);
    let listed = hypervisor.instances().await;
    let destroyed = hypervisor.destroy(&name(1)).await;
    drop(hypervisor);
    Command::new("umount").arg("-l").arg(&data).status().unwrap();
    assert_eq!(listed.unwrap()[0].state, STOPPED_BY_HAND);
    destroyed.unwrap();
}
