//! Runners: made, looked at, changed, used and forgotten.

use std::time::Duration;

use fake_gitlab::{JobSpec, Level, Place, RunnerSpec, Scope};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Send as _, World, asking};

/// A request with a token of `root`'s.
async fn as_root(world: &World, method: Method, path: &str, body: Option<Value>) -> Answer {
    let token = world.gitlab.access_token(world.gitlab.admin(), &[Scope::Api]);
    let request = world.client.send(method, path).header("PRIVATE-TOKEN", token);
    match body {
        Some(body) => request.json(&body).answer().await,
        None => request.answer().await,
    }
}

async fn ids(world: &World, path: &str) -> Vec<u64> {
    let list = as_root(world, Method::GET, path, None).await.json();
    let list = list.as_array().expect("a list").iter();
    list.map(|runner| runner["id"].as_u64().expect("a number")).collect()
}

async fn verify(world: &World, token: &str) -> Answer {
    let body = json!({ "token": token, "system_id": "r_0123456789ab" });
    world.client.post("/runners/verify").json(&body).answer().await
}

#[tokio::test]
async fn a_runner_that_was_created_is_what_was_asked_for() {
    let world = World::new().await;
    let made = as_root(
        &world,
        Method::POST,
        "/user/runners",
        Some(json!({
            "runner_type": "group_type",
            "group_id": world.gitlab.group("acme"),
            "description": "big one",
            "maintenance_note": "do not touch",
            "tag_list": "linux, big",
            "run_untagged": false,
            "locked": true,
            "access_level": "ref_protected",
            "maximum_timeout": 3600,
            "paused": true,
        })),
    )
    .await;
    assert_eq!(made.status, 201);
    let made = made.json();
    assert!(made["token"].as_str().is_some_and(|token| token.starts_with("glrt-")));
    assert_eq!(made["token_expires_at"], Value::Null);
    let path = format!("/runners/{}", made["id"]);
    let runner = as_root(&world, Method::GET, &path, None).await.json();
    assert_eq!(runner["tag_list"], json!(["linux", "big"]));
    assert_eq!(runner["maximum_timeout"], 3600);
    assert_eq!(runner["access_level"], "ref_protected");
    assert_eq!(runner["status"], "never_contacted");
    assert_eq!(runner["online"], Value::Null);
    assert_eq!(runner["groups"][0]["full_path"], "acme");
    assert_eq!((&runner["paused"], &runner["active"]), (&json!(true), &json!(false)));
    assert_eq!(runner.get("token"), None);
    world.done();
}

#[tokio::test]
async fn what_no_runner_can_be_is_refused() {
    let world = World::new().await;
    let refused = [
        (json!({ "runner_type": "group_type" }), "group_id is missing"),
        (json!({ "runner_type": "project_type", "group_id": 1 }), "project_id is missing"),
        (
            json!({ "runner_type": "group_type", "group_id": 99_999 }),
            "400 Bad request - Missing/invalid scope",
        ),
    ];
    for (body, message) in refused {
        let answer = as_root(&world, Method::POST, "/user/runners", Some(body)).await;
        assert_eq!((answer.status, answer.message().as_str()), (400, message));
    }
    let bases = [
        (json!({ "run_untagged": false }), "Tags list can not be empty"),
        (json!({ "maximum_timeout": 599 }), "at least 10 minutes"),
        (json!({ "maintenance_note": "x".repeat(1025) }), "too long"),
    ];
    for (mut body, message) in bases {
        body["runner_type"] = json!("instance_type");
        let answer = as_root(&world, Method::POST, "/user/runners", Some(body)).await;
        let text = answer.json()["message"]["base"][0].as_str().expect("text").to_owned();
        assert!(answer.status == 400 && text.contains(message), "{text}");
    }
    assert_eq!(world.gitlab.runners(), [world.runner]);
    world.done();
}

