//! From a specification to a running QEMU.

use std::{fs::File, path::Path};

use runner_core::{
    Error, Resources, Result, WorkerName,
    hypervisor::InstanceSpec,
    image::{Boot, UserDataDelivery},
};

use crate::{
    argv::{Extras, file},
    directory::InstanceDir,
    error, overlay,
};

/// Refuses a specification that cannot work, whatever the host has.
pub(crate) fn check(spec: &InstanceSpec) -> Result<()> {
    let Resources {
        vcpus,
        memory_mib,
        huge_memory_mib,
        ..
    } = spec.resources;
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
        Boot::Disk {
            path, user_data, ..
        } => {
            if *user_data == UserDataDelivery::None && spec.user_data.is_some() {
                return invalid("its image takes no user data");
            }
            check_file("disk", path)
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
        Boot::Disk {
            path: backing,
            format,
            user_data,
        } => {
            let size = overlay::virtual_size(backing, *format).map_err(|error| {
                Error::invalid(format!("image {}", spec.image.id), error.to_string())
            })?;
            let backing = Some((backing.as_path(), *format));
            overlay::create(&path, size.max(wanted), backing).map_err(fail("disk"))?;
            extras.disk = true;
            if *user_data == UserDataDelivery::NoCloud {
                let text = spec.user_data.as_ref().map_or("", |text| text.expose());
                seed(&directory.join(file::SEED), &spec.name, text)?;
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
                directory
                    .write(file::USER_DATA, text)
                    .map_err(fail("user data"))?;
                extras.user_data = true;
            }
        }
    }
    Ok(extras)
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

/// Writes the disk that tells a guest with cloud-init who it is.
fn seed(_path: &Path, name: &WorkerName, _user_data: &str) -> Result<()> {
    Err(Error::unsupported(format!("a NoCloud seed for {name}")))
}
