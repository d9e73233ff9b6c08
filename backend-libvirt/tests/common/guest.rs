//! What tests do in guests, and how they wait for what follows.

use std::time::Duration;

use runner_core::{
    Guest, ProcessId,
    guest::{Command, Output, exec},
};

/// Runs a shell script in the guest: its exit code and what it wrote.
pub async fn sh(guest: &dyn Guest, id: &str, script: &str) -> (u8, String) {
    let (id, mut text) = (ProcessId::new(id).unwrap(), Vec::new());
    let command = Command::new(["/bin/sh", "-c", script]);
    let run = exec(guest, &id, &command, |output| match output {
        Output::Stdout(bytes) | Output::Stderr(bytes) => text.extend_from_slice(bytes),
    });
    let exit = tokio::time::timeout(Duration::from_secs(60), run).await.unwrap().unwrap();
    (exit.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Waits until `what` holds.
pub async fn until(why: &str, mut what: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !what().await {
        assert!(start.elapsed() < Duration::from_secs(60), "in vain: {why}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
