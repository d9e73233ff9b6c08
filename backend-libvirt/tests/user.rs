//! A daemon that runs machines as another user, who may read nothing of ours.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use backend_libvirt::StorageConfig;
use common::{
    fixture::{Fixture, name, ready},
    libvirtd::Libvirtd,
};
use runner_core::{Hypervisor, Secret, error::chain};

/// As distributions configure it, but for the user's name.
const INSIDE: &str = r#"
    sed -i -e 's/^user = .*/user = "nobody"/' -e 's/^group = .*/group = "nogroup"/' \
        -e 's/^dynamic_ownership = .*/dynamic_ownership = 1/' "$directory/etc/qemu.conf"
"#;

async fn fixture() -> Option<Fixture> {
    let prepare = |directory: &Path| fs::write(directory.join("inside"), INSIDE).unwrap();
    let mut fixture = Fixture::on(Libvirtd::start_with(prepare, &[])?).await?;
    fixture.config.patience = std::time::Duration::from_secs(120);
    Some(fixture)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_of_another_user_boots_from_a_pool() {
    let Some(mut fixture) = fixture().await else { return };
    let directory = fixture.libvirtd.directory().join("pool");
    fixture.config.storage =
        StorageConfig::Pool { name: "runners".to_owned(), make: Some(directory.clone()) };
    let hypervisor = fixture.open().await;
    let mut spec = fixture.spec(&name(1));
    spec.user_data = Some(Secret::new("told".to_owned()));
    for _ in 0..2 {
        hypervisor.create(&spec).await.unwrap();
        ready(&hypervisor, &name(1)).await;
        hypervisor.destroy(&name(1)).await.unwrap();
    }
    for file in fs::read_dir(directory).unwrap().flatten() {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.path().display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_user_may_not_read_is_named_and_nothing_is_left() {
    let Some(fixture) = fixture().await else { return };
    let hypervisor = fixture.open().await;
    // Nobody but us passes through it.
    fs::set_permissions(fixture.directory.path(), Permissions::from_mode(0o700)).unwrap();
    let error = hypervisor.create(&fixture.spec(&name(1))).await.unwrap_err();
    let shown = chain(&error);
    assert!(shown.contains("Permission denied") && shown.contains('/'), "{shown}");
    assert_eq!((fixture.files(), hypervisor.instances().await.unwrap()), (0, vec![]));
    assert_eq!(fixture.libvirtd.virsh(&["list", "--all", "--name"]).trim(), "");
}
