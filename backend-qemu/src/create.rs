//! From a specification to a running QEMU.

use std::{fs::File, path::Path};

use machine_disks::{
    overlay,
    seed::{self, Seed},
};
use runner_core::{
    Error, Resources, Result,
    hypervisor::InstanceSpec,
    image::{Boot, DiskFormat, UserDataDelivery},
};

use crate::{
    argv::{Extras, file},
    error,
    instance_dir::InstanceDir,
};

/// Refuses a specification that cannot work, whatever the host has.
pub(crate) fn check(spec: &InstanceSpec) -> Result<()> {
    let Resources { vcpus, memory_mib, huge_memory_mib, .. } = spec.resources;
    let invalid = |reason: &str| Err(Error::invalid(format!("instance {}", spec.name), reason));
    if vcpus == 0 {
        return invalid("it needs a processor");
    }
    match (memory_mib, huge_memory_mib) {
        (0, 0) => return invalid("it needs memory"),
        (1.., 1..) => return invalid("its memory is either ordinary or of huge pages"),
        (0, huge) if huge % 1024 != 0 => return invalid("its huge pages have 1024 MiB each"),
        _ => {}
    }
    match &spec.image.boot {
        Boot::Kernel { kernel, initrd, .. } => {
            check_file("kernel", kernel)?;
            check_file("initial file system", initrd)
        }
        Boot::Disk { path, format, user_data } => {
            if *user_data == UserDataDelivery::None && spec.user_data.is_some() {
                return invalid("its image takes no user data");
            }
            check_file("disk", path)?;
            let disk_mib = spec.resources.disk_mib;
            let needed_mib = virtual_size(spec, path, *format)?.div_ceil(1 << 20);
            if needed_mib > disk_mib {
                return invalid(&format!(
                    "the disk of image {} has {needed_mib} MiB, and it may fill {disk_mib} MiB",
                    spec.image.id
                ));
            }
            Ok(())
        }
        _ => invalid("nobody knows how to boot its image"),
    }
}

/// Why `spec` does not fit beside `used`, as an error.
pub(crate) fn check_room(
    capacity: &Resources,
    used: &Resources,
    spec: &InstanceSpec,
) -> Result<()> {
    match capacity.shortage(used, &spec.resources) {
        None => Ok(()),
        Some(shortage) => {
            let amount = |n: u64| format!("{n} {}", shortage.unit).trim_end().to_owned();
            Err(Error::Exhausted {
                needed: amount(shortage.needed),
                available: amount(shortage.free),
                resource: shortage.resource,
            })
        }
    }
}

/// Makes the files of an instance beside its mark, and says which there are.
pub(crate) fn furnish(spec: &InstanceSpec, directory: &InstanceDir) -> Result<Extras> {
    let fail = |what: &str| {
        let doing = format!("make the {what} of {}", spec.name);
        move |error| error::io(doing, error)
    };
    let mut extras = Extras::default();
    let wanted = spec.resources.disk_mib << 20;
    let path = directory.join(file::DISK);
    match &spec.image.boot {
        Boot::Disk { path: backing, format, user_data } => {
            let backing = Some((backing.as_path(), *format));
            overlay::create(&path, wanted, backing).map_err(fail("disk"))?;
            extras.disk = true;
            if *user_data == UserDataDelivery::NoCloud {
                let text = spec.user_data.as_ref().map_or("", |text| text.expose());
                let seed = Seed { name: &spec.name, meta_data: None, user_data: text, files: &[] };
                seed::write(&directory.join(file::SEED), seed)?;
                extras.seed = true;
            }
        }
        _ => {
            if wanted > 0 {
                overlay::create(&path, wanted, None).map_err(fail("disk"))?;
                extras.disk = true;
            }
            if let Some(text) = &spec.user_data {
                let text = text.expose().as_bytes();
                directory.write(file::USER_DATA, text).map_err(fail("user data"))?;
                extras.user_data = true;
            }
        }
    }
    Ok(extras)
}

fn virtual_size(spec: &InstanceSpec, path: &Path, format: DiskFormat) -> Result<u64> {
    overlay::virtual_size(path, format)
        .map_err(|error| Error::invalid(format!("image {}", spec.image.id), error.to_string()))
}

fn check_file(what: &str, path: &Path) -> Result<()> {
    let what = || format!("{what} {}", path.display());
    if !path.is_absolute() {
        return Err(Error::invalid(what(), "its path is not absolute"));
    }
    match File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => Err(Error::invalid(what(), "it is not a file")),
        Err(error) => Err(Error::invalid(what(), error.to_string())),
    }
}
