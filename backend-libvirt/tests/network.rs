//! Networks as guests see them: addresses that are kept for them, and what they reach.

#[expect(dead_code, reason = "other tests use the rest of it")]
mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    os::fd::AsFd,
    sync::Arc,
    thread,
};

use backend_libvirt::{
    LibvirtConfig, LibvirtHypervisor, NetworkConfig, Virt,
    network::{Allowed, MakeNetwork, Plug, Protocol},
};
use common::{
    guest::{sh, until},
    libvirtd::Libvirtd,
    micro,
};
use runner_core::{
    Error, Guest, Hypervisor, OwnerId, Resources, WorkerName,
    error::chain,
    hypervisor::{InstanceSpec, Network},
    image::Image,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

const NETWORK: &str = "runners";
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 1);

struct Fixture {
    libvirtd: Libvirtd,
    directory: TempDir,
    image: Image,
}

impl Fixture {
    async fn new() -> Option<Self> {
        let libvirtd = Libvirtd::start()?;
        let image = micro::image().await?;
        Some(Self { libvirtd, directory: TempDir::new().unwrap(), image })
    }

    fn config(&self, owner: &str) -> LibvirtConfig {
        let directory = self.directory.path().join(owner);
        let owner = OwnerId::new(owner).unwrap();
        let mut config = LibvirtConfig::new(self.libvirtd.uri.clone(), owner, directory);
        config.virt = Virt::Qemu;
        let make = MakeNetwork { nat: true, subnet: "10.77.3.0/24".parse().unwrap() };
        config.network.plug = Plug::Network { name: NETWORK.to_owned(), make: Some(make) };
        config
    }

    async fn open(
        &self,
        owner: &str,
        change: impl FnOnce(&mut NetworkConfig),
    ) -> LibvirtHypervisor {
        let mut config = self.config(owner);
        change(&mut config.network);
        LibvirtHypervisor::open(config).await.unwrap()
    }

    fn spec(&self, serial: u64, network: Network) -> InstanceSpec {
        let profile = self.image.recipe.profile.clone();
        InstanceSpec {
            name: WorkerName::of(&profile, serial),
            profile,
            image: self.image.clone(),
            resources: Resources { vcpus: 1, memory_mib: 192, ..Default::default() },
            network,
            user_data: None,
        }
    }

    fn document(&self) -> String {
        self.libvirtd.virsh(&["net-dumpxml", NETWORK])
    }

    /// Says `words` to whoever connects to this port of the host.
    fn serve(&self, port: u16, words: &'static str) {
        let namespace = format!("/proc/{}/ns/net", self.libvirtd.pid());
        let (ready, wait) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let namespace = File::open(namespace).unwrap();
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            ready.send(()).unwrap();
            for connection in listener.incoming() {
                let _ = connection.unwrap().write_all(words.as_bytes());
            }
        });
        wait.recv().unwrap();
    }
}

/// Makes an instance, and returns its guest once that has an address, which it returns too.
async fn start(hypervisor: &LibvirtHypervisor, spec: &InstanceSpec) -> (Arc<dyn Guest>, Ipv4Addr) {
    hypervisor.create(spec).await.unwrap();
    let guest = hypervisor.guest(&spec.name).await.unwrap();
    guest.ready().await.unwrap();
    let script = "while [ ! -e /run/settled ]; do usleep 20000; done; \
                  ip -4 -o address show dev eth0 | sed 's,.* inet \\([0-9.]*\\)/.*,\\1,'";
    let (code, address) = sh(&*guest, "address", script).await;
    assert_eq!(code, 0, "{address}");
    (guest, address.trim().parse().unwrap_or_else(|_| panic!("no address: {address:?}")))
}

/// Whether the guest gets an answer from there.
async fn pings(guest: &dyn Guest, id: &str, address: Ipv4Addr) -> bool {
    sh(guest, id, &format!("ping -c 3 -W 2 {address}")).await.0 == 0
}

#[tokio::test]
async fn a_network_is_made_and_started_again_after_someone_stopped_it() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open("us", |_| ()).await;
    let spec = fixture.spec(1, Network::Open);
    hypervisor.create(&spec).await.unwrap();
    assert!(fixture.document().contains("10.77.3.1"));
    hypervisor.destroy(&spec.name).await.unwrap();
    fixture.libvirtd.virsh(&["net-destroy", NETWORK]);
    let (guest, _) = start(&hypervisor, &spec).await;
    assert!(pings(&*guest, "host", HOST).await);
    hypervisor.destroy(&spec.name).await.unwrap();
    // It is not ours to remove.
    assert!(fixture.libvirtd.virsh(&["net-info", NETWORK]).contains("yes"));
}

