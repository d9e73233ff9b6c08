//! Machines by libvirt.

use std::{path::PathBuf, sync::Arc};

use backend_libvirt::{
    DiskMode, LibvirtConfig, LibvirtHypervisor, LibvirtUri, NetworkConfig, StorageConfig, Virt,
    network::{Allowed, MakeNetwork, Plug, Protocol},
    survey::{self, State, Version},
};
use runner_core::{Hypervisor, OwnerId, Result};

use super::{ALL, Libvirt, Need};
use crate::{
    config::{self, Accel, Config, Disks, NetworkKind, units::Reach},
    opening::Opening,
};

pub(super) fn hypervisor(
    config: &Config,
    section: &config::LibvirtConfig,
    root: PathBuf,
    owner: &OwnerId,
) -> Result<Arc<dyn Hypervisor>> {
    let libvirt = libvirt(config, section, root, owner.clone())?;
    let open = move || {
        let libvirt = libvirt.clone();
        async move {
            let hypervisor: Arc<dyn Hypervisor> = Arc::new(LibvirtHypervisor::open(libvirt).await?);
            Result::Ok(hypervisor)
        }
    };
    Ok(Arc::new(Opening::new(ALL, open)))
}

pub(super) async fn trial(
    config: &Config,
    section: &config::LibvirtConfig,
    root: PathBuf,
    owner: OwnerId,
) -> Result<(Arc<dyn Hypervisor>, String)> {
    let libvirt = libvirt(config, section, root, owner)?;
    let hypervisor = LibvirtHypervisor::open(libvirt).await?;
    let why = hypervisor.accel();
    Ok((Arc::new(hypervisor), why))
}

fn libvirt(
    config: &Config,
    section: &config::LibvirtConfig,
    root: PathBuf,
    owner: OwnerId,
) -> Result<LibvirtConfig> {
    let uri = LibvirtUri::new(&section.uri)?;
    let mut libvirt = LibvirtConfig::new(uri, owner, &root);
    libvirt.virt = match config.hypervisor.accel {
        Accel::Auto => Virt::Auto,
        Accel::Kvm => Virt::Kvm,
        Accel::Tcg => Virt::Qemu,
    };
    libvirt.capacity.clone_from(&config.hypervisor.capacity);
    libvirt.storage = match &section.pool {
        Some(name) => StorageConfig::Pool { name: name.clone(), make: section.pool_dir.clone() },
        None => StorageConfig::Directory { path: root, disks: disks(section.disks) },
    };
    libvirt.network = network(&section.network)?;
    libvirt.profiles.clone_from(&section.profiles);
    Ok(libvirt)
}

/// What the tests have seen: older ones may do.
const TRIED: (Version, Version) =
    (Version { major: 9, minor: 0, release: 0 }, Version { major: 7, minor: 2, release: 0 });

pub(super) async fn survey(config: &Config, section: &config::LibvirtConfig) -> Result<Libvirt> {
    // Nothing is kept for whoever looks.
    let owner = OwnerId::new("doctor")?;
    let libvirt = libvirt(config, section, PathBuf::new(), owner)?;
    let found = survey::survey(&libvirt).await?;
    let path = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
    Ok(Libvirt {
        daemon: found.daemon.to_string(),
        hypervisor: found.hypervisor.map(|version| version.to_string()),
        is_old: found.daemon < TRIED.0 || found.hypervisor.is_some_and(|qemu| qemu < TRIED.1),
        translated: path(found.translated),
        accelerated: path(found.accelerated),
        user: found.user,
        network: need(found.network),
        storage: need(found.storage),
    })
}

fn need(state: State) -> Need {
    match state {
        State::NotNeeded | State::Active => Need::Active,
        State::Inactive => Need::Inactive,
        State::ToBeMade => Need::ToBeMade,
        State::Missing => Need::Missing,
    }
}

pub(super) fn check(section: &config::LibvirtConfig) -> Result<()> {
    LibvirtUri::new(&section.uri)?;
    network(&section.network).map(|_| ())
}

pub(super) fn shown(section: &config::LibvirtConfig) -> String {
    // One that cannot be read may hold a password all the same.
    LibvirtUri::new(&section.uri).map_or_else(|_| "libvirt".to_owned(), |uri| uri.to_string())
}

fn disks(disks: Disks) -> DiskMode {
    match disks {
        Disks::Auto => DiskMode::Auto,
        Disks::Overlay => DiskMode::Overlay,
        Disks::Reflink => DiskMode::Reflink,
        Disks::Copy => DiskMode::Copy,
    }
}

fn network(section: &config::LibvirtNetwork) -> Result<NetworkConfig> {
    let name = section.name.clone();
    let subnet = section.subnet.parse()?;
    let make = |nat| Some(MakeNetwork { nat, subnet });
    let plug = match section.kind {
        NetworkKind::User => Plug::User,
        NetworkKind::Nat => Plug::Network { name, make: make(true) },
        NetworkKind::Isolated => Plug::Network { name, make: make(false) },
        NetworkKind::Bridge => Plug::Bridge { name },
    };
    let profiles = section.profile_reach.iter();
    Ok(NetworkConfig {
        plug,
        isolated: section.isolate,
        allow: section.reach.iter().map(allowed).collect(),
        allow_profile: profiles
            .map(|(profile, reach)| (profile.clone(), reach.iter().map(allowed).collect()))
            .collect(),
    })
}

fn allowed(reach: &Reach) -> Allowed {
    let protocol = if reach.tcp { Protocol::Tcp } else { Protocol::Udp };
    Allowed { protocol, address: reach.address, port: reach.port }
}
