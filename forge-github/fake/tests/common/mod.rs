//! A client that knows HTTP and nothing of GitHub.

#![expect(dead_code, reason = "each test file uses a part of it")]

use fake_github::{FakeGitHub, Level, Permissions};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;

pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The body, if this is the status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }
}

impl Client {
    pub fn new(base: &str, token: Option<&str>) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("test")
            .build()
            .unwrap();
        Self { http, base: base.to_owned(), token: token.map(str::to_owned) }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url =
            if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn send(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
    }

    pub async fn get(&self, path: &str) -> Answer {
        Self::send(self.request(Method::GET, path)).await.unwrap()
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Self::send(self.request(Method::DELETE, path)).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::POST, path).json(&body)).await.unwrap()
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::PUT, path).json(&body)).await.unwrap()
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        Self::send(self.request(Method::PATCH, path).json(&body)).await.unwrap()
    }
}

/// A GitHub with the organisation `acme`, its repository `acme/widgets`, and a client that may anything.
pub async fn acme() -> (FakeGitHub, Client) {
    let github = FakeGitHub::start().await.unwrap();
    let client = populate(&github);
    (github, client)
}

pub fn populate(github: &FakeGitHub) -> Client {
    github.organisation_of("big", "acme");
    github.repository("acme", "widgets");
    let scopes =
        ["repo", "admin:org", "admin:org_hook", "admin:repo_hook", "manage_runners:enterprise"];
    let token = github.classic_token("mona", &scopes);
    Client::new(github.api_url(), Some(&token))
}

pub fn permissions(list: &[(&str, Level)]) -> Permissions {
    list.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect()
}

/// What a JIT configuration is asked for with.
pub fn jit(name: &str) -> Value {
    serde_json::json!({ "name": name, "runner_group_id": 1, "labels": ["linux", "X64"], "work_folder": "_work" })
}

#[track_caller]
pub fn assert_clean(github: &FakeGitHub) {
    let violations = github.violations();
    let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}
