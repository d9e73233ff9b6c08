//! Disks and records in a pool of libvirt's, as on a host that is not this one.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use backend_libvirt::{LibvirtConfig, LibvirtHypervisor, StorageConfig, Virt};
use common::{
    guest::{sh, until},
    libvirtd::Libvirtd,
    micro,
};
use futures::TryStreamExt;
use runner_core::{
    Hypervisor, ImageId, OwnerId, ProcessId, Resources, Secret, WorkerName, guest,
    hypervisor::{ExitReason, InstanceSpec, InstanceState, Network},
    image::{Boot, DiskFormat, Image, UserDataDelivery},
};

const POOL: &str = "runners";

struct Fixture {
    libvirtd: Libvirtd,
    config: LibvirtConfig,
    image: Image,
}

impl Fixture {
    async fn new() -> Option<Self> {
        let libvirtd = Libvirtd::start()?;
        let image = micro::image().await?;
        let config = config(&libvirtd, "us");
        Some(Self { libvirtd, config, image })
    }

    async fn open(&self) -> Arc<LibvirtHypervisor> {
        Arc::new(LibvirtHypervisor::open(self.config.clone()).await.unwrap())
    }

    fn spec(&self, serial: u64) -> InstanceSpec {
        let profile = self.image.recipe.profile.clone();
        InstanceSpec {
            name: WorkerName::of(&profile, serial),
            profile,
            image: self.image.clone(),
            resources: Resources { vcpus: 1, memory_mib: 192, disk_mib: 8, ..Default::default() },
            network: Network::Restricted,
            user_data: Some(Secret::new("told".to_owned())),
        }
    }

    fn directory(&self) -> PathBuf {
        self.libvirtd.directory().join("pool")
    }

    /// What lies in the pool, by name, with its length.
    fn files(&self) -> BTreeMap<String, u64> {
        let files = fs::read_dir(self.directory()).unwrap().flatten();
        files
            .map(|file| {
                let name = file.file_name().into_string().unwrap();
                (name, file.metadata().unwrap().len())
            })
            .collect()
    }

    /// The name of the one file of ours that ends like this.
    fn file(&self, end: &str) -> String {
        let files = self.files();
        let mut files = files.keys().filter(|name| name.ends_with(end));
        let file = files.next().unwrap_or_else(|| panic!("no {end}"));
        assert_eq!(files.next(), None);
        file.clone()
    }
}

fn config(libvirtd: &Libvirtd, owner: &str) -> LibvirtConfig {
    let owner = OwnerId::new(owner).unwrap();
    let mut config = LibvirtConfig::new(libvirtd.uri.clone(), owner, "/nowhere");
    config.virt = Virt::Qemu;
    let directory = libvirtd.directory().join("pool");
    config.storage = StorageConfig::Pool { name: POOL.to_owned(), make: Some(directory) };
    config
}

#[tokio::test]
async fn an_instance_lives_and_dies_in_a_pool() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    let spec = fixture.spec(1);
    hypervisor.prepare(&fixture.image).await.unwrap();
    let prepared = fixture.files();
    assert_eq!(prepared.len(), 3, "{prepared:?}");
    hypervisor.create(&spec).await.unwrap();
    let running = fixture.files();
    for file in ["record", "disk.qcow2", "user-data", "console.log"] {
        assert!(running.contains_key(&fixture.file(&format!(".linux-1.{file}"))));
    }
    // Uploaded once.
    assert!(prepared.iter().all(|(name, length)| running[name] == *length));
    assert_eq!(running.len(), 7);

    let guest = hypervisor.guest(&spec.name).await.unwrap();
    guest.ready().await.unwrap();
    let script = "cat /run/user-data; grep -c /work /proc/mounts; echo said >/dev/ttyS0";
    assert_eq!(sh(&*guest, "a", script).await, (0, "told1\n".to_owned()));
    let mut said = String::new();
    while !said.contains("said") {
        let console = hypervisor.console(&spec.name, false).await.unwrap();
        let pieces: Vec<_> = console.try_collect().await.unwrap();
        said = String::from_utf8_lossy(&pieces.concat()).into_owned();
    }
    drop(hypervisor);

    let hypervisor = fixture.open().await;
    let listed = hypervisor.instances().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].name, &listed[0].state), (&spec.name, &InstanceState::Running));
    assert_eq!(listed[0].resources, spec.resources);
    hypervisor.destroy(&spec.name).await.unwrap();
    hypervisor.destroy(&spec.name).await.unwrap();
    assert!(hypervisor.instances().await.unwrap().is_empty());
    assert_eq!(fixture.files(), prepared);
}

