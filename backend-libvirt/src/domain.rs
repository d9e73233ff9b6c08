//! What libvirt is told of an instance: a template, and what we set in it.
//!
//! The template is the built-in one or the operator's own `guest.xml`. Of it we set, and replace if it is there:
//!
//! | element | becomes |
//! |---|---|
//! | `type` of the domain, `name`, `uuid` | `kvm` or `qemu`, the worker's name, a fresh one |
//! | `memory`, `currentMemory`, `vcpu` | what the profile's resources say; a `cpu/topology` for another number of processors, and `vcpus`, go |
//! | `memoryBacking/hugepages` | 1 GiB pages, if the profile's memory is of huge pages; otherwise none |
//! | `maxMemory`, `cpu/numa`, `numatune/memnode`, `devices/memory` | none: they would say otherwise how much memory there is |
//! | `cpu` | `maximum`, if the template wants the host's processor and there is no KVM |
//! | `os/kernel`, `initrd`, `cmdline` | those of an image that is a kernel; `loader` and `nvram` go then |
//! | `os/nvram` | a copy of that file for each instance, which libvirt makes and undefining removes |
//! | `os/boot`, `boot` of disks and interfaces | the root disk boots first |
//! | `on_poweroff`, `on_reboot`, `on_crash` | `destroy`: a machine is used once |
//! | `devices/disk` | ours, but for those that are `readonly` or `shareable`; the root disk is on the bus that the template's first disk was on, `virtio` if it had none |
//! | `devices/interface` | one; it keeps the model, address, driver and limits of the template's first |
//! | `devices/channel` of the agent | ours, without a fixed path |
//! | `devices/serial` | gets a `log`; one is added if there is none |
//! | `devices/rng`, `devices/panic` | added if there is none |
//! | `sysinfo` for `fwcfg` | gets the user data of an image that is a kernel |
//! | `genid`, the `uuid` in `sysinfo` | a fresh one; goes, as it must be that of the domain |
//! | our element in `metadata` | says whose the domain is; see [`mark`] |
//!
//! All else is the operator's, and stays as it is.
//!
//! **Invariant:** text that is put into the document is escaped by the library that writes it, and text that XML
//! cannot hold is refused, so no name, label, path or command line changes the document's structure.

mod devices;
mod mac;
mod machine;
mod mark;
mod template;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use machine_disks::Mark;
use runner_core::{Resources, Result, WorkerName, image::DiskFormat};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::{
    mac::{MacAddress, id},
    mark::mark,
    template::Template,
};

/// What runs the guest's code, once that is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VirtType {
    /// The host's processor.
    Kvm,
    /// QEMU's translator.
    Qemu,
    /// Nothing: libvirt's own driver for tests.
    Test,
}

/// Everything a domain is made from, beside its template.
pub(crate) struct DomainSpec<'a> {
    pub(crate) name: &'a WorkerName,
    pub(crate) uuid: Uuid,
    pub(crate) mac: MacAddress,
    pub(crate) virt: VirtType,
    /// The template's, or the one libvirt knows, if none.
    pub(crate) emulator: Option<&'a Path>,
    pub(crate) resources: &'a Resources,
    pub(crate) boot: BootFiles,
    pub(crate) disks: Vec<DomainDisk>,
    /// A file on the domain's host, for a guest without a disk to boot from.
    pub(crate) user_data: Option<PathBuf>,
    /// No card at all, if none.
    pub(crate) network: Option<DomainNetwork>,
    /// A file on the domain's host that gets what the guest writes to its serial port.
    pub(crate) console_log: Option<&'a Path>,
    pub(crate) mark: &'a Mark,
}

/// What boots. Paths are on the domain's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BootFiles {
    Kernel {
        kernel: PathBuf,
        initrd: PathBuf,
        command_line: String,
    },
    /// The disk whose role is [`Role::Root`].
    Disk,
}

/// A disk of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DomainDisk {
    pub(crate) source: DiskSource,
    pub(crate) format: DiskFormat,
    pub(crate) role: Role,
}

/// Where a disk lies, on the domain's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DiskSource {
    File(PathBuf),
    Volume { pool: String, volume: String },
}

/// What a disk is for. The guest sees it as the disk's serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// What the guest writes to; what it boots from, if its image is a disk.
    Root,
    /// What it is told.
    Seed,
}

/// The network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DomainNetwork {
    pub(crate) source: NetworkSource,
    /// It does not reach the other guests that are isolated, on the same bridge.
    pub(crate) isolated: bool,
    /// The name of a filter that the host has.
    pub(crate) filter: Option<String>,
    /// Whether the cable is plugged in.
    pub(crate) connected: bool,
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkSource {
    /// A network of libvirt's.
    Network(String),
    /// A bridge of the host's.
    Bridge(String),
    /// The emulator itself, for those who may not have a network.
    User,
}

/// The document that defines the domain of `spec`.
///
/// # Errors
/// `Invalid` for text that XML cannot hold, such as control characters, and for paths that are not UTF-8.
pub(crate) fn document(template: &Template, spec: &DomainSpec<'_>) -> Result<String> {
    let mut tree = template.tree()?;
    machine::set(&mut tree, spec)?;
    devices::set(&mut tree, spec)?;
    mark::set(&mut tree, spec.mark)?;
    Ok(tree.into_xml())
}
