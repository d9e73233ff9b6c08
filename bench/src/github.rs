//! What a GitHub costs us, its own time not counted: a delivery over a socket, from the first byte sent to the last
//! of the answer; and calls whose answers are there at once, from the budget's turn to what is made of them.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use fake_github::FakeGitHub;
use forge_github::{
    Client, ClientConfig, Credentials, GithubConfig, GithubForge, Rest, SecretFrom, Transport,
    budget::Limits, error::ApiError, rest,
};
use hmac::{Hmac, KeyInit, Mac};
use http::{Request, Response, StatusCode, header};
use jiff::Timestamp;
use monitor::{
    compose::{self, Backends},
    config::Config,
    data_dir::DataDir,
    serve::{Base, Service},
    token::Token,
};
use runner_core::{
    Clock, Forge, OwnerId, ProfileName, Resources, WorkerName, fake::FakeWorld, forge::RunnerSpec,
};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::{net::TcpListener, task::JoinSet};
use uuid::Uuid;

use crate::{
    http::Connection,
    table::{Table, median, per_mille, show},
};

const SECRET: &str = "of-this-hook";
/// GitHub's own example of a delivery: its size is usual.
const EXAMPLE: &str = include_str!("../../forge-github/tests/webhooks/workflow_job.queued.1.json");

const DELIVERIES: usize = 1000;
const CONNECTIONS: usize = 32;
const CALLS: usize = 1000;
const LISTS: usize = 100;
const RUNNERS: usize = 1000;
const PER_PAGE: usize = 100;

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in("cache")?;
    fs::write(dir.path().join("token"), "a-token")?;
    deliveries(table, dir.path()).await?;
    calls(table, dir.path()).await
}

/// The service as an operator runs it, with a GitHub that it asks now and then, on machines that are fakes.
async fn deliveries(table: &mut Table, dir: &Path) -> anyhow::Result<()> {
    let github = FakeGitHub::builder().ghes().start().await?;
    github.organisation("acme");
    fs::write(dir.join("token"), github.classic_token("mona", &["repo", "admin:org"]))?;
    fs::write(dir.join("secret"), SECRET)?;
    let service = service(dir, github.web_url()).await?;
    let address = service.address();
    let requests = |count: usize| -> anyhow::Result<Vec<Vec<u8>>> {
        (0..count).map(|number| delivery(address, number)).collect()
    };

    let requests_one = requests(DELIVERIES)?;
    let mut connection = Connection::open(address).await?;
    let times = deliver(&mut connection, &requests_one, b"is Queued").await?;
    show_times(table, "a delivery over a socket, one at a time", &times);
    let times = deliver(&mut connection, &requests_one, b"this was known").await?;
    show_times(table, "the same again, known by its id", &times);

    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let requests = requests(DELIVERIES / CONNECTIONS)?;
        tasks.spawn(async move {
            deliver(&mut Connection::open(address).await?, &requests, b"is Queued").await
        });
    }
    let mut times = Vec::new();
    while let Some(one) = tasks.join_next().await {
        times.extend(one??);
    }
    show_times(table, &format!("a delivery, {CONNECTIONS} at a time"), &times);
    service.stop().await;
    Ok(())
}

fn show_times(table: &mut Table, what: &str, times: &[Duration]) {
    table.times(what, times, "under 10 ms");
    let p99 = show(per_mille(times, 990));
    table.number(&format!("  median {}, p99", show(median(times))), p99, "under 50 ms");
}

async fn service(dir: &Path, web: &str) -> anyhow::Result<Service> {
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\nwebhook_rate = \"off\"\n\
         [[github]]\nname = \"github\"\nurl = \"{web}/acme\"\ntoken = {{ file = \"token\" }}\n\
         webhook = [{{ file = \"secret\" }}]\n\
         [[profile]]\nname = \"micro\"\nforge = \"github\"\nimage = {{ kind = \"micro\" }}\n\
         memory = \"256MiB\"\nmin_idle = 0\n"
    );
    let world = FakeWorld::new(Clock::system());
    world.set_capacity(Resources { vcpus: 8, memory_mib: 8 << 10, ..Resources::default() });
    let config = Config::parse(&dir.join("bench.toml"), &text)?;
    let data = dir.join("data");
    let base = Base::open(DataDir::lock(&data)?).await?;
    let backends = Backends {
        hypervisor: Arc::new(world.hypervisor()),
        builder: Arc::new(world.builder()),
        forges: compose::forges(&config, &data, base.owner()).await?,
    };
    let listener = TcpListener::bind(config.http.listen).await?;
    Ok(Service::start(&config, base, backends, Token::new("bench-token-5d1e20c4")?, listener)
        .await?)
}

