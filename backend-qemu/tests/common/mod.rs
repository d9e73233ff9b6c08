//! A hypervisor in a directory of its own, and a guest to boot, built once per machine.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use backend_qemu::{Accel, QemuConfig, QemuHypervisor};
use jiff::Timestamp;
use runner_core::{
    Guest, Hypervisor, ImageId, OwnerId, ProcessId, ProfileName, Resources, WorkerName,
    guest::{Command as GuestCommand, Output, exec},
    hypervisor::{InstanceSpec, Network},
    image::{Boot, Image, Recipe, RecipeKind},
};
use tempfile::TempDir;

const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet nokaslr mitigations=off \
    cryptomgr.notests no_timer_check tsc=reliable lpj=4000000 8250.nr_uarts=1";

/// Whether QEMU and the guest are here. Says so if not, and fails where they are required.
pub fn guest_image() -> Option<Image> {
    match build() {
        Ok(image) => Some(image),
        Err(reason) => {
            let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("qemu"), "qemu is required: {reason}");
            eprintln!("skipped: {reason}");
            None
        }
    }
}

fn build() -> Result<Image, String> {
    let runs = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !runs("qemu-system-x86_64") {
        return Err("there is no qemu-system-x86_64 here".to_owned());
    }
    let cache = std::env::var_os("RUNNER_CACHE")
        .map_or_else(
            || Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"),
            PathBuf::from,
        )
        .join("micro-guest");
    fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    let (kernel, initrd) = (cache.join("vmlinuz"), cache.join("initrd"));
    // Tests are processes; one of them builds, the others wait for it.
    let lock = File::create(cache.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/micro-guest.sh");
    let newer = |path: &Path| {
        let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        time(path) > time(Path::new(script))
    };
    if !newer(&initrd) || !kernel.exists() {
        let output = Command::new("bash").arg(script).arg(&cache).output();
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            let complaints = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the guest could not be built: {complaints}"));
        }
    }
    Ok(image(kernel, initrd))
}

pub fn image(kernel: PathBuf, initrd: PathBuf) -> Image {
    Image {
        id: ImageId::new("linux.test").unwrap(),
        recipe: Recipe {
            profile: profile(),
            kind: RecipeKind::Micro {},
        },
        built_at: Timestamp::UNIX_EPOCH,
        digest: "0".repeat(64),
        size_bytes: 0,
        boot: Boot::Kernel {
            kernel,
            initrd,
            command_line: COMMAND_LINE.to_owned(),
        },
    }
}

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
        resources: Resources {
            vcpus: 1,
            memory_mib: 192,
            ..Default::default()
        },
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
        let image = guest_image()?;
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
        let mut fixture = Self {
            image,
            directory,
            root,
            config,
            hypervisor: None,
        };
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
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub async fn ready(&self, serial: u64) -> std::sync::Arc<dyn Guest> {
        let guest = self.hypervisor().guest(&name(serial)).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), guest.ready())
            .await
            .unwrap()
            .unwrap();
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
    let exit = tokio::time::timeout(Duration::from_secs(30), run)
        .await
        .unwrap()
        .unwrap();
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
