//! A hypervisor on a daemon of its own.

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use backend_libvirt::{LibvirtConfig, LibvirtHypervisor, Virt};
use runner_core::{
    Guest, Hypervisor, OwnerId, ProcessId, ProfileName, Resources, WorkerName,
    guest::Command as GuestCommand,
    hypervisor::{InstanceSpec, InstanceState, Network},
    image::Image,
};
use tempfile::TempDir;

use super::{libvirtd::Libvirtd, micro};

pub struct Fixture {
    pub libvirtd: Libvirtd,
    pub config: LibvirtConfig,
    pub directory: TempDir,
    image: Image,
}

pub fn name(serial: u64) -> WorkerName {
    WorkerName::of(&ProfileName::new("linux").unwrap(), serial)
}

impl Fixture {
    /// A daemon and what it takes to make instances there, or nothing, with a word about it.
    pub async fn new() -> Option<Self> {
        Self::on(Libvirtd::start()?).await
    }

    pub async fn on(libvirtd: Libvirtd) -> Option<Self> {
        let image = micro::image().await?;
        // Below that of the daemon, which goes however the test ends.
        let directory = tempfile::tempdir_in(libvirtd.directory()).unwrap();
        let owner = OwnerId::new("tests").unwrap();
        let mut config = LibvirtConfig::new(libvirtd.uri.clone(), owner, directory.path());
        config.virt = Virt::Qemu;
        config.capacity = Some(Resources {
            vcpus: 16,
            memory_mib: 8192,
            disk_mib: 1 << 20,
            ..Default::default()
        });
        Some(Self { libvirtd, config, directory, image })
    }

    pub async fn open(&self) -> Arc<LibvirtHypervisor> {
        Arc::new(LibvirtHypervisor::open(self.config.clone()).await.unwrap())
    }

    pub fn spec(&self, name: &WorkerName) -> InstanceSpec {
        InstanceSpec {
            name: name.clone(),
            profile: self.image.recipe.profile.clone(),
            image: self.image.clone(),
            resources: Resources { vcpus: 1, memory_mib: 192, disk_mib: 8, ..Default::default() },
            network: Network::Restricted,
            user_data: None,
        }
    }

    /// Where instances have their files.
    pub fn instances(&self) -> PathBuf {
        self.directory.path().join("instances")
    }

    pub fn files(&self) -> usize {
        fs::read_dir(self.instances()).unwrap().count()
    }

    /// The process of a domain, as we see it.
    pub fn qemu(&self, name: &str) -> Option<u32> {
        let wanted = format!("guest={name},");
        fs::read_dir("/proc").unwrap().flatten().find_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let line = fs::read(process.path().join("cmdline")).ok()?;
            let mut arguments = line.split(|byte| *byte == 0);
            let named = arguments.any(|argument| argument.starts_with(wanted.as_bytes()));
            let files = String::from_utf8_lossy(&line);
            let here = files.contains(self.directory.path().to_str()?);
            (named && here).then_some(pid)
        })
    }
}

pub fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// What the list says of one instance.
pub async fn state(hypervisor: &LibvirtHypervisor, name: &WorkerName) -> Option<InstanceState> {
    let all = hypervisor.instances().await.unwrap();
    all.into_iter().find(|instance| instance.name == *name).map(|instance| instance.state)
}

pub async fn ready(hypervisor: &LibvirtHypervisor, name: &WorkerName) -> Arc<dyn Guest> {
    let guest = hypervisor.guest(name).await.unwrap();
    tokio::time::timeout(Duration::from_secs(120), guest.ready()).await.unwrap().unwrap();
    guest
}

/// Has a guest run a script that it may not survive.
pub async fn tell(guest: &dyn Guest, script: &str) {
    let command = GuestCommand::new(["/bin/sh", "-c", script]);
    // The answer may be lost with the machine.
    let _ = guest.spawn(&ProcessId::new("last").unwrap(), &command).await;
}

/// Waits until `what` holds.
pub async fn until(why: &str, mut what: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !what().await {
        assert!(start.elapsed() < Duration::from_secs(90), "in vain: {why}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
