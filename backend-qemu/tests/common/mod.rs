//! A hypervisor in a directory of its own, and a guest to boot.

pub mod micro;
pub mod parts;

use std::{fs, path::PathBuf, process::Command, time::Duration};

use backend_qemu::{Accel, QemuConfig, QemuHypervisor};
use runner_core::{
    Guest, Hypervisor, OwnerId, ProcessId, ProfileName, Resources, WorkerName,
    guest::{Command as GuestCommand, Output, exec},
    hypervisor::{InstanceSpec, Network},
    image::Image,
};
use tempfile::TempDir;

pub fn profile() -> ProfileName {
    ProfileName::new("linux").unwrap()
}

pub fn name(serial: u64) -> WorkerName {
    WorkerName::of(&profile(), serial)
}

pub fn spec(image: &Image, serial: u64) -> InstanceSpec {
    InstanceSpec {
        name: name(serial),
        profile: profile(),
        image: image.clone(),
        resources: Resources { vcpus: 1, memory_mib: 192, ..Default::default() },
        network: Network::Restricted,
        user_data: None,
    }
}

/// A hypervisor whose instances end with it.
pub struct Fixture {
    pub image: Image,
    pub directory: TempDir,
    pub root: PathBuf,
    pub config: QemuConfig,
    hypervisor: Option<QemuHypervisor>,
}

impl Fixture {
    /// A hypervisor in a fresh directory, or nothing, with a word about it, where there is no QEMU.
    pub async fn new() -> Option<Self> {
        Self::in_subdirectory("root").await
    }

    pub async fn in_subdirectory(path: &str) -> Option<Self> {
        let image = micro::image().await?;
        let directory = TempDir::new().unwrap();
        let root = directory.path().join(path);
        let mut config = QemuConfig::new(&root, OwnerId::new("tests").unwrap());
        config.accel = Accel::Tcg;
        config.capacity = Some(Resources {
            vcpus: 16,
            memory_mib: 8192,
            disk_mib: 1 << 20,
            ..Default::default()
        });
        let mut fixture = Self { image, directory, root, config, hypervisor: None };
        fixture.reopen().await;
        Some(fixture)
    }

    pub fn hypervisor(&self) -> &QemuHypervisor {
        self.hypervisor.as_ref().unwrap()
    }

    /// What a restart of the process does.
    pub async fn reopen(&mut self) {
        self.close().await;
        self.hypervisor = Some(QemuHypervisor::open(self.config.clone()).await.unwrap());
    }

    pub async fn close(&mut self) {
        self.hypervisor = None;
        // Its tasks end at their next step.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    pub fn spec(&self, serial: u64) -> InstanceSpec {
        spec(&self.image, serial)
    }

    pub fn instance(&self, serial: u64) -> PathBuf {
        self.root.join("instances").join(name(serial).as_str())
    }

    pub fn pid(&self, serial: u64) -> u32 {
        let text = fs::read_to_string(self.instance(serial).join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Sends a signal to the QEMU of an instance, as an operator would.
    pub fn signal(&self, serial: u64, signal: &str) {
        let pid = self.pid(serial).to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub async fn ready(&self, serial: u64) -> std::sync::Arc<dyn Guest> {
        let guest = self.hypervisor().guest(&name(serial)).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), guest.ready()).await.unwrap().unwrap();
        guest
    }
}

impl Drop for Fixture {
    /// Ends every QEMU in the directory, also after a test that failed.
    fn drop(&mut self) {
        let Ok(instances) = fs::read_dir(self.root.join("instances")) else {
            return;
        };
        for instance in instances.flatten() {
            let pid = fs::read_to_string(instance.path().join("pid")).unwrap_or_default();
            let cwd = fs::read_link(format!("/proc/{}/cwd", pid.trim()));
            let real = instance.path().canonicalize();
            if !pid.is_empty() && cwd.is_ok_and(|cwd| real.is_ok_and(|real| cwd == real)) {
                let _ = Command::new("kill").args(["-9", pid.trim()]).status();
            }
        }
    }
}

/// Runs a shell script in the guest: its exit code and what it wrote.
pub async fn sh(guest: &dyn Guest, id: &str, script: &str) -> (u8, String) {
    let (id, mut text) = (ProcessId::new(id).unwrap(), Vec::new());
    let command = GuestCommand::new(["/bin/sh", "-c", script]);
    let run = exec(guest, &id, &command, |output| match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) => text.extend_from_slice(bytes),
    });
    let exit = tokio::time::timeout(Duration::from_secs(30), run).await.unwrap().unwrap();
    (exit.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Waits until `what` holds.
pub async fn until(why: &str, mut what: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !what().await {
        assert!(start.elapsed() < Duration::from_secs(30), "in vain: {why}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
