//! What operators and accidents did to fleets of domains: each ends with an instance that is told of and can be
//! destroyed.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{fs, sync::Arc, time::Duration};

use common::fixture::{Fixture, name, signal, state, until};
use runner_core::{
    Error, Hypervisor, WorkerName,
    error::chain,
    hypervisor::{ExitReason, InstanceState},
};

const STOPPED_BY_HAND: InstanceState = InstanceState::Stopped(ExitReason::HostStopped);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_destroys_is_told_of_until_it_is_destroyed() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    let mut changes = hypervisor.changes();
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    fixture.libvirtd.virsh(&["destroy", "linux-1"]);
    until("it stops", async || state(&hypervisor, &name(1)).await == Some(STOPPED_BY_HAND)).await;
    changes.next().await;
    drop(hypervisor);
    let hypervisor = fixture.open().await;
    assert_eq!(state(&hypervisor, &name(1)).await, Some(STOPPED_BY_HAND));
    hypervisor.destroy(&name(1)).await.unwrap();
    assert_eq!((state(&hypervisor, &name(1)).await, fixture.files()), (None, 0));
    assert_eq!(fixture.libvirtd.virsh(&["list", "--all", "--name"]).trim(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_undefines_is_listed_as_long_as_anything_is_left() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    for n in [1, 2] {
        hypervisor.create(&fixture.spec(&name(n))).await.unwrap();
        fixture.libvirtd.virsh(&["undefine", name(n).as_str()]);
        assert_eq!(state(&hypervisor, &name(n)).await, Some(InstanceState::Running));
    }
    hypervisor.destroy(&name(1)).await.unwrap();
    fixture.libvirtd.virsh(&["destroy", "linux-2"]);
    until("it stops", async || state(&hypervisor, &name(2)).await == Some(STOPPED_BY_HAND)).await;
    assert_eq!(fixture.files(), 1);
    hypervisor.destroy(&name(2)).await.unwrap();
    assert_eq!(fixture.files(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_come_at_any_moment() {
    let Some(fixture) = Fixture::new().await else { return };
    let fixture = Arc::new(fixture);
    let hypervisor = fixture.open().await;
    for (n, millis) in [0, 20, 60, 120, 250, 400, 800].into_iter().enumerate() {
        let name = name(n as u64);
        let spec = fixture.spec(&name);
        let operator = {
            let (fixture, name) = (fixture.clone(), name.clone());
            tokio::task::spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(millis));
                for verb in ["destroy", "undefine", "destroy"] {
                    fixture.libvirtd.try_virsh(&[verb, name.as_str()]);
                }
            })
        };
        let created = hypervisor.create(&spec).await;
        operator.await.unwrap();
        // Whatever came of it, it is told of, and goes.
        let listed = hypervisor.instances().await.unwrap();
        assert_eq!(listed.len(), fixture.files(), "after {millis} ms: {created:?}, {listed:?}");
        hypervisor.destroy(&name).await.unwrap();
        assert_eq!(hypervisor.instances().await.unwrap(), []);
        assert_eq!(fixture.files(), 0, "after {millis} ms");
        let left = fixture.libvirtd.virsh(&["list", "--all", "--name"]);
        assert_eq!(left.trim(), "", "after {millis} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_that_refuses_to_die_stays_listed_until_it_dies() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    // Whoever should collect dead processes does not: to libvirt, the machine lives on.
    let status = fs::read_to_string(format!("/proc/{}/status", fixture.libvirtd.pid())).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    let parent = parent.trim().parse().unwrap();
    signal(parent, "-STOP");
    let error = hypervisor.destroy(&name(1)).await;
    // A busy daemon may be taken for a silent one for a while: blind is right then, and an empty list is not.
    let mut listed = Vec::new();
    until("the daemon can be asked", async || match hypervisor.instances().await {
        Ok(instances) => {
            listed = instances;
            true
        }
        Err(Error::Backend { .. }) => false,
        Err(other) => panic!("{}", chain(&other)),
    })
    .await;
    let files = fixture.files();
    signal(parent, "-CONT");
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{}", chain(&error));
    assert!(
        listed.iter().any(|it| it.name == name(1)),
        "it is listed until it is gone: {listed:?}"
    );
    assert_eq!(files, 1, "its disk is there until it is gone");
    until("it dies", async || hypervisor.destroy(&name(1)).await.is_ok()).await;
    assert_eq!((state(&hypervisor, &name(1)).await, fixture.files()), (None, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_with_each_others_disks_do_not_take_them_along() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    for n in [1, 2] {
        hypervisor.create(&fixture.spec(&name(n))).await.unwrap();
    }
    for (n, other) in [(1, 2), (2, 1)] {
        let document = fixture.libvirtd.virsh(&["dumpxml", "--inactive", name(n).as_str()]);
        let (own, others) = (format!("/{}/disk", name(n)), format!("/{}/disk", name(other)));
        assert!(document.contains(&own));
        fixture.libvirtd.virsh_document(&["define"], &document.replace(&own, &others));
    }
    hypervisor.destroy(&name(1)).await.unwrap();
    assert_eq!(state(&hypervisor, &name(1)).await, None);
    assert_eq!(state(&hypervisor, &name(2)).await, Some(InstanceState::Running));
    assert!(fixture.instances().join("linux-2/disk.qcow2").exists());
    assert!(!fixture.instances().join("linux-1").exists());
    hypervisor.destroy(&name(2)).await.unwrap();
    assert_eq!(fixture.files(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_names_and_copies_are_told_apart() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    let odd = WorkerName::new("linux-x7").unwrap();
    hypervisor.create(&fixture.spec(&odd)).await.unwrap();
    // A copy as an operator makes it, our mark included.
    let document = fixture.libvirtd.virsh(&["dumpxml", "--inactive", "linux-x7"]);
    let uuid = document.split("<uuid>").nth(1).unwrap().split('<').next().unwrap();
    let copy = document
        .replace("<name>linux-x7<", "<name>linux-99999999999999999999999<")
        .replace(uuid, "c7a5fdbd-edaf-9455-926a-d65c16db1809");
    fixture.libvirtd.virsh_document(&["define"], &copy);
    let listed = hypervisor.instances().await.unwrap();
    assert_eq!(listed.iter().map(|instance| &instance.name).collect::<Vec<_>>(), [&odd]);
    let copy = WorkerName::new("linux-99999999999999999999999").unwrap();
    hypervisor.destroy(&copy).await.unwrap();
    hypervisor.destroy(&odd).await.unwrap();
    let left = fixture.libvirtd.virsh(&["list", "--all", "--name"]);
    assert_eq!(left.trim(), copy.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_a_stranger_has_is_refused_and_the_stranger_left_alone() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    fixture.libvirtd.virsh_document(
        &["define"],
        "<domain type='qemu'><name>linux-1</name><memory unit='MiB'>16</memory>\
         <os><type arch='x86_64'>hvm</type></os></domain>",
    );
    let before = fixture.libvirtd.virsh(&["dumpxml", "linux-1"]);
    let error = hypervisor.create(&fixture.spec(&name(1))).await.unwrap_err();
    assert!(error.is_busy() && error.to_string().contains("undefine or rename"), "{error}");
    hypervisor.destroy(&name(1)).await.unwrap();
    assert_eq!(fixture.libvirtd.virsh(&["dumpxml", "linux-1"]), before);
    assert_eq!((hypervisor.instances().await.unwrap(), fixture.files()), (vec![], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stranger_keeps_in_their_metadata_hides_nothing() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
    fixture.libvirtd.virsh_document(
        &["define"],
        &format!(
            "<domain type='qemu'><name>deep</name><memory unit='MiB'>16</memory>\
             <metadata><x:all xmlns:x='urn:theirs'>{deep}</x:all></metadata>\
             <os><type arch='x86_64'>hvm</type></os></domain>"
        ),
    );
    assert_eq!(state(&hypervisor, &name(1)).await, Some(InstanceState::Running));
    hypervisor.destroy(&name(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_has_no_say_in_how_much_memory_an_instance_takes() {
    let Some(mut fixture) = Fixture::new().await else { return };
    let profiles = fixture.directory.path().join("profiles");
    fs::create_dir_all(profiles.join("linux")).unwrap();
    let template = "<domain><maxMemory slots='4' unit='GiB'>8</maxMemory>\
        <os><type arch='x86_64' machine='q35'>hvm</type></os>\
        <numatune><memnode cellid='0' mode='preferred' nodeset='0'/></numatune>\
        <cpu mode='maximum'><numa><cell id='0' cpus='0' memory='1' unit='GiB'/></numa></cpu>\
        <devices><memory model='dimm'><target><size unit='GiB'>1</size><node>0</node></target>\
        </memory></devices></domain>";
    fs::write(profiles.join("linux/guest.xml"), template).unwrap();
    fixture.config.profiles = Some(profiles);
    let hypervisor = fixture.open().await;
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    let about = fixture.libvirtd.virsh(&["dominfo", "linux-1"]);
    let memory = about.lines().find(|line| line.starts_with("Max memory:")).unwrap();
    assert_eq!(memory.split_whitespace().nth(2), Some("196608"), "{about}");
    hypervisor.destroy(&name(1)).await.unwrap();
}
