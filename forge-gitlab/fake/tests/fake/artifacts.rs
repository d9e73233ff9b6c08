//! What a job leaves, and what the jobs after it get.

use std::{io::Write as _, time::Duration};

use fake_gitlab::{JobSpec, Variable};
use flate2::{Compression, write::GzEncoder};
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;

use crate::client::{Answer, Send as _, Taken, World};

async fn upload(
    world: &World,
    job: &Taken,
    name: &str,
    content: impl AsRef<[u8]>,
    query: &str,
) -> Answer {
    let part = Part::bytes(content.as_ref().to_vec()).file_name(name.to_owned());
    world
        .client
        .post(&format!("/jobs/{}/artifacts{query}", job.id))
        .header("JOB-TOKEN", &job.token)
        .multipart(Form::new().part("file", part))
        .answer()
        .await
}

async fn download(world: &World, job: &Taken, of: &Taken, query: &str) -> Answer {
    world
        .client
        .get(&format!("/jobs/{}/artifacts{query}", of.id))
        .header("JOB-TOKEN", &job.token)
        .answer()
        .await
}

/// A job that left an archive, and the one after it.
async fn two_jobs(world: &World) -> (Taken, Taken) {
    let build = JobSpec::new("build", ["make"]).stage("build").artifacts(["out/"]);
    let test = JobSpec::new("test", ["make check"]).stage("test");
    world.gitlab.pipeline(world.gitlab.admin(), world.project, [build, test]);
    let build = world.take().await.expect("the build");
    assert!(world.take().await.is_none(), "the test waits for the build");
    assert_eq!(upload(world, &build, "artifacts.zip", "PK", "").await.status, 201);
    assert_eq!(world.put(&build, json!({ "state": "success" })).await.status, 200);
    let test = world.take().await.expect("the test");
    (build, test)
}

#[tokio::test]
async fn a_job_gets_what_the_one_before_left() {
    let world = World::new().await;
    let (build, test) = two_jobs(&world).await;
    assert_eq!(
        test.payload["dependencies"],
        json!([{
            "id": build.id,
            "name": "build",
            "token": test.token,
            "artifacts_file": { "filename": "artifacts.zip", "size": 2 },
        }])
    );
    let file = download(&world, &test, &build, "?direct_download=true").await;
    assert_eq!((file.status, &file.body[..]), (200, &b"PK"[..]));
    assert_eq!(file.header("content-type"), Some("application/zip"));
    let view = world.gitlab.job_view(build.id).expect("a job");
    assert_eq!(view.artifacts[0].name, "artifacts.zip");
    world.done();
}

#[tokio::test]
async fn on_another_host_files_are_had_without_a_token_and_with_none() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.object_storage = true);
    let (build, test) = two_jobs(&world).await;
    assert_eq!(download(&world, &test, &build, "?direct_download=false").await.body, "PK");
    let there = download(&world, &test, &build, "?direct_download=true").await;
    assert_eq!(there.status, 302);
    let address = there.header("location").expect("an address").to_owned();
    assert!(!address.starts_with(world.gitlab.url()));
    assert!(address.starts_with("http://127.0.0.2:"), "{address}");

    let http = reqwest::Client::new();
    assert_eq!(http.get(&address).answer().await.body, "PK");
    assert_eq!(world.gitlab.violations(), []);
    let told = http.get(&address).header("JOB-TOKEN", &test.token).answer().await;
    assert_eq!(told.status, 400);
    assert_eq!(http.get(format!("{address}0")).answer().await.status, 403);
    world.done_after(&["job-token was told to another host"]);
}

#[tokio::test]
async fn what_is_not_there_or_not_theirs_is_refused() {
    let world = World::new().await;
    let (build, test) = two_jobs(&world).await;
    // The build is over, and its token with it.
    assert_eq!(download(&world, &build, &build, "").await.status, 401);
    assert_eq!(download(&world, &test, &test, "").await.status, 404);
    let other = world.gitlab.project("acme/other");
    world.gitlab.job(other, JobSpec::new("other", ["true"]));
    let other = world.take().await.expect("a job of another project");
    assert_eq!(download(&world, &other, &build, "").await.status, 403);
    assert_eq!(upload(&world, &build, "late.zip", "PK", "").await.status, 403);
    world.done();
}

#[tokio::test]
async fn an_upload_is_sent_on_to_where_it_is_told() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.redirected_uploads = 1);
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let query = "?artifact_format=zip&artifact_type=archive&expire_in=7d";
    let first = upload(&world, &job, "artifacts.zip", "PK", query).await;
    assert_eq!(first.status, 307);
    let there = first.header("location").expect("an address");
    let query = there.split_once('?').map(|(_, query)| format!("?{query}")).expect("a query");
    assert!(there.starts_with(world.gitlab.url()));
    assert_eq!(upload(&world, &job, "artifacts.zip", "PK", &query).await.status, 201);
    let view = world.gitlab.job_view(job.id).expect("a job");
    let day = 24 * 3600;
    let left = view.artifacts[0].expires.expect("an end").duration_since(world.gitlab.now());
    assert!((6 * day..=7 * day).contains(&left.as_secs()), "{left:?}");
    world.done();
}

