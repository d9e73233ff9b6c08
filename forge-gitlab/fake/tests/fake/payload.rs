//! A job, as a runner gets it.

use std::time::Duration;

use fake_gitlab::{Artifacts, Cache, Image, JobSpec, Step, Variable};
use serde_json::{Value, json};

use crate::client::World;

/// The last variable of a name, which is the one that counts.
fn variable<'a>(payload: &'a Value, key: &str) -> &'a Value {
    let variables = payload["variables"].as_array().expect("a list").iter();
    variables.rev().find(|variable| variable["key"] == key).expect("the variable")
}

#[tokio::test]
async fn a_payload_has_all_that_somebody_wrote_down() {
    let world = World::new().await;
    let mut spec = JobSpec::new("build", ["make", "make check"])
        .after(["make clean"])
        .variable(Variable::new("OPEN", "1"))
        .variable(Variable::masked("SECRET", "hush"))
        .variable(Variable::file("CONFIG", "a=1"))
        .variable(Variable::raw("PRICE", "5$"));
    spec.steps.insert(1, Step::new("release", ["release-cli"]));
    spec.image = Some(Image::new("debian:13"));
    let mut database = Image::new("postgres");
    database.alias = Some("db".to_owned());
    database.variables = Some(vec![Variable::new("POSTGRES_PASSWORD", "x")]);
    spec.services = vec![database];
    spec.artifacts = vec![Artifacts::archive(["out/"]), Artifacts::report("junit", ["*.xml"])];
    spec.artifacts[0].exclude = vec!["*.o".to_owned()];
    spec.cache = vec![Cache::new("key", ["vendor/"])];
    spec.cache[0].fallback_keys = vec!["main".to_owned()];
    spec.secrets = Some(json!({ "DB": { "vault": {} } }));
    let payload = world.job(spec).await.payload;

    let names = payload["steps"].as_array().expect("a list").iter();
    let names: Vec<_> = names.map(|step| step["name"].as_str().expect("text")).collect();
    assert_eq!(names, ["script", "release", "after_script"]);
    assert_eq!(payload["steps"][0]["script"], json!(["make", "make check"]));
    assert_eq!(payload["steps"][2]["when"], "always");
    let secret = json!({ "key": "SECRET", "value": "hush", "public": false, "masked": true });
    assert_eq!(variable(&payload, "SECRET"), &secret);
    assert_eq!(variable(&payload, "CONFIG")["file"], true);
    assert_eq!(variable(&payload, "PRICE")["raw"], true);
    assert_eq!(variable(&payload, "OPEN").get("raw"), None);
    assert_eq!(payload["image"]["name"], "debian:13");
    assert_eq!(payload["services"][0]["alias"], "db");
    assert_eq!(payload["artifacts"][0]["exclude"], json!(["*.o"]));
    assert_eq!(payload["artifacts"][1]["artifact_type"], "junit");
    assert_eq!(payload["cache"][0]["fallback_keys"], json!(["main"]));
    assert_eq!(payload["secrets"], json!({ "DB": { "vault": {} } }));
    world.done();
}

#[tokio::test]
async fn a_payload_says_whose_job_it_is_and_what_opens_it() {
    let world = World::new().await;
    let ada = world.gitlab.user("ada");
    world.gitlab.pipeline(ada, world.project, [JobSpec::new("build", ["make"])]);
    let job = world.take().await.expect("a job");
    let info = &job.payload["job_info"];
    assert_eq!(info["project_full_path"], "acme/infra/app");
    assert_eq!(info["project_name"], "app");
    assert_eq!(info["namespace_id"], json!(world.gitlab.group("acme/infra")));
    assert_eq!(info["root_namespace_id"], json!(world.gitlab.group("acme")));
    assert_eq!(info["user_id"], json!(ada));
    assert_eq!(variable(&job.payload, "GITLAB_USER_LOGIN")["value"], "ada");
    assert_eq!(variable(&job.payload, "CI_PROJECT_NAMESPACE")["value"], "acme/infra");
    assert_eq!(variable(&job.payload, "CI_JOB_TOKEN")["value"], json!(job.token));
    let host = world.gitlab.url().strip_prefix("http://").expect("an address");
    let clone = format!("http://gitlab-ci-token:{}@{host}/acme/infra/app.git", job.token);
    assert_eq!(job.payload["git_info"]["repo_url"], json!(clone));
    world.done();
}

