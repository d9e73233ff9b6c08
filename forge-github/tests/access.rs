//! Every kind of credentials, every kind of scope, and both swapped under way.

mod github;

use std::path::Path;

use fake_github::{App, FakeGitHub, Fault, FaultRule, Level, Permissions};
use forge_github::{Client, Credentials, GithubForge, SecretFrom};
use github::{assert_clean, fixture, impatient, open, spec};
use runner_core::{Forge, error::chain};

fn permissions(list: &[(&str, Level)]) -> Permissions {
    list.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect()
}

fn for_organization() -> Permissions {
    permissions(&[("organization_self_hosted_runners", Level::Write), ("actions", Level::Read)])
}

fn for_repository() -> Permissions {
    permissions(&[("administration", Level::Write), ("actions", Level::Read)])
}

async fn github() -> FakeGitHub {
    let github = FakeGitHub::builder().ghes().start().await.unwrap();
    github.organisation_of("big", "acme");
    github.repository("acme", "widgets");
    github
}

fn token(directory: &Path, token: &str) -> Credentials {
    let path = directory.join("token");
    std::fs::write(&path, token).unwrap();
    Credentials::Token(SecretFrom::File(path))
}

fn app(directory: &Path, app: &App) -> Credentials {
    let key = directory.join("key.pem");
    std::fs::write(&key, &app.private_key).unwrap();
    let (id, key) = (app.client_id.clone(), SecretFrom::File(key));
    Credentials::App { id, key, installation: None }
}

/// A runner's life: made, listed, removed.
async fn works(forge: &GithubForge) {
    let id = forge.register(&spec("a-1")).await.unwrap().id;
    assert_eq!(forge.runners().await.unwrap().len(), 1);
    forge.deregister(&id).await.unwrap();
    assert_eq!(forge.runners().await.unwrap().len(), 0);
    forge.queued_jobs().await.unwrap();
}

#[tokio::test]
async fn every_kind_of_token_works_where_it_can() {
    let github = github().await;
    let classic = github.classic_token("mona", &["repo", "admin:org", "manage_runners:enterprise"]);
    let org = github.fine_grained_token("acme", for_organization());
    let repo = github.fine_grained_token("acme", for_repository());
    let table = [
        ("acme", &classic),
        ("acme/widgets", &classic),
        ("enterprises/big", &classic),
        ("acme", &org),
        ("acme/widgets", &repo),
    ];
    for (place, secret) in table {
        let directory = tempfile::tempdir().unwrap();
        works(&open(&github, place, token(directory.path(), secret), |_| {}, impatient)).await;
    }
    assert_clean(&github);
}

#[tokio::test]
async fn what_cannot_work_in_an_enterprise_is_refused_without_a_call() {
    let github = github().await;
    let directory = tempfile::tempdir().unwrap();
    let fine = github.fine_grained_token("acme", for_organization());
    let made = github.app("runners", for_organization());
    for credentials in [token(directory.path(), &fine), app(directory.path(), &made)] {
        let forge = open(&github, "enterprises/big", credentials, |_| {}, impatient);
        let error = forge.runners().await.unwrap_err().to_string();
        assert!(error.contains("manage_runners:enterprise"), "{error}");
    }
    assert_eq!(github.calls().len(), 0);
    assert_clean(&github);
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let github = github().await;
    let directory = tempfile::tempdir().unwrap();
    let weak = github.fine_grained_token("acme", permissions(&[("actions", Level::Read)]));
    let forge = open(&github, "acme", token(directory.path(), &weak), |_| {}, impatient);
    let error = forge.runners().await.unwrap_err().to_string();
    assert!(error.contains("Self-hosted runners: read and write"), "{error}");
    assert_clean(&github);
}

#[tokio::test]
async fn an_app_finds_its_installation_and_renews_its_token_once_for_all() {
    let github = github().await;
    let directory = tempfile::tempdir().unwrap();
    let made = github.app("runners", for_organization());
    github.install(&made, "acme").unwrap();
    let forge = open(&github, "acme", app(directory.path(), &made), |_| {}, impatient);
    let renewed =
        || github.calls().iter().filter(|call| call.path.contains("access_tokens")).count();
    let crowd = (1..=8).map(async |n| forge.register(&spec(&format!("a-{n}"))).await.unwrap().id);
    let ids = futures::future::join_all(crowd).await;
    assert_eq!(renewed(), 1);
    // GitHub ends it before its time: it is renewed, once, and nobody notices.
    github.expire_installation_tokens();
    for id in ids {
        forge.deregister(&id).await.unwrap();
    }
    assert_eq!(renewed(), 2);
    assert!(forge.figures().health.is_well());
    assert_clean(&github);
}

