//! Whether libvirt is there, lets us in, and has an emulator and a network for machines.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use runner_core::{Error, error::chain};

use super::{Check, Subject};
use crate::{
    compose::{self, Libvirt, Need},
    config::{Accel, HypervisorKind, LibvirtConfig, NetworkKind},
};

/// The oldest versions that the tests have seen.
const OLDEST: (&str, &str) = ("libvirt 9.0.0", "QEMU 7.2");

pub(super) async fn check(subject: &Subject) -> Vec<Check> {
    let HypervisorKind::Libvirt(section) = &subject.config.hypervisor.kind else {
        return Vec::new();
    };
    match compose::survey(&subject.config, section).await {
        Ok(found) => vec![
            daemon(&found),
            emulator(&found, section, subject.config.hypervisor.accel),
            network(&found, section),
            storage(&found, section, &subject.data_dir),
        ],
        Err(error) => vec![Check::failure("libvirt", chain(&error), way_in(&error, section))],
    }
}

/// What to do about a daemon that was not reached.
fn way_in(error: &Error, section: &LibvirtConfig) -> String {
    let said = chain(error);
    let is_local = ["qemu:///", "qemu+unix:"].iter().any(|local| section.uri.starts_with(local));
    if said.contains("Permission denied") || matches!(error, Error::Unauthorized { .. }) {
        return match is_local {
            true => {
                "let the service's user in: usermod -aG libvirt USER, and start the service anew"
            }
            false => "check the key or the certificates of the service's user for that host",
        }
        .to_owned();
    }
    match is_local {
        true => {
            "install and start it: apt install libvirt-daemon-system; systemctl start libvirtd; \
                 or name another in [libvirt] uri"
                .to_owned()
        }
        false => format!(
            "try it by hand, as the service's user: virsh -c '{}' list",
            compose::shown(section)
        ),
    }
}

fn daemon(found: &Libvirt) -> Check {
    let name = "libvirt";
    let shown = match &found.hypervisor {
        Some(hypervisor) => format!("libvirt {} with QEMU {hypervisor}", found.daemon),
        None => format!("libvirt {}", found.daemon),
    };
    if found.is_old {
        let found = format!("{shown} is older than {} with {}", OLDEST.0, OLDEST.1);
        return Check::warning(name, found, "use a newer one; nobody has tried this one");
    }
    Check::ok(name, shown)
}

fn emulator(found: &Libvirt, section: &LibvirtConfig, accel: Accel) -> Check {
    let name = "emulator";
    let install = "install it on the host of libvirt: apt install qemu-system-x86";
    match (&found.translated, &found.accelerated, accel) {
        (_, Some(program), Accel::Auto | Accel::Kvm) => {
            Check::ok(name, format!("{program} with KVM, as libvirt says"))
        }
        (_, None, Accel::Kvm) => {
            let found =
                format!("libvirt at {} has no KVM, and accel = \"kvm\"", compose::shown(section));
            let way_out =
                "switch virtualization on in the host's firmware, or set accel = \"auto\"";
            Check::failure(name, found, way_out)
        }
        (Some(program), None, Accel::Auto) => {
            let found = format!("{program} without KVM: machines are several times slower");
            let way_out = "switch virtualization on in the host's firmware";
            Check::warning(name, found, way_out)
        }
        (Some(program), _, Accel::Tcg) => {
            Check::ok(name, format!("{program}, without KVM as asked"))
        }
        (None, _, _) => Check::failure(name, "libvirt knows none for x86_64 machines", install),
    }
}

fn network(found: &Libvirt, section: &LibvirtConfig) -> Check {
    let check = "network";
    let name = &section.network.name;
    match (found.network, section.network.kind) {
        (_, NetworkKind::User) => Check::ok(check, "none is needed"),
        (_, NetworkKind::Bridge) => {
            let is_local = section.uri.starts_with("qemu:///");
            let there = Path::new("/sys/class/net").join(name).join("bridge");
            if is_local && !there.exists() {
                let way_out = format!("make it: ip link add {name} type bridge; or name another");
                return Check::failure(check, format!("the host has no bridge {name}"), way_out);
            }
            Check::ok(check, format!("the bridge {name} of the host"))
        }
        (Need::Active, _) => Check::ok(check, format!("{name} is active")),
        (Need::Inactive, _) => {
            Check::ok(check, format!("{name} is there, and is started with the first machine"))
        }
        (Need::ToBeMade | Need::Missing, _) => {
            let subnet = &section.network.subnet;
            Check::ok(check, format!("{name} is made of {subnet} with the first machine"))
        }
    }
}

fn storage(found: &Libvirt, section: &LibvirtConfig, data_dir: &Path) -> Check {
    let check = "storage";
    let Some(name) = &section.pool else {
        // Its own check looks at the data directory.
        return match section.uri.starts_with("qemu:///") || section.uri.starts_with("qemu+unix:") {
            true => match found.user.and_then(|user| closed(data_dir, user).zip(Some(user))) {
                None => Check::ok(check, "the data directory"),
                Some((closed, (user, _))) => Check::failure(
                    check,
                    format!(
                        "libvirt runs machines as user {user}, who may not enter {}",
                        closed.display()
                    ),
                    "set pool and pool_dir in [libvirt], such as \"runners\" and \
                     \"/var/lib/libvirt/runners\"",
                ),
            },
            false => Check::failure(
                check,
                "libvirt on another host cannot have disks in the data directory of this one",
                "set pool and pool_dir in [libvirt]",
            ),
        };
    };
    match found.storage {
        Need::Active => Check::ok(check, format!("the pool {name} is active")),
        Need::Inactive => {
            Check::ok(check, format!("the pool {name} is there, and is started when it is used"))
        }
        Need::ToBeMade => Check::ok(check, format!("the pool {name} is made when it is used")),
        Need::Missing => Check::failure(
            check,
            format!("libvirt has no pool {name}"),
            "name a directory of its host to make it of, pool_dir in [libvirt], or another pool",
        ),
    }
}

/// The first directory on the way to the instances that a user may not pass through.
fn closed(data_dir: &Path, (user, group): (u32, u32)) -> Option<PathBuf> {
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let way: Vec<&Path> = data_dir.ancestors().collect();
    let closed = way.into_iter().rev().find(|directory| match std::fs::metadata(directory) {
        Ok(metadata) => {
            let needed = match metadata.uid() == user {
                true => 0o100,
                false if metadata.gid() == group => 0o010,
                false => 0o001,
            };
            user != 0 && metadata.mode() & needed == 0
        }
        // It will be made for the service alone.
        Err(_) => user != 0 && *directory == data_dir,
    });
    closed.map(Path::to_owned)
}
