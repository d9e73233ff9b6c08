//! Instances from their creation to their destruction, on real QEMU.

mod common;

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use common::{Fixture, name, sh, until};
use futures::{StreamExt, TryStreamExt};
use runner_core::{
    Error, Hypervisor, ProcessId, Secret,
    guest::{Command, Cursor, ExitStatus},
    hypervisor::{ExitReason, InstanceState},
};

async fn state(fixture: &Fixture, serial: u64) -> Option<InstanceState> {
    let all = fixture.hypervisor().instances().await.unwrap();
    all.into_iter().find(|instance| instance.name == name(serial)).map(|instance| instance.state)
}

async fn stopped(fixture: &Fixture, serial: u64) -> ExitReason {
    let mut reason = None;
    until("it stops", async || match state(fixture, serial).await.unwrap() {
        InstanceState::Running => false,
        InstanceState::Stopped(why) => {
            reason = Some(why);
            true
        }
    })
    .await;
    reason.unwrap()
}

async fn console(fixture: &Fixture, serial: u64, follow: bool) -> String {
    let console = fixture.hypervisor().console(&name(serial), follow).await.unwrap();
    let pieces: Vec<_> = console.try_collect().await.unwrap();
    String::from_utf8_lossy(&pieces.concat()).into_owned()
}

#[tokio::test]
async fn qemu_inherits_nothing_of_our_environment_that_is_not_named() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    let names = |pid: &str| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environ = String::from_utf8(environ).unwrap();
        let names = environ.split_terminator('\0').map(|entry| entry.split('=').next().unwrap());
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let allowed = BTreeSet::from(["HOME", "LANG", "PATH", "TMPDIR"].map(str::to_owned));
    assert!(!names("self").is_subset(&allowed), "it could not be told");
    let its = names(&fixture.pid(1).to_string());
    assert!(its.is_subset(&allowed) && its.contains("PATH"), "{its:?}");
}

