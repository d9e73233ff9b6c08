//! A way to the fake GitHub.

#![allow(clippy::allow_attributes, dead_code, reason = "each test file uses a part of it")]

use std::{io::Write, sync::Arc, time::Duration};

use async_trait::async_trait;
use fake_github::FakeGitHub;
use forge_github::{
    Client, ClientConfig, Credentials, HttpTransport, Place, Rest, SecretFrom,
    rest::{Answer, Call},
};
use runner_core::{Clock, Result};
use tempfile::NamedTempFile;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Does not follow redirects.
pub fn http() -> reqwest::Client {
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    http.build().unwrap()
}

/// The client, and the file that its token is in.
struct TestClient {
    client: Client,
    _token: NamedTempFile,
}

#[async_trait]
impl Rest for TestClient {
    async fn call(&self, call: Call) -> Result<Answer> {
        self.client.call(call).await
    }
}

/// The client, with all that an owner's classic token can do at `octo`.
pub fn rest(github: &FakeGitHub) -> Arc<dyn Rest> {
    let token = github.classic_token("mona", &["repo", "admin:org", "admin:org_hook"]);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(token.as_bytes()).unwrap();
    let place = Place::new(&format!("{}/octo", github.web_url())).unwrap();
    let credentials = Credentials::Token(SecretFrom::File(file.path().to_owned()));
    let transport = Arc::new(HttpTransport::new(b"").unwrap());
    let config = ClientConfig::new(place, credentials);
    let client = Client::new(config, transport, Clock::system()).unwrap();
    Arc::new(TestClient { client, _token: file })
}

/// Fails the test if GitHub's description does not allow something that was said.
pub fn assert_no_violations(github: &FakeGitHub) {
    let violations = github.violations();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// Says why a test does nothing, and fails where the missing part is required.
pub fn skip(part: &str) {
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == part), "{part} is required and missing");
    println!("skipped: {part} is missing");
}
