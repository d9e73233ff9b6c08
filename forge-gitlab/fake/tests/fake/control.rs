//! What somebody does with a shell and no Rust.

use fake_gitlab::Status;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Send as _, Taken, World, asking};

async fn control(world: &World, method: Method, path: &str, body: Option<Value>) -> Answer {
    let request = reqwest::Client::new().request(method, world.gitlab.url().to_owned() + path);
    match body {
        Some(body) => request.json(&body).answer().await,
        None => request.answer().await,
    }
}

#[tokio::test]
async fn a_job_is_made_taken_and_looked_at() {
    let world = World::new().await;
    let post = async |path, body| control(&world, Method::POST, path, Some(body)).await;
    assert_eq!(post("/_fake/projects", json!({ "path": "other/app" })).await.status, 201);
    let runner = json!({ "project": "other/app", "tags": ["linux"] });
    let runner = post("/_fake/runners", runner).await.json();
    let job = json!({
        "project": "other/app",
        "name": "hello",
        "script": ["echo hello"],
        "after_script": ["true"],
        "tags": ["linux"],
        "variables": { "COLOUR": "red" },
        "timeout": 60,
        "payload": { "/cache": [null] },
    });
    let made = post("/_fake/jobs", job).await;
    assert_eq!(made.status, 201);
    let token = runner["token"].as_str().expect("text");
    let taken = Taken::from(world.ask(asking(token, [])).await.json());
    assert_eq!(made.json()["id"], json!(taken.id));
    assert_eq!(taken.payload["runner_info"]["timeout"], 60);
    assert_eq!(taken.payload["cache"], json!([null]));
    world.patch(&taken, 0, "hello\n").await;
    let seen = control(&world, Method::GET, &format!("/_fake/jobs/{}", taken.id), None).await;
    let seen = seen.json();
    assert_eq!((&seen["status"], &seen["trace"]), (&json!("running"), &json!("hello\n")));
    let all = control(&world, Method::GET, "/_fake/jobs", None).await.json();
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    let cancel = format!("/_fake/jobs/{}/cancel", taken.id);
    assert_eq!(control(&world, Method::POST, &cancel, None).await.status, 204);
    assert_eq!(world.gitlab.job_view(taken.id).expect("a job").status, Status::Canceled);
    let runner = format!("/_fake/runners/{}", runner["id"]);
    assert_eq!(control(&world, Method::DELETE, &runner, None).await.status, 204);
    assert_eq!(world.ask(asking(token, [])).await.status, 403);
    world.done();
}

#[tokio::test]
async fn a_pipeline_is_somebodys_and_its_jobs_need_each_other() {
    let world = World::new().await;
    let post = async |path, body| control(&world, Method::POST, path, Some(body)).await;
    let pipeline = json!({
        "project": "acme/infra/app",
        "user": "ada",
        "jobs": [
            { "name": "build", "script": ["make"], "artifacts": ["out/"] },
            { "name": "test", "script": ["make test"], "stage": "later", "needs": ["build"] },
        ],
    });
    let made = post("/_fake/pipelines", pipeline).await;
    assert_eq!(made.status, 201);
    let taken = Taken::from(world.ask(world.asking()).await.json());
    assert_eq!(made.json()["jobs"][0], json!(taken.id));
    assert_eq!(taken.payload["artifacts"][0]["paths"], json!(["out/"]));
    let variables = taken.payload["variables"].as_array().unwrap();
    let user = variables.iter().find(|variable| variable["key"] == "GITLAB_USER_LOGIN").unwrap();
    assert_eq!(user["value"], "ada");
    assert_eq!(world.ask(world.asking()).await.status, 204, "the other one waits for it");
    for wrong in [
        json!({ "project": "a/b", "jobs": [] }),
        json!({ "project": "a/b", "jobs": [{ "project": "c/d", "name": "x", "script": [] }] }),
    ] {
        assert_eq!(post("/_fake/pipelines", wrong).await.status, 400);
    }
    assert_eq!(post("/_fake/jobs", json!({ "name": "x", "script": [] })).await.status, 400);
    world.done();
}

#[tokio::test]
async fn things_are_broken_and_mended() {
    let world = World::new().await;
    let post = async |path, body| control(&world, Method::POST, path, Some(body)).await;
    let fault = json!({ "status": 503, "retry_after": 2, "route": "POST /jobs/request" });
    assert_eq!(post("/_fake/faults", fault).await.status, 204);
    assert_eq!(world.ask(world.asking()).await.header("retry-after"), Some("2"));
    assert_eq!(control(&world, Method::DELETE, "/_fake/faults", None).await.status, 204);
    assert_eq!(world.ask(world.asking()).await.status, 204);

    for wrong in [
        json!({ "status": 99 }),
        json!({ "status": 500, "kind": "reset" }),
        json!({ "kind": "fire" }),
        json!({ "kind": "reset", "route": "GET /nothing" }),
        json!({ "kind": "reset", "colour": "red" }),
    ] {
        assert_eq!(post("/_fake/faults", wrong).await.status, 400);
    }
    assert_eq!(post("/_fake/nothing", json!({})).await.status, 404);

    assert_eq!(control(&world, Method::POST, "/_fake/down", None).await.status, 204);
    let asked = world.client.post("/jobs/request").json(&world.asking()).send().await;
    assert!(asked.is_err());
    assert_eq!(control(&world, Method::POST, "/_fake/up", None).await.status, 204);
    assert_eq!(world.ask(world.asking()).await.status, 204);

    let before = world.gitlab.now();
    assert_eq!(post("/_fake/clock", json!({ "seconds": 3600 })).await.status, 204);
    assert!(world.gitlab.now().duration_since(before).as_secs() >= 3600);
    let token = json!({ "user": "ada", "scopes": ["read_user"] });
    let token = post("/_fake/tokens", token).await.json();
    let own = world.client.get("/user").header("PRIVATE-TOKEN", token["token"].as_str().unwrap());
    assert_eq!(own.answer().await.json()["username"], "ada");
    world.done();
}

#[tokio::test]
async fn it_says_what_was_asked_and_what_was_wrong_with_it() {
    let world = World::new().await;
    assert_eq!(world.ask(json!({ "token": "x", "colour": "red" })).await.status, 403);
    let calls = control(&world, Method::GET, "/_fake/calls", None).await.json();
    assert_eq!(calls[0]["route"], "POST /api/v4/jobs/request");
    assert_eq!(calls[0]["status"], 403);
    assert_eq!(calls.as_array().map(Vec::len), Some(1));
    let violations = control(&world, Method::GET, "/_fake/violations", None).await.json();
    assert_eq!(violations[0]["ours"], false);
    assert_eq!(violations[0]["what"], "/colour is not described");
    let help = control(&world, Method::GET, "/_fake/", None).await;
    assert!(help.body.starts_with(b"Routes of the fake itself"));
    world.done_after(&["/colour is not described"]);
}