#[tokio::test]
async fn a_disk_is_an_overlay_of_an_uploaded_copy_with_a_seed_beside_it() {
    let Some(mut fixture) = Fixture::new().await else { return };
    let path = fixture.libvirtd.directory().join("image.raw");
    let content: Vec<u8> = (0..3u32 << 20).map(|n| (n % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    fixture.image.boot = Boot::Disk {
        path: path.clone(),
        format: DiskFormat::Raw,
        user_data: UserDataDelivery::NoCloud,
    };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(1)).await.unwrap();
    let copy = fixture.directory().join(fixture.file(".image"));
    assert!(fs::read(&copy).unwrap() == content, "the copy differs");
    let disk = fixture.directory().join(fixture.file("linux-1.disk.qcow2"));
    let size = machine_disks::overlay::virtual_size(&disk, DiskFormat::Qcow2).unwrap();
    assert_eq!(size, 8 << 20);
    let seed = fs::read(fixture.directory().join(fixture.file("linux-1.seed.img"))).unwrap();
    assert!(seed.windows(4).any(|part| part == b"told"));
    hypervisor.destroy(&fixture.spec(1).name).await.unwrap();
    assert!(fs::read(&copy).unwrap() == content, "it wrote to the image");
}

#[tokio::test]
async fn what_was_cut_short_is_swept_and_what_is_someone_elses_stays() {
    let Some(mut fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(1)).await.unwrap();
    let other = LibvirtHypervisor::open(config(&fixture.libvirtd, "them")).await.unwrap();
    other.create(&fixture.spec(2)).await.unwrap();
    let before = fixture.files();
    hypervisor.create(&fixture.spec(3)).await.unwrap();
    fixture.image.id = ImageId::new("linux.2").unwrap();
    hypervisor.prepare(&fixture.image).await.unwrap();
    drop((hypervisor, other));

    // A record without content, and a copy of an image that did not come to its end.
    fixture.libvirtd.virsh(&["destroy", "linux-3"]);
    fixture.libvirtd.virsh(&["undefine", "linux-3"]);
    for name in fixture.files().into_keys().filter(|name| !before.contains_key(name)) {
        let path = fixture.directory().join(&name);
        match name.ends_with(".record") {
            true => fs::write(path, "").unwrap(),
            false if name.contains("linux-3.") || name.ends_with(".whole") => {
                fs::remove_file(path).unwrap();
            }
            false => {}
        }
    }
    assert_eq!(fixture.files().len(), before.len() + 3);
    // Nobody's, or named like ours.
    let record = fixture.file("linux-1.record");
    let alike = [
        "notes.txt".to_owned(),
        "linux-4.record".to_owned(),
        "runner.us.linux-4.record".to_owned(),
        record.replace("linux-1", "linux-4"),
        record.replace(".us.", ".them."),
    ];
    for name in &alike {
        fs::write(fixture.directory().join(name), "theirs").unwrap();
    }

    let hypervisor = fixture.open().await;
    let names: Vec<_> =
        hypervisor.instances().await.unwrap().into_iter().map(|instance| instance.name).collect();
    assert_eq!(names, [fixture.spec(1).name]);
    let mut expected: Vec<String> = before.keys().chain(&alike).cloned().collect();
    expected.sort();
    assert_eq!(fixture.files().into_keys().collect::<Vec<_>>(), expected);
    hypervisor.destroy(&fixture.spec(1).name).await.unwrap();
    let left = fixture.files();
    let gone: Vec<_> = expected.iter().filter(|name| !left.contains_key(*name)).collect();
    assert_eq!(gone.len(), 4, "{gone:?}");
    assert!(gone.iter().all(|name| name.contains("runner.us.") && name.contains("linux-1.")));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_no_instance_that_is_gone() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(1)).await.unwrap();
    drop(hypervisor);
    let record = fixture.file("linux-1.record");
    fs::write(fixture.directory().join(&record), "{ not json").unwrap();
    let error = LibvirtHypervisor::open(fixture.config.clone()).await.err().unwrap();
    let shown = runner_core::error::chain(&error);
    assert!(shown.contains("the record of linux-1"), "{shown}");
    assert!(shown.contains("virsh vol-delete"), "{shown}");
    assert!(fixture.files().keys().any(|name| name.ends_with("linux-1.disk.qcow2")));
}

