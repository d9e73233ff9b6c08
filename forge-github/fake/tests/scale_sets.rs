//! Runner scale sets: a listener's whole life, and what it meets.

mod common;

use std::time::Duration;

use common::{Answer, Client, acme, assert_clean, populate};
use fake_github::{Conclusion, FakeGitHub, JobRequest, RunnerError};
use reqwest::Method;
use serde_json::{Value, json};

const AGENT: &str = r#"{"kind":"test"}"#;

/// A listener of the service.
struct Listener {
    http: Client,
    base: String,
    token: String,
}

struct Session {
    queue: String,
    token: String,
    id: String,
    statistics: Value,
}

impl Listener {
    async fn connect(github: &FakeGitHub, client: &Client) -> Self {
        let path = "/orgs/acme/actions/runners/registration-token";
        let token = client.post(path, json!({})).await.expect(201)["token"].clone();
        let url = format!("{}/acme", github.web_url());
        let path = format!("{}/actions/runner-registration", github.api_url());
        let request = Client::new("", None)
            .request(Method::POST, &path)
            .header("authorization", format!("RemoteAuth {}", token.as_str().unwrap()))
            .json(&json!({ "url": url, "runner_event": "register" }));
        let connection = Client::send(request).await.unwrap().expect(200);
        let text = |name: &str| connection[name].as_str().unwrap().to_owned();
        Self { http: Client::new("", None), base: text("url"), token: text("token") }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mark = if path.contains('?') { '&' } else { '?' };
        let path = format!("{}_apis/{path}{mark}api-version=6.0-preview", self.base);
        let mut request = self.http.request(method, &path).bearer_auth(&self.token);
        request = request.header("user-agent", AGENT);
        if let Some(body) = body {
            request = request.json(&body);
        }
        unmarked(Client::send(request).await.unwrap())
    }

    async fn create(&self, name: &str) -> i64 {
        let body = json!({
            "name": name,
            "runnerGroupId": 1,
            "labels": [{ "type": "System", "name": name }],
            "RunnerSetting": { "disableUpdate": true },
            "createdOn": "0001-01-01T00:00:00Z",
        });
        let made = self.ask(Method::POST, "runtime/runnerscalesets", Some(body)).await.expect(200);
        made["id"].as_i64().unwrap()
    }

    async fn listen(&self, set: i64) -> Session {
        let body =
            json!({ "ownerName": "host", "sessionId": "00000000-0000-0000-0000-000000000000" });
        let path = format!("runtime/runnerscalesets/{set}/sessions");
        Session::of(&self.ask(Method::POST, &path, Some(body)).await.expect(200))
    }

    async fn poll(&self, session: &Session, last: i64, capacity: i64) -> Answer {
        let path = format!("{}&lastMessageId={last}", session.queue);
        let request = self
            .http
            .request(Method::GET, &path)
            .bearer_auth(&session.token)
            .header("user-agent", AGENT)
            .header("accept", "application/json; api-version=6.0-preview")
            .header("X-ScaleSetMaxCapacity", capacity);
        unmarked(Client::send(request).await.unwrap())
    }

    async fn acknowledge(&self, session: &Session, message: &Value) {
        let path = session.queue.replace("messages?", &format!("messages/{message}?"));
        let request = self.http.request(Method::DELETE, &path).bearer_auth(&session.token);
        let request = request.header("user-agent", AGENT);
        Client::send(request).await.unwrap().expect(204);
    }

    async fn mint(&self, set: i64, name: &str) -> Answer {
        let body = json!({ "name": name, "workFolder": "_work" });
        let path = format!("runtime/runnerscalesets/{set}/generatejitconfig");
        self.ask(Method::POST, &path, Some(body)).await
    }
}

impl Session {
    fn of(body: &Value) -> Self {
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        Self {
            queue: text("messageQueueUrl"),
            token: text("messageQueueAccessToken"),
            id: text("sessionId"),
            statistics: body["statistics"].clone(),
        }
    }
}

/// Every reply with a body begins with a byte order mark, as GitHub's do.
fn unmarked(mut answer: Answer) -> Answer {
    if !answer.body.is_empty() {
        let text = answer.text();
        let rest = text.strip_prefix('\u{feff}').unwrap_or_else(|| panic!("no mark: {text}"));
        answer.body = rest.as_bytes().to_vec();
    }
    assert!(!answer.header("activityid").is_empty());
    answer
}