#[tokio::test]
async fn a_network_that_is_not_there_is_told_with_the_way_out() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture
        .open("us", |network| {
            network.plug = Plug::Network { name: "nowhere".to_owned(), make: None };
        })
        .await;
    let error = hypervisor.create(&fixture.spec(1, Network::Open)).await.unwrap_err();
    let shown = chain(&error);
    assert!(shown.contains("network nowhere") && shown.contains("define it"), "{shown}");
    assert!(hypervisor.instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_guest_has_the_address_that_is_kept_for_it_until_it_is_gone() {
    let Some(fixture) = Fixture::new().await else { return };
    let hypervisor = fixture.open("us", |_| ()).await;
    let (one, two) = (fixture.spec(1, Network::Open), fixture.spec(2, Network::Open));
    let (_, address) = start(&hypervisor, &one).await;
    let kept = |name: &str, document: &str| {
        let line = document.lines().find(|line| line.contains(&format!("name='{name}'")));
        line.map(|line| line.split("ip='").nth(1).unwrap().split('\'').next().unwrap().to_owned())
    };
    assert_eq!(kept("linux-1", &fixture.document()), Some(address.to_string()));
    assert_eq!(hypervisor.addresses(&one.name).await.unwrap(), [address]);
    assert_eq!(hypervisor.given_addresses(&one.name).await.unwrap(), [address]);

    // Someone else's, with the name of one of ours.
    let theirs = "<host mac='52:54:00:00:00:07' name='linux-7' ip='10.77.3.7'/>";
    let add = ["net-update", NETWORK, "add", "ip-dhcp-host", theirs, "--live", "--config"];
    fixture.libvirtd.virsh(&add);
    hypervisor.create(&two).await.unwrap();
    drop(hypervisor);
    // Gone behind our back: its address is swept with the next look around.
    fixture.libvirtd.virsh(&["destroy", "linux-2"]);
    fixture.libvirtd.virsh(&["undefine", "linux-2"]);
    std::fs::remove_dir_all(fixture.directory.path().join("us/instances/linux-2")).unwrap();
    assert!(kept("linux-2", &fixture.document()).is_some());
    let hypervisor = fixture.open("us", |_| ()).await;
    let stored = || fixture.libvirtd.virsh(&["net-dumpxml", "--inactive", NETWORK]);
    for document in [fixture.document(), stored()] {
        assert_eq!(kept("linux-2", &document), None);
        assert!(kept("linux-1", &document).is_some());
        assert_eq!(kept("linux-7", &document).as_deref(), Some("10.77.3.7"));
    }
    hypervisor.destroy(&one.name).await.unwrap();
    for document in [fixture.document(), stored()] {
        assert_eq!(kept("linux-1", &document), None);
        assert_eq!(kept("linux-7", &document).as_deref(), Some("10.77.3.7"));
    }
}

#[tokio::test]
async fn a_restricted_guest_reaches_what_is_allowed_and_nothing_else() {
    let Some(fixture) = Fixture::new().await else { return };
    let at = |port| Allowed { protocol: Protocol::Tcp, address: HOST, port };
    let profile = fixture.image.recipe.profile.clone();
    let hypervisor = fixture
        .open("us", |network| {
            network.allow = BTreeSet::from([at(8000)]);
            network.allow_profile = BTreeMap::from([(profile, BTreeSet::from([at(8001)]))]);
        })
        .await;
    let (open, _) = start(&hypervisor, &fixture.spec(1, Network::Open)).await;
    for (port, words) in [(8000, "monitor"), (8001, "profile"), (8002, "secret")] {
        fixture.serve(port, words);
    }
    let ask = |port: u16| format!("nc -w 3 {HOST} {port}");
    let (_, words) = sh(&*open, "secret", &ask(8002)).await;
    assert_eq!(words, "secret");

    let (guest, _) = start(&hypervisor, &fixture.spec(2, Network::Restricted)).await;
    assert_eq!(sh(&*guest, "monitor", &ask(8000)).await.1, "monitor");
    assert_eq!(sh(&*guest, "profile", &ask(8001)).await.1, "profile");
    let (code, words) = sh(&*guest, "secret", &ask(8002)).await;
    assert!(code != 0 && !words.contains("secret"), "{words}");
    assert!(!pings(&*guest, "ping", HOST).await);
    // Names are answered by the host: dnsmasq knows it by the guest's own.
    let lookup = format!("nslookup -type=a linux-2 {HOST}");
    let (code, words) = sh(&*guest, "name", &lookup).await;
    assert!(code == 0 && words.contains("10.77.3."), "{words}");
    // As someone else it says nothing at all.
    let lie = format!(
        "ip link set eth0 down; ip link set eth0 address 52:00:00:00:00:99; ip link set eth0 up; {}",
        ask(8000)
    );
    let (code, words) = sh(&*guest, "lie", &lie).await;
    assert!(code != 0 && !words.contains("monitor"), "{words}");
}

#[tokio::test]
async fn isolated_guests_do_not_reach_each_other() {
    let Some(fixture) = Fixture::new().await else { return };
    let isolated = fixture.open("us", |network| network.isolated = true).await;
    let (one, address) = start(&isolated, &fixture.spec(1, Network::Open)).await;
    let (_two, other) = start(&isolated, &fixture.spec(2, Network::Open)).await;
    assert!(pings(&*one, "host", HOST).await);
    assert!(!pings(&*one, "other", other).await);
    isolated.destroy(&fixture.spec(2, Network::Open).name).await.unwrap();
    // That it was up, and that it is the isolation that kept it away.
    let together = fixture.open("them", |network| network.isolated = false).await;
    let (three, _) = start(&together, &fixture.spec(3, Network::Open)).await;
    assert!(pings(&*three, "one", address).await);
}

#[tokio::test]
async fn a_filter_of_someone_else_is_not_changed() {
    let Some(fixture) = Fixture::new().await else { return };
    let theirs = "<filter name='runner.us.linux' chain='root'>\
                  <rule action='drop' direction='inout' priority='500'/></filter>";
    fixture.libvirtd.virsh_document(&["nwfilter-define"], theirs);
    let before = fixture.libvirtd.virsh(&["nwfilter-dumpxml", "runner.us.linux"]);
    let hypervisor = fixture.open("us", |_| ()).await;
    let error = hypervisor.create(&fixture.spec(1, Network::Restricted)).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("nwfilter-undefine"), "{error}");
    assert_eq!(fixture.libvirtd.virsh(&["nwfilter-dumpxml", "runner.us.linux"]), before);
    // What was kept for it meanwhile is given up.
    until("the address is free again", async || !fixture.document().contains("linux-1")).await;
}
