//! The dashboard, driven in a real Chromium over a crowd of fake workers: `dashboard/drive.mjs` says what is
//! done and expected. Screenshots stay in `target/dashboard`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn has(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn a_person_finds_everything_on_the_dashboard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::env::var_os("RUNNER_TOOLS").map(PathBuf::from);
    let tools = tools.unwrap_or_else(|| root.join("cache/tools"));
    let modules = tools.join("browser/node_modules");
    let there = ["playwright-core", "axe-core"].iter().all(|module| modules.join(module).exists());
    if !there || !has("chromium") || !has("node") {
        let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
        let mut required = required.split([',', ' ']);
        assert!(
            !required.any(|part| part == "chromium"),
            "chromium is required and missing, or node, playwright-core or axe-core; run scripts/install test"
        );
        println!("skipped: chromium is missing");
        return;
    }
    let driven = Command::new(root.join("scripts/dashboard")).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (said(&driven.stdout), said(&driven.stderr));
    assert!(driven.status.success(), "{}\n{out}\n{error}", driven.status);
    assert!(out.contains("ok: few"), "it did not come to its end:\n{out}\n{error}");
}
