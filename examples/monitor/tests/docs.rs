//! The page of the API's description, in a real Chromium: `docs/drive.mjs` says what is done and expected.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use common::Server;

fn has(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn the_page_reads_the_document_and_tries_it_out_with_nothing_from_elsewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::env::var_os("RUNNER_TOOLS").map(PathBuf::from);
    let modules = tools.unwrap_or_else(|| root.join("cache/tools")).join("browser/node_modules");
    if !modules.join("playwright-core").exists() || !has("chromium") || !has("node") {
        let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
        let mut required = required.split([',', ' ']);
        assert!(
            !required.any(|part| part == "chromium"),
            "chromium is required and missing, or node or playwright-core; run scripts/install test"
        );
        println!("skipped: chromium is missing");
        return;
    }
    let server = Server::start();
    let driven = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docs/drive.mjs"))
        .arg(modules)
        .arg(chromium())
        .arg(server.url())
        .output()
        .unwrap();
    assert!(driven.status.success(), "{}", common::said(&driven));
}

/// Where the program is: the driver wants its path.
fn chromium() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("chromium"));
    found.find(|file| file.exists()).unwrap()
}
