//! Git itself as a client of a project's repository.

use std::{
    path::Path,
    process::{Command, Output},
};

use fake_gitlab::{FakeGitLab, JobSpec, Place, RunnerSpec};
use serde_json::{Value, json};

/// Says why a test does nothing without git, and fails where it is required.
fn has_git() -> bool {
    if Command::new("git").arg("--version").output().is_ok_and(|done| done.status.success()) {
        return true;
    }
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == "git"), "git is required and missing");
    println!("skipped: git is missing");
    false
}

/// Runs git in a directory, without asking anybody anything.
async fn git(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("git");
    command.current_dir(directory).args(arguments).env("GIT_TERMINAL_PROMPT", "0");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    command.env("GIT_AUTHOR_NAME", "ada").env("GIT_AUTHOR_EMAIL", "ada@example.com");
    command.env("GIT_COMMITTER_NAME", "ada").env("GIT_COMMITTER_EMAIL", "ada@example.com");
    tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("git")
}

async fn git_text(directory: &Path, arguments: &[&str]) -> String {
    let done = git(directory, arguments).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

async fn request(gitlab: &FakeGitLab, token: &str) -> Value {
    let asked = reqwest::Client::new().post(format!("{}/api/v4/jobs/request", gitlab.url()));
    let asked = asked.json(&json!({ "token": token })).send().await.expect("an answer");
    asked.json().await.expect("a job")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_fetches_what_its_payload_says_with_its_own_token_and_pushes_nothing() {
    if !has_git() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (source, clone) = (directory.path().join("source"), directory.path().join("clone"));
    std::fs::create_dir_all(&source).and_then(|()| std::fs::create_dir_all(&clone)).expect("both");
    git_text(&source, &["init", "--quiet", "--initial-branch=main"]).await;
    // Git would take pushes.
    git_text(&source, &["config", "http.receivepack", "true"]).await;
    for content in ["one", "two", "three"] {
        std::fs::write(source.join("file"), content).expect("a file");
        git_text(&source, &["add", "file"]).await;
        git_text(&source, &["commit", "--quiet", "--message", content]).await;
    }
    let sha = git_text(&source, &["rev-parse", "HEAD"]).await;

    let gitlab = FakeGitLab::start().await.expect("a free port");
    let project = gitlab.project("acme/infra/app");
    gitlab.configure_project(project, |options| options.served_repository = Some(source.clone()));
    let (_, token) = gitlab.runner(RunnerSpec::new(Place::Instance));
    let mut spec = JobSpec::new("build", ["true"]);
    spec.git.sha = sha.clone();
    spec.git.depth = 2;
    spec.git.refspecs = vec!["+refs/heads/main:refs/remotes/origin/main".to_owned()];
    let id = gitlab.job(project, spec);
    let job = request(&gitlab, &token).await;
    let address = job["git_info"]["repo_url"].as_str().expect("text");
    let refspec = job["git_info"]["refspecs"][0].as_str().expect("text");

    git_text(&clone, &["init", "--quiet"]).await;
    git_text(&clone, &["fetch", "--quiet", "--depth", "2", address, refspec]).await;
    git_text(&clone, &["checkout", "--quiet", &sha]).await;
    assert_eq!(std::fs::read_to_string(clone.join("file")).expect("a file"), "three");
    assert_eq!(git_text(&clone, &["rev-list", "--count", "HEAD"]).await, "2");

    let push = git(&clone, &["push", address, "HEAD:refs/heads/other"]).await;
    assert!(!push.status.success());
    let wrong = address.replace("glcbt-64_", "glcbt-64_x");
    assert!(!git(&clone, &["ls-remote", &wrong]).await.status.success());
    let other = address.replace("acme/infra/app", "acme/infra/other");
    assert!(!git(&clone, &["ls-remote", &other]).await.status.success());
    assert!(git(&clone, &["ls-remote", address]).await.status.success());
    gitlab.cancel(id);
    assert!(!git(&clone, &["ls-remote", address]).await.status.success(), "the job is over");
    assert_eq!(gitlab.violations(), []);
}
