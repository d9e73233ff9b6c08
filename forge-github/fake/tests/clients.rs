//! Clients that others wrote, and that know nothing of this fake, drive it as if it were GitHub.
//!
//! `scripts/test-tools` installs them. `clients/` says what they do and expect.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use common::{assert_clean, permissions, populate};
use fake_github::{FakeGitHub, JobRequest, Level};
use tokio::process::Command;

const SCOPES: [&str; 4] = ["repo", "admin:org", "admin:org_hook", "manage_runners:enterprise"];

/// What a client is started with, if it is installed.
fn tool(name: &str, path: &str) -> Option<PathBuf> {
    let tools = std::env::var_os("RUNNER_TOOLS").map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = tools.unwrap_or_else(|| root.join("cache/tools"));
    if tools.join(path).exists() {
        return Some(tools);
    }
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let is_required = required.split([',', ' ']).any(|part| part == name);
    assert!(!is_required, "{name} is required and missing; run scripts/test-tools");
    println!("skipped: {name} is missing");
    None
}

/// A run of `acme/widgets` with a queued job and the artifact `proof`.
fn run(github: &FakeGitHub) -> String {
    let job = github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap();
    github.artifact(job.run, "proof", &[("proof.txt", b"nonce")]).unwrap();
    job.run.to_string()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[track_caller]
fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    let said = format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

/// The command-line client, by TLS and the prefix of a GitHub Enterprise Server.
struct Gh {
    program: PathBuf,
    home: tempfile::TempDir,
    host: String,
}

impl Gh {
    fn new(tools: &Path, github: &FakeGitHub) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("ca.pem"), github.certificate().unwrap()).unwrap();
        let host = github.web_url().trim_start_matches("https://").to_owned();
        Self { program: tools.join("gh/usr/bin/gh"), home, host }
    }

    /// Keeps the token for this host alone, as `gh auth login` does.
    fn log_in(&self, token: &str) {
        let hosts = format!("{}:\n    oauth_token: {token}\n    user: mona\n", self.host);
        std::fs::write(self.home.path().join("hosts.yml"), hosts).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env_clear()
            .env("GH_CONFIG_DIR", self.home.path())
            .env("GH_HOST", &self.host)
            .env("GH_NO_UPDATE_NOTIFIER", "1")
            .env("GH_REPO", format!("{}/acme/widgets", self.host))
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SSL_CERT_FILE", self.home.path().join("ca.pem"));
        command
    }

    async fn run(&self, arguments: &[&str]) -> String {
        said(&self.command(arguments).output().await.unwrap())
    }
}

#[tokio::test]
async fn gh_drives_it_by_tls_and_the_prefix_of_a_server() {
    let Some(tools) = tool("gh", "gh/usr/bin/gh") else { return };
    let github = FakeGitHub::builder().ghes().tls().start().await.unwrap();
    populate(&github);
    let run = run(&github);
    let gh = Gh::new(&tools, &github);
    gh.log_in(&github.classic_token("mona", &SCOPES));

    let mint = ["api", "orgs/acme/actions/runners/generate-jitconfig", "-F", "runner_group_id=1"];
    for name in ["name=g0", "name=g1", "name=g2"] {
        gh.run(&[&mint[..], &["-f", name, "-f", "labels[]=linux", "--jq", ".runner.id"]].concat())
            .await;
    }
    let again = [&mint[..], &["-f", "name=g0", "-f", "labels[]=linux"]].concat();
    let refused = gh.command(&again).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(HTTP 409)"), "{refused:?}");
    let list = "orgs/acme/actions/runners?per_page=2";
    let names = gh.run(&["api", "--paginate", list, "--jq", ".runners[].name"]).await;
    assert_eq!(names, "g0\ng1\ng2\n");

    assert!(gh.run(&["run", "list"]).await.contains("queued"));
    gh.run(&["run", "download", &run, "--name", "proof"]).await;
    assert_eq!(std::fs::read(gh.home.path().join("proof.txt")).unwrap(), b"nonce");
    gh.run(&["run", "cancel", &run]).await;
    gh.run(&["run", "rerun", &run]).await;
    assert_eq!(github.jobs().len(), 2);
    assert_clean(&github);
}

#[tokio::test]
async fn a_token_that_gh_takes_to_another_host_is_noticed() {
    let Some(tools) = tool("gh", "gh/usr/bin/gh") else { return };
    let github = FakeGitHub::builder().ghes().tls().start().await.unwrap();
    populate(&github);
    let run = run(&github);
    let gh = Gh::new(&tools, &github);
    // In the environment, it is for any host: CVE-2024-53859.
    let token = github.classic_token("mona", &SCOPES);
    let mut download = gh.command(&["run", "download", &run, "--name", "proof"]);
    let output = download.env("GH_ENTERPRISE_TOKEN", token).output().await.unwrap();
    assert!(!output.status.success(), "{output:?}");
    let violations = github.take_violations();
    let what: Vec<_> = violations.iter().map(|violation| violation.what.as_str()).collect();
    assert_eq!(what, ["Authorization was sent to another host"]);
}

#[tokio::test]
async fn octokit_drives_it() {
    let Some(tools) = tool("octokit", "octokit/node_modules/@octokit/rest") else { return };
    let github = FakeGitHub::start().await.unwrap();
    populate(&github);
    let token = github.classic_token("mona", &SCOPES);
    let output = Command::new("node")
        .arg(script("octokit.mjs"))
        .arg(tools.join("octokit"))
        .args([github.api_url(), &token, &run(&github)])
        .output()
        .await
        .unwrap();
    assert!(said(&output).contains("octokit: done"));
    assert!(github.runners().is_empty());
    assert_clean(&github);
}

#[tokio::test]
async fn pygithub_drives_it() {
    let Some(tools) = tool("pygithub", "pygithub/bin/python3") else { return };
    let github = FakeGitHub::start().await.unwrap();
    populate(&github);
    let token = github.classic_token("mona", &SCOPES);
    let may = permissions(&[
        ("organization_self_hosted_runners", Level::Write),
        ("actions", Level::Read),
        ("metadata", Level::Read),
    ]);
    let app = github.app("runner-manager", may);
    github.install(&app, "acme").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    std::fs::write(&key, &app.private_key).unwrap();
    let output = Command::new(tools.join("pygithub/bin/python3"))
        .arg(script("pygithub.py"))
        .args([github.api_url(), &token, &app.client_id])
        .arg(&key)
        .arg(run(&github))
        .output()
        .await
        .unwrap();
    assert!(said(&output).contains("pygithub: done"));
    assert_eq!(github.runners().len(), 1);
    assert_clean(&github);
}
