//! Who asks, and what they may.

use std::time::Duration;

use fake_gitlab::{JobSpec, Level, Place, RunnerSpec, Scope};
use reqwest::Method;
use serde_json::json;

use crate::client::{Answer, Send as _, World};

async fn get(world: &World, token: &str, path: &str) -> Answer {
    world.client.get(path).header("PRIVATE-TOKEN", token).answer().await
}

#[tokio::test]
async fn a_token_is_good_until_it_ends_or_is_revoked() {
    let world = World::new().await;
    let root = world.gitlab.admin();
    let short = world.gitlab.access_token_for(root, &[Scope::Api], Duration::from_secs(60));
    let other = world.gitlab.access_token(root, &[Scope::Api]);
    assert_eq!(get(&world, &short, "/user").await.json()["username"], "root");
    world.gitlab.clock().advance(Duration::from_secs(61));
    assert_eq!(get(&world, &short, "/user").await.status, 401);
    assert_eq!(get(&world, &other, "/personal_access_tokens/self").await.json()["active"], true);
    world.gitlab.revoke(&other);
    let refused = get(&world, &other, "/user").await;
    assert_eq!((refused.status, refused.message()), (401, "401 Unauthorized".to_owned()));
    assert_eq!(world.client.get("/user").answer().await.status, 401);
    world.done();
}

#[tokio::test]
async fn a_token_can_also_be_a_bearers() {
    let world = World::new().await;
    let token = world.gitlab.access_token(world.gitlab.admin(), &[Scope::ReadUser]);
    let answer = world.client.get("/user").bearer_auth(token).answer().await;
    assert_eq!(answer.status, 200);
    world.done();
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_and_no_more() {
    let world = World::new().await;
    let root = world.gitlab.admin();
    let (spare, _) = world.gitlab.runner(RunnerSpec::new(Place::Instance));
    let statuses = async |scope: Scope| {
        let token = world.gitlab.access_token(root, &[scope]);
        let create = world.client.post("/user/runners").header("PRIVATE-TOKEN", &token);
        let create = create.json(&json!({ "runner_type": "instance_type" })).answer().await;
        let path = format!("/runners/{spare}");
        let update = world.client.send(Method::PUT, &path).header("PRIVATE-TOKEN", &token);
        let update = update.json(&json!({ "paused": true })).answer().await;
        let path = format!("/projects/{}", world.project);
        [
            get(&world, &token, "/user").await.status,
            get(&world, &token, "/runners/all").await.status,
            get(&world, &token, &path).await.status,
            update.status,
            create.status,
        ]
    };
    assert_eq!(statuses(Scope::Api).await, [200, 200, 200, 200, 201]);
    assert_eq!(statuses(Scope::ReadApi).await, [200, 200, 200, 403, 403]);
    assert_eq!(statuses(Scope::ReadUser).await, [200, 403, 403, 403, 403]);
    assert_eq!(statuses(Scope::CreateRunner).await, [403, 403, 403, 403, 201]);
    assert_eq!(statuses(Scope::ManageRunner).await, [403, 200, 403, 200, 403]);
    let token = world.gitlab.access_token(root, &[Scope::ReadUser]);
    let refused = get(&world, &token, "/runners/all").await.json();
    assert_eq!(refused["error"], "insufficient_scope");
    assert_eq!(refused["scope"], "api read_api manage_runner");
    world.done();
}

#[tokio::test]
async fn members_of_a_group_are_members_of_all_in_it_and_of_nothing_beside_it() {
    let world = World::new().await;
    let gitlab = &world.gitlab;
    let beside = gitlab.project("acmes/app");
    let ada = gitlab.user("ada");
    gitlab.member(ada, Place::Group(gitlab.group("acme")), Level::Reporter);
    gitlab.member(ada, Place::Project(world.project), Level::Developer);
    let token = gitlab.access_token(ada, &[Scope::ReadApi]);
    let inside = get(&world, &token, "/projects/acme%2Finfra%2Fapp").await;
    assert_eq!(inside.json()["path_with_namespace"], "acme/infra/app");
    assert_eq!(inside.json()["namespace"]["full_path"], "acme/infra");
    let outside = get(&world, &token, &format!("/projects/{beside}")).await;
    assert_eq!((outside.status, outside.message()), (404, "404 Project Not Found".to_owned()));
    assert_eq!(get(&world, &token, "/projects").await.json().as_array().map(Vec::len), Some(1));
    let path = format!("/projects/{}/members/all", world.project);
    let members = get(&world, &token, &path).await.json();
    assert_eq!(members[0]["access_level"], 30);
    let group = get(&world, &token, "/groups/acme%2Finfra").await.json();
    assert_eq!(group["parent_id"], json!(gitlab.group("acme")));
    let nested = get(&world, &token, "/groups/acme/projects?include_subgroups=true").await.json();
    assert_eq!(nested[0]["id"], json!(world.project));
    let direct = get(&world, &token, "/groups/acme/projects").await.json();
    assert_eq!(direct, json!([]));
    let found = get(&world, &token, "/users?username=ADA").await.json();
    assert_eq!(found[0]["id"], json!(ada));
    assert_eq!(found[0].get("is_admin"), None);
    world.done();
}

#[tokio::test]
async fn a_user_owns_what_is_under_its_name() {
    let world = World::new().await;
    let ada = world.gitlab.user("ada");
    let own = world.gitlab.project("ada/toy");
    let token = world.gitlab.access_token(ada, &[Scope::Api]);
    let project = get(&world, &token, &format!("/projects/{own}")).await.json();
    assert_eq!(project["namespace"]["kind"], "user");
    let create = world.client.post("/user/runners").header("PRIVATE-TOKEN", &token);
    let create = create.json(&json!({ "runner_type": "project_type", "project_id": own }));
    assert_eq!(create.answer().await.status, 201);
    world.done();
}

#[tokio::test]
async fn runners_are_seen_by_whoever_looks_after_them() {
    let world = World::new().await;
    let gitlab = &world.gitlab;
    let mia = gitlab.user("mia");
    gitlab.member(mia, Place::Project(world.project), Level::Maintainer);
    let (mine, _) = gitlab.runner(RunnerSpec::new(Place::Project(world.project)));
    let (theirs, _) = gitlab.runner(RunnerSpec::new(Place::Group(gitlab.group("acme"))));
    let token = gitlab.access_token(mia, &[Scope::Api]);
    let status = async |path: String| get(&world, &token, &path).await.status;
    assert_eq!(status(format!("/runners/{mine}")).await, 200);
    assert_eq!(status(format!("/runners/{theirs}")).await, 403);
    assert_eq!(status(format!("/runners/{}", world.runner)).await, 200);
    assert_eq!(status(format!("/runners/{}/managers", world.runner)).await, 403);
    assert_eq!(status("/runners/all".to_owned()).await, 403);
    let owned = get(&world, &token, "/runners").await.json();
    assert_eq!(owned.as_array().map(Vec::len), Some(1));
    world.done();
}

#[tokio::test]
async fn a_job_knows_itself_by_its_token() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let own = || world.client.get("/job").header("JOB-TOKEN", &job.token).answer();
    assert_eq!(own().await.json()["id"], json!(job.id));
    world.put(&job, json!({ "state": "success" })).await;
    assert_eq!(own().await.status, 401);
    world.done();
}

