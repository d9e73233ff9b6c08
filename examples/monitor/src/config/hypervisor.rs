//! What makes the machines: QEMU itself, or libvirt here or on another host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use runner_core::{Capacity, Profile, ProfileName, hypervisor::Network};
use serde::Deserialize;
use toml::Spanned;

use super::{
    ConfigError, HUGE_PAGE_MIB, mib,
    place::Source,
    units::{Reach, Size},
};
use crate::compose;

/// What makes the machines.
#[derive(Debug, Clone)]
pub struct HypervisorConfig {
    /// How instances are sped up.
    pub accel: Accel,
    /// What all instances may take together. What the host has, if none.
    pub capacity: Option<Capacity>,
    /// Which it is.
    pub kind: HypervisorKind,
}

/// Which hypervisor it is.
#[derive(Debug, Clone)]
pub enum HypervisorKind {
    /// QEMU, one process each.
    Qemu {
        /// The program; found in `PATH` if it is a bare name, and by the backend if none.
        binary: Option<PathBuf>,
    },
    /// Domains of libvirt.
    Libvirt(LibvirtConfig),
}

/// How libvirt is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtConfig {
    /// Which libvirt, such as `qemu:///system`.
    pub uri: String,
    /// The storage pool that the disks are in. A directory of the data directory, if none: for a libvirt on
    /// this host only.
    pub pool: Option<String>,
    /// The directory of libvirt's host to make that pool of, if it is not there.
    pub pool_dir: Option<PathBuf>,
    /// How the disk of a machine is made from that of an image.
    pub disks: Disks,
    /// What machines are connected to.
    pub network: LibvirtNetwork,
    /// Where profiles have their `guest.xml` and user data, each in a directory of its name.
    pub profiles: Option<PathBuf>,
}

/// What machines are connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtNetwork {
    /// Its name: of a network of libvirt's, or of the host's bridge.
    pub name: String,
    /// What it is.
    pub kind: NetworkKind,
    /// The addresses of a network that has to be made.
    pub subnet: String,
    /// Whether machines are kept from talking to each other.
    pub isolate: bool,
    /// What restricted machines reach, whatever their profile.
    pub reach: BTreeSet<Reach>,
    /// What the restricted machines of a profile reach besides.
    pub profile_reach: BTreeMap<ProfileName, BTreeSet<Reach>>,
}

/// What a network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// None: the emulator itself passes on what machines say. Needs no rights, and is slow.
    User,
    /// One of libvirt's that reaches out through the host. Made when missing.
    #[default]
    Nat,
    /// One of libvirt's that reaches the host only. Made when missing.
    Isolated,
    /// A bridge of the host's, which must exist.
    Bridge,
}

/// How the disk of a machine is made from that of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disks {
    /// As the file system does it best.
    #[default]
    Auto,
    /// A qcow2 overlay that keeps what differs.
    Overlay,
    /// A copy that shares what is the same, on a file system that can do that.
    Reflink,
    /// A full copy.
    Copy,
}

/// How instances are sped up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where a guest really runs with it, TCG elsewhere.
    #[default]
    Auto,
    /// The host's own virtualisation, or nothing.
    Kvm,
    /// Software emulation.
    Tcg,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Qemu {
    binary: Option<PathBuf>,
    accel: Accel,
    vcpus: Option<Spanned<u32>>,
    memory: Option<Spanned<Size>>,
    huge_pages: Option<Spanned<u32>>,
    disk: Option<Spanned<Size>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Libvirt {
    uri: Option<String>,
    accel: Accel,
    vcpus: Option<Spanned<u32>>,
    memory: Option<Spanned<Size>>,
    huge_pages: Option<Spanned<u32>>,
    disk: Option<Spanned<Size>>,
    pool: Option<Spanned<String>>,
    pool_dir: Option<Spanned<PathBuf>>,
    disks: Option<Spanned<Disks>>,
    network: Option<String>,
    network_kind: NetworkKind,
    subnet: Option<String>,
    isolate: Option<bool>,
    reach: BTreeSet<Reach>,
    profiles: Option<PathBuf>,
}

impl HypervisorConfig {
    /// The section of the file that has it.
    pub fn section(&self) -> &'static str {
        match self.kind {
            HypervisorKind::Qemu { .. } => "[qemu]",
            HypervisorKind::Libvirt(_) => "[libvirt]",
        }
    }

    /// Lets the restricted machines of a profile reach something.
    pub(super) fn let_reach(
        &mut self,
        profile: &Profile,
        reach: BTreeSet<Reach>,
    ) -> Result<(), &'static str> {
        if reach.is_empty() {
            return Ok(());
        }
        if profile.network != Network::Restricted {
            return Err(
                "machines that are not restricted reach everything; set network = \"restricted\"",
            );
        }
        match &mut self.kind {
            HypervisorKind::Libvirt(libvirt) if libvirt.network.kind != NetworkKind::User => {
                libvirt.network.profile_reach.insert(profile.name.clone(), reach);
                Ok(())
            }
            _ => Err(
                "only [libvirt] with a network of its own lets restricted machines reach something",
            ),
        }
    }
}

