//! A way to the fake GitHub with a token and nothing else: no budget, no retries.

#![allow(clippy::allow_attributes, dead_code, reason = "each test file uses a part of it")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fake_github::FakeGitHub;
use forge_github::{
    Rest,
    rest::{Answer, Call},
};
use runner_core::{Error, Result};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Does not follow redirects.
pub fn http() -> reqwest::Client {
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    http.build().unwrap()
}

/// Calls with one token.
pub struct TokenRest {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl TokenRest {
    /// With all that an owner's classic token can do.
    pub fn new(github: &FakeGitHub) -> Arc<Self> {
        let token = github.classic_token("mona", &["repo", "admin:org", "admin:org_hook"]);
        Arc::new(Self { http: http(), api: github.api_url().to_owned(), token })
    }
}

#[async_trait]
impl Rest for TokenRest {
    async fn call(&self, call: Call) -> Result<Answer> {
        type Source = Box<dyn std::error::Error + Send + Sync>;
        let failed = |error: Source| Error::backend("github", "call", error);
        let request = self
            .http
            .request(call.method, format!("{}{}", self.api, call.path))
            .bearer_auth(&self.token)
            .header("user-agent", "tests")
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28");
        let request = match call.body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.map_err(|error| failed(error.into()))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(|error| failed(error.into()))?;
        match status.as_u16() {
            200..=399 => Ok(Answer { status, headers, body }),
            401 => Err(Error::unauthorized("GitHub", "the token was refused")),
            404 | 410 => Err(Error::not_found("what was asked for")),
            _ => {
                let text = String::from_utf8_lossy(&body).into_owned();
                Err(failed(format!("{status}: {text}").into()))
            }
        }
    }
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
