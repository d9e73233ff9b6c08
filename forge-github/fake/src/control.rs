//! Routes of our own, under `/_fake/`: the side of the runner's program, and the strings behind the scene.

use std::{str::FromStr, time::Duration};

use http::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    access::{Caller, Token, secret},
    api::Raw,
    artifact::zip,
    contract::Parameters,
    exchange::{Content, Refusal, Reply, Request},
    faults::FaultRule,
    job::{Conclusion, JobRequest},
    program::{AssignedJob, RunnerError},
    scope::Scope,
    state::Shared,
    webhooks::{Weather, WebhookFaults},
};

/// What `GET /_fake/` says.
const HELP: &str = include_str!("control.txt");

pub(crate) async fn answer(shared: &Shared, raw: Raw) -> Reply {
    let request = raw.into_request(Parameters::new());
    let path = request.path.clone();
    let parts: Vec<_> = path.trim_matches('/').split('/').skip(1).collect();
    match parts[..] {
        ["runner", ..] => runner(shared, &request, &parts[1..]).await,
        _ => control(shared, &request, &parts).unwrap_or_else(Refusal::into_reply),
    }
}

async fn runner(shared: &Shared, request: &Request, parts: &[&str]) -> Reply {
    let is_post = request.method == Method::POST;
    let done = match parts {
        ["connect"] if is_post => {
            let config = String::from_utf8_lossy(&request.body);
            shared.change(|state| state.connect(&config))
        }
        [session, "next"] if request.method == Method::GET => {
            let wait = request.query("wait").and_then(|text| text.parse().ok());
            let wait = wait.map_or(shared.options.long_poll, Duration::from_secs);
            let json = request.header(http::header::ACCEPT) == Some("application/json");
            match shared.wait_for_job(session, wait).await {
                Ok(None) => return Reply::empty(StatusCode::NO_CONTENT),
                Ok(Some(job)) if json => return Reply::json(StatusCode::OK, json!(job)),
                Ok(Some(job)) => Ok(lines(&job)),
                Err(error) => Err(error),
            }
        }
        [session, "renew"] if is_post => shared.look().heard_from(session).map(|_| String::new()),
        [session, "complete"] if is_post => {
            let asked = request.query("result").unwrap_or("success");
            let Some(conclusion) = Conclusion::from_name(asked) else {
                let known = "result is success, failure or cancelled\n";
                return Reply::text(StatusCode::BAD_REQUEST, known);
            };
            let done = shared.change(|state| state.finish_job(session, conclusion));
            done.map(|()| String::new())
        }
        [session, "disconnect"] if is_post => {
            shared.change(|state| state.disconnect(session)).map(|()| String::new())
        }
        _ => return Reply::text(StatusCode::NOT_FOUND, HELP),
    };
    match done {
        Ok(text) => Reply::text(StatusCode::OK, text),
        Err(error) => {
            let status = match error {
                RunnerError::Gone => StatusCode::UNAUTHORIZED,
                RunnerError::Conflict | RunnerError::NoJob => StatusCode::CONFLICT,
                RunnerError::NoSession => StatusCode::NOT_FOUND,
            };
            Reply::text(status, format!("{error}\n"))
        }
    }
}

/// A job as lines that a POSIX shell can read in.
fn lines(job: &AssignedJob) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let (id, run_id) = (job.id.to_string(), job.run_id.to_string());
    let fields = [
        ("id", &id),
        ("run_id", &run_id),
        ("name", &job.name),
        ("repository", &job.repository),
        ("event", &job.event),
        ("ref", &job.r#ref),
        ("sha", &job.sha),
        ("actor", &job.actor),
        ("workflow", &job.workflow),
        ("workflow_ref", &job.workflow_ref),
    ];
    fields.iter().map(|(name, value)| format!("job_{name}={}\n", quote(value))).collect()
}

/// An account or a token to make.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    login: String,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limited {
    core: u64,
}