#[tokio::test]
async fn an_app_of_a_repository_works_too() {
    let github = github().await;
    let directory = tempfile::tempdir().unwrap();
    let made = github.app("runners", for_repository());
    github.install_selected(&made, "acme", &["widgets"]).unwrap();
    works(&open(&github, "acme/widgets", app(directory.path(), &made), |_| {}, impatient)).await;
    assert_clean(&github);
}

#[tokio::test]
async fn an_app_that_is_not_installed_says_so_and_works_once_it_is() {
    let github = github().await;
    let directory = tempfile::tempdir().unwrap();
    let made = github.app("runners", for_organization());
    let forge = open(&github, "acme", app(directory.path(), &made), |_| {}, impatient);
    let error = chain(&forge.runners().await.unwrap_err());
    assert!(error.contains("the App is not installed on organization acme"), "{error}");
    let installation = github.install(&made, "acme").unwrap();
    works(&forge).await;
    // And installed anew, with another number.
    github.uninstall(installation);
    github.expire_installation_tokens();
    assert!(forge.runners().await.is_err());
    github.install(&made, "acme").unwrap();
    works(&forge).await;
    assert_clean(&github);
}

#[tokio::test]
async fn a_wrong_key_is_told_from_a_broken_one() {
    let github = github().await;
    let directory = tempfile::tempdir().unwrap();
    let made = github.app("runners", for_organization());
    github.install(&made, "acme").unwrap();
    let key = directory.path().join("key.pem");
    let credentials = app(directory.path(), &made);
    let forge = open(&github, "acme", credentials, |_| {}, impatient);
    std::fs::write(&key, "-----BEGIN NOTHING-----").unwrap();
    let error = chain(&forge.runners().await.unwrap_err());
    assert!(error.contains("it is not a private key in PEM"), "{error}");
    // Mended without a restart.
    std::fs::write(&key, &made.private_key).unwrap();
    works(&forge).await;
    assert_clean(&github);
}

#[tokio::test]
async fn a_token_is_swapped_by_writing_its_file() {
    let fixture = fixture().await;
    fixture.register("a-1").await.unwrap();
    fixture.github.revoke(&fixture.token);
    assert!(fixture.names().await.is_err());
    let next = fixture.github.classic_token("mona", &["repo", "admin:org"]);
    std::fs::write(&fixture.token_file, next).unwrap();
    assert_eq!(fixture.names().await.unwrap(), ["a-1"]);
    fixture.assert_clean();
}

/// The exchange itself meets the weather.
#[tokio::test]
async fn an_exchange_that_fails_is_tried_again_by_the_next_call() {
    let github = github().await;
    let directory = tempfile::tempdir().unwrap();
    let made = github.app("runners", for_organization());
    github.install(&made, "acme").unwrap();
    let forge = open(&github, "acme", app(directory.path(), &made), |_| {}, impatient);
    for fault in [Fault::Reset, Fault::Html { status: 200 }, Fault::Truncated] {
        github.fault(FaultRule::once(fault.clone()).path("*access_tokens"));
        assert!(forge.runners().await.is_err(), "{fault:?}");
    }
    works(&forge).await;
    assert_clean(&github);
}

/// Whatever address somebody follows with this client: GitHub's files are on other hosts.
#[tokio::test]
async fn credentials_go_to_no_other_host() {
    let fixture = fixture().await;
    let elsewhere = format!("{}/files/none", fixture.github.storage_url());
    let answer = fixture.client().octocrab()._get(elsewhere).await;
    assert_eq!(answer.unwrap().status(), 403, "it came, and was not let in");
    assert_eq!(fixture.github.calls().last().unwrap().operation, "storage");
    // GitHub's own would have complained of a token.
    fixture.assert_clean();
}

#[tokio::test]
async fn tls_is_trusted_only_with_the_right_authority() {
    let github = FakeGitHub::builder().ghes().tls().start().await.unwrap();
    github.organisation("acme");
    github.repository("acme", "widgets");
    let secret = github.classic_token("mona", &["repo", "admin:org"]);
    let directory = tempfile::tempdir().unwrap();
    works(&open(&github, "acme", token(directory.path(), &secret), |_| {}, impatient)).await;
    let place = forge_github::Place::new(&format!("{}/acme", github.web_url())).unwrap();
    let config = forge_github::ClientConfig::new(place, token(directory.path(), &secret));
    let stranger = std::sync::Arc::new(forge_github::HttpTransport::new(b"").unwrap());
    let client = Client::new(config, stranger, runner_core::Clock::system()).unwrap();
    let error = chain(&client.runner_programs().await.unwrap_err());
    assert!(error.contains("its certificate is not to be trusted"), "{error}");
    assert_clean(&github);
}
