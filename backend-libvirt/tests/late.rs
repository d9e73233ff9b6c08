//! A start that takes longer than the daemon was given: nobody knows what comes of it, and so nothing is undone.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use common::{
    fixture::{Fixture, name, ready, state, until},
    libvirtd::Libvirtd,
};
use runner_core::{
    Error, Hypervisor,
    error::chain,
    hypervisor::{ExitReason, InstanceState},
};

/// Has the daemon wait with each start while there is a file `wait`, and refuse it if there is a file `refuse` then.
fn hook(directory: &Path) {
    let hooks = directory.join("etc/hooks");
    fs::create_dir_all(&hooks).unwrap();
    let at = directory.display();
    let script = format!(
        "#!/bin/sh\n[ \"$2\" = start ] || exit 0\n\
         while [ -e '{at}/wait' ]; do sleep 0.05; done\n[ ! -e '{at}/refuse' ]\n"
    );
    fs::write(hooks.join("qemu"), script).unwrap();
    fs::set_permissions(hooks.join("qemu"), fs::Permissions::from_mode(0o755)).unwrap();
}

async fn fixture() -> Option<Fixture> {
    let mut fixture = Fixture::on(Libvirtd::start_with(hook, &[])?).await?;
    fixture.config.patience = Duration::from_secs(2);
    Some(fixture)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_starts_late_is_listed_and_can_be_used() {
    let Some(fixture) = fixture().await else { return };
    let hypervisor = fixture.open().await;
    let wait = fixture.libvirtd.directory().join("wait");
    fs::write(&wait, "").unwrap();
    let error = hypervisor.create(&fixture.spec(&name(1))).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert!(error.to_string().contains("start linux-1"), "{error}");
    assert!(chain(&error).contains("did not answer within 2 s"), "{}", chain(&error));
    // A daemon that is asked about it may be late again; but no list leaves it out.
    if let Ok(listed) = hypervisor.instances().await {
        assert_eq!(listed.len(), 1);
    }
    assert_eq!(fixture.files(), 1, "its disk is there");
    fs::remove_file(&wait).unwrap();
    until("it runs", async || match hypervisor.instances().await {
        Ok(listed) => {
            assert_eq!(listed.len(), 1);
            listed[0].state == InstanceState::Running
        }
        Err(_) => false,
    })
    .await;
    // Whoever asks again gets the one that there is.
    let again = hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    assert_eq!(again.state, InstanceState::Running);
    ready(&hypervisor, &name(1)).await;
    hypervisor.destroy(&name(1)).await.unwrap();
    assert_eq!((state(&hypervisor, &name(1)).await, fixture.files()), (None, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_late_is_listed_until_it_is_destroyed() {
    let Some(fixture) = fixture().await else { return };
    let hypervisor = fixture.open().await;
    let wait = fixture.libvirtd.directory().join("wait");
    fs::write(&wait, "").unwrap();
    fs::write(fixture.libvirtd.directory().join("refuse"), "").unwrap();
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap_err();
    fs::remove_file(&wait).unwrap();
    let mut ended = None;
    until("it is known to have failed", async || match hypervisor.instances().await {
        Ok(listed) => {
            assert_eq!(listed.len(), 1);
            ended = Some(listed[0].state.clone());
            ended != Some(InstanceState::Running)
        }
        Err(_) => false,
    })
    .await;
    let Some(InstanceState::Stopped(reason)) = ended else { panic!("{ended:?}") };
    assert!(!matches!(reason, ExitReason::GuestShutdown), "{reason:?}");
    assert_eq!(fixture.files(), 1);
    hypervisor.destroy(&name(1)).await.unwrap();
    assert_eq!((state(&hypervisor, &name(1)).await, fixture.files()), (None, 0));
    let left = fixture.libvirtd.virsh(&["list", "--all", "--name"]);
    assert_eq!(left.trim(), "");
}