fn control(shared: &Shared, request: &Request, parts: &[&str]) -> Result<Reply, Refusal> {
    let done = |value: Value| Ok(Reply::json(StatusCode::OK, value));
    let nothing = || Ok(Reply::empty(StatusCode::NO_CONTENT));
    match (request.method.as_str(), parts) {
        ("GET", [] | [""]) => Ok(Reply::text(StatusCode::OK, HELP)),
        ("PUT", ["scopes", ..]) => {
            let scope = Scope::from_str(&parts[1..].join("/"));
            let scope = scope.map_err(|error| Refusal::invalid(error.to_string()))?;
            shared.change(|state| match scope {
                Scope::Enterprise(slug) => state.add_enterprise(&slug),
                Scope::Organisation(login) => {
                    state.add_organisation(&login, request.query("enterprise"));
                }
                Scope::Repository { owner, name } => {
                    state.add_repository(&owner, &name);
                }
            });
            nothing()
        }
        ("POST", ["tokens"]) => {
            let new: NewToken = body(request)?;
            let token = secret("ghp_");
            let caller = Caller::Classic { login: new.login, scopes: new.scopes };
            let held = Token { caller, expires: None };
            shared.change(|state| state.tokens.insert(token.clone(), held));
            done(json!({ "token": token }))
        }
        ("POST", ["jobs"]) => {
            let job: JobRequest = body(request)?;
            let (run, id) = shared.change(|state| state.enqueue(job))?;
            done(json!({ "id": id, "run_id": run }))
        }
        ("GET", ["jobs"]) => {
            let state = shared.look();
            let jobs = state.jobs.all().map(|job| job.json(&state, &request.addresses));
            done(jobs.collect())
        }
        ("POST", ["jobs", id, "complete"]) => {
            let asked = request.query("result").unwrap_or("success");
            let conclusion = Conclusion::from_name(asked)
                .ok_or_else(|| Refusal::invalid("result is success, failure or cancelled"))?;
            shared.change(|state| state.complete(number(id)?, conclusion))?;
            nothing()
        }
        ("POST", ["jobs", id, "approve"]) => {
            shared.change(|state| state.approve(number(id)?))?;
            nothing()
        }
        ("GET", ["runners"]) => {
            let state = shared.look();
            let runners = state.runners.values().map(|runner| {
                let mut json = runner.json();
                json["scope"] = runner.scope.to_string().into();
                json
            });
            done(runners.collect())
        }
        ("POST", ["runs", id, "artifacts"]) => {
            let name = request.query("name").unwrap_or("artifact");
            let file = request.query("file").unwrap_or(name);
            let archive = match request.query("raw") {
                Some(_) => request.body.clone(),
                None => zip([(file, request.body.as_ref())]),
            };
            let id = shared.change(|state| state.add_artifact(number(id)?, name, archive))?;
            done(json!({ "id": id }))
        }
        ("POST", ["faults"]) => {
            let rule: FaultRule = body(request)?;
            shared.change(|state| state.faults.add(rule));
            nothing()
        }
        ("GET", ["faults"]) => done(json!(shared.look().faults.rules())),
        ("DELETE", ["faults"]) => {
            shared.change(|state| state.faults.clear());
            nothing()
        }
        ("PUT", ["webhooks", "faults"]) => {
            let faults: WebhookFaults = body(request)?;
            shared.change(|state| {
                let held = state.weather.held;
                state.weather = Weather::new(faults);
                state.weather.held = held;
            });
            nothing()
        }
        ("POST", ["webhooks", "hold"]) => {
            shared.change(|state| state.weather.held = true);
            nothing()
        }
        ("POST", ["webhooks", "release"]) => {
            let copies = request.query("copies").and_then(|text| text.parse().ok()).unwrap_or(1);
            let reversed = request.query("order") == Some("reversed");
            shared.change(|state| state.release_webhooks(copies, reversed));
            nothing()
        }
        ("POST", ["clock"]) => {
            let Advance { seconds } = body(request)?;
            shared.clock.advance(Duration::from_secs(seconds));
            shared.change(|_| ());
            nothing()
        }
        ("PUT", ["limits"]) => {
            let Limited { core } = body(request)?;
            shared.change(|state| state.limits.core = core);
            nothing()
        }
        ("GET", ["calls"]) => done(json!(shared.look().record.calls)),
        ("GET", ["violations"]) => done(json!(shared.look().record.violations)),
        _ => Ok(Reply {
            body: Content::Raw("text/plain; charset=utf-8", HELP.into()),
            ..Reply::empty(StatusCode::NOT_FOUND)
        }),
    }
}

fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    serde_json::from_slice(&request.body).map_err(|error| Refusal::invalid(error.to_string()))
}

fn number(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| Refusal::not_found())
}
