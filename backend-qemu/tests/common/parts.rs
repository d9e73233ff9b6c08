//! The real parts that tests need, and what they do without.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Says why a test does nothing, and fails where the missing part is required.
pub fn skip(part: &str) {
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == part), "{part} is required and missing");
    println!("skipped: {part} is missing");
}

pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Whether packages can be had: the programs are there and so are the lists.
pub fn has_apt() -> bool {
    has("dpkg-deb")
        && Command::new("apt-cache")
            .args(["show", "linux-image-cloud-amd64"])
            .output()
            .is_ok_and(|output| !output.stdout.is_empty())
}

/// What all tests and all runs share, so that packages are downloaded once.
pub fn shared_cache() -> PathBuf {
    std::env::var_os("RUNNER_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"), PathBuf::from)
}
