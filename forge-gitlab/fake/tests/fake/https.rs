//! GitLab with a certificate of its own.

use fake_gitlab::{FakeGitLab, Options, Scope};
use reqwest::Certificate;

use crate::client::Send as _;

#[tokio::test]
async fn whoever_trusts_its_certificate_gets_through_and_nobody_else() {
    let mut options = Options::default();
    options.https = true;
    let gitlab = FakeGitLab::start_with(options).await.expect("a free port");
    assert!(gitlab.url().starts_with("https://127.0.0.1:"));
    let token = gitlab.access_token(gitlab.admin(), &[Scope::Api]);
    let address = format!("{}/api/v4/projects", gitlab.url());
    gitlab.project("acme/app");

    let stranger = reqwest::Client::new().get(&address).header("PRIVATE-TOKEN", &token);
    assert!(stranger.send().await.is_err());
    let certificate = gitlab.certificate().expect("a certificate");
    let certificate = Certificate::from_pem(certificate.as_bytes()).expect("PEM");
    let friend = reqwest::Client::builder().tls_certs_only([certificate]).build();
    let friend = friend.expect("a client").get(&address).header("PRIVATE-TOKEN", &token);
    let projects = friend.answer().await.json();
    assert_eq!(projects[0]["web_url"], format!("{}/acme/app", gitlab.url()));
    assert_eq!(gitlab.violations(), []);
}
