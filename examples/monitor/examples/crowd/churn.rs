//! Jobs that come and go: the load of each profile rises and falls, each out of step with the others.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use monitor::token::Token;
use rand::seq::IndexedRandom;
use runner_core::{ForgeName, ProfileName, fake::FakeWorld};
use serde_json::{Value, json};

use crate::profiles::{ELSEWHERE, Kind};

/// From one rush hour to the next.
const RUSH: f64 = 180.0;
const TICK: Duration = Duration::from_millis(500);
/// How many jobs are submitted at once at most.
const BATCH: u32 = 12;

const TITLES: [&str; 10] = [
    "build (release, x86-64)",
    "test: unit",
    "test: integration 3/8",
    "fmt + clippy",
    "docs",
    "package .deb",
    "fuzz: http parser, 60 s",
    "bench: nightly comparison with main",
    "smoke test on a clean image",
    "Überprüfung der Übersetzungen",
];

/// Keeps jobs coming, for ever.
pub async fn run(
    address: SocketAddr,
    token: Token,
    kinds: Vec<Kind>,
    world: FakeWorld,
) -> anyhow::Result<()> {
    monitor::http::tls::prepare();
    let client = reqwest::Client::builder().no_proxy().build()?;
    let api = format!("http://{address}/api/v2");
    let begun = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(TICK).await;
        let status: Value = client.get(format!("{api}/status")).send().await?.json().await?;
        let time = begun.elapsed().as_secs_f64();
        let mut wanted = BTreeMap::new();
        for (index, kind) in kinds.iter().enumerate() {
            let counts = &status["profiles"][kind.name];
            let count = |name: &str| counts[name].as_u64().unwrap_or(0) as u32;
            let phase = time / RUSH * std::f64::consts::TAU + index as f64 * 1.7;
            let (low, high) = (f64::from(kind.load.0), f64::from(kind.load.1));
            let percent = low + (high - low) * (1.0 + phase.sin()) / 2.0;
            let target = (f64::from(kind.max) * percent / 100.0).round() as u32;
            wanted.insert(index, target.saturating_sub(count("busy") + count("queued")));
        }
        for (index, wanted) in wanted {
            let kind = &kinds[index];
            if kind.forge == ELSEWHERE {
                for _ in 0..wanted.min(BATCH) {
                    let takes =
                        Duration::from_secs(rand::random_range(kind.takes / 5..=kind.takes).into());
                    world.submit(
                        &ForgeName::new(kind.forge)?,
                        &ProfileName::new(kind.name)?,
                        takes,
                    );
                }
                continue;
            }
            for _ in 0..wanted.min(BATCH) {
                let request = client.post(format!("{api}/jobs")).bearer_auth(token.expose());
                let answer = request.json(&job(kind)).send().await?;
                if answer.status() == reqwest::StatusCode::TOO_MANY_REQUESTS {
                    // The rest comes later.
                    break;
                }
                if !answer.status().is_success() {
                    eprintln!("a job was refused: {}", answer.text().await?);
                }
            }
        }
    }
}

/// A job that prints as builds do, takes a while, and fails now and then.
fn job(kind: &Kind) -> Value {
    let title = TITLES.choose(&mut rand::rng()).copied().unwrap_or("build");
    let seconds = rand::random_range(kind.takes / 5..=kind.takes);
    let steps = seconds.clamp(4, 30);
    let pause = f64::from(seconds) / f64::from(steps);
    let mut script =
        String::from("echo \x1b[1m==> checking out\x1b[0m\necho HEAD is now at 4f1c2aa\n");
    for step in 1..=steps {
        script += &format!("sleep {pause:.2}\n");
        script +=
            &format!("echo [{step}/{steps}] \x1b[32mCompiling\x1b[0m unit-{step} v0.{step}.0\n");
    }
    script += match rand::random_range(0..12) {
        0 => "echo \x1b[31;1merror\x1b[0m: 1 of 214 tests failed: parses_empty_input\nexit 1\n",
        1 => "echo \x1b[33mwarning\x1b[0m: unused variable: `late`\n",
        _ => "echo \x1b[32mok\x1b[0m: 214 tests passed\n",
    };
    json!({ "title": title, "profile": kind.name, "script": script, "timeout": "10m" })
}
