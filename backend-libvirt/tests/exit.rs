//! Why instances end is known, also to whoever was not there.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use common::fixture::{Fixture, name, ready, signal, state, tell, until};
use runner_core::{
    Hypervisor,
    hypervisor::{ExitReason, InstanceState},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_end_is_told_from_the_others_and_kept() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    let ends = [
        ("poweroff -f", ExitReason::GuestShutdown),
        ("reboot -f", ExitReason::GuestReset),
        ("echo c >/proc/sysrq-trigger", ExitReason::GuestPanic),
    ];
    for n in 0..4 {
        hypervisor.create(&fixture.spec(&name(n))).await.unwrap();
    }
    for (n, (script, _)) in ends.iter().enumerate() {
        let guest = ready(&hypervisor, &name(n as u64)).await;
        tell(&*guest, script).await;
    }
    signal(fixture.qemu("linux-3").unwrap(), "-KILL");
    let stopped = async |n| match state(&hypervisor, &name(n)).await {
        Some(InstanceState::Stopped(reason)) => Some(reason),
        _ => None,
    };
    for n in 0..4 {
        until("it ends", async || stopped(n).await.is_some()).await;
    }
    for (n, (script, reason)) in ends.into_iter().enumerate() {
        assert_eq!(stopped(n as u64).await, Some(reason), "{script}");
    }
    let crashed = stopped(3).await.unwrap();
    assert!(matches!(crashed, ExitReason::Crashed(_)), "{crashed:?}");

    let before = hypervisor.instances().await.unwrap();
    drop(hypervisor);
    fixture.libvirtd.signal("-TERM");
    let again =
        async || backend_libvirt::LibvirtHypervisor::open(fixture.config.clone()).await.ok();
    let mut hypervisor = None;
    until("it comes again", async || {
        hypervisor = again().await;
        hypervisor.is_some()
    })
    .await;
    assert_eq!(hypervisor.unwrap().instances().await.unwrap(), before);
}
