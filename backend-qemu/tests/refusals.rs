//! What is refused, and what is left alone.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use backend_qemu::QemuHypervisor;
use common::{Fixture, name, spec};
use runner_core::{
    Error, Hypervisor, OwnerId, Resources, Secret,
    error::chain,
    hypervisor::{ExitReason, InstanceState},
    image::{Boot, DiskFormat, UserDataDelivery},
};

#[tokio::test]
async fn a_root_has_one_process() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    let error = QemuHypervisor::open(fixture.config.clone()).await.err().unwrap();
    assert!(error.is_busy(), "{error}");
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    // An instance does not hold the root.
    fixture.reopen().await;
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}

#[tokio::test]
async fn two_owners_share_a_host() {
    let Some(ours) = Fixture::new().await else {
        return;
    };
    let Some(mut theirs) = Fixture::new().await else {
        return;
    };
    theirs.config.owner = OwnerId::new("others").unwrap();
    theirs.config.root = theirs.directory.path().join("other");
    theirs.root = theirs.config.root.clone();
    theirs.reopen().await;
    ours.hypervisor().create(&ours.spec(1)).await.unwrap();
    theirs.hypervisor().create(&theirs.spec(1)).await.unwrap();
    theirs.hypervisor().destroy(&name(1)).await.unwrap();
    let all = ours.hypervisor().instances().await.unwrap();
    assert_eq!(all[0].state, InstanceState::Running);
    ours.hypervisor().destroy(&name(1)).await.unwrap();

    let mut config = ours.config.clone();
    config.root = theirs.root.clone();
    theirs.close().await;
    let error = QemuHypervisor::open(config).await.err().unwrap();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_foreign_directory_is_left_alone() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let foreign = fixture.instance(1);
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("treasure"), "x").unwrap();
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    let error = fixture.hypervisor().create(&fixture.spec(1)).await.unwrap_err();
    assert!(error.is_busy(), "{error}");
    assert!(fixture.hypervisor().instances().await.unwrap().is_empty());
    assert_eq!(fs::read(foreign.join("treasure")).unwrap(), b"x");
}

#[tokio::test]
async fn a_qemu_that_does_not_start_is_listed_with_its_complaints() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    fixture.config.qemu = "/no/such/qemu".into();
    fixture.reopen().await;
    let error = fixture.hypervisor().create(&fixture.spec(1)).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error}");
    assert!(chain(&error).contains("No such file"), "{}", chain(&error));
    assert!(fixture.hypervisor().instances().await.unwrap().is_empty());

    let cases = [
        (script(&fixture, "echo 'I am broken' >&2; exit 3"), "I am broken"),
        (script(&fixture, "sleep 0.05; echo 'I am slow' >&2; kill -9 $$"), "I am slow"),
    ];
    for (program, complaint) in cases {
        fixture.config.qemu = program.into();
        fixture.reopen().await;
        let error = fixture.hypervisor().create(&fixture.spec(1)).await.unwrap_err();
        assert!(matches!(error, Error::Backend { .. }), "{error}");
        assert!(chain(&error).contains(complaint), "{}", chain(&error));
        let all = fixture.hypervisor().instances().await.unwrap();
        let InstanceState::Stopped(ExitReason::Crashed(detail)) = &all[0].state else {
            panic!("{all:?}")
        };
        assert!(detail.contains(complaint), "{detail}");
        fixture.hypervisor().destroy(&name(1)).await.unwrap();
    }
    fixture.config.qemu = "qemu-system-x86_64".into();
    fixture.reopen().await;
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}