#[tokio::test]
async fn the_copy_of_an_image_goes_when_another_comes_and_nobody_has_it() {
    let Some(mut fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    hypervisor.prepare(&fixture.image).await.unwrap();
    let first = fixture.files();
    hypervisor.create(&fixture.spec(1)).await.unwrap();
    let newer = |fixture: &mut Fixture, id: &str| {
        fixture.image.id = ImageId::new(id).unwrap();
    };
    newer(&mut fixture, "linux.2");
    hypervisor.prepare(&fixture.image).await.unwrap();
    assert!(first.keys().all(|name| fixture.files().contains_key(name)), "it is in use");
    hypervisor.destroy(&fixture.spec(1).name).await.unwrap();
    newer(&mut fixture, "linux.3");
    hypervisor.prepare(&fixture.image).await.unwrap();
    let left = fixture.files();
    assert!(first.keys().all(|name| !left.contains_key(name)), "{left:?}");
    assert_eq!(left.len(), 3, "{left:?}");
}

#[tokio::test]
async fn why_an_instance_ended_is_kept_in_the_pool() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    let spec = fixture.spec(1);
    hypervisor.create(&spec).await.unwrap();
    let guest = hypervisor.guest(&spec.name).await.unwrap();
    guest.ready().await.unwrap();
    let off = guest::Command::new(["poweroff", "-f"]);
    // Nobody is left to say how it went.
    let _ = guest.spawn(&ProcessId::new("off").unwrap(), &off).await;
    let ended = InstanceState::Stopped(ExitReason::GuestShutdown);
    until("it is seen to end", async || hypervisor.instances().await.unwrap()[0].state == ended)
        .await;
    drop(hypervisor);
    let hypervisor = fixture.open().await;
    assert_eq!(hypervisor.instances().await.unwrap()[0].state, ended);
    hypervisor.destroy(&spec.name).await.unwrap();
    assert!(!fixture.files().keys().any(|name| name.contains("linux-1.")));
}

#[tokio::test]
async fn the_many_volumes_of_others_hide_none_of_ours() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    let spec = fixture.spec(1);
    hypervisor.create(&spec).await.unwrap();
    drop(hypervisor);
    // Nothing but its record shows that it was.
    fixture.libvirtd.virsh(&["destroy", "linux-1"]);
    fixture.libvirtd.virsh(&["undefine", "linux-1"]);
    for file in fixture.files().into_keys().filter(|file| !file.ends_with(".record")) {
        fs::remove_file(fixture.directory().join(file)).unwrap();
    }
    for other in 0..10_000 {
        fs::write(fixture.directory().join(format!("other-{other}")), "").unwrap();
    }
    fixture.libvirtd.virsh(&["pool-refresh", POOL]);
    let listed = fixture.open().await.instances().await.unwrap();
    let names: Vec<_> = listed.into_iter().map(|instance| instance.name).collect();
    assert_eq!(names, [spec.name]);
}

#[tokio::test]
async fn a_pool_that_someone_stopped_is_started_again() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    let spec = fixture.spec(1);
    hypervisor.create(&spec).await.unwrap();
    fixture.libvirtd.virsh(&["pool-destroy", POOL]);
    let listed = hypervisor.instances().await.unwrap();
    assert_eq!((listed.len(), &listed[0].state), (1, &InstanceState::Running));
    fixture.libvirtd.virsh(&["pool-destroy", POOL]);
    hypervisor.destroy(&spec.name).await.unwrap();
    assert!(!fixture.files().keys().any(|name| name.contains("linux-1.")));
}

#[tokio::test]
async fn what_a_guest_fills_is_taken_from_the_room_once() {
    // A file system that nobody else fills.
    let mount = "mkdir -p \"$directory/pool\"; mount -t tmpfs -o size=4g none \"$directory/pool\"";
    let prepare = |directory: &Path| fs::write(directory.join("inside"), mount).unwrap();
    let Some(libvirtd) = Libvirtd::start_with(prepare, &[]) else { return };
    let Some(image) = micro::image().await else { return };
    let config = config(&libvirtd, "us");
    let fixture = Fixture { libvirtd, config, image };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(1)).await.unwrap();
    let room = async || hypervisor.capacity().await.unwrap().disk_mib;
    let before = room().await;
    let root = PathBuf::from(format!("/proc/{}/root", fixture.libvirtd.pid()));
    let directory = root.join(fixture.directory().strip_prefix("/").unwrap());
    let fill = |name: &str, mib: usize| {
        let file = fs::OpenOptions::new().append(true).create(true).open(directory.join(name));
        file.unwrap().write_all(&vec![1; mib << 20]).unwrap();
    };
    let ours = fs::read_dir(&directory).unwrap().flatten().map(|file| file.file_name());
    let disk = ours.into_iter().find(|name| name.to_string_lossy().ends_with(".disk.qcow2"));
    fill(disk.unwrap().to_str().unwrap(), 512);
    let grown = room().await;
    assert!(grown.abs_diff(before) < 16, "{before} MiB, then {grown} MiB");
    // What others fill is no room for ours.
    fill("theirs", 512);
    let shared = room().await;
    assert!(shared.abs_diff(before - 512) < 16, "{before} MiB, then {shared} MiB");
}