#[tokio::test]
async fn who_may_create_runners_is_who_owns_the_place() {
    let world = World::new().await;
    let gitlab = &world.gitlab;
    let (acme, project) = (gitlab.group("acme"), world.project);
    let instance = json!({ "runner_type": "instance_type" });
    let group = json!({ "runner_type": "group_type", "group_id": acme });
    let project = json!({ "runner_type": "project_type", "project_id": project });
    for (name, level, expected) in [
        ("dev", Level::Developer, [403, 403, 403]),
        ("mia", Level::Maintainer, [403, 403, 201]),
        ("oda", Level::Owner, [403, 201, 201]),
    ] {
        let user = gitlab.user(name);
        gitlab.member(user, Place::Group(acme), level);
        let token = gitlab.access_token(user, &[Scope::CreateRunner]);
        let mut statuses = Vec::new();
        for body in [&instance, &group, &project] {
            let request = world.client.post("/user/runners").header("PRIVATE-TOKEN", &token);
            statuses.push(request.json(body).answer().await.status);
        }
        assert_eq!(statuses, expected, "{name}");
    }
    world.done();
}

#[tokio::test]
async fn a_runner_is_verified_and_its_machine_remembered() {
    let world = World::new().await;
    let answer = verify(&world, &world.token).await;
    assert_eq!((answer.status, &answer.json()["id"]), (200, &json!(world.runner)));
    let path = format!("/runners/{}/managers", world.runner);
    let managers = as_root(&world, Method::GET, &path, None).await.json();
    assert_eq!(managers[0]["system_id"], "r_0123456789ab");
    assert_eq!(managers[0]["status"], "online");
    let view = world.gitlab.runner_view(world.runner).expect("a runner");
    assert_eq!(view.managers[0].system_id, "r_0123456789ab");

    let body = json!({ "token": world.token, "system_id": "r_0123456789ab" });
    let gone = || world.client.send(Method::DELETE, "/runners/managers").json(&body).answer();
    assert_eq!((gone().await.status, gone().await.status), (204, 404));
    world.done();
}

#[tokio::test]
async fn a_token_that_was_reset_deleted_or_has_expired_is_forbidden() {
    let world = World::new().await;
    world.gitlab.configure(|settings| {
        settings.runner_token_lifetime = Some(Duration::from_secs(3600));
    });
    let (runner, old) = world.gitlab.runner(RunnerSpec::new(Place::Instance));
    let path = format!("/runners/{runner}/reset_authentication_token");
    let reset = as_root(&world, Method::POST, &path, None).await;
    assert_eq!(reset.status, 201);
    let new = reset.json()["token"].as_str().expect("text").to_owned();
    assert!(reset.json()["token_expires_at"].is_string());
    assert_eq!(verify(&world, &old).await.status, 403);
    assert_eq!(verify(&world, &new).await.status, 200);

    world.gitlab.clock().advance(Duration::from_secs(3601));
    assert_eq!(verify(&world, &new).await.status, 403);

    assert!(world.gitlab.delete_runner(world.runner));
    assert_eq!(verify(&world, &world.token).await.status, 403);
    world.done();
}

#[tokio::test]
async fn a_runner_resets_and_unregisters_itself_by_its_token() {
    let world = World::new().await;
    let body = json!({ "token": world.token });
    let path = "/runners/reset_authentication_token";
    let reset = world.client.post(path).json(&body).answer().await;
    assert_eq!(reset.status, 201);
    let token = reset.json()["token"].clone();
    let remove = |token: &Value| {
        let body = json!({ "token": token });
        world.client.send(Method::DELETE, "/runners").json(&body).answer()
    };
    assert_eq!(remove(&json!(world.token)).await.status, 403);
    assert_eq!(remove(&token).await.status, 204);
    assert!(world.gitlab.runners().is_empty());
    world.done();
}

