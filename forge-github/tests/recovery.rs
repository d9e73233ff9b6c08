//! Deliveries that got lost, and the log in which GitHub keeps them.

mod common;

use std::{sync::Arc, time::Duration};

use common::{PATIENCE, assert_no_violations, rest};
use fake_github::{
    Conclusion, FakeGitHub, Fault, FaultRule, JobRequest, Level, Scope, WebhookFaults,
};
use forge_github::{
    Client, ClientConfig, Credentials, DemandSource, Freshness, HttpTransport, Place, Rest,
    SecretFrom, Webhook,
    rest::Call,
    webhook::{
        WebhookConfig,
        recovery::{Hook, Recovery},
    },
};
use jiff::Timestamp;
use poem::{EndpointExt, Route, Server, handler, listener::TcpListener, web::Data};
use runner_core::{Clock, Secret};
use serde_json::Value;

const SECRET: &str = "of-this-hook";

/// A fake GitHub, and the route that it sends deliveries to.
struct World {
    github: FakeGitHub,
    webhook: Arc<Webhook>,
    hook: u64,
    path: &'static str,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[handler]
async fn deliver(
    request: &poem::Request,
    body: poem::Body,
    webhook: Data<&Arc<Webhook>>,
) -> http::StatusCode {
    let body = body.into_bytes().await.unwrap();
    webhook.accept(request.headers(), &body).status()
}

impl World {
    async fn new(path: &'static str, scope: impl Fn(&FakeGitHub) -> Scope) -> Self {
        let github = FakeGitHub::builder().ghes().start().await.unwrap();
        let config = WebhookConfig::new([Secret::new(SECRET.to_owned())]);
        let webhook = Arc::new(Webhook::new(&config, Clock::system()).unwrap());
        // As after a start that asked for everything.
        webhook.caught_up(Timestamp::now());
        let acceptor = poem::listener::Listener::into_acceptor(TcpListener::bind("127.0.0.1:0"));
        let acceptor = acceptor.await.unwrap();
        let address = poem::listener::Acceptor::local_addr(&acceptor)[0].clone();
        let route = Route::new().at("/hook", poem::post(deliver)).data(webhook.clone());
        let server = tokio::spawn(async move {
            Server::new_with_acceptor(acceptor).run(route).await.unwrap();
        });
        let url = format!("http://{}/hook", address.as_socket_addr().unwrap());
        let scope = scope(&github);
        let hook = u64::try_from(github.hook(&scope, &url, SECRET)).unwrap();
        Self { github, webhook, hook, path, server }
    }

    async fn of_organization() -> Self {
        Self::new("/orgs/octo", |github| {
            github.repository("octo", "hello");
            github.organisation("octo")
        })
        .await
    }

    fn recovery(&self) -> Recovery {
        let hook = Hook::Organization { name: "octo".to_owned(), hook: self.hook };
        Recovery::new(hook, Timestamp::now())
    }

    fn lose(&self, probability: f64) {
        self.github.webhook_faults(WebhookFaults { lose: probability, ..Default::default() });
    }

    fn enqueue(&self) -> i64 {
        self.github.enqueue(JobRequest::new("octo/hello", ["linux"])).unwrap().id
    }

    async fn queued(&self) -> usize {
        self.webhook.queued(Freshness::Usual).await.unwrap().len()
    }