/// A job that nobody here serves, as GitHub would tell of it.
fn delivery(address: SocketAddr, number: usize) -> anyhow::Result<Vec<u8>> {
    let id = Uuid::new_v4();
    let mut payload: Value = serde_json::from_str(EXAMPLE)?;
    let job = &mut payload["workflow_job"];
    // Not the number of another one.
    job["id"] = json!(id.as_u128() as u64 >> 16);
    job["name"] = json!(format!("job {number}"));
    job["created_at"] = json!(Timestamp::now());
    let body = serde_json::to_vec(&payload)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    mac.update(&body);
    let signature: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let head = format!(
        "POST /api/v2/forges/github/webhook HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         X-GitHub-Event: workflow_job\r\nX-GitHub-Delivery: {id}\r\nX-Hub-Signature-256: sha256={signature}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    Ok([head.into_bytes(), body].concat())
}

/// Sends them one after the other, each of which is to be answered with these words.
async fn deliver(
    connection: &mut Connection,
    requests: &[Vec<u8>],
    words: &[u8],
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(requests.len());
    for request in requests {
        let began = Instant::now();
        let answer = connection.send(request).await?;
        times.push(began.elapsed());
        let is_so = answer.windows(words.len()).any(|window| window == words);
        anyhow::ensure!(is_so, "{}", String::from_utf8_lossy(answer));
    }
    Ok(times)
}

async fn calls(table: &mut Table, dir: &Path) -> anyhow::Result<()> {
    let (client, forge) = forge(&dir.join("token"))?;
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let began = Instant::now();
        client.call(rest::Call::get("/orgs/acme")).await?;
        times.push(began.elapsed());
    }
    table.times("a call: its turn in the budget, credentials, checks", &times, "under 1 ms");

    let mut times = Vec::new();
    for number in 0..CALLS {
        let spec = RunnerSpec {
            name: WorkerName::new(format!("micro-{number}"))?,
            owner: OwnerId::new("bench")?,
            profile: ProfileName::new("micro")?,
            labels: Default::default(),
        };
        let began = Instant::now();
        let registration = forge.register(&spec).await?;
        times.push(began.elapsed());
        anyhow::ensure!(registration.secret.is_some(), "a runner without a secret");
    }
    table.times("a registration, up to the runner's secret", &times, "under 1 ms");

    let mut times = Vec::new();
    for _ in 0..LISTS {
        let began = Instant::now();
        let runners = forge.runners().await?;
        times.push(began.elapsed());
        anyhow::ensure!(runners.len() == RUNNERS, "{} runners", runners.len());
    }
    let what = format!("{RUNNERS} runners listed, {} calls", 2 * RUNNERS / PER_PAGE - 1);
    table.times(&what, &times, "under 100 ms");
    Ok(())
}

/// A forge whose GitHub answers at once and has no limits.
fn forge(token: &Path) -> anyhow::Result<(Client, GithubForge)> {
    let token = SecretFrom::File(token.to_owned());
    let mut config =
        ClientConfig::new("https://github.com/acme".parse()?, Credentials::Token(token));
    config.limits = Limits {
        points_per_minute: u32::MAX,
        mints_per_minute: u32::MAX,
        between_changes: Duration::ZERO,
        ..Limits::default()
    };
    let client = Client::new(config, Arc::new(AtOnce::new()), Clock::system())?;
    let mut config = GithubConfig::new(OwnerId::new("bench")?);
    config.pace.list_every = Duration::ZERO;
    config.pace.list_quietly_every = Duration::ZERO;
    Ok((client.clone(), GithubForge::start(client, config)?))
}

/// A GitHub without a network.
struct AtOnce {
    pages: Vec<Bytes>,
}

impl AtOnce {
    fn new() -> Self {
        let numbers: Vec<usize> = (0..RUNNERS).collect();
        let page = |numbers: &[usize]| {
            let runners: Vec<Value> = numbers.iter().map(|number| runner(*number)).collect();
            json!({ "total_count": RUNNERS, "runners": runners }).to_string().into()
        };
        Self { pages: numbers.chunks(PER_PAGE).map(page).collect() }
    }
}

fn runner(number: usize) -> Value {
    let label = |name: &str| json!({ "id": number, "name": name, "type": "custom" });
    json!({
        "id": number + 1, "name": format!("micro-{number}_bench"), "os": "linux", "status": "online",
        "busy": number.is_multiple_of(2), "ephemeral": true, "runner_group_id": 1,
        "labels": ["micro", "x64", "kvm"].map(label),
    })
}

#[async_trait]
impl Transport for AtOnce {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let mut answer =
            Response::builder().header(header::CONTENT_TYPE, "application/json; charset=utf-8");
        let body = if path.ends_with("/generate-jitconfig") {
            answer = answer.status(StatusCode::CREATED);
            let asked: Value = serde_json::from_slice(request.body()).unwrap_or_default();
            let name = asked["name"].as_str().unwrap_or_default();
            let number = name.trim_end_matches("_bench").rsplit('-').next();
            let mut made = runner(number.and_then(|text| text.parse().ok()).unwrap_or_default());
            (made["status"], made["busy"]) = (json!("offline"), json!(false));
            // As long as GitHub's.
            json!({ "runner": made, "encoded_jit_config": "e".repeat(4096) }).to_string().into()
        } else if path.ends_with("/actions/runners") {
            let page = query.rsplit("page=").next().and_then(|page| page.parse::<usize>().ok());
            let page = page.unwrap_or(1);
            if page < self.pages.len() {
                let next =
                    format!("<https://api.github.com{path}?page={}>; rel=\"next\"", page + 1);
                answer = answer.header(header::LINK, next);
            }
            self.pages[page - 1].clone()
        } else {
            Bytes::from_static(b"{}")
        };
        Ok(answer.body(body).expect("its headers are valid"))
    }
}
