//! The API behaves as GitHub's does at its edges.

mod common;

use std::time::Duration;

use common::{acme, assert_clean, jit};
use fake_github::{Conclusion, JobRequest, JobStatus};
use serde_json::json;

const ORG: &str = "/orgs/acme/actions/runners";

#[tokio::test]
async fn a_runner_takes_one_job_and_is_gone() {
    let (github, client) = acme().await;
    let made = client.post(&format!("{ORG}/generate-jitconfig"), jit("one")).await.expect(201);
    assert_eq!(made["runner"]["status"], "offline");
    let config = made["encoded_jit_config"].as_str().unwrap();

    let session = github.connect(config).unwrap();
    let listed = client.get(ORG).await.expect(200);
    assert_eq!(listed["total_count"], 1);
    assert_eq!(listed["runners"][0]["status"], "online");
    assert_eq!(listed["runners"][0]["busy"], false);

    let job = github.enqueue(JobRequest::new("acme/widgets", ["Linux", "x64"])).unwrap();
    let taken = github.next_job(&session, Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!((taken.id, taken.repository.as_str()), (job.id, "acme/widgets"));
    let id = made["runner"]["id"].as_i64().unwrap();
    assert_eq!(client.get(&format!("{ORG}/{id}")).await.expect(200)["busy"], true);
    let refused = client.delete(&format!("{ORG}/{id}")).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("still running a job"));
    let seen =
        client.get(&format!("/repos/acme/widgets/actions/jobs/{}", job.id)).await.expect(200);
    assert_eq!((&seen["status"], &seen["runner_name"]), (&json!("in_progress"), &json!("one")));

    github.finish(&session, Conclusion::Success).unwrap();
    assert_eq!(github.job(job.id).unwrap().status, JobStatus::Completed);
    client.get(&format!("{ORG}/{id}")).await.expect(404);
    client.delete(&format!("{ORG}/{id}")).await.expect(404);
    assert_eq!(github.connect(config), Err(fake_github::RunnerError::Gone));
    assert_clean(&github);
}

#[tokio::test]
async fn a_name_in_use_is_a_conflict() {
    let (github, client) = acme().await;
    let path = format!("{ORG}/generate-jitconfig");
    client.post(&path, jit("one")).await.expect(201);
    let refused = client.post(&path, jit("One")).await.expect(409);
    assert_eq!(refused["message"], "Already exists - A runner with the name One already exists.");
    let of_repository = "/repos/acme/widgets/actions/runners/generate-jitconfig";
    client.post(of_repository, jit("one")).await.expect(201);
    assert_clean(&github);
}

#[tokio::test]
async fn a_group_must_be_named_and_be_there() {
    let (github, client) = acme().await;
    let path = format!("{ORG}/generate-jitconfig");
    let without = json!({ "name": "one", "labels": ["x"] });
    let refused = client.post(&path, without).await.expect(422);
    assert!(refused["message"].as_str().unwrap().contains("\"runner_group_id\" wasn't supplied."));
    let violations = github.take_violations();
    assert_eq!(violations.len(), 1, "{violations:?}");
    assert!(!violations[0].ours);
    let mut body = jit("one");
    body["runner_group_id"] = json!(7);
    client.post(&path, body).await.expect(404);
    assert_clean(&github);
}

