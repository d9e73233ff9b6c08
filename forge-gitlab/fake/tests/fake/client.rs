//! A client that says what it is told to say, and a world for it.

use std::collections::BTreeSet;

use bytes::Bytes;
use fake_gitlab::{FakeGitLab, JobId, JobSpec, Options, Place, ProjectId, RunnerId, RunnerSpec};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

/// All that a runner can say that it can.
const FEATURES: [&str; 9] = [
    "artifacts_exclude",
    "cancel_gracefully",
    "fallback_cache_keys",
    "multi_build_steps",
    "refspecs",
    "return_exit_code",
    "two_phase_job_commit",
    "upload_multiple_artifacts",
    "vault_secrets",
];

/// A GitLab with a project, `acme/infra/app`, and a runner of the instance that takes anything.
pub struct World {
    pub gitlab: FakeGitLab,
    pub project: ProjectId,
    pub runner: RunnerId,
    pub token: String,
    pub client: Client,
}

/// A job that was handed out.
pub struct Taken {
    pub id: JobId,
    pub token: String,
    pub payload: Value,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        let gitlab = FakeGitLab::start_with(options).await.expect("a free port");
        let project = gitlab.project("acme/infra/app");
        let (runner, token) = gitlab.runner(RunnerSpec::new(Place::Instance));
        let client = Client::new(gitlab.url());
        Self { gitlab, project, runner, token, client }
    }

    /// What a runner says that asks for a job.
    pub fn asking(&self) -> Value {
        asking(&self.token, FEATURES)
    }

    pub async fn ask(&self, body: Value) -> Answer {
        self.client.post("/jobs/request").json(&body).answer().await
    }

    pub async fn take(&self) -> Option<Taken> {
        let answer = self.ask(self.asking()).await;
        (answer.status == 201).then(|| Taken::from(answer.json()))
    }

    /// Makes a job and takes it.
    pub async fn job(&self, spec: JobSpec) -> Taken {
        let id = self.gitlab.job(self.project, spec);
        let taken = self.take().await.expect("the job");
        assert_eq!(taken.id, id);
        taken
    }

    pub async fn patch(&self, job: &Taken, start: usize, piece: &str) -> Answer {
        let end = (start + piece.len()).saturating_sub(1);
        self.client
            .send(Method::PATCH, &format!("/jobs/{}/trace", job.id))
            .header("JOB-TOKEN", &job.token)
            .header("Content-Type", "text/plain")
            .header("Content-Range", format!("{start}-{end}"))
            .body(piece.to_owned())
            .answer()
            .await
    }

    /// An update with the job's token in it.
    pub async fn put(&self, job: &Taken, mut body: Value) -> Answer {
        body["token"] = json!(job.token);
        let path = format!("/jobs/{}", job.id);
        self.client.send(Method::PUT, &path).json(&body).answer().await
    }

    /// Nobody said what they may not.
    pub fn done(self) {
        assert_eq!(self.gitlab.violations(), []);
    }

    /// The client said what it may not, as it was to, and this fake did not.
    pub fn done_after(self, wrong: &[&str]) {
        let violations = self.gitlab.violations();
        assert!(violations.iter().all(|violation| !violation.ours), "{violations:#?}");
        let whats: BTreeSet<_> = violations.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(whats, wrong.iter().copied().collect());
    }
}

pub fn asking<'a>(token: &str, features: impl IntoIterator<Item = &'a str>) -> Value {
    let features: Value = features.into_iter().map(|name| (name.to_owned(), json!(true))).collect();
    json!({
        "token": token,
        "system_id": "s_0123456789ab",
        "info": {
            "name": "test",
            "version": "19.4.0",
            "revision": "abc",
            "platform": "linux",
            "architecture": "amd64",
            "executor": "custom",
            "shell": "sh",
            "features": features,
        },
    })
}

impl From<Value> for Taken {
    fn from(payload: Value) -> Self {
        Self {
            id: JobId(payload["id"].as_u64().expect("a number")),
            token: payload["token"].as_str().expect("text").to_owned(),
            payload,
        }
    }
}

pub struct Client {
    http: reqwest::Client,
    url: String,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub fn new(url: &str) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self { http: http.build().expect("a client"), url: url.to_owned() }
    }

    /// `path` is below `/api/v4`.
    pub fn send(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}/api/v4{path}", self.url))
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.send(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.send(Method::POST, path)
    }
}

/// What is left of a request when it has its answer.
pub trait Send {
    async fn answer(self) -> Answer;
}

impl Send for reqwest::RequestBuilder {
    async fn answer(self) -> Answer {
        let response = self.send().await.expect("an answer");
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a whole answer"),
        }
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What it says why not.
    pub fn message(&self) -> String {
        let json = self.json();
        let text = json["message"].as_str().or_else(|| json["error"].as_str());
        text.expect("a message").to_owned()
    }
}