    async fn until_queued(&self, count: usize) {
        let mut changes = self.webhook.changes();
        let all = async {
            while self.queued().await != count {
                changes.next().await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the deliveries");
    }

    /// Waits until this many deliveries have been attempted, well or not.
    async fn until_logged(&self, count: usize) {
        let rest = rest(&self.github);
        let all = async {
            while self.logged(&*rest).await < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the log");
    }

    async fn logged(&self, rest: &dyn Rest) -> usize {
        let (mut count, mut cursor) = (0, String::new());
        loop {
            let path = format!("{}/hooks/{}/deliveries?per_page=100{cursor}", self.path, self.hook);
            let answer = rest.call(Call::get(path)).await.unwrap();
            count += answer.json::<Vec<Value>>("read the log").unwrap().len();
            let link = answer.headers.get("link").map(|link| link.to_str().unwrap());
            let Some((_, next)) = link.and_then(|link| link.split_once("cursor=")) else {
                return count;
            };
            cursor = format!("&cursor={}", next.split(['&', '>']).next().unwrap());
        }
    }
}

#[tokio::test]
async fn what_arrives_is_not_fetched_again() {
    let world = World::of_organization().await;
    for _ in 0..3 {
        world.enqueue();
    }
    world.until_queued(3).await;
    world.until_logged(3).await;
    let done = world.recovery().run(&*rest(&world.github), &world.webhook).await.unwrap();
    assert_eq!(done.fetched, 0);
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn what_got_lost_is_fetched_once() {
    let world = World::of_organization().await;
    let (rest, mut recovery) = (rest(&world.github), world.recovery());
    world.enqueue();
    world.until_queued(1).await;
    world.lose(1.0);
    let jobs = [world.enqueue(), world.enqueue()];
    world.github.complete(jobs[0], Conclusion::Cancelled).unwrap();
    world.until_logged(4).await;
    assert_eq!(world.queued().await, 1);
    let done = recovery.run(&*rest, &world.webhook).await.unwrap();
    assert_eq!((done.fetched, done.unreadable, done.left), (3, 0, 0));
    assert_eq!(world.queued().await, 2, "one is over, two wait");
    let done = recovery.run(&*rest, &world.webhook).await.unwrap();
    assert_eq!(done.fetched, 0);
    assert_eq!(world.webhook.numbers().recovered, 3);
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn a_repositorys_hook_is_as_good() {
    let world = World::new("/repos/octo/hello", |github| github.repository("octo", "hello")).await;
    world.lose(1.0);
    world.enqueue();
    world.until_logged(1).await;
    let hook = Hook::Repository { name: "octo/hello".parse().unwrap(), hook: world.hook };
    let mut recovery = Recovery::new(hook, Timestamp::now() - Duration::from_secs(60));
    let done = recovery.run(&*rest(&world.github), &world.webhook).await.unwrap();
    assert_eq!((done.fetched, world.queued().await), (1, 1));
    assert_no_violations(&world.github);
}

/// Its number is not known: an App has one, and proves itself for it.
#[tokio::test]
async fn an_apps_hook_is_as_good() {
    let github = FakeGitHub::builder().ghes().start().await.unwrap();
    github.repository("octo", "hello");
    let may = [("actions".to_owned(), Level::Read)].into();
    let app = github.app("runners", may);
    github.install(&app, "octo").unwrap();
    github.app_hook(&app, "http://127.0.0.1:1/hook", SECRET); // Nobody is there.
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), &app.private_key).unwrap();
    let place = Place::new(&format!("{}/octo", github.web_url())).unwrap();
    let key_file = SecretFrom::File(key.path().to_owned());
    let credentials = Credentials::App { id: app.client_id, key: key_file, installation: None };
    let transport = Arc::new(HttpTransport::new(b"").unwrap());
    let config = ClientConfig::new(place, credentials);
    let client = Client::new(config, transport, Clock::system()).unwrap();
    let config = WebhookConfig::new([Secret::new(SECRET.to_owned())]);
    let webhook = Webhook::new(&config, Clock::system()).unwrap();
    let mut recovery = Recovery::new(Hook::App, Timestamp::now());
    github.enqueue(JobRequest::new("octo/hello", ["linux"])).unwrap();
    let fetched = async {
        // It is in the log once its first attempt has failed.
        while recovery.run(&client, &webhook).await.unwrap().fetched == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, fetched).await.expect("the delivery is in the log");
    assert_eq!(webhook.queued(Freshness::Usual).await.unwrap().len(), 1);
    assert_no_violations(&github);
}

#[tokio::test]
async fn a_log_of_several_pages_is_read_to_its_end() {
    let world = World::of_organization().await;
    world.lose(1.0);
    let recovery = world.recovery();
    for _ in 0..130 {
        world.enqueue();
    }
    world.until_logged(130).await;
    let (rest, mut recovery) = (rest(&world.github), recovery);
    let done = recovery.run(&*rest, &world.webhook).await.unwrap();
    assert_eq!((done.fetched, done.left), (100, 30));
    let done = recovery.run(&*rest, &world.webhook).await.unwrap();
    assert_eq!((done.fetched, done.left), (30, 0));
    assert_eq!(world.queued().await, 130);
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_read_the_next_time() {
    let world = World::of_organization().await;
    let (rest, mut recovery) = (rest(&world.github), world.recovery());
    world.lose(1.0);
    world.enqueue();
    world.until_logged(1).await;
    let faults = [
        ("*/deliveries?*", Fault::Status { status: 503, retry_after: None, message: None }),
        ("*/deliveries?*", Fault::Html { status: 200 }),
        ("*/deliveries/*", Fault::Reset),
    ];
    for (path, fault) in faults {
        world.github.fault(FaultRule::once(fault).path(path));
        assert!(recovery.run(&*rest, &world.webhook).await.is_err(), "{path}");
        assert_eq!(world.queued().await, 0);
    }
    assert_eq!(recovery.run(&*rest, &world.webhook).await.unwrap().fetched, 1);
    assert_eq!(world.queued().await, 1);
}
