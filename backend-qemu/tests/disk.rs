//! Images that are disks: booted by the firmware, shared, never written to, and told their user data.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use common::{Fixture, name, until};
use futures::TryStreamExt;
use runner_core::{
    Error, Hypervisor, Secret,
    hypervisor::{InstanceSpec, InstanceState},
    image::{Boot, DiskFormat, UserDataDelivery},
};

const GREETING: &str = "hello from a disk\r\n";

/// A boot sector that says [`GREETING`] on the serial port, writes itself to the sector after it, says so
/// with a dot, and halts.
fn boot_sector() -> Vec<u8> {
    let say = [
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0x8e, 0xc0, // mov es, ax
        0xbe, 0x40, 0x7c, // mov si, greeting
        0xba, 0xf8, 0x03, // mov dx, the first serial port
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz written
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
    ];
    let write = [
        0xb8, 0x01, 0x03, // mov ax, "write a sector"
        0xbb, 0x00, 0x7c, // mov bx, this one
        0xb9, 0x02, 0x00, // mov cx, to cylinder 0, sector 2
        0xba, 0x80, 0x00, // mov dx, head 0 of the first disk
        0xcd, 0x13, // int the firmware's disk service
        0x72, 0x06, // jc halt
        0xba, 0xf8, 0x03, // mov dx, the first serial port
        0xb0, b'.', // mov al, a dot
        0xee, // out dx, al
        0xfa, // halt: cli
        0xf4, // hlt
        0xeb, 0xfc, // jmp halt
    ];
    let mut sector = [&say[..], &write].concat();
    assert!(sector.len() <= 0x40);
    sector.resize(0x40, 0);
    sector.extend(GREETING.as_bytes());
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// A raw disk of 2 MiB that boots, and a specification that boots it.
fn bootable(fixture: &Fixture) -> (PathBuf, InstanceSpec) {
    let path = fixture.directory.path().join("a, 'b' \"disk\".raw");
    let mut disk = boot_sector();
    disk.resize(2 << 20, 0);
    fs::write(&path, disk).unwrap();
    let mut spec = fixture.spec(1);
    spec.resources.disk_mib = 4;
    spec.image.boot = Boot::Disk {
        path: path.clone(),
        format: DiskFormat::Raw,
        user_data: UserDataDelivery::NoCloud,
    };
    (path, spec)
}

async fn console(fixture: &Fixture) -> String {
    let console = fixture.hypervisor().console(&name(1), false).await.unwrap();
    let pieces: Vec<_> = console.try_collect().await.unwrap();
    String::from_utf8_lossy(&pieces.concat()).into_owned()
}

#[tokio::test]
async fn a_disk_boots_with_its_seed_beside_it() {
    let Some(fixture) = Fixture::new().await else { return };
    let (path, mut spec) = bootable(&fixture);
    spec.user_data = Some(Secret::new("#cloud-config\n# a secret\n".to_owned()));
    let before = fs::read(&path).unwrap();
    fixture.hypervisor().create(&spec).await.unwrap();
    let end = format!("{GREETING}.");
    until("it boots and writes", async || console(&fixture).await.contains(&end)).await;
    assert!(fs::read(&path).unwrap() == before, "it wrote to the image");

    let (own, seed) =
        (fixture.instance(1).join("disk.qcow2"), fixture.instance(1).join("seed.img"));
    assert_eq!(machine_disks::overlay::virtual_size(&own, DiskFormat::Qcow2).unwrap(), 4 << 20);
    assert_eq!(fs::metadata(&seed).unwrap().permissions().mode() & 0o777, 0o600);
    let content = fs::read(&seed).unwrap();
    let holds = |text: &str| content.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("CIDATA") && holds("# a secret") && holds("local-hostname: \"linux-1\""));
    let open = fs::read_dir(format!("/proc/{}/fd", fixture.pid(1))).unwrap().flatten();
    let mut open = open.filter_map(|file| fs::read_link(file.path()).ok());
    assert!(open.any(|file| file.ends_with("seed.img")), "nothing has the seed open");
    let argv = fs::read_to_string(fixture.instance(1).join("argv")).unwrap();
    assert!(argv.contains(r#""filename":"seed.img""#), "{argv}");
    assert!(!argv.contains("secret"), "{argv}");

    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    assert!(!fixture.instance(1).exists());
}

#[tokio::test]
async fn a_disk_that_does_not_fit_is_refused_with_both_numbers() {
    let Some(fixture) = Fixture::new().await else { return };
    let (path, mut spec) = bootable(&fixture);
    for (disk_mib, bytes) in [(0, 2 << 20), (1, 2 << 20), (2, (2 << 20) + 1)] {
        fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        spec.resources.disk_mib = disk_mib;
        let error = fixture.hypervisor().create(&spec).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let needed = bytes.div_ceil(1 << 20);
        let numbers = format!("has {needed} MiB, and it may fill {disk_mib} MiB");
        assert!(error.to_string().contains(&numbers), "{error}");
    }
    assert!(fixture.hypervisor().instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_seed_that_cannot_be_made_leaves_nothing() {
    let Some(fixture) = Fixture::new().await else { return };
    let (_, mut spec) = bootable(&fixture);
    spec.user_data = Some(Secret::new("x".repeat((1 << 20) + 1)));
    let error = fixture.hypervisor().create(&spec).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(fixture.hypervisor().instances().await.unwrap().is_empty());
    assert_eq!(fs::read_dir(fixture.root.join("instances")).unwrap().count(), 0);
    spec.user_data = None;
    let instance = fixture.hypervisor().create(&spec).await.unwrap();
    assert_eq!(instance.state, InstanceState::Running);
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}