#[tokio::test]
async fn a_life() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    let mut spec = fixture.spec(1);
    spec.user_data = Some(Secret::new("a secret, \"quoted\"\n".to_owned()));
    spec.resources.disk_mib = 64;
    let mut changes = fixture.hypervisor().changes();

    let start = Instant::now();
    let made = fixture.hypervisor().create(&spec).await.unwrap();
    let created = start.elapsed();
    assert_eq!(made.state, InstanceState::Running);
    let heard = tokio::time::timeout(Duration::from_secs(1), changes.next()).await;
    heard.expect("a hint of the creation");
    let again = fixture.hypervisor().create(&spec).await.unwrap();
    assert_eq!(again, made);
    assert_eq!(fixture.hypervisor().instances().await.unwrap(), [made]);

    let guest = fixture.ready(1).await;
    let ready = start.elapsed();
    let at = Instant::now();
    let (code, text) = sh(&*guest, "hello", "echo hello; exit 3").await;
    let first_exec = at.elapsed();
    assert_eq!((code, &*text), (3, "hello\n"));
    let at = Instant::now();
    for n in 0..10 {
        sh(&*guest, &format!("many-{n}"), "true").await;
    }
    eprintln!(
        "create {created:?}, ready {ready:?}, first exec {first_exec:?}, later {:?}",
        at.elapsed() / 10
    );

    // Files.
    let big: Vec<u8> = (0..700_000u32).map(|n| (n * 31 % 253) as u8).collect();
    guest.write_file("/tmp/deep/file", &big, 0o600).await.unwrap();
    assert!(guest.read_file("/tmp/deep/file", 0, usize::MAX).await.unwrap() == big);
    let (_, text) = sh(&*guest, "mode", "stat -c %a /tmp/deep/file").await;
    assert_eq!(text, "600\n");
    let full = guest.write_file("/mnt/small/file", b"x", 0o600).await;
    full.unwrap();
    sh(&*guest, "small", "mkdir -p /mnt/s; mount -t tmpfs -o size=64k s /mnt/s").await;
    let full = guest.write_file("/mnt/s/file", &big, 0o600).await;
    assert!(matches!(full, Err(Error::Exhausted { .. })), "{full:?}");

    // User data, the disk, and no secret where it can be seen.
    let path = "/sys/firmware/qemu_fw_cfg/by_name/opt/runner/user-data/raw";
    assert_eq!(&*guest.read_file(path, 0, 100).await.unwrap(), b"a secret, \"quoted\"\n");
    let (_, text) = sh(&*guest, "disk", "cat /sys/block/vda/size").await;
    assert_eq!(text, format!("{}\n", 64 * 2048));
    let command = std::fs::read(format!("/proc/{}/cmdline", fixture.pid(1))).unwrap();
    assert!(!String::from_utf8_lossy(&command).contains("secret"));
    for file in std::fs::read_dir(fixture.instance(1)).unwrap() {
        let (path, mode) = {
            let f = file.unwrap();
            (f.path(), f.metadata().unwrap().permissions().mode())
        };
        assert!(
            mode & 0o077 == 0 || path.ends_with("qmp") || path.ends_with("agent"),
            "{path:?} {mode:o}"
        );
    }

    // What it shows.
    let picture = fixture.hypervisor().screenshot(&name(1)).await.unwrap().0;
    assert!(picture.starts_with(b"\x89PNG"), "{} bytes", picture.len());
    assert!(console(&fixture, 1, false).await.contains("runner: starting the guest agent"));

    // A process outlives us, and so does the instance.
    let id = ProcessId::new("long").unwrap();
    let long = Command::new(["/bin/sh", "-c", "echo one; sleep 1; echo two; exit 4"]);
    guest.spawn(&id, &long).await.unwrap();
    fixture.reopen().await;
    let closed = guest.running().await.unwrap_err();
    assert!(!closed.is_not_found(), "the instance lives: {closed}");
    assert_eq!(state(&fixture, 1).await, Some(InstanceState::Running));
    let guest = fixture.ready(1).await;
    assert_eq!(guest.running().await.unwrap(), std::slice::from_ref(&id));
    let (mut cursor, mut text) = (Cursor::default(), Vec::new());
    let exit = loop {
        let news = guest.follow(&id, cursor, Duration::from_secs(5)).await.unwrap();
        cursor = news.advance(cursor);
        text.extend_from_slice(&news.stdout);
        if let Some(exit) = news.exit {
            break exit;
        }
    };
    assert_eq!((exit, &*text), (ExitStatus::Code(4), &b"one\ntwo\n"[..]));
    assert!(fixture.hypervisor().screenshot(&name(1)).await.unwrap().0.starts_with(b"\x89PNG"));

    // The end, with a call under way and a follower.
    let follower = fixture.hypervisor().console(&name(1), true).await.unwrap();
    let pending = tokio::spawn({
        let (guest, id) = (guest.clone(), ProcessId::new("sleep").unwrap());
        async move {
            guest.spawn(&id, &Command::new(["sleep", "1000"])).await?;
            guest.follow(&id, Cursor::default(), Duration::from_secs(60)).await
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let pid = fixture.pid(1);
    let at = Instant::now();
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    eprintln!("destroy {:?}", at.elapsed());
    let error = tokio::time::timeout(Duration::from_secs(3), pending).await.unwrap().unwrap();
    let error = error.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("linux-1"), "{error}");
    assert!(guest.ready().await.unwrap_err().is_not_found());
    tokio::time::timeout(Duration::from_secs(3), follower.collect::<Vec<_>>()).await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists());
    assert_eq!(std::fs::read_dir(fixture.root.join("instances")).unwrap().count(), 0);
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    assert!(fixture.hypervisor().guest(&name(1)).await.err().unwrap().is_not_found());
    assert!(fixture.hypervisor().console(&name(1), false).await.err().unwrap().is_not_found());
    assert!(fixture.hypervisor().screenshot(&name(1)).await.err().unwrap().is_not_found());
}

