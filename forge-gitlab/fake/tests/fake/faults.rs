//! What goes wrong on purpose.

use std::{io::ErrorKind, time::Duration};

use fake_gitlab::{Fault, FaultKind, JobSpec, Options, Scope};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::client::World;

async fn version(world: &World) -> Result<u16, reqwest::Error> {
    let token = world.gitlab.access_token(world.gitlab.admin(), &[Scope::Api]);
    let response = world.client.get("/version").header("PRIVATE-TOKEN", token).send().await?;
    let status = response.status().as_u16();
    response.bytes().await?;
    Ok(status)
}

#[tokio::test]
async fn a_status_comes_as_often_as_it_was_ordered_and_where() {
    let world = World::new().await;
    let wait = Duration::from_secs(7);
    let fault = Fault::status(429).retry_after(wait).on("POST /jobs/request").after(1).times(2);
    world.gitlab.inject(fault).expect("a route");
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    assert_eq!(version(&world).await.expect("an answer"), 200);
    assert_eq!(world.ask(world.asking()).await.status, 201);
    for _ in 0..2 {
        let answer = world.ask(world.asking()).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    }
    assert_eq!(world.ask(world.asking()).await.status, 201);
    assert_eq!(world.gitlab.faults_happened(), 2);
    world.done();
}

#[tokio::test]
async fn a_fault_is_for_a_route_that_there_is() {
    let world = World::new().await;
    let refused = world.gitlab.inject(Fault::status(500).on("GET /jobs/request"));
    let text = refused.expect_err("no such route").to_string();
    assert_eq!(text, "GitLab has no route GET /api/v4/jobs/request");
    world.done();
}

#[tokio::test]
async fn now_and_then_is_the_same_for_the_same_seed() {
    let outcome = async |seed: u64| {
        let mut options = Options::default();
        options.seed = seed;
        let world = World::with(options).await;
        world.gitlab.inject(Fault::status(500).probability(0.5)).expect("a fault");
        let mut statuses = Vec::new();
        for _ in 0..32 {
            statuses.push(version(&world).await.expect("an answer"));
        }
        world.done();
        statuses
    };
    let first = outcome(1).await;
    assert!(first.contains(&200) && first.contains(&500));
    assert_eq!(outcome(1).await, first);
    assert_ne!(outcome(2).await, first);
}

#[tokio::test]
async fn a_page_for_people_comes_instead_of_json() {
    let world = World::new().await;
    world.gitlab.inject(Fault::new(FaultKind::Html(502))).expect("a fault");
    let page = world.ask(world.asking()).await;
    assert_eq!((page.status, page.header("content-type")), (502, Some("text/html")));
    world.done();
}

#[tokio::test]
async fn a_reset_comes_before_the_deed_and_a_lost_answer_after_it() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let log = || world.gitlab.job_view(job.id).expect("a job").log();
    let patch = || {
        let path = format!("/jobs/{}/trace", job.id);
        let request = world.client.send(reqwest::Method::PATCH, &path);
        let request = request.header("JOB-TOKEN", &job.token).header("Content-Range", "0-4");
        request.header("Content-Type", "text/plain").body("hello").send()
    };
    let route = "PATCH /jobs/{id}/trace";
    world.gitlab.inject(Fault::new(FaultKind::Reset).on(route).times(1)).expect("a route");
    assert!(patch().await.is_err());
    assert_eq!(log(), "");
    world.gitlab.inject(Fault::new(FaultKind::LostAnswer).on(route).times(1)).expect("a route");
    assert!(patch().await.is_err());
    assert_eq!(log(), "hello");
    assert_eq!(patch().await.expect("an answer").status(), 202);
    assert_eq!(log(), "hello");
    let statuses: Vec<_> = world.gitlab.calls().iter().map(|call| call.status).collect();
    assert_eq!(statuses, [Some(201), None, None, Some(202)]);
    world.done();
}

