//! From a specification to a running QEMU.

use machine_disks::{
    overlay,
    seed::{self, Seed},
};
use runner_core::{
    Result,
    hypervisor::InstanceSpec,
    image::{Boot, UserDataDelivery},
};

use crate::{
    argv::{Extras, file},
    error,
    instance_dir::InstanceDir,
};

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
