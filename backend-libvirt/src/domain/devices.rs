//! What we set of the machine's devices.

use std::collections::BTreeSet;

use runner_core::Result;
use xot::Node;

use super::{BootFiles, DiskSource, DomainDisk, DomainNetwork, DomainSpec, NetworkSource, Role};
use crate::xml::{Element, Tree, element, path_text};

const AGENT: &str = "org.qemu.guest_agent.0";
/// The serial number of a seed disk.
const SEED: &str = "seed";
/// What of a template's network card is about the card, and not about what it is plugged into.
const OF_THE_CARD: [&str; 8] =
    ["model", "driver", "address", "boot", "rom", "mtu", "bandwidth", "tune"];

pub(super) fn set(tree: &mut Tree, spec: &DomainSpec<'_>) -> Result<()> {
    let devices = tree.ensure(tree.root(), "devices")?;
    if let Some(emulator) = spec.emulator {
        tree.replace(devices, element("emulator").text(path_text(emulator)?))?;
    }
    disks(tree, devices, spec)?;
    network(tree, devices, spec)?;
    agent(tree, devices)?;
    console(tree, devices, spec)?;
    if tree.child(devices, "rng").is_none() {
        let backend = element("backend").attribute("model", "random").text("/dev/urandom");
        tree.append(devices, element("rng").attribute("model", "virtio").child(backend))?;
    }
    if tree.child(devices, "panic").is_none() {
        tree.append(devices, element("panic").attribute("model", "isa"))?;
    }
    Ok(())
}

/// Ours take the place of the template's, but for those that several machines may use at once.
fn disks(tree: &mut Tree, devices: Node, spec: &DomainSpec<'_>) -> Result<()> {
    let mut targets = BTreeSet::new();
    let mut orders = BTreeSet::new();
    let mut first = None;
    for disk in tree.children(devices, "disk") {
        let target = tree.child(disk, "target");
        let of_target = |name| target.and_then(|target| tree.attribute(target, name));
        let boot = tree.child(disk, "boot");
        let order = boot.and_then(|boot| tree.attribute(boot, "order")?.parse::<u32>().ok());
        let shared = ["readonly", "shareable"].iter().any(|mark| tree.child(disk, mark).is_some());
        // The template may be the document of an instance that someone liked.
        let serial = tree.child(disk, "serial").map(|serial| tree.text(serial));
        let ours = serial.is_some_and(|serial| serial == SEED);
        if shared && !ours && tree.child(disk, "source").is_some() {
            targets.extend(of_target("dev").map(str::to_owned));
            orders.extend(order);
            continue;
        }
        if first.is_none() && matches!(tree.attribute(disk, "device"), None | Some("disk")) {
            first = Some((of_target("bus").unwrap_or("virtio").to_owned(), order));
        }
        tree.remove(disk);
    }
    for kind in ["interface", "hostdev", "redirdev"] {
        for device in tree.children(devices, kind) {
            let boot = tree.child(device, "boot");
            orders.extend(boot.and_then(|boot| tree.attribute(boot, "order")?.parse::<u32>().ok()));
        }
    }
    let (bus, order) = first.unwrap_or(("virtio".to_owned(), None));
    let order = order.filter(|order| !orders.contains(order));
    let order = order.or_else(|| (1..).find(|order| !orders.contains(order)));
    for disk in &spec.disks {
        let (bus, order) = match (disk.role, &spec.boot) {
            (Role::Root, BootFiles::Disk) => (bus.as_str(), order),
            (Role::Root, BootFiles::Kernel { .. }) => (bus.as_str(), None),
            // Not a CD drive: the distributions' cloud kernels have no driver for the controller.
            (Role::Seed, _) => ("virtio", None),
        };
        let target = free_target(bus, &mut targets);
        tree.append(devices, own_disk(disk, bus, &target, order)?)?;
    }
    Ok(())
}

/// A name for a disk on `bus` that no other disk has, which it then takes.
fn free_target(bus: &str, taken: &mut BTreeSet<String>) -> String {
    let prefix = match bus {
        "virtio" => "vd",
        "ide" => "hd",
        "xen" => "xvd",
        _ => "sd",
    };
    // Whoever has more disks than letters gets names that libvirt knows too.
    let letters = ('a'..='z').map(|letter| letter.to_string());
    let pairs = ('a'..='z').map(|letter| format!("a{letter}"));
    let names = letters.chain(pairs).map(|letters| format!("{prefix}{letters}"));
    let free = names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(free.clone());
    free
}

