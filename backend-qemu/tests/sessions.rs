//! Sessions in guests that are less obliging than the suite's.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::time::Duration;

use common::{Fixture, name, sh};
use runner_core::{
    Guest, Hypervisor, ProcessId,
    guest::{Command, ExitStatus, TerminalSize},
};

/// What the session shows to its end, and how it ends.
async fn run(guest: &dyn Guest, id: &str, script: &str) -> (String, ExitStatus) {
    let id = ProcessId::new(id).unwrap();
    let size = TerminalSize { columns: 80, rows: 24 };
    let command = Command::new(["sh", "-c", script]);
    guest.open_session(&id, &command, Some(size)).await.unwrap();
    let mut shown = Vec::new();
    loop {
        let from = shown.len() as u64;
        let news = guest.read_session(&id, from, Duration::from_secs(30)).await.unwrap();
        shown.extend_from_slice(&news.output);
        if let Some(exit) = news.exit {
            return (String::from_utf8_lossy(&shown).into_owned(), exit);
        }
    }
}

/// As distributions mount it.
#[tokio::test]
async fn a_session_opens_where_nothing_in_run_may_be_executed() {
    let Some(fixture) = Fixture::new().await else { return };
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    let guest = fixture.ready(1).await;
    let (code, said) = sh(&*guest, "mount", "mount -o remount,noexec /run").await;
    assert_eq!(code, 0, "{said}");
    let (shown, exit) = run(&*guest, "session", "echo in a terminal: $(tty); exit 3").await;
    assert!(shown.contains("in a terminal: /dev/pts/"), "{shown}");
    assert_eq!(exit, ExitStatus::Code(3));
    let (code, said) = sh(&*guest, "ls", "ls -l /usr/local/lib/runner/.session").await;
    assert!(code == 0 && said.starts_with("-rwx------"), "{said}");
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_ends_ends_its_sessions() {
    let Some(fixture) = Fixture::new().await else { return };
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    let guest = fixture.ready(1).await;
    let id = ProcessId::new("session").unwrap();
    let command = Command::new(["sleep", "1000"]);
    guest.open_session(&id, &command, None).await.unwrap();
    let reading = tokio::spawn({
        let (guest, id) = (guest.clone(), id.clone());
        async move { guest.read_session(&id, 0, Duration::from_secs(600)).await }
    });
    fixture.signal(1, "-KILL");
    let gone = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    assert!(gone.unwrap_err().to_string().contains("instance linux-1 does not exist"));
    let gone = guest.write_session(&id, b"x").await.unwrap_err();
    assert!(gone.to_string().contains("instance linux-1 does not exist"), "{gone}");
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}
