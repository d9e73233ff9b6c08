//! The example runs its job in a real machine and leaves none behind.

use std::{path::PathBuf, process::Command};

#[test]
fn the_example_runs_its_job_and_leaves_no_machine() {
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        assert!(!required.contains("qemu"), "QEMU is required and missing");
        println!("skipped: QEMU is missing");
        return;
    }
    // The cache of images is beside the data, and outlives it.
    let cache = std::env::var_os("RUNNER_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(&cache).unwrap();
    let dir = tempfile::tempdir_in(&cache).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_embed")).arg(dir.path()).output().unwrap();
    let (log, errors) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{log}{errors}");
    assert!(log.contains("hello from ") && log.ends_with("succeeded\n"), "{log}{errors}");
    let machines = std::fs::read_dir(dir.path().join("machines/instances")).unwrap();
    assert_eq!(machines.count(), 0, "no machine is left");
}
