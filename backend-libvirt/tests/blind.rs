//! A daemon that is away or hangs: nothing can be seen then, nothing is undone, and it passes by itself.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{fs, time::Duration};

use backend_libvirt::{LibvirtHypervisor, LibvirtUri};
use common::fixture::{Fixture, name, ready, signal, state, until};
use runner_core::{Error, Hypervisor, error::chain, hypervisor::InstanceState};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_takes_nothing_along() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    let guest = ready(&hypervisor, &name(1)).await;
    let before = hypervisor.instances().await.unwrap();
    let qemu = fixture.qemu("linux-1").unwrap();

    fixture.libvirtd.hold(true);
    let mut changes = hypervisor.changes();
    fixture.libvirtd.signal("-KILL");
    until("it is blind", async || hypervisor.instances().await.is_err()).await;
    changes.next().await;
    until("it says why", async || {
        let error = hypervisor.instances().await.unwrap_err();
        assert!(matches!(error, Error::Backend { .. }), "{error:?}");
        let text = chain(&error);
        text.contains("no connection") && text.contains("since") && text.contains("libvirt-sock")
    })
    .await;
    let error = hypervisor.create(&fixture.spec(&name(2))).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    let error = hypervisor.destroy(&name(1)).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert_eq!(fixture.files(), 1, "nothing is begun and nothing removed by a blind one");
    assert_eq!(fixture.qemu("linux-1"), Some(qemu), "it runs on");

    let mut changes = hypervisor.changes();
    fixture.libvirtd.hold(false);
    until("it sees again", async || hypervisor.instances().await.is_ok()).await;
    changes.next().await;
    assert_eq!(hypervisor.instances().await.unwrap(), before);
    // The guest that was held from before works on.
    tokio::time::timeout(Duration::from_secs(60), guest.ready()).await.unwrap().unwrap();
    assert_eq!(fixture.qemu("linux-1"), Some(qemu));
    // And so do events, of the new connection.
    fixture.libvirtd.virsh(&["destroy", "linux-1"]);
    until("it stops", async || {
        matches!(state(&hypervisor, &name(1)).await, Some(InstanceState::Stopped(_)))
    })
    .await;
    hypervisor.destroy(&name(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_while_the_daemon_is_away_is_listed_as_stopped() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    fixture.libvirtd.hold(true);
    fixture.libvirtd.signal("-KILL");
    until("it is blind", async || hypervisor.instances().await.is_err()).await;
    signal(fixture.qemu("linux-1").unwrap(), "-KILL");
    fixture.libvirtd.hold(false);
    until("it sees again", async || hypervisor.instances().await.is_ok()).await;
    until("it is known to have ended", async || {
        matches!(state(&hypervisor, &name(1)).await, Some(InstanceState::Stopped(_)))
    })
    .await;
    hypervisor.destroy(&name(1)).await.unwrap();
    assert_eq!(fixture.files(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_hangs_holds_nobody_up() {
    let Some(mut fixture) = Fixture::new().await else { return };
    fixture.config.patience = Duration::from_secs(2);
    let hypervisor = fixture.open().await;
    fixture.libvirtd.signal("-STOP");
    let all = (0..200).map(|_| {
        let hypervisor = hypervisor.clone();
        tokio::spawn(async move { hypervisor.instances().await })
    });
    let mut failed = 0;
    for one in all.collect::<Vec<_>>() {
        let result = tokio::time::timeout(Duration::from_secs(60), one).await;
        failed += usize::from(result.expect("a call that never ends").unwrap().is_err());
    }
    let threads = threads("libvirt-");
    fixture.libvirtd.signal("-CONT");
    assert_eq!(failed, 200);
    assert!(threads <= 20, "{threads} threads for one daemon");
    until("it sees again", async || hypervisor.instances().await.is_ok()).await;
}

fn threads(prefix: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("no-such-socket");
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let owner = runner_core::OwnerId::new("tests").unwrap();
    let uri = LibvirtUri::new(&uri).unwrap();
    let config = backend_libvirt::LibvirtConfig::new(uri, owner, directory.path());
    let Err(error) = LibvirtHypervisor::open(config).await else { panic!("it is there") };
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert!(chain(&error).contains("no-such-socket"), "{}", chain(&error));
}