#[tokio::test]
async fn why_it_stopped_is_told() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    let cases = [
        ("poweroff -f", ExitReason::GuestShutdown),
        ("reboot -f", ExitReason::GuestReset),
        ("echo c >/proc/sysrq-trigger", ExitReason::GuestPanic),
    ];
    for serial in 1..=3 {
        fixture.hypervisor().create(&fixture.spec(serial)).await.unwrap();
    }
    for (serial, (script, reason)) in (1..).zip(cases) {
        let guest = fixture.ready(serial).await;
        let mut changes = fixture.hypervisor().changes();
        // The driver that tells of a panic is loaded soon after the agent answers.
        let settled = "until [ -e /run/settled ]; do sleep 0.05; done";
        let command = Command::new(["/bin/sh", "-c", &format!("{settled}; {script}")]);
        let _ = guest.spawn(&ProcessId::new("end").unwrap(), &command).await;
        tokio::time::timeout(Duration::from_secs(60), changes.next()).await.unwrap();
        assert_eq!(stopped(&fixture, serial).await, reason, "{script}");
        assert!(fixture.hypervisor().guest(&name(serial)).await.err().unwrap().is_not_found());
        assert!(guest.running().await.unwrap_err().is_not_found());
        let text = tokio::time::timeout(Duration::from_secs(5), console(&fixture, serial, true));
        assert!(text.await.unwrap().contains("runner: starting the guest agent"));
        fixture.hypervisor().destroy(&name(serial)).await.unwrap();
    }
    assert!(fixture.hypervisor().instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_qemu_that_is_killed_crashed() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    let guest = fixture.hypervisor().guest(&name(1)).await.unwrap();
    let waiting = tokio::spawn(async move { guest.ready().await });
    let mut changes = fixture.hypervisor().changes();
    let at = Instant::now();
    fixture.signal(1, "-KILL");
    tokio::time::timeout(Duration::from_secs(3), changes.next()).await.unwrap();
    let reason = stopped(&fixture, 1).await;
    eprintln!("noticed after {:?}", at.elapsed());
    let ExitReason::Crashed(detail) = &reason else { panic!("{reason:?}") };
    assert!(detail.contains("signal 9"), "{detail}");
    assert!(waiting.await.unwrap().unwrap_err().is_not_found());

    // A successor reads the same.
    fixture.reopen().await;
    assert_eq!(stopped(&fixture, 1).await, reason);
    let again = fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    assert_eq!(again.state, InstanceState::Stopped(reason), "what is there is returned");
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    let fresh = fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    assert_eq!(fresh.state, InstanceState::Running);

    // Ended by hand.
    fixture.signal(1, "-TERM");
    assert_eq!(stopped(&fixture, 1).await, ExitReason::HostStopped);

    // Ended while nobody looked.
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    fixture.close().await;
    fixture.signal(1, "-KILL");
    tokio::time::sleep(Duration::from_millis(200)).await;
    fixture.reopen().await;
    assert_eq!(stopped(&fixture, 1).await, ExitReason::Unknown);
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}

#[tokio::test]
async fn a_hung_qemu_is_destroyed() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    fixture.signal(1, "-STOP");
    assert_eq!(state(&fixture, 1).await, Some(InstanceState::Running));
    let at = Instant::now();
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    assert!(at.elapsed() < Duration::from_secs(5), "{:?}", at.elapsed());
    assert_eq!(state(&fixture, 1).await, None);
}

