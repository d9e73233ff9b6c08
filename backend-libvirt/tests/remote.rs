//! A daemon on another host, which here is one in another network namespace, reached over TLS, with its volumes in a
//! file system that we do not see.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{fs, net::IpAddr, path::Path};

use backend_libvirt::{LibvirtHypervisor, LibvirtUri, StorageConfig};
use common::{
    fixture::{Fixture, name, ready, state, until},
    guest::sh,
    libvirtd::Libvirtd,
    parts,
};
use futures::StreamExt;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use runner_core::{
    Error, Hypervisor, ProcessId,
    error::chain,
    guest::{Command, ExitStatus, exec},
    hypervisor::InstanceState,
};

/// Where the daemon keeps its volumes, below its directory: a file system of its own, mounted where only it sees it.
const FAR: &str = "far";

/// One authority, and what it certifies for the daemon at `address` and for its client, as libvirt names the files.
fn certify(address: IpAddr, directory: &Path) {
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut authority = named("authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let authority = CertifiedIssuer::self_signed(authority, key).unwrap();
    write("cacert.pem", &authority.pem());
    for (role, purpose) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = named(role);
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        write(&format!("{role}cert.pem"), &certificate.pem());
        write(&format!("{role}key.pem"), &key.serialize_pem());
    }
}

/// A daemon at an address of its own, and the URI to get there.
fn start() -> Option<(Libvirtd, LibvirtUri)> {
    if !parts::has("ip") && std::process::Command::new("ip").arg("-V").output().is_err() {
        parts::skip("iproute2");
        return None;
    }
    let id = std::process::id();
    let network = format!("10.{}.{}", 100 + id / 250 % 100, id % 250);
    let address = format!("{network}.2");
    let prepare = |directory: &Path| {
        certify(address.parse().unwrap(), directory);
        let file = |name: &str| directory.join(name).display().to_string();
        let more = format!(
            "listen_tls = 1\nauth_tls = \"none\"\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
            file("cacert.pem"),
            file("servercert.pem"),
            file("serverkey.pem"),
        );
        fs::write(directory.join("libvirtd.conf.more"), more).unwrap();
        let far = directory.join(FAR);
        fs::create_dir(&far).unwrap();
        let mount = format!("mount -t tmpfs tmpfs '{}'\n", far.display());
        fs::write(directory.join("inside"), mount).unwrap();
    };
    let libvirtd = Libvirtd::start_with(prepare, &[&format!("{address}/24"), &format!("lv{id}")])?;
    let certificates = libvirtd.directory().display().to_string();
    let uri = format!("qemu+tls://{address}/system?pkipath={certificates}");
    Some((libvirtd, LibvirtUri::new(&uri).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_live_on_another_host() {
    let Some((libvirtd, uri)) = start() else { return };
    let Some(mut fixture) = Fixture::on(libvirtd).await else { return };
    assert!(uri.is_remote());
    fixture.config.uri = uri;
    let far = fixture.libvirtd.directory().join(FAR);
    fixture.config.storage =
        StorageConfig::Pool { name: "far".to_owned(), make: Some(far.clone()) };
    // It may be there before its network is.
    let mut opened = None;
    until("it is reached", async || {
        match LibvirtHypervisor::open(fixture.config.clone()).await {
            Ok(hypervisor) => opened = Some(hypervisor),
            Err(error) => eprintln!("not yet: {}", chain(&error)),
        }
        opened.is_some()
    })
    .await;
    let hypervisor = opened.unwrap();
    let mut changes = hypervisor.changes();
    hypervisor.create(&fixture.spec(&name(1))).await.unwrap();
    changes.next().await;
    let guest = ready(&hypervisor, &name(1)).await;
    let (command, mut output) = (Command::new(["/bin/sh", "-c", "echo far away; exit 3"]), vec![]);
    let exit = exec(&*guest, &ProcessId::new("p").unwrap(), &command, |piece| match piece {
        runner_core::guest::Output::Stdout(bytes) | runner_core::guest::Output::Stderr(bytes) => {
            output.extend_from_slice(bytes);
        }
    })
    .await
    .unwrap();
    assert_eq!((&output[..], exit), (&b"far away\n"[..], ExitStatus::Code(3)));
    let mut console = hypervisor.console(&name(1), true).await.unwrap();
    let (code, _) = sh(&*guest, "say", "echo over the wire >/dev/ttyS0").await;
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("over the wire") {
        said.extend_from_slice(&console.next().await.unwrap().unwrap());
    }
    assert_eq!(code, 0);
    assert!(hypervisor.screenshot(&name(1)).await.unwrap().0.starts_with(b"\x89PNG"));
    assert_eq!(state(&hypervisor, &name(1)).await, Some(InstanceState::Running));

    // The way there breaks and mends, and the instance knows nothing of it.
    fixture.libvirtd.hold(true);
    fixture.libvirtd.signal("-KILL");
    until("it is blind", async || hypervisor.instances().await.is_err()).await;
    fixture.libvirtd.hold(false);
    until("it sees again", async || hypervisor.instances().await.is_ok()).await;
    assert_eq!(state(&hypervisor, &name(1)).await, Some(InstanceState::Running));
    hypervisor.destroy(&name(1)).await.unwrap();
    assert_eq!(hypervisor.instances().await.unwrap(), []);
    let left = fixture.libvirtd.virsh(&["list", "--all", "--name"]);
    assert_eq!(left.trim(), "");
    let volumes = fixture.libvirtd.virsh(&["vol-list", "far"]);
    assert!(volumes.contains(".whole") && !volumes.contains("linux-1."), "{volumes}");
    // None of it was ever here.
    assert_eq!(fs::read_dir(&far).unwrap().count(), 0);
    assert_eq!(fs::read_dir(fixture.directory.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_does_not_know_us_is_an_error_that_says_so() {
    let Some((libvirtd, uri)) = start() else { return };
    let Some(mut fixture) = Fixture::on(libvirtd).await else { return };
    // Certificates of another authority.
    let strangers = tempfile::tempdir().unwrap();
    certify("10.0.0.1".parse().unwrap(), strangers.path());
    let shown = uri.to_string();
    let address = shown.split('/').nth(2).unwrap();
    let text = format!("qemu+tls://{address}/system?pkipath={}", strangers.path().display());
    fixture.config.uri = LibvirtUri::new(&text).unwrap();
    let mut said = String::new();
    until("it refuses", async || {
        let Err(error) = LibvirtHypervisor::open(fixture.config.clone()).await else {
            panic!("a stranger is let in");
        };
        assert!(matches!(error, Error::Backend { .. } | Error::Unauthorized { .. }), "{error:?}");
        said = chain(&error);
        // Before it is there, nobody is refused.
        said.to_lowercase().contains("certificate")
    })
    .await;
    assert!(said.contains(address), "{said}");
}