#[tokio::test]
async fn labels_are_lower_case_and_custom_ones_can_be_changed() {
    let (github, client) = acme().await;
    let made = client.post(&format!("{ORG}/generate-jitconfig"), jit("one")).await.expect(201);
    let id = &made["runner"]["id"];
    let labels = format!("{ORG}/{id}/labels");
    let names = |body: serde_json::Value| -> Vec<String> {
        let list = body["labels"].as_array().unwrap().iter();
        list.map(|label| label["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(made["runner"].clone()), ["linux", "x64"]);
    let added = client.post(&labels, json!({ "labels": ["Reserved-For:me", "linux"] })).await;
    assert_eq!(names(added.expect(200)), ["linux", "x64", "reserved-for:me"]);
    let set = client.put(&labels, json!({ "labels": ["a", "b"] })).await.expect(200);
    assert_eq!(names(set), ["linux", "x64", "a", "b"]);
    assert_eq!(
        names(client.delete(&format!("{labels}/a")).await.expect(200)),
        ["linux", "x64", "b"]
    );
    client.delete(&format!("{labels}/a")).await.expect(404);
    client.delete(&format!("{labels}/linux")).await.expect(422);
    assert_eq!(names(client.delete(&labels).await.expect(200)), ["linux", "x64"]);
    assert_eq!(names(client.get(&labels).await.expect(200)), ["linux", "x64"]);
    assert_clean(&github);
}

#[tokio::test]
async fn lists_come_in_pages_that_are_linked() {
    let (github, client) = acme().await;
    for number in 0..7 {
        let name = format!("r{number}");
        client.post(&format!("{ORG}/generate-jitconfig"), jit(&name)).await.expect(201);
    }
    let mut names = Vec::new();
    let mut next = Some(format!("{ORG}?per_page=3"));
    while let Some(path) = next.take() {
        let page = client.get(&path).await;
        let body = page.expect(200);
        assert_eq!(body["total_count"], 7);
        for runner in body["runners"].as_array().unwrap() {
            names.push(runner["name"].as_str().unwrap().to_owned());
        }
        let links = page.header("link").split(", ");
        let link =
            links.filter_map(|link| link.split_once("; ")).find(|(_, rel)| *rel == "rel=\"next\"");
        next = link.map(|(url, _)| url.trim_matches(['<', '>']).to_owned());
    }
    assert_eq!(names, ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]);
    let found = client.get(&format!("{ORG}?name=r3")).await.expect(200);
    assert_eq!((&found["total_count"], &found["runners"][0]["name"]), (&json!(1), &json!("r3")));
    assert_clean(&github);
}

#[tokio::test]
async fn a_registration_ends_a_day_after_its_program_was_last_heard_of() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (github, client) = acme().await;
    client.post(&format!("{ORG}/generate-jitconfig"), jit("unused")).await.expect(201);
    let made = client.post(&format!("{ORG}/generate-jitconfig"), jit("used")).await.expect(201);
    let config = made["encoded_jit_config"].as_str().unwrap();
    let names = || github.runners().into_iter().map(|runner| runner.name).collect::<Vec<_>>();
    github.advance(23 * HOUR);
    let session = github.connect(config).unwrap();
    assert_eq!(names(), ["unused", "used"]);
    github.advance(HOUR);
    assert_eq!(names(), ["used"]);
    assert!(matches!(
        github.next_job(&session, Duration::ZERO).await,
        Err(fake_github::RunnerError::NoSession)
    ));
    // One that goes on asking for work stays for as long as it likes.
    let session = github.connect(config).unwrap();
    for _ in 0..25 * 30 {
        github.advance(HOUR / 30);
        assert_eq!(github.next_job(&session, Duration::ZERO).await, Ok(None));
    }
    github.disconnect(&session).unwrap();
    github.advance(23 * HOUR);
    assert_eq!(names(), ["used"]);
    github.advance(HOUR);
    assert_eq!(names(), [""; 0]);
    assert!(github.connect(config).is_err());
    assert_clean(&github);
}

#[tokio::test]
async fn the_newest_program_has_no_end_of_life_and_others_are_not_known() {
    let (github, client) = acme().await;
    let downloads = client.get(&format!("{ORG}/downloads")).await.expect(200);
    let file = downloads[0]["filename"].as_str().unwrap();
    let version = file.trim_end_matches(".tar.gz").rsplit_once('-').unwrap().1;
    let path = "/enterprises/big/actions/runners/deprecations";
    let told = client.get(&format!("{path}/{version}")).await.expect(200);
    assert_eq!(told["runner_version"], version);
    assert_eq!(told["runtime_deprecates_at"], json!(null));
    client.get(&format!("{path}/1.0.0")).await.expect(404);
    assert_clean(&github);
}

#[tokio::test]
async fn links_lead_to_what_they_are_of() {
    let (github, client) = acme().await;
    let run = github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap().run;
    for path in
        ["/orgs/acme", "/repos/acme/widgets", &format!("/repos/acme/widgets/actions/runs/{run}")]
    {
        let body = client.get(path).await.expect(200);
        let text = body.to_string();
        for stranger in
            ["octo-org", "octocat/", "Codertocat", "api.github.com", "https://github.com"]
        {
            assert!(!text.contains(stranger), "{path} speaks of {stranger}: {text}");
        }
        let again = client.get(body["url"].as_str().unwrap()).await.expect(200);
        assert_eq!(body, again, "{path}");
    }
    assert_clean(&github);
}