#[tokio::test]
async fn an_instance_that_was_tampered_with_is_destroyed() {
    let Some(mut fixture) = Fixture::new().await else {
        return;
    };
    for (serial, missing) in
        [(1, &["pid"][..]), (2, &["lock", "qmp", "agent"]), (3, &["pid", "lock"])]
    {
        fixture.hypervisor().create(&fixture.spec(serial)).await.unwrap();
        let pid = fixture.pid(serial);
        for file in missing {
            std::fs::remove_file(fixture.instance(serial).join(file)).unwrap();
        }
        if serial != 1 {
            // Someone who never talked to it has a harder time.
            fixture.reopen().await;
        }
        assert_eq!(state(&fixture, serial).await, Some(InstanceState::Running), "{missing:?}");
        fixture.hypervisor().destroy(&name(serial)).await.unwrap();
        assert_eq!(state(&fixture, serial).await, None);
        assert!(!std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists(), "{missing:?}");
    }
}

#[tokio::test]
async fn odd_and_long_paths_are_fine() {
    let odd = format!("a, 'b' \"c\"=d/{}/{}", "long".repeat(40), "longer".repeat(30));
    let Some(mut fixture) = Fixture::in_subdirectory(&odd).await else {
        return;
    };
    let mut spec = fixture.spec(1);
    if let runner_core::image::Boot::Kernel { kernel, initrd, .. } = &mut spec.image.boot {
        let odd = fixture.directory.path().join("im,age 'x' \"y\"");
        std::fs::create_dir(&odd).unwrap();
        std::fs::copy(&*kernel, odd.join("ker,nel")).unwrap();
        std::fs::copy(&*initrd, odd.join("init,rd")).unwrap();
        (*kernel, *initrd) = (odd.join("ker,nel"), odd.join("init,rd"));
    }
    fixture.hypervisor().create(&spec).await.unwrap();
    fixture.reopen().await;
    let guest = fixture.ready(1).await;
    assert_eq!(sh(&*guest, "a", "echo hello").await, (0, "hello\n".to_owned()));
    assert!(fixture.hypervisor().screenshot(&name(1)).await.is_ok());
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
}

#[tokio::test]
async fn creations_that_are_dropped_are_listed_or_not_there() {
    let Some(fixture) = Fixture::new().await else {
        return;
    };
    for micros in [0, 100, 500, 2000, 8000, 20_000, 50_000] {
        let spec = fixture.spec(1);
        let create = fixture.hypervisor().create(&spec);
        let _ = tokio::time::timeout(Duration::from_micros(micros), create).await;
        fixture.hypervisor().destroy(&name(1)).await.unwrap();
        assert_eq!(state(&fixture, 1).await, None, "after {micros} µs");
    }
    let left = std::fs::read_dir(fixture.root.join("instances")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_console_that_is_written_for_ever_takes_little_space() {
    use std::os::unix::fs::MetadataExt;

    let Some(fixture) = Fixture::new().await else {
        return;
    };
    fixture.hypervisor().create(&fixture.spec(1)).await.unwrap();
    let guest = fixture.ready(1).await;
    let follower = fixture.hypervisor().console(&name(1), true).await.unwrap();
    let follower = tokio::spawn(follower.try_fold(0, async |sum, piece| Ok(sum + piece.len())));
    // Writing to the serial port of an emulated machine is slow; what QEMU does is the same.
    let path = fixture.instance(1).join("console.log");
    let mut writer = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    for _ in 0..40 {
        std::io::Write::write_all(&mut writer, &[b'x'; 100_000]).unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    sh(&*guest, "a", "echo the last line >/dev/console").await;
    until("the space is given back", async || {
        std::fs::metadata(&path).unwrap().blocks() * 512 < 2_200_000
    })
    .await;
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size > 4_000_000, "QEMU appends, whatever is cut");
    let kept = console(&fixture, 1, false).await;
    assert!(kept.ends_with("the last line\r\n") || kept.ends_with("the last line\n"));
    assert!(kept.len() <= 1 << 20);
    fixture.hypervisor().destroy(&name(1)).await.unwrap();
    let followed = follower.await.unwrap().unwrap();
    assert!(followed >= 4_000_000, "{followed}");
}