fn script(fixture: &Fixture, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = fixture.directory.path().join(format!("qemu-{}", text.len()));
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn kernel(kernel: PathBuf, initrd: PathBuf) -> Boot {
    Boot::Kernel { kernel, initrd, command_line: String::new() }
}

#[tokio::test]
async fn what_cannot_work_is_invalid_and_leaves_nothing() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let gone = |path: &str| fixture.directory.path().join(path);
    let mut missing = fixture.spec(1);
    missing.image.boot = kernel(gone("kernel"), gone("initrd"));
    let mut relative = fixture.spec(1);
    relative.image.boot = kernel("kernel".into(), "initrd".into());
    let mut no_processor = fixture.spec(1);
    no_processor.resources.vcpus = 0;
    let mut no_memory = fixture.spec(1);
    no_memory.resources.memory_mib = 0;
    let mut both = fixture.spec(1);
    both.resources.huge_memory_mib = 1024;
    let mut deaf = fixture.spec(1);
    deaf.user_data = Some(Secret::new(String::new()));
    let Boot::Kernel { kernel, .. } = &fixture.image.boot else { unreachable!() };
    deaf.image.boot = Boot::Disk {
        path: kernel.clone(),
        format: DiskFormat::Raw,
        user_data: UserDataDelivery::None,
    };
    for spec in [missing, relative, no_processor, no_memory, both, deaf] {
        let error = fixture.hypervisor().create(&spec).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(fixture.hypervisor().instances().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_does_not_fit_is_exhausted() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    let capacity = Resources { vcpus: 4, memory_mib: 500, disk_mib: 100, ..Default::default() };
    fixture.config.capacity = Some(capacity.clone());
    fixture.reopen().await;
    assert_eq!(fixture.hypervisor().capacity().await.unwrap(), capacity);
    let (first, second, third) = (fixture.spec(1), fixture.spec(2), fixture.spec(3));
    let hypervisor = fixture.hypervisor();
    // Three at once, and room for two.
    let all = tokio::join!(
        hypervisor.create(&first),
        hypervisor.create(&second),
        hypervisor.create(&third)
    );
    let failed: Vec<Error> = [all.0, all.1, all.2].into_iter().filter_map(Result::err).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].to_string(), "not enough memory: 192 MiB needed, 116 MiB available");
    assert_eq!(hypervisor.instances().await.unwrap().len(), 2);
    for serial in 1..=3 {
        hypervisor.destroy(&name(serial)).await.unwrap();
    }
    let mut large = fixture.spec(4);
    large.resources.disk_mib = 101;
    let error = hypervisor.create(&large).await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error}");

    fixture.config.capacity = None;
    fixture.reopen().await;
    let host = fixture.hypervisor().capacity().await.unwrap();
    assert!(host.vcpus > 0 && host.memory_mib > 0 && host.disk_mib > 0, "{host:?}");
}

#[tokio::test]
async fn a_disk_image_is_shared_and_not_written_to() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let base = fixture.directory.path().join("base, 'odd' \"name\".qcow2");
    machine_disks::overlay::create(&base, 32 << 20, None).unwrap();
    let before = fs::read(&base).unwrap();
    let disk = |serial, user_data| {
        let mut spec = spec(&fixture.image, serial);
        spec.resources.disk_mib = 64;
        spec.image.boot = Boot::Disk { path: base.clone(), format: DiskFormat::Qcow2, user_data };
        spec
    };
    for serial in [1, 2] {
        fixture.hypervisor().create(&disk(serial, UserDataDelivery::None)).await.unwrap();
    }
    let own = fixture.instance(1).join("disk.qcow2");
    assert_eq!(machine_disks::overlay::virtual_size(&own, DiskFormat::Qcow2).unwrap(), 64 << 20);
    for serial in [1, 2] {
        fixture.hypervisor().destroy(&name(serial)).await.unwrap();
    }
    assert!(fs::read(&base).unwrap() == before);

    fs::remove_file(&base).unwrap();
    let error = fixture.hypervisor().create(&disk(4, UserDataDelivery::None)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_exhausted_and_the_rest_can_be_destroyed() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    let full = fixture.directory.path().join("full");
    fs::create_dir(&full).unwrap();
    let _mount = match mount(&full) {
        Ok(mount) => mount,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    fixture.config.root = full.join("root");
    fixture.root = fixture.config.root.clone();
    fixture.reopen().await;
    let fill = fs::write(full.join("fill"), vec![1; 1 << 20]);
    assert!(fill.is_err(), "it is not full");
    let error = fixture.hypervisor().create(&fixture.spec(1)).await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{}", chain(&error));
    fs::remove_file(full.join("fill")).unwrap();
    fixture.hypervisor().instances().await.unwrap();
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    assert!(fixture.hypervisor().instances().await.unwrap().is_empty());
    fixture.close().await;
}

struct Mount<'a>(&'a Path);

fn mount(path: &Path) -> Result<Mount<'_>, String> {
    let options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs"];
    let output = Command::new("mount").args(options).arg(path).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(Mount(path)),
        false => Err("a full disk needs a mount, and that needs root".to_owned()),
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn the_accelerator_is_chosen_by_running_something() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    let scratch = fixture.directory.path();
    let qemu = Path::new("qemu-system-x86_64");
    use backend_qemu::accel::probe;
    use backend_qemu::argv::Engine;
    let tcg = probe(qemu, Engine::Tcg, scratch).await.unwrap();
    eprintln!("tcg: {tcg:?}");
    assert!(tcg.is_ok(), "{tcg:?}");
    fixture.config.accel = backend_qemu::Accel::Auto;
    fixture.reopen().await;
    eprintln!("chosen: {:?}", fixture.hypervisor().accel());
    // Whatever was chosen runs a guest.
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    fixture.ready(1).await;
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}