#[tokio::test]
async fn the_same_file_can_come_twice_and_another_cannot() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    assert_eq!(upload(&world, &job, "artifacts.zip", "PK", "").await.status, 201);
    assert_eq!(upload(&world, &job, "artifacts.zip", "PK", "").await.status, 201);
    assert_eq!(upload(&world, &job, "artifacts.zip", "KP", "").await.status, 400);
    let report = "?artifact_type=junit&artifact_format=gzip";
    assert_eq!(upload(&world, &job, "junit.xml.gz", "<>", report).await.status, 201);
    let report = "?artifact_type=junit&artifact_format=zip";
    assert_eq!(upload(&world, &job, "junit.zip", "<>", report).await.status, 400);
    let kinds: Vec<_> = world.gitlab.job_view(job.id).expect("a job").artifacts;
    let kinds: Vec<_> = kinds.iter().map(|artifact| artifact.kind.as_str()).collect();
    assert_eq!(kinds, ["archive", "junit"]);
    world.done();
}

#[tokio::test]
async fn a_file_too_big_an_upload_without_one_and_one_where_there_are_none_are_refused() {
    let world = World::new().await;
    world.gitlab.configure(|settings| settings.artifact_limit = 3);
    let job = world.job(JobSpec::new("build", ["make"])).await;
    assert_eq!(upload(&world, &job, "artifacts.zip", "1234", "").await.status, 413);
    assert_eq!(upload(&world, &job, "artifacts.zip", "123", "?expire_in=soon").await.status, 400);
    world.gitlab.configure(|settings| settings.artifacts = false);
    assert_eq!(upload(&world, &job, "artifacts.zip", "123", "").await.status, 405);
    assert!(world.gitlab.job_view(job.id).expect("a job").artifacts.is_empty());
    world.gitlab.configure(|settings| settings.artifacts = true);

    let none = world.client.post(&format!("/jobs/{}/artifacts", job.id));
    let none = none.header("JOB-TOKEN", &job.token);
    let form = Form::new().text("artifact_type", "archive");
    assert_eq!(none.multipart(form).answer().await.status, 400);
    world.done_after(&["file is missing"]);
}

#[tokio::test]
async fn what_has_expired_is_gone_and_fails_the_job_that_names_it() {
    let world = World::new().await;
    let build = JobSpec::new("build", ["make"]).stage("build");
    let mut test = JobSpec::new("test", ["make check"]).stage("test");
    test.dependencies = Some(vec!["build".to_owned()]);
    test.manual = true;
    let root = world.gitlab.admin();
    let (_, jobs) = world.gitlab.pipeline(root, world.project, [build, test]);
    let build = world.take().await.expect("the build");
    upload(&world, &build, "artifacts.zip", "PK", "?expire_in=1%20hour").await;
    world.put(&build, json!({ "state": "success" })).await;
    world.gitlab.clock().advance(Duration::from_secs(3601));

    let token = world.gitlab.access_token(root, &[fake_gitlab::Scope::Api]);
    let play = format!("/projects/{}/jobs/{}/play", world.project, jobs[1]);
    let play = world.client.send(Method::POST, &play).header("PRIVATE-TOKEN", token);
    assert_eq!(play.answer().await.status, 200);
    assert!(world.take().await.is_none());
    let test = world.gitlab.job_view(jobs[1]).expect("a job");
    assert_eq!(test.failure_reason.as_deref(), Some("missing_dependency_failure"));
    world.done();
}

#[tokio::test]
async fn variables_that_a_job_leaves_are_those_of_the_next() {
    let world = World::new().await;
    let build = JobSpec::new("build", ["make"]).stage("build");
    let test = JobSpec::new("test", ["make check"])
        .stage("test")
        .variable(Variable::new("VERSION", "unknown"));
    world.gitlab.pipeline(world.gitlab.admin(), world.project, [build, test]);
    let build = world.take().await.expect("the build");
    let query = "?artifact_type=dotenv&artifact_format=gzip";
    let refused = upload(&world, &build, "build.env.gz", "VERSION=1", query).await;
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (400, "400 Bad request - Invalid Format")
    );
    let mut report = GzEncoder::new(Vec::new(), Compression::fast());
    report.write_all(b"VERSION=1\n").expect("memory");
    let report = report.finish().expect("memory");
    assert_eq!(upload(&world, &build, "build.env.gz", report, query).await.status, 201);
    assert_eq!(world.put(&build, json!({ "state": "success" })).await.status, 200);
    let test = world.take().await.expect("the test");
    let variables = test.payload["variables"].as_array().expect("a list");
    let versions = variables.iter().filter(|one| one["key"] == "VERSION");
    let versions: Vec<_> = versions.map(|one| one["value"].as_str().expect("text")).collect();
    assert_eq!(versions, ["unknown", "1"]);
    world.done();
}