#[tokio::test]
async fn what_a_project_says_overrides_what_its_job_says() {
    let world = World::new().await;
    world.gitlab.configure_project(world.project, |project| {
        project.variables = vec![Variable::new("COLOUR", "red"), Variable::new("SIZE", "big")];
        project.repository = Some("/srv/git/app.git".to_owned());
    });
    let spec = JobSpec::new("build", ["make"])
        .variable(Variable::new("COLOUR", "blue"))
        .variable(Variable::new("SHAPE", "round"));
    let payload = world.job(spec).await.payload;
    assert_eq!(variable(&payload, "COLOUR")["value"], "red");
    assert_eq!(variable(&payload, "SHAPE")["value"], "round");
    assert_eq!(variable(&payload, "SIZE")["value"], "big");
    assert_eq!(payload["git_info"]["repo_url"], "/srv/git/app.git");
    world.done();
}

#[tokio::test]
async fn the_shorter_timeout_counts() {
    let world = World::new().await;
    let job = JobSpec::new("build", ["make"]).timeout(Duration::from_secs(1800));
    let payload = world.job(job.clone()).await.payload;
    assert_eq!(payload["runner_info"]["timeout"], 1800);
    let ten_minutes = Duration::from_secs(600);
    world.gitlab.configure_runner(world.runner, |spec| spec.maximum_timeout = Some(ten_minutes));
    let payload = world.job(job).await.payload;
    assert_eq!(payload["runner_info"]["timeout"], 600);
    assert_eq!(payload["steps"][0]["timeout"], 600);
    world.done();
}

#[tokio::test]
async fn a_payload_can_be_as_odd_as_old_servers_were() {
    let world = World::new().await;
    let spec = JobSpec::new("build", ["make"])
        .with_payload("/cache", json!([null]))
        .with_payload("/image", json!({ "name": "debian", "entrypoint": "/bin/sh" }))
        .with_payload("/services", Value::Null)
        .with_payload("/artifacts", json!([{ "artifact_type": "archive", "paths": null }]))
        .with_payload("/git_info/depth", Value::Null)
        .with_payload("/run", json!("[]"))
        .with_payload("/something_new", json!({ "a": 1 }));
    let payload = world.job(spec).await.payload;
    assert_eq!(payload["cache"], json!([null]));
    assert_eq!(payload["image"]["entrypoint"], "/bin/sh");
    assert_eq!(payload["services"], Value::Null);
    assert_eq!(payload["git_info"]["depth"], Value::Null);
    assert_eq!(payload["something_new"], json!({ "a": 1 }));
    world.done();
}

#[tokio::test]
async fn a_tag_and_a_merge_request_are_fetched_by_their_own_refs() {
    let world = World::new().await;
    let mut tag = JobSpec::new("tag", ["make"]);
    tag.git.tag = true;
    tag.git.reference = "v1".to_owned();
    let payload = world.job(tag).await.payload;
    assert_eq!(payload["git_info"]["ref_type"], "tag");
    assert_eq!(payload["git_info"]["refspecs"][1], "+refs/tags/v1:refs/tags/v1");
    let mut request = JobSpec::new("request", ["make"]);
    request.git.merge_request = true;
    let payload = world.job(request).await.payload;
    let pipeline = &payload["job_info"]["pipeline_id"];
    let own = format!("+refs/pipelines/{pipeline}:refs/pipelines/{pipeline}");
    assert_eq!(payload["git_info"]["refspecs"], json!([own]));
    world.done();
}

#[tokio::test]
async fn a_session_is_where_its_runner_says() {
    let world = World::new().await;
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    let mut body = world.asking();
    body["session"] = json!({ "url": "https://runner:8093/session/1", "authorization": "x" });
    let payload = world.ask(body).await.json();
    assert_eq!(payload["runner_info"]["runner_session_url"], "https://runner:8093/session/1");
    world.done();
}

#[tokio::test]
async fn all_that_the_description_has_can_be_in_a_payload() {
    let world = World::new().await;
    let hooks = json!([{ "name": "pre_get_sources_script", "script": ["echo before"] }]);
    let input = json!({ "type": "number", "content": 3, "sensitive": false });
    let spec = JobSpec::new("build", ["make"])
        .with_part("hooks", hooks.clone())
        .with_part("inputs", json!([{ "key": "count", "value": input }]))
        .with_part("run", json!("[{\"name\":\"hello\",\"script\":\"echo\"}]"))
        .with_part("policy_options", json!({ "execution_policy_job": false }));
    let payload = world.job(spec).await.payload;
    assert_eq!(payload["hooks"], hooks);
    assert_eq!(payload["inputs"][0]["value"]["content"], 3);
    world.job(JobSpec::new("odd", ["make"]).with_part("cache", json!([null]))).await;
    let violations = world.gitlab.violations();
    let whats: Vec<_> = violations.iter().map(|one| (one.ours, one.what.as_str())).collect();
    assert_eq!(whats, [(true, "/cache/0: null is not of type \"object\"")]);
}