pub(super) fn hypervisor(
    source: &Source<'_>,
    base: &Path,
    listen: SocketAddr,
    qemu: Option<Spanned<Qemu>>,
    libvirt: Option<Spanned<Libvirt>>,
) -> Result<HypervisorConfig, ConfigError> {
    let Some(section) = libvirt else {
        let section = qemu.map(Spanned::into_inner).unwrap_or_default();
        let room = Room {
            vcpus: section.vcpus,
            memory: section.memory,
            huge_pages: section.huge_pages,
            disk: section.disk,
        };
        let capacity = capacity(source, "qemu", room)?;
        let kind = HypervisorKind::Qemu { binary: section.binary };
        return Ok(HypervisorConfig { accel: section.accel, capacity, kind });
    };
    let span = section.span();
    if qemu.is_some() {
        let problem = "a pool has one hypervisor; remove either [libvirt] or [qemu]";
        return Err(source.problem(Some(span), "libvirt", problem));
    }
    if !cfg!(feature = "libvirt") {
        let problem = "this monitor was built without libvirt; build it with `--features libvirt`";
        return Err(source.problem(Some(span), "libvirt", problem));
    }
    let section = section.into_inner();
    // Machines reach the service itself, unless only this host does.
    let monitor = match listen.ip() {
        IpAddr::V4(address) if !address.is_loopback() && !address.is_unspecified() => {
            Some(Reach::tcp(address, listen.port()))
        }
        _ => None,
    };
    match (&section.pool, &section.pool_dir, &section.disks) {
        (None, Some(dir), _) => {
            let problem = "name the pool to make of it: pool = \"runners\"";
            return Err(source.problem(Some(dir.span()), "libvirt.pool_dir", problem));
        }
        (Some(_), _, Some(disks)) if *disks.get_ref() != Disks::Auto => {
            let problem = "in a pool of libvirt's all disks are overlays; leave it out";
            return Err(source.problem(Some(disks.span()), "libvirt.disks", problem));
        }
        _ => {}
    }
    let room = Room {
        vcpus: section.vcpus,
        memory: section.memory,
        huge_pages: section.huge_pages,
        disk: section.disk,
    };
    let capacity = capacity(source, "libvirt", room)?;
    let libvirt = LibvirtConfig {
        uri: section.uri.unwrap_or_else(|| "qemu:///system".to_owned()),
        pool: section.pool.map(Spanned::into_inner),
        pool_dir: section.pool_dir.map(Spanned::into_inner),
        disks: section.disks.map(Spanned::into_inner).unwrap_or_default(),
        network: LibvirtNetwork {
            name: section.network.unwrap_or_else(|| "default".to_owned()),
            kind: section.network_kind,
            subnet: section.subnet.unwrap_or_else(|| "192.168.122.0/24".to_owned()),
            isolate: section.isolate.unwrap_or(true),
            reach: section.reach.into_iter().chain(monitor).collect(),
            profile_reach: BTreeMap::new(),
        },
        profiles: section.profiles.map(|path| base.join(path)),
    };
    if let Err(error) = compose::check(&libvirt) {
        return Err(source.problem(Some(span), "libvirt", error.to_string()));
    }
    let kind = HypervisorKind::Libvirt(libvirt);
    Ok(HypervisorConfig { accel: section.accel, capacity, kind })
}

/// What all machines may take together, as a section has it.
struct Room {
    vcpus: Option<Spanned<u32>>,
    memory: Option<Spanned<Size>>,
    huge_pages: Option<Spanned<u32>>,
    disk: Option<Spanned<Size>>,
}

fn capacity(
    source: &Source<'_>,
    section: &str,
    room: Room,
) -> Result<Option<Capacity>, ConfigError> {
    let spans = [
        room.vcpus.as_ref().map(Spanned::span),
        room.memory.as_ref().map(Spanned::span),
        room.disk.as_ref().map(Spanned::span),
        room.huge_pages.as_ref().map(Spanned::span),
    ];
    let vcpus = room.vcpus.map(Spanned::into_inner);
    let memory = mib(source, &format!("{section}.memory"), room.memory)?;
    let disk = mib(source, &format!("{section}.disk"), room.disk)?;
    let huge_pages = room.huge_pages.map(Spanned::into_inner);
    match (vcpus, memory, disk) {
        (Some(vcpus), Some(memory_mib), Some(disk_mib)) => {
            let huge_memory_mib = u64::from(huge_pages.unwrap_or(0)) * HUGE_PAGE_MIB;
            let counters = Default::default();
            Ok(Some(Capacity { vcpus, memory_mib, huge_memory_mib, disk_mib, counters }))
        }
        (None, None, None) if huge_pages.is_none() => Ok(None),
        _ => {
            let span = spans.into_iter().flatten().next();
            let problem = "set vcpus, memory and disk together (and huge_pages, if machines have \
                           some), or none of them";
            Err(source.problem(span, section, problem))
        }
    }
}
