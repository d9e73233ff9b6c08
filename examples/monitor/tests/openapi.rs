//! The OpenAPI document as text: a difference in review is the point. `RUNNER_BLESS=1` writes it anew.

mod common;

use std::{path::Path, process::Command};

use common::Server;

fn printed() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_monitor")).arg("openapi").output().unwrap();
    assert!(output.status.success(), "{}", common::said(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_document_is_as_it_was_agreed_on() {
    let text = printed();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/openapi.json");
    if std::env::var_os("RUNNER_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or(golden.lines().count().min(text.lines().count()));
    assert!(
        golden == text,
        "the API's description changed at line {} of {}: {:?} is now {:?}; if that is meant, run \
         this test with RUNNER_BLESS=1 and commit the file",
        line + 1,
        path.display(),
        golden.lines().nth(line),
        text.lines().nth(line),
    );
}

#[test]
fn a_service_tells_the_same_as_the_command() {
    let server = Server::start();
    let answer = server.get("/api/v2/openapi.json");
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.text(), printed());
}
