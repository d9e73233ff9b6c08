//! python-gitlab, which others wrote, as an administrator's client of this GitLab.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use fake_gitlab::{FakeGitLab, Fault, JobSpec, Level, Place, RunnerSpec, Scope, Status};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

/// The interpreter that has python-gitlab. Says why a test does nothing without, and fails where it is required.
fn interpreter() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::env::var_os("RUNNER_TOOLS").map(PathBuf::from);
    let tools = tools.unwrap_or_else(|| root.join("cache/tools"));
    let python = tools.join("python-gitlab/bin/python3");
    if python.exists() {
        return Some(python);
    }
    let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
    let mut required = required.split([',', ' ']);
    assert!(!required.any(|name| name == "python-gitlab"), "python-gitlab is required and missing");
    println!("skipped: python-gitlab is missing");
    None
}

/// Runs the administrator's script, and gives what it said.
async fn administrate(python: PathBuf, arguments: Vec<String>) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/administrator.py");
    let run = move || Command::new(python).arg(script).args(arguments).output();
    let output = tokio::task::spawn_blocking(run).await.expect("no panic").expect("it starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Takes a job and does it, but for its end.
async fn work(url: &str, token: &str) -> (u64, String) {
    let http = reqwest::Client::new();
    let asked = http.post(format!("{url}/api/v4/jobs/request"));
    let job = asked.json(&json!({ "token": token })).send().await.expect("an answer");
    let job: Value = job.json().await.expect("a job");
    let (id, token) = (&job["id"], job["token"].as_str().expect("text"));
    let trace = http.patch(format!("{url}/api/v4/jobs/{id}/trace"));
    let trace = trace.header("JOB-TOKEN", token).header("Content-Range", "0-4");
    let trace = trace.header("Content-Type", "text/plain").body("hello").send().await;
    assert_eq!(trace.expect("an answer").status(), 202);
    (id.as_u64().expect("a number"), token.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_does_all_that_there_is_to_do() {
    let Some(python) = interpreter() else { return };
    let gitlab = FakeGitLab::start().await.expect("a free port");
    let project = gitlab.project("acme/infra/app");
    gitlab.project("acme/other");
    let ada = gitlab.user("ada");
    gitlab.member(ada, Place::Group(gitlab.group("acme")), Level::Developer);
    let (own, token) = gitlab.runner(RunnerSpec::new(Place::Project(project)));

    let done = gitlab.job(project, JobSpec::new("done", ["true"]));
    let (id, job_token) = work(gitlab.url(), &token).await;
    let http = reqwest::Client::new();
    let file = Part::bytes(b"PK".as_slice()).file_name("artifacts.zip");
    let upload = http.post(format!("{}/api/v4/jobs/{id}/artifacts", gitlab.url()));
    let upload = upload.header("JOB-TOKEN", &job_token).multipart(Form::new().part("file", file));
    assert_eq!(upload.send().await.expect("an answer").status(), 201);
    let end = http.put(format!("{}/api/v4/jobs/{id}", gitlab.url()));
    let end = end.json(&json!({ "token": job_token, "state": "success" })).send().await;
    assert_eq!(end.expect("an answer").status(), 200);

    let running = gitlab.job(project, JobSpec::new("running", ["true"]));
    work(gitlab.url(), &token).await;
    let mut manual = JobSpec::new("manual", ["true"]);
    manual.manual = true;
    let manual = gitlab.job(project, manual);

    // It tries again after what passes.
    let wait = Duration::from_secs(0);
    let route = "GET /projects/{id}";
    gitlab.inject(Fault::status(503).on(route).times(1)).expect("a route");
    gitlab.inject(Fault::status(429).retry_after(wait).on(route).times(1)).expect("a route");

    let root = gitlab.access_token(gitlab.admin(), &[Scope::Api]);
    let reader = gitlab.access_token(gitlab.admin(), &[Scope::ReadUser]);
    let said = administrate(python, vec![gitlab.url().to_owned(), root, reader]).await;

    assert_eq!(gitlab.faults_happened(), 2);
    assert_eq!((&said["user"], &said["version"]), (&json!("root"), &json!("19.4.0-ee")));
    let made: Vec<u64> = serde_json::from_value(said["made"].clone()).expect("numbers");
    assert_eq!(said["verified"], true);
    assert_eq!((&said["tags"], &said["timeout"]), (&json!(["arm"]), &json!(1200)));
    assert_eq!(said["changed"], json!([["arm", "small"], true]));
    assert_eq!(said["all"], 4);
    assert_eq!(said["pages"], json!([4, 2, 2]));
    assert_eq!(said["paused"], json!([made[2]]));
    assert_eq!(said["of_group"], json!([made[0], made[1]]));
    assert_eq!(said["of_project"], json!([own.0, made[0], made[1], made[2]]));
    assert_eq!(said["given"], json!(["acme/infra/app", "acme/other"]));
    assert_eq!((&said["running"], &said["trace"]), (&json!(["running"]), &json!("hello")));
    assert_eq!(said["canceled"], "canceled");
    assert_eq!(gitlab.job_view(running).expect("a job").status, Status::Canceled);
    assert_eq!(said["played"], "pending");
    assert_eq!(gitlab.job_view(manual).expect("a job").status, Status::Pending);
    assert_eq!((&said["artifact"], &said["pipeline"]), (&json!("PK"), &json!(["done"])));
    assert_eq!(gitlab.job_view(done).expect("a job").status, Status::Success);
    assert_eq!(said["members"], json!([["ada", 30]]));
    assert_eq!(said["users"], json!(["ada"]));
    assert_eq!(
        said["refused"],
        json!([
            ["GitlabGetError", 404],
            ["GitlabVerifyError", 403],
            ["GitlabCreateError", 400],
            ["GitlabAuthenticationError", 401],
            ["GitlabListError", 403],
        ])
    );
    assert_eq!(gitlab.runner_view(fake_gitlab::RunnerId(made[0])).map(|one| one.id), None);
    let ours: Vec<_> = gitlab.violations().into_iter().filter(|one| one.ours).collect();
    assert_eq!(ours, []);
    assert_eq!(gitlab.violations(), []);
}
