//! Machines by libvirt.

use std::{path::PathBuf, sync::Arc};

use backend_libvirt::{LibvirtConfig, LibvirtHypervisor, LibvirtUri, Virt};
use runner_core::{Hypervisor, OwnerId, Result};

use super::ALL;
use crate::{
    config::{self, Accel, Config},
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
    Ok((Arc::new(hypervisor), String::new()))
}

fn libvirt(
    config: &Config,
    section: &config::LibvirtConfig,
    root: PathBuf,
    owner: OwnerId,
) -> Result<LibvirtConfig> {
    let uri = LibvirtUri::new(&section.uri)?;
    let mut libvirt = LibvirtConfig::new(uri, owner, root);
    libvirt.virt = match config.hypervisor.accel {
        Accel::Auto => Virt::Auto,
        Accel::Kvm => Virt::Kvm,
        Accel::Tcg => Virt::Qemu,
    };
    libvirt.capacity.clone_from(&config.hypervisor.capacity);
    Ok(libvirt)
}
