//! The process that makes an instance is killed, at every stage: nothing it leaves is hidden.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use backend_qemu::{Accel, QemuConfig, QemuHypervisor};
use common::{Fixture, name, spec};
use runner_core::{Hypervisor, OwnerId, hypervisor::InstanceState};

const VICTIM: &str = "RUNNER_TEST_VICTIM";
const IMAGE: &str = "RUNNER_TEST_IMAGE";

/// What the killed process does: this same program, told so by its environment.
async fn be_the_victim(root: std::ffi::OsString) {
    let mut config = QemuConfig::new(root, OwnerId::new("tests").unwrap());
    config.accel = Accel::Tcg;
    let hypervisor = QemuHypervisor::open(config).await.unwrap();
    let image = std::env::var(IMAGE).unwrap();
    let mut spec = spec(&serde_json::from_str(&image).unwrap(), 1);
    spec.resources.disk_mib = 8;
    hypervisor.create(&spec).await.unwrap();
    std::future::pending().await
}

#[tokio::test]
async fn a_maker_that_is_killed_hides_nothing() {
    if let Some(root) = std::env::var_os(VICTIM) {
        return be_the_victim(root).await;
    }
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    let instances = fixture.root.join("instances");
    let mut running = 0;
    for micros in [0, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 100_000, 400_000] {
        fixture.close().await;
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_maker_that_is_killed_hides_nothing", "--nocapture"])
            .env(VICTIM, &fixture.root)
            .env(IMAGE, serde_json::to_string(&fixture.image).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while fs::read_dir(&instances).unwrap().count() == 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "it makes nothing");
        }
        std::thread::sleep(Duration::from_micros(micros));
        victim.kill().unwrap();
        victim.wait().unwrap();

        fixture.reopen().await;
        let all = fixture.hypervisor().instances().await.unwrap();
        let left = fs::read_dir(&instances).unwrap().count();
        assert_eq!(left, all.len(), "something is hidden, {micros} µs after the beginning");
        if all.iter().any(|instance| instance.state == InstanceState::Running) {
            running += 1;
            assert_eq!(processes_in(&instances), 1);
            // A boot takes long, and one is like the other.
            if running == 1 {
                fixture.ready(1).await;
            }
        }
        fixture.hypervisor().destroy(&name(1)).await.unwrap();
        assert_eq!(fs::read_dir(&instances).unwrap().count(), 0);
        assert_eq!(processes_in(&fixture.root), 0, "a process is left");
    }
    assert!(running > 0, "no instance outlived its maker");
}

/// How many processes run below `directory`.
fn processes_in(directory: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let directories =
        processes.filter_map(|process| fs::read_link(process.path().join("cwd")).ok());
    directories.filter(|cwd| cwd.starts_with(directory)).count()
}