fn own_disk(disk: &DomainDisk, bus: &str, target: &str, order: Option<u32>) -> Result<Element> {
    let mut driver = element("driver").attribute("name", "qemu").attribute("type", disk.format);
    let (kind, source) = match &disk.source {
        DiskSource::File(path) => ("file", element("source").attribute("file", path_text(path)?)),
        DiskSource::Volume { pool, volume } => {
            ("volume", element("source").attribute("pool", pool).attribute("volume", volume))
        }
    };
    let serial = match disk.role {
        Role::Root => {
            // It dies with the instance: what a crash of the host would lose is worth nothing.
            driver = driver.attribute("cache", "unsafe").attribute("discard", "unmap");
            "disk"
        }
        Role::Seed => SEED,
    };
    let mut disk_element = element("disk")
        .attribute("type", kind)
        .attribute("device", "disk")
        .child(driver)
        .child(source)
        .child(element("target").attribute("dev", target).attribute("bus", bus))
        .child(element("serial").text(serial));
    if disk.role == Role::Seed {
        disk_element = disk_element.child(element("readonly"));
    }
    if let Some(order) = order {
        disk_element = disk_element.child(element("boot").attribute("order", order));
    }
    Ok(disk_element)
}

/// One card, however many the template has: another would be a way around what ours may reach.
fn network(tree: &mut Tree, devices: Node, spec: &DomainSpec<'_>) -> Result<()> {
    let old = tree.children(devices, "interface");
    if let Some(network) = &spec.network {
        let card = tree.append(devices, own_card(network, spec))?;
        let of_the_card = |name: &&str| match old.first() {
            Some(first) => tree.children(*first, name),
            None => Vec::new(),
        };
        let parts: Vec<Node> = OF_THE_CARD.iter().flat_map(of_the_card).collect();
        if !parts.iter().any(|part| tree.name(*part) == Some("model")) {
            tree.append(card, element("model").attribute("type", "virtio"))?;
        }
        for part in parts {
            tree.append_copy(card, part)?;
        }
    }
    for card in old {
        tree.remove(card);
    }
    Ok(())
}

fn own_card(network: &DomainNetwork, spec: &DomainSpec<'_>) -> Element {
    let (kind, source) = match &network.source {
        NetworkSource::Network(name) => {
            ("network", Some(element("source").attribute("network", name)))
        }
        NetworkSource::Bridge(name) => {
            ("bridge", Some(element("source").attribute("bridge", name)))
        }
        NetworkSource::User => ("user", None),
    };
    let mut card = element("interface")
        .attribute("type", kind)
        .child(element("mac").attribute("address", spec.mac));
    if let Some(source) = source {
        card = card.child(source);
        if network.isolated {
            card = card.child(element("port").attribute("isolated", "yes"));
        }
        if let Some(filter) = &network.filter {
            card = card.child(element("filterref").attribute("filter", filter));
        }
    }
    if !network.connected {
        card = card.child(element("link").attribute("state", "down"));
    }
    card
}

/// The channel of the agent, on a socket that libvirt names.
fn agent(tree: &mut Tree, devices: Node) -> Result<()> {
    for channel in tree.children(devices, "channel") {
        let target = tree.child(channel, "target");
        if target.and_then(|target| tree.attribute(target, "name")) == Some(AGENT) {
            tree.remove(channel);
        }
    }
    let target = element("target").attribute("type", "virtio").attribute("name", AGENT);
    tree.append(devices, element("channel").attribute("type", "unix").child(target))?;
    Ok(())
}

/// The first serial port is written to a file as well.
fn console(tree: &mut Tree, devices: Node, spec: &DomainSpec<'_>) -> Result<()> {
    let serial = match tree.child(devices, "serial") {
        Some(serial) => serial,
        None => {
            let target = element("target").attribute("type", "isa-serial").attribute("port", 0);
            tree.append(devices, element("serial").attribute("type", "pty").child(target))?
        }
    };
    tree.remove_children(serial, "log");
    // A console is another word for the first serial port, and would bring a log of its own.
    for console in tree.children(devices, "console") {
        tree.remove_children(console, "log");
    }
    if let Some(path) = spec.console_log {
        let log = element("log").attribute("file", path_text(path)?).attribute("append", "on");
        tree.append(serial, log)?;
    }
    Ok(())
}