#[tokio::test]
async fn what_nobody_described_is_noticed() {
    let world = World::new().await;
    let token = world.gitlab.access_token(world.gitlab.admin(), &[Scope::Api]);
    assert_eq!(get(&world, &token, "/version").await.status, 200);
    assert_eq!(get(&world, &token, "/metadata").await.status, 200);
    assert_eq!(get(&world, &token, "/nothing").await.status, 404);
    assert_eq!(get(&world, &token, "/runners/all?colour=red").await.status, 200);
    let create = world.client.post("/user/runners").header("PRIVATE-TOKEN", &token);
    let create = create.json(&json!({ "runner_type": "instance_type", "colour": "red" }));
    assert_eq!(create.answer().await.status, 201);
    world.done_after(&[
        "GitLab has no such route, or nobody described it",
        "query parameter colour is not described",
        "/colour is not described",
    ]);
}

#[tokio::test]
async fn forms_are_as_good_as_json() {
    let world = World::new().await;
    let root = world.gitlab.access_token(world.gitlab.admin(), &[Scope::Api]);
    let create = || world.client.post("/user/runners").header("PRIVATE-TOKEN", &root);
    let form = |fields: &'static str| {
        create().header("Content-Type", "application/x-www-form-urlencoded").body(fields).answer()
    };
    let fields =
        [("runner_type", "instance_type"), ("tag_list", "a,b"), ("maximum_timeout", "600")];
    let same = "runner_type=instance_type&tag_list=a%2Cb&maximum_timeout=600";
    assert_eq!(form(same).await.status, 201);
    let parts = fields
        .into_iter()
        .fold(reqwest::multipart::Form::new(), |form, (name, value)| form.text(name, value));
    let made = create().multipart(parts).answer().await;
    assert_eq!(made.status, 201);
    let id = fake_gitlab::RunnerId(made.json()["id"].as_u64().expect("a number"));
    let spec = world.gitlab.runner_view(id).expect("a runner").spec;
    assert_eq!(
        (spec.tags, spec.maximum_timeout),
        (vec!["a".into(), "b".into()], Some(Duration::from_secs(600)))
    );
    assert_eq!(form("runner_type=instance_type&colour=red").await.status, 201);
    world.done_after(&["field colour is not described"]);
}
