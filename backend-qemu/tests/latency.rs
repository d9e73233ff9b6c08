//! How long a job waits for us, on an idle guest. `cargo test --test latency -- --ignored --nocapture` tells.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::time::{Duration, Instant};

use common::{Fixture, name};
use runner_core::{
    Guest, Hypervisor, ProcessId,
    guest::{Command, exec},
};

const ROUNDS: usize = 20;

#[tokio::test]
#[ignore = "it measures, and promises nothing"]
async fn from_spawn_to_the_command() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    let at = Instant::now();
    let guest = fixture.ready(1).await;
    println!("ready after {:?}", at.elapsed());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let start = Instant::now();
    run(&*guest, "first").await;
    println!("the first command, from spawn to exit: {:?}", start.elapsed());

    let (mut started, mut spawned, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let id = ProcessId::new(format!("t-{round}")).unwrap();
        let start = Instant::now();
        guest.spawn(&id, &Command::new(["true"])).await.unwrap();
        spawned.push(start.elapsed());
        exec(&*guest, &id, &Command::new(["true"]), |_| ()).await.unwrap();
        ended.push(start.elapsed());
        started.push(until_it_runs(&fixture, &*guest, round).await);
    }
    for (what, mut times) in [
        ("spawn to the command's first word on the console", started),
        ("spawn", spawned),
        ("spawn to exit", ended),
    ] {
        times.sort();
        println!(
            "{what}: median {:?}, from {:?} to {:?}",
            times[ROUNDS / 2],
            times[0],
            times[ROUNDS - 1]
        );
    }
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}

async fn run(guest: &dyn Guest, id: &str) {
    let id = ProcessId::new(id).unwrap();
    exec(guest, &id, &Command::new(["true"]), |_| ()).await.unwrap();
}

/// Until the command says a word where the host sees it without asking.
async fn until_it_runs(fixture: &Fixture, guest: &dyn Guest, round: usize) -> Duration {
    tokio::time::sleep(Duration::from_millis(100)).await;
    let id = ProcessId::new(format!("c-{round}")).unwrap();
    let console = fixture.instance(1).join("console.log");
    let size = move || std::fs::metadata(&console).unwrap().len();
    let before = size();
    let start = Instant::now();
    let seen = tokio::spawn(async move {
        while size() == before {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        start.elapsed()
    });
    let command = Command::new(["/bin/sh", "-c", "echo >/dev/console"]);
    guest.spawn(&id, &command).await.unwrap();
    seen.await.unwrap()
}
