//! A job of a GitHub is told of with its title, its repository and the way to its page: while it waits, and at the
//! worker that runs it. What is right is what GitHub itself says, over real HTTP.

mod paper;

use std::fs;

use fake_github::JobRequest;
use paper::{Setting, World};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[test]
#[ignore = "the process that the other tests start"]
fn the_service_itself() {
    paper::service();
}

/// Title, repository and page of a job, as GitHub has them.
fn page(world: &World, job: i64) -> Value {
    let url = format!("{}/repos/acme/widgets/actions/jobs/{job}", world.github.api_url());
    let token = fs::read_to_string(world.path().join("token")).unwrap();
    let told = world.send(Method::GET, &url, |request| {
        request.bearer_auth(token).header("user-agent", "a person")
    });
    assert_eq!(told.status, StatusCode::OK, "{}", told.text());
    let told = told.json();
    let (workflow, name) = (told["workflow_name"].as_str(), told["name"].as_str().unwrap());
    let title = match workflow {
        Some(workflow) if workflow != name => format!("{workflow} / {name}"),
        _ => name.to_owned(),
    };
    json!({ "title": title, "repository": "acme/widgets", "url": told["html_url"] })
}

#[test]
fn a_job_of_a_github_is_told_with_the_way_to_its_page() {
    let world = World::new(&Setting { asleep: true, ..Setting::default() });
    world.let_jobs_end(false);
    let job = world.github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap();
    let page = page(&world, job.id);
    assert!(page["url"].as_str().unwrap().ends_with(&format!("/job/{}", job.id)), "{page}");
    world.until("it waits", |world| {
        let forges = world.get("/api/v2/forges").json();
        let waiting = &forges[0]["waiting"][0];
        waiting["id"] == json!(job.id.to_string())
            && ["title", "repository", "url"].iter().all(|key| waiting[key] == page[key])
            && waiting["labels"] == json!(["linux"])
    });
    world.wake();
    world.until("a worker has it", |world| {
        let busy = world.get("/api/v2/workers?phase=busy").json();
        busy["workers"][0]["job_place"] == page
    });
    world.let_jobs_end(true);
}