#[tokio::test]
async fn a_job_goes_on_without_its_runner() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    world.gitlab.delete_runner(world.runner);
    assert_eq!(world.patch(&job, 0, "hello").await.status, 202);
    assert_eq!(world.put(&job, json!({ "state": "success" })).await.status, 200);
    assert_eq!(world.ask(world.asking()).await.status, 403);
    world.done();
}

#[tokio::test]
async fn a_runner_is_online_then_offline_then_stale() {
    let world = World::new().await;
    let path = format!("/runners/{}", world.runner);
    let status = async || {
        let runner = as_root(&world, Method::GET, &path, None).await.json();
        (runner["status"].as_str().expect("text").to_owned(), runner["online"].clone())
    };
    assert_eq!(status().await, ("never_contacted".to_owned(), Value::Null));
    verify(&world, &world.token).await;
    assert_eq!(status().await, ("online".to_owned(), json!(true)));
    world.gitlab.clock().advance(Duration::from_secs(2 * 3600 + 60));
    assert_eq!(status().await, ("offline".to_owned(), json!(false)));
    world.gitlab.clock().advance(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(status().await, ("stale".to_owned(), json!(false)));
    world.done();
}

#[tokio::test]
async fn lists_come_in_pages_and_are_filtered() {
    let world = World::new().await;
    let group = world.gitlab.group("acme");
    for number in 0..45 {
        let tags = if number % 3 == 0 { vec!["linux", "big"] } else { vec!["linux"] };
        world.gitlab.runner(RunnerSpec::tagged(Place::Group(group), tags));
    }
    let first = as_root(&world, Method::GET, "/runners/all", None).await;
    assert_eq!(first.json().as_array().map(Vec::len), Some(20));
    assert_eq!((first.header("x-total"), first.header("x-next-page")), (Some("46"), Some("2")));
    let link = first.header("link").expect("a link").to_owned();
    assert!(link.contains("page=2&per_page=20>; rel=\"next\""), "{link}");
    let mut all = Vec::new();
    for page in 1..=3 {
        all.extend(ids(&world, &format!("/runners/all?page={page}&per_page=20")).await);
    }
    assert_eq!(all.len(), 46);
    assert!(all.windows(2).all(|pair| pair[0] > pair[1]), "the newest first");
    let last = as_root(&world, Method::GET, "/runners/all?page=3", None).await;
    assert_eq!(last.header("x-next-page"), Some(""));
    assert_eq!(ids(&world, "/runners/all?page=9").await, Vec::<u64>::new());
    assert_eq!(ids(&world, "/runners/all?per_page=1000").await.len(), 46);
    assert_eq!(ids(&world, "/runners/all?per_page=100&tag_list=linux,big").await.len(), 15);
    assert_eq!(ids(&world, "/runners/all?type=instance_type").await, [world.runner.0]);
    assert_eq!(ids(&world, "/runners/all?paused=true").await, Vec::<u64>::new());
    assert_eq!(ids(&world, "/runners?per_page=100").await.len(), 45);
    let path = format!("/groups/{group}/runners?per_page=100");
    assert_eq!(ids(&world, &path).await.len(), 46);
    world.ask(asking(&world.token, [])).await;
    assert_eq!(ids(&world, "/runners/all?status=online").await, [world.runner.0]);
    assert_eq!(ids(&world, "/runners/all?version_prefix=19.4").await, [world.runner.0]);
    assert_eq!(as_root(&world, Method::GET, "/runners/all?page=0", None).await.status, 400);
    world.done();
}

#[tokio::test]
async fn a_runner_is_changed_and_hears_of_it() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.long_poll = Duration::ZERO);
    let before = world.ask(world.asking()).await;
    let body = json!({ "tag_list": ["a"], "run_untagged": false, "maximum_timeout": 600 });
    let path = format!("/runners/{}", world.runner);
    let changed = as_root(&world, Method::PUT, &path, Some(body)).await;
    assert_eq!((changed.status, &changed.json()["tag_list"]), (200, &json!(["a"])));
    let mut body = world.asking();
    body["last_update"] = json!(before.header("x-gitlab-last-update"));
    let after = world.ask(body).await;
    assert_ne!(after.header("x-gitlab-last-update"), before.header("x-gitlab-last-update"));
    world.done();
}

