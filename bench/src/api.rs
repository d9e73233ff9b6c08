//! The API of a service with many workers, while jobs run: requests a second, how long each takes, and how
//! soon events reach those who follow them.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use jiff::Timestamp;
use monitor::{
    compose::Backends,
    config::Config,
    data_dir::DataDir,
    serve::{Base, Service},
    token::Token,
};
use runner_core::{Clock, Resources, fake::FakeWorld};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    http::{Connection, change},
    pools::between,
    table::{Table, median, per_mille, show},
};

const WORKERS: u32 = 200;
const CONNECTIONS: usize = 32;
const FOLLOWERS: usize = 100;
const WATCH: Duration = Duration::from_secs(5);
const TOKEN: &str = "bench-token-0c3f9a71";

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
rate = "off"
[servo]
[[profile]]
name = "micro"
image = { kind = "micro" }
memory = "256MiB"
min_idle = 200
max = 220
"#;

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in("cache")?;
    let (service, _world) = service(dir.path()).await?;
    let address = service.address();
    until_ready(address).await?;
    let busy = Arc::new(AtomicBool::new(true));
    let jobs = tokio::spawn(keep_busy(address, busy.clone()));
    let paths =
        ["/healthz", "/api/v2/status", "/dashboard.json", "/api/v2/workers?limit=200", "/metrics"];
    for path in paths {
        let times = load(address, path).await?;
        let rate = times.len() as f64 / WATCH.as_secs_f64();
        let is_status = matches!(path, "/api/v2/status" | "/dashboard.json");
        let (fast, short) = if is_status { ("over 5,000", "under 20 ms") } else { ("", "") };
        table.number(&format!("GET {path}, requests a second"), format!("{rate:.0}"), fast);
        let p99 = show(per_mille(&times, 990));
        let what = format!("  {CONNECTIONS} connections: median {}, p99", show(median(&times)));
        table.number(&what, p99, short);
    }
    let (delays, total) = fan_out(address).await?;
    let rate = total as f64 / WATCH.as_secs_f64();
    table.number("events followed by 100, events a second in all", format!("{rate:.0}"), "");
    let what = format!("  from the event to a follower: median {}, p99", show(median(&delays)));
    table.number(&what, show(per_mille(&delays, 990)), "");
    busy.store(false, Ordering::Relaxed);
    let ran = jobs.await??;
    table.number("  jobs that ran meanwhile", ran.to_string(), "");
    service.stop().await;
    Ok(())
}

async fn service(dir: &Path) -> anyhow::Result<(Service, FakeWorld)> {
    let world = FakeWorld::new(Clock::system());
    world.set_boot_time(Duration::from_millis(50));
    world.set_capacity(Resources { vcpus: 1 << 20, memory_mib: 1 << 30, ..Resources::default() });
    let backends = Backends {
        hypervisor: Arc::new(world.hypervisor()),
        builder: Arc::new(world.builder()),
        forges: Default::default(),
    };
    let config = Config::parse(Path::new("bench.toml"), CONFIG)?;
    let base = Base::open(DataDir::lock(dir)?).await?;
    let listener = TcpListener::bind(config.http.listen).await?;
    let token = Token::new(TOKEN)?;
    Ok((Service::start(&config, base, backends, token, listener).await?, world))
}

async fn until_ready(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    loop {
        let status: Value = serde_json::from_slice(connection.get("/api/v2/status").await?)?;
        if status["profiles"]["micro"]["idle"] == WORKERS {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs jobs, a few at a time. Says how many.
async fn keep_busy(address: SocketAddr, busy: Arc<AtomicBool>) -> anyhow::Result<u32> {
    let mut jobs = 0;
    while busy.load(Ordering::Relaxed) {
        for _ in 0..4 {
            let job = json!({ "profile": "micro", "script": "echo hello" });
            let answer = change(address, ("POST", "/api/v2/jobs"), TOKEN, &job).await?;
            anyhow::ensure!(answer.contains(" 201 "), "{answer}");
            jobs += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(jobs)
}

/// Asks as fast as it is answered, on many connections. Returns how long each answer took.
async fn load(address: SocketAddr, path: &'static str) -> anyhow::Result<Vec<Duration>> {
    let until = Instant::now() + WATCH;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await?;
            let mut times = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                connection.get(path).await?;
                times.push(began.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}

/// Lets many follow the events of the jobs that run. Returns how late each event came, and how many there
/// were in all.
async fn fan_out(address: SocketAddr) -> anyhow::Result<(Vec<Duration>, usize)> {
    let mut tasks = JoinSet::new();
    for _ in 0..FOLLOWERS {
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await?;
            connection.begin("/api/v2/events/follow").await?;
            let until = Instant::now() + WATCH;
            let mut delays = Vec::new();
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                let Ok(line) = tokio::time::timeout(left, connection.line()).await else { break };
                let line = line?;
                let Some(data) = line.strip_prefix("data: ") else { continue };
                let now = Timestamp::now();
                let event: Value = serde_json::from_str(data)?;
                let at = event["at"].as_str().context("an event without a time")?.parse()?;
                delays.push(between(at, Some(now)));
            }
            anyhow::Ok(delays)
        });
    }
    let mut all = Vec::new();
    while let Some(delays) = tasks.join_next().await {
        all.extend(delays??);
    }
    let total = all.len();
    Ok((all, total))
}
