//! How long Servo's take takes, over HTTP, while a hundred clients take at once: all of it is our own, the flush of
//! the disk included, as the forge is the local queue.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

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
    table::{Table, median, per_mille, show},
};

const CLIENTS: usize = 100;
const ROUNDS: u32 = 10;
const TOKEN: &str = "bench-token-5b7d20e4";

pub async fn measure(table: &mut Table) -> anyhow::Result<()> {
    for workers in [1, 10, 50] {
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        let dir = tempfile::tempdir_in("cache")?;
        let service = service(dir.path(), workers).await?;
        for round in 0..ROUNDS {
            until_free(service.address(), workers).await?;
            let (won, lost) = takes(service.address(), round).await?;
            anyhow::ensure!(won.len() == workers as usize, "{} were taken", won.len());
            taken.extend(won);
            refused.extend(lost);
            release(service.address()).await?;
        }
        let what = format!("take, {workers} idle, {CLIENTS} clients at once: granted, median");
        table.number(&what, show(median(&taken)), "under 2 ms");
        let what = format!("  p99 {}; refused, median", show(per_mille(&taken, 990)));
        table.number(&what, show(median(&refused)), "");
        let (count, seconds) = served(service.address()).await?;
        let mean = Duration::from_secs_f64(seconds / count.max(1.0));
        table.number("  all of them, within the service, mean", show(mean), "");
        let alone = one_by_one(service.address(), workers).await?;
        table.number(
            "  one client, one after the other, median",
            show(median(&alone)),
            "under 2 ms",
        );
        service.stop().await;
    }
    Ok(())
}

async fn service(dir: &Path, workers: u32) -> anyhow::Result<Service> {
    let world = FakeWorld::new(Clock::system());
    world.set_boot_time(Duration::ZERO);
    world.set_capacity(Resources { vcpus: 1 << 20, memory_mib: 1 << 30, ..Resources::default() });
    let backends = Backends {
        hypervisor: Arc::new(world.hypervisor()),
        builder: Arc::new(world.builder()),
        forges: Default::default(),
    };
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\nrate = \"off\"\n[servo]\nreserve_timeout = \"1h\"\n\
         [[profile]]\nname = \"micro\"\nimage = {{ kind = \"micro\" }}\nmemory = \"64MiB\"\n\
         min_idle = {workers}\nmax = {}\n",
        workers + 1
    );
    let config = Config::parse(Path::new("bench.toml"), &config)?;
    let base = Base::open(DataDir::lock(dir)?).await?;
    let listener = TcpListener::bind(config.http.listen).await?;
    let service = Service::start(&config, base, backends, Token::new(TOKEN)?, listener).await?;
    // What is taken is not replaced. One more is configured, so that it can be asked for.
    let most = json!({ "max": workers });
    let path = "/api/v2/profiles/micro";
    let answer = change(service.address(), ("PATCH", path), TOKEN, &most).await?;
    anyhow::ensure!(answer.contains(" 200 "), "{answer}");
    Ok(service)
}

/// Waits until so many workers can be had: one whose mark is not off yet is idle, and cannot.
async fn until_free(address: SocketAddr, workers: u32) -> anyhow::Result<()> {
    // One more than there are, so that none is taken.
    let wish = json!({ "profile": "micro", "count": workers + 1, "duration": "1m" });
    loop {
        let answer = change(address, ("POST", "/api/v2/reservations"), TOKEN, &wish).await?;
        anyhow::ensure!(answer.contains(" 503 "), "{answer}");
        if answer.contains(&format!(" {workers} available")) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn path(number: u64) -> String {
    let id = format!("00000000-0000-4000-8000-{number:012x}");
    format!("/profile/micro/take?unique_id={id}&qualified_repo=acme/widgets&run_id=7")
}

/// Takes by many at once, each on a connection that is there already. How long those took that got a worker, and
/// the others.
async fn takes(address: SocketAddr, round: u32) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let mut clients = JoinSet::new();
    let start = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    for client in 0..CLIENTS {
        let start = start.clone();
        let path = path(u64::from(round) * 1000 + client as u64 + 1);
        clients.spawn(async move {
            let mut connection = Connection::open(address).await?;
            // What answers on it is there only now.
            connection.get("/healthz").await?;
            start.wait().await;
            let began = Instant::now();
            let won = connection.post(&path, TOKEN).await? != b"null";
            anyhow::Ok((won, began.elapsed()))
        });
    }
    let (mut won, mut lost) = (Vec::new(), Vec::new());
    while let Some(took) = clients.join_next().await {
        match took?? {
            (true, took) => won.push(took),
            (false, took) => lost.push(took),
        }
    }
    Ok((won, lost))
}

/// How many takes the service has answered, and how long it took over them by its own clock, in seconds.
async fn served(address: SocketAddr) -> anyhow::Result<(f64, f64)> {
    let mut connection = Connection::open(address).await?;
    let told = String::from_utf8(connection.get("/metrics").await?.to_vec())?;
    let value = |which: &str| {
        let name = format!("monitor_http_request_duration_seconds_{which}{{");
        let lines = told.lines().filter(|line| line.starts_with(&name));
        let values = lines.filter(|line| line.contains("route=\"/profile/:key/take\""));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>()
    };
    Ok((value("count"), value("sum")))
}

async fn one_by_one(address: SocketAddr, workers: u32) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        until_free(address, workers).await?;
        let mut connection = Connection::open(address).await?;
        for number in 0..workers {
            let path = path(1_000_000 + u64::from(round) * 1000 + u64::from(number));
            let began = Instant::now();
            anyhow::ensure!(connection.post(&path, TOKEN).await? != b"null", "none was idle");
            times.push(began.elapsed());
        }
        release(address).await?;
    }
    Ok(times)
}

async fn release(address: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(address).await?;
    let held: Value = serde_json::from_slice(connection.get("/api/v2/reservations").await?)?;
    for held in held.as_array().into_iter().flatten() {
        let id = held["id"].as_str().unwrap_or_default();
        connection.delete(&format!("/api/v2/reservations/{id}"), TOKEN).await?;
    }
    Ok(())
}