#[tokio::test]
async fn a_runner_of_two_projects_is_given_taken_and_not_deleted() {
    let world = World::new().await;
    let (own, other) = (world.project, world.gitlab.project("acme/other"));
    let (id, _) = world.gitlab.runner(RunnerSpec::new(Place::Project(own)));
    let give = Some(json!({ "runner_id": id }));
    let path = format!("/projects/{other}/runners");
    world.gitlab.configure_runner(id, |spec| spec.locked = true);
    assert_eq!(as_root(&world, Method::POST, &path, give.clone()).await.status, 403);
    world.gitlab.configure_runner(id, |spec| spec.locked = false);
    assert_eq!(as_root(&world, Method::POST, &path, give.clone()).await.status, 201);
    assert_eq!(as_root(&world, Method::POST, &path, give).await.status, 400);
    assert!(ids(&world, &path).await.contains(&id.0));
    let runner = format!("/runners/{id}");
    assert_eq!(as_root(&world, Method::DELETE, &runner, None).await.status, 403);
    let at_home = format!("/projects/{own}/runners/{id}");
    assert_eq!(as_root(&world, Method::DELETE, &at_home, None).await.status, 403);
    let away = format!("{path}/{id}");
    assert_eq!(as_root(&world, Method::DELETE, &away, None).await.status, 204);
    assert_eq!(as_root(&world, Method::DELETE, &runner, None).await.status, 204);
    assert_eq!(as_root(&world, Method::GET, &runner, None).await.status, 404);
    world.done();
}

#[tokio::test]
async fn a_runner_has_a_list_of_its_jobs() {
    let world = World::new().await;
    let done = world.job(JobSpec::new("one", ["make"])).await;
    world.put(&done, json!({ "state": "success" })).await;
    let runs = world.job(JobSpec::new("two", ["make"])).await;
    let path = format!("/runners/{}/jobs", world.runner);
    assert_eq!(ids(&world, &path).await, [runs.id.0, done.id.0]);
    assert_eq!(ids(&world, &format!("{path}?status=running")).await, [runs.id.0]);
    assert_eq!(ids(&world, &format!("{path}?sort=asc")).await, [done.id.0, runs.id.0]);
    assert_eq!(ids(&world, &format!("{path}?system_id=s_other")).await, Vec::<u64>::new());
    world.done();
}

#[tokio::test]
async fn registration_tokens_are_gone_unless_somebody_wants_them() {
    let world = World::new().await;
    let place = Place::Project(world.project);
    let token = world.gitlab.registration_token(place).expect("a token");
    let register = |token: &str| {
        let body = json!({ "token": token, "tag_list": ["old"], "description": "old" });
        world.client.post("/runners").json(&body).answer()
    };
    assert_eq!(register(&token).await.status, 410);
    world.gitlab.configure(|settings| settings.registration_tokens = true);
    assert_eq!(register("nobody's").await.status, 403);
    let made = register(&token).await;
    assert_eq!(made.status, 201);
    let id = fake_gitlab::RunnerId(made.json()["id"].as_u64().expect("a number"));
    let view = world.gitlab.runner_view(id).expect("a runner");
    assert_eq!((view.spec.place, view.spec.run_untagged), (place, false));
    let reset = as_root(&world, Method::POST, "/runners/reset_registration_token", None).await;
    assert_eq!(reset.status, 201);
    world.done();
}

#[tokio::test]
async fn there_is_no_job_router() {
    let world = World::new().await;
    let ask = |token: &str| {
        let request = world.client.get("/runners/router/discovery");
        request.header("RUNNER-TOKEN", token).answer()
    };
    assert_eq!(ask(&world.token).await.status, 501);
    assert_eq!(ask("glrt-nobody").await.status, 403);
    world.done();
}
