//! A test that is killed leaves nothing on the host that it ran on.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use common::fixture::{Fixture, name, until};
use runner_core::Hypervisor;

const VICTIM: &str = "RUNNER_TEST_VICTIM";
const AT: &str = "its directory is ";

/// What the killed process does: this same program, told so by its environment.
async fn be_the_victim() {
    let fixture = Fixture::new().await.expect("its parent had all it needs");
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    println!("\n{AT}{}", fixture.libvirtd.directory().display());
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_that_is_killed_leaves_no_process_no_mount_and_no_directory() {
    if std::env::var_os(VICTIM).is_some() {
        return be_the_victim().await;
    }
    // What a victim needs is here, or this says what is not.
    if Fixture::new().await.is_none() {
        return;
    }
    let test = "a_test_that_is_killed_leaves_no_process_no_mount_and_no_directory";
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(VICTIM, "")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let directory = lines
        .find_map(|line| Some(line.unwrap().strip_prefix(AT)?.to_owned()))
        .expect("the victim has an instance");
    let here = processes(&directory);
    for part in ["libvirtd -f", "qemu-system", "libvirtd-keeper"] {
        assert!(here.iter().any(|line| line.contains(part)), "no {part} in {here:?}");
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    until("its processes end", async || processes(&directory).is_empty()).await;
    until("its directory goes", async || !Path::new(&directory).exists()).await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&directory), "{mounts}");
}

/// The command lines that have `directory` in them.
fn processes(directory: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(directory))
        .collect()
}