/// What a message tells, by kind and job.
fn items(message: &Value) -> Vec<(String, i64)> {
    assert_eq!(message["messageType"], "RunnerScaleSetJobMessages");
    let items: Vec<Value> = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
    let item = |item: &Value| {
        (
            item["messageType"].as_str().unwrap().to_owned(),
            item["runnerRequestId"].as_i64().unwrap(),
        )
    };
    items.iter().map(item).collect()
}

#[tokio::test]
async fn a_job_goes_through_a_set_from_its_assignment_to_its_end() {
    let (github, client) = acme().await;
    let listener = Listener::connect(&github, &client).await;
    let set = listener.create("linux").await;
    let session = listener.listen(set).await;
    assert_eq!(session.statistics["totalAssignedJobs"], 0);

    let job = github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap().id;
    let message = listener.poll(&session, 0, 3).await.expect(200);
    assert_eq!(items(&message), [("JobAssigned".to_owned(), job)]);
    assert_eq!(message["statistics"]["totalAssignedJobs"], 1);
    let again = listener.poll(&session, 0, 3).await.expect(200);
    assert_eq!(again["messageId"], message["messageId"], "it was not acknowledged");
    listener.acknowledge(&session, &message["messageId"]).await;

    let made = listener.mint(set, "one").await.expect(200);
    assert_eq!(made["runner"]["runnerScaleSetId"], set);
    let config = made["encodedJITConfig"].as_str().unwrap();
    let runner = github.connect(config).unwrap();
    assert_eq!(github.next_job(&runner, Duration::ZERO).await.unwrap().unwrap().id, job);
    github.finish(&runner, Conclusion::Failure).unwrap();
    let last = message["messageId"].as_i64().unwrap();
    let message = listener.poll(&session, last, 3).await.expect(200);
    let told = [("JobStarted".to_owned(), job), ("JobCompleted".to_owned(), job)];
    assert_eq!(items(&message), told);
    let body = message["body"].as_str().unwrap();
    assert!(body.contains(r#""result":"failed""#), "{body}");
    assert!(body.contains(r#""runnerName":"one""#), "{body}");
    assert_eq!(message["statistics"]["totalAssignedJobs"], 0);
    assert_eq!(message["statistics"]["totalRegisteredRunners"], 0);
    assert_eq!(github.connect(config), Err(RunnerError::Gone));
    assert_clean(&github);
}

#[tokio::test]
async fn a_set_gets_no_more_jobs_than_it_has_room_for() {
    let (github, client) = acme().await;
    let listener = Listener::connect(&github, &client).await;
    let set = listener.create("linux").await;
    for _ in 0..3 {
        github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap();
    }
    let session = listener.listen(set).await;
    let message = listener.poll(&session, 0, 2).await.expect(200);
    assert_eq!(items(&message).len(), 2);
    assert_eq!(message["statistics"]["totalAvailableJobs"], 1);
    let last = message["messageId"].as_i64().unwrap();
    let message = listener.poll(&session, last, 3).await.expect(200);
    assert_eq!(items(&message).len(), 1);
    assert_clean(&github);
}

#[tokio::test]
async fn a_job_that_is_offered_must_be_acquired() {
    let github = FakeGitHub::builder().ghes().start().await.unwrap();
    let client = populate(&github);
    let listener = Listener::connect(&github, &client).await;
    let set = listener.create("linux").await;
    let session = listener.listen(set).await;
    let job = github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap().id;
    let message = listener.poll(&session, 0, 5).await.expect(200);
    assert_eq!(items(&message), [("JobAvailable".to_owned(), job)]);
    let made = listener.mint(set, "early").await.expect(200);
    let runner = github.connect(made["encodedJITConfig"].as_str().unwrap()).unwrap();
    assert_eq!(github.next_job(&runner, Duration::ZERO).await.unwrap(), None, "not acquired");

    let path = format!("runtime/runnerscalesets/{set}/acquirejobs");
    let by_admin = listener.ask(Method::POST, &path, Some(json!([job]))).await;
    assert_eq!(by_admin.status, 401, "it goes by the token of the queue");
    let queue = Listener {
        http: Client::new("", None),
        base: listener.base.clone(),
        token: session.token.clone(),
    };
    let acquired = queue.ask(Method::POST, &path, Some(json!([job, 99]))).await.expect(200);
    assert_eq!(acquired, json!({ "count": 1, "value": [job] }));
    let taken = github.next_job(&runner, Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(taken.id, job);
    let last = message["messageId"].as_i64().unwrap();
    let message = listener.poll(&session, last, 5).await.expect(200);
    assert_eq!(items(&message)[0], ("JobAssigned".to_owned(), job));
    assert_clean(&github);
}

#[tokio::test]
async fn a_set_has_one_session_and_it_can_be_lost() {
    let (github, client) = acme().await;
    let listener = Listener::connect(&github, &client).await;
    let set = listener.create("linux").await;
    let session = listener.listen(set).await;
    let sessions = format!("runtime/runnerscalesets/{set}/sessions");
    let second = listener.ask(Method::POST, &sessions, Some(json!({ "ownerName": "other" }))).await;
    let refused = second.expect(409);
    assert!(refused["typeName"].as_str().unwrap().contains("SessionConflictException"));

    github.expire_queue_tokens();
    assert_eq!(listener.poll(&session, 0, 1).await.status, 401);
    let one = format!("{sessions}/{}", session.id);
    let session = Session::of(&listener.ask(Method::PATCH, &one, None).await.expect(200));
    github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap();
    listener.poll(&session, 0, 1).await.expect(200);

    github.expire_scale_set_sessions();
    let refused = listener.poll(&session, 0, 1).await.expect(400);
    assert!(refused["typeName"].as_str().unwrap().contains("SessionExpiredException"));
    listener.ask(Method::PATCH, &one, None).await.expect(404);
    let session = listener.listen(set).await;
    assert_eq!(session.statistics["totalAssignedJobs"], 1);
    let one = format!("{sessions}/{}", session.id);
    assert_eq!(listener.ask(Method::DELETE, &one, None).await.status, 204);
    listener.listen(set).await;
    github.advance(Duration::from_secs(301));
    listener.listen(set).await;
    assert_clean(&github);
}

#[tokio::test]
async fn an_empty_queue_is_answered_after_the_wait() {
    let github = FakeGitHub::builder().long_poll(Duration::from_millis(50)).start().await.unwrap();
    let client = populate(&github);
    let listener = Listener::connect(&github, &client).await;
    let set = listener.create("linux").await;
    let session = listener.listen(set).await;
    let answer = listener.poll(&session, 0, 1).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (202, 0));
    assert_clean(&github);
}

#[tokio::test]
async fn a_poll_that_waits_hears_of_a_job_at_once() {
    let (github, client) = acme().await;
    let listener = Listener::connect(&github, &client).await;
    let set = listener.create("linux").await;
    let session = listener.listen(set).await;
    let poll = listener.poll(&session, 0, 1);
    let enqueue = async {
        github
            .until(|github| {
                github.calls().iter().any(|call| call.operation == "scale-set/create-session")
            })
            .await;
        github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap().id
    };
    let (message, job) = tokio::join!(poll, enqueue);
    assert_eq!(items(&message.expect(200)), [("JobAssigned".to_owned(), job)]);
    assert_clean(&github);
}

#[tokio::test]
async fn agents_are_found_and_removed_unless_they_work() {
    let (github, client) = acme().await;
    let listener = Listener::connect(&github, &client).await;
    let set = listener.create("linux").await;
    let made = listener.mint(set, "one").await.expect(200);
    let refused = listener.mint(set, "one").await.expect(409);
    assert!(refused["typeName"].as_str().unwrap().contains("AgentExistsException"));
    let agents = "distributedtask/pools/0/agents";
    let found =
        listener.ask(Method::GET, &format!("{agents}?agentName=one"), None).await.expect(200);
    assert_eq!((&found["count"], &found["value"][0]["id"]), (&json!(1), &made["runner"]["id"]));
    let none =
        listener.ask(Method::GET, &format!("{agents}?agentName=two"), None).await.expect(200);
    assert_eq!(none["count"], 0);

    let session = listener.listen(set).await;
    github.enqueue(JobRequest::new("acme/widgets", ["linux"])).unwrap();
    listener.poll(&session, 0, 1).await.expect(200);
    let runner = github.connect(made["encodedJITConfig"].as_str().unwrap()).unwrap();
    github.next_job(&runner, Duration::ZERO).await.unwrap().unwrap();
    let one = format!("{agents}/{}", made["runner"]["id"]);
    let refused = listener.ask(Method::DELETE, &one, None).await.expect(400);
    assert!(refused["typeName"].as_str().unwrap().contains("JobStillRunningException"));
    github.finish(&runner, Conclusion::Success).unwrap();
    let refused = listener.ask(Method::DELETE, &one, None).await.expect(404);
    assert!(refused["typeName"].as_str().unwrap().contains("AgentNotFoundException"));
    let two = listener.mint(set, "two").await.expect(200)["runner"]["id"].clone();
    let two = listener.ask(Method::DELETE, &format!("{agents}/{two}"), None).await;
    assert_eq!(two.status, 204);
    assert!(github.runners().is_empty());
    assert_clean(&github);
}

#[tokio::test]
async fn sets_are_found_changed_and_deleted() {
    let (github, client) = acme().await;
    let listener = Listener::connect(&github, &client).await;
    let group = listener.ask(Method::GET, "runtime/runnergroups/?groupName=default", None).await;
    assert_eq!(group.expect(200)["value"][0]["id"], 1);
    let set = listener.create("linux").await;
    let sets = "runtime/runnerscalesets";
    let found = format!("{sets}?runnerGroupId=1&name=linux");
    assert_eq!(listener.ask(Method::GET, &found, None).await.expect(200)["count"], 1);
    let body = json!({ "name": "linux", "labels": [{ "type": "System", "name": "big" }] });
    let one = format!("{sets}/{set}");
    let changed = listener.ask(Method::PATCH, &one, Some(body)).await.expect(200);
    assert_eq!(changed["labels"], json!([{ "type": "System", "name": "big" }]));
    let again = json!({ "name": "linux", "runnerGroupId": 1 });
    listener.ask(Method::POST, sets, Some(again)).await.expect(409);
    let job = github.enqueue(JobRequest::new("acme/widgets", ["big"])).unwrap().id;
    assert_eq!(listener.ask(Method::DELETE, &one, None).await.status, 204);
    listener.ask(Method::GET, &one, None).await.expect(404);

    let jit = json!({ "name": "plain", "runner_group_id": 1, "labels": ["big"] });
    let made = client.post("/orgs/acme/actions/runners/generate-jitconfig", jit).await.expect(201);
    let runner = github.connect(made["encoded_jit_config"].as_str().unwrap()).unwrap();
    let taken = github.next_job(&runner, Duration::ZERO).await.unwrap();
    assert_eq!(taken.unwrap().id, job, "what waited in the set waits for anyone");
    assert_clean(&github);
}

#[tokio::test]
async fn what_the_service_does_not_know_is_a_violation() {
    let (github, client) = acme().await;
    let listener = Listener::connect(&github, &client).await;
    let body = json!({ "name": "linux", "labels": [], "ephemeral": true });
    listener.ask(Method::POST, "runtime/runnerscalesets", Some(body)).await.expect(400);
    let path = format!("{}_apis/runtime/runnerscalesets", listener.base);
    let bare = listener.http.request(Method::GET, &path).bearer_auth(&listener.token);
    Client::send(bare).await.unwrap();
    let violations = github.take_violations();
    let what: Vec<_> = violations.iter().map(|violation| violation.what.as_str()).collect();
    assert!(what[0].contains("unknown field `ephemeral`"), "{what:?}");
    assert_eq!(
        what[1..],
        ["the User-Agent is no JSON object", "the api-version is not 6.0-preview"]
    );
}

#[tokio::test]
async fn a_connection_is_for_the_scope_of_its_token_and_ends() {
    let (github, client) = acme().await;
    github.organisation("other");
    let token =
        client.post("/orgs/other/actions/runners/registration-token", json!({})).await.expect(201);
    let bare = Client::new(github.api_url(), None);
    let register = |token: &str| {
        bare.request(Method::POST, "/actions/runner-registration")
            .header("authorization", format!("RemoteAuth {token}"))
            .json(
                &json!({ "url": format!("{}/acme", github.web_url()), "runner_event": "register" }),
            )
    };
    let of_other = Client::send(register(token["token"].as_str().unwrap())).await.unwrap();
    assert_eq!(of_other.status, 404);
    assert_eq!(Client::send(register("nonsense")).await.unwrap().status, 401);
    let listener = Listener::connect(&github, &client).await;
    github.advance(Duration::from_secs(3601));
    let late = listener.ask(Method::GET, "runtime/runnerscalesets", None).await;
    assert_eq!(late.status, 401);
    assert_clean(&github);
}