#[tokio::test]
async fn a_truncated_answer_begins_well() {
    let world = World::new().await;
    world.gitlab.inject(Fault::new(FaultKind::Truncated).times(1)).expect("a fault");
    let id = world.gitlab.job(world.project, JobSpec::new("build", ["make"]));
    let request = world.client.post("/jobs/request").json(&world.asking());
    let response = request.send().await.expect("the beginning");
    assert_eq!(response.status(), 201);
    assert!(response.bytes().await.is_err());
    let view = world.gitlab.job_view(id).expect("a job");
    assert_eq!(view.status, fake_gitlab::Status::Running);

    world.gitlab.inject(Fault::new(FaultKind::Truncated).times(1)).expect("a fault");
    let nothing = world.client.post("/jobs/request").json(&world.asking());
    assert!(nothing.send().await.is_err(), "there is no half of nothing");
    world.done();
}

#[tokio::test]
async fn what_hangs_does_so_until_the_client_gives_up() {
    let world = World::new().await;
    world.gitlab.inject(Fault::new(FaultKind::Hang).times(1)).expect("a fault");
    let request = world.client.post("/jobs/request").json(&world.asking());
    let request = request.timeout(Duration::from_millis(50));
    assert!(request.send().await.expect_err("nothing comes").is_timeout());
    assert_eq!(world.ask(world.asking()).await.status, 204);
    world.done();
}

#[tokio::test]
async fn while_gitlab_is_down_nobody_gets_through_and_then_all_is_as_before() {
    let world = World::new().await;
    let job = world.job(JobSpec::new("build", ["make"])).await;
    let first = world.ask(world.asking()).await;
    let mut waiting = world.asking();
    waiting["last_update"] = json!(first.header("x-gitlab-last-update"));
    let waiting = world.client.post("/jobs/request").json(&waiting).send();
    let down = async {
        world.gitlab.until_held(1).await;
        world.gitlab.go_down();
    };
    let (waited, ()) = tokio::join!(waiting, down);
    assert!(waited.is_err(), "who waits is cut off");
    assert!(version(&world).await.is_err());
    world.gitlab.come_up();
    assert_eq!(version(&world).await.expect("an answer"), 200);
    assert_eq!(world.put(&job, json!({ "state": "success" })).await.status, 200);
    world.done();
}

#[tokio::test]
async fn a_fault_can_be_taken_out() {
    let world = World::new().await;
    let one = world.gitlab.inject(Fault::status(500)).expect("a fault");
    assert_eq!(version(&world).await.expect("an answer"), 500);
    assert!(world.gitlab.remove_fault(one));
    assert!(!world.gitlab.remove_fault(one));
    assert_eq!(version(&world).await.expect("an answer"), 200);
    world.gitlab.inject(Fault::new(FaultKind::Slow(Duration::from_millis(1)))).expect("a fault");
    assert_eq!(version(&world).await.expect("an answer"), 200);
    world.gitlab.clear_faults();
    assert_eq!(version(&world).await.expect("an answer"), 200);
    world.done();
}

#[tokio::test]
async fn a_reset_is_one_and_not_the_end_of_a_connection() {
    let world = World::new().await;
    let asked = async || {
        let address = world.gitlab.url().trim_start_matches("http://");
        let mut line = TcpStream::connect(address).await.expect("a connection");
        let request = b"GET /api/v4/version HTTP/1.1\r\nHost: gitlab\r\nConnection: close\r\n\r\n";
        line.write_all(request).await.expect("it is read");
        let mut answer = Vec::new();
        line.read_to_end(&mut answer).await.map_err(|error| error.kind())
    };
    assert!(asked().await.is_ok_and(|size| size > 0));
    world.gitlab.inject(Fault::new(FaultKind::Reset).times(1)).expect("a fault");
    assert_eq!(asked().await, Err(ErrorKind::ConnectionReset));
    world.gitlab.go_down();
    assert_eq!(asked().await, Err(ErrorKind::ConnectionReset));
    world.done();
}
