//! What an instance must be like to be made, whatever makes it.

use std::{fs::File, path::Path};

use runner_core::{
    Error, Resources, Result,
    hypervisor::InstanceSpec,
    image::{Boot, DiskFormat, UserDataDelivery},
};

use crate::overlay;

/// Refuses a specification that cannot work, whatever the host has. Looks at the image's files, so it blocks.
///
/// # Errors
/// `Invalid`, with the rule.
pub fn check_spec(spec: &InstanceSpec) -> Result<()> {
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

/// Refuses a specification that does not fit beside `used`.
///
/// # Errors
/// `Exhausted`, with what there is too little of.
pub fn check_room(capacity: &Resources, used: &Resources, spec: &InstanceSpec) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use runner_core::{
        ImageId, ProfileName, Secret, WorkerName,
        hypervisor::Network,
        image::{Image, Recipe, RecipeKind},
    };

    use super::*;

    fn spec(boot: Boot) -> InstanceSpec {
        let profile = ProfileName::new("linux").unwrap();
        InstanceSpec {
            name: WorkerName::of(&profile, 1),
            profile: profile.clone(),
            image: Image {
                id: ImageId::new("linux.1").unwrap(),
                recipe: Recipe { profile, kind: RecipeKind::Micro {} },
                built_at: jiff::Timestamp::UNIX_EPOCH,
                digest: "0".repeat(64),
                size_bytes: 0,
                boot,
            },
            resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 2, ..Default::default() },
            network: Network::Open,
            user_data: None,
        }
    }

    fn refused(spec: &InstanceSpec) -> String {
        let error = check_spec(spec).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn what_cannot_work_is_told_with_the_rule() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("disk");
        std::fs::write(&path, vec![0; 2 << 20]).unwrap();
        let format = DiskFormat::Raw;
        let boot = Boot::Disk { path: path.clone(), format, user_data: UserDataDelivery::None };
        let fine = spec(boot);
        check_spec(&fine).unwrap();
        let with = |resources: Resources| InstanceSpec { resources, ..fine.clone() };
        let base = &fine.resources;
        for (resources, rule) in [
            (Resources { vcpus: 0, ..base.clone() }, "a processor"),
            (Resources { memory_mib: 0, ..base.clone() }, "needs memory"),
            (Resources { huge_memory_mib: 1024, ..base.clone() }, "either ordinary or"),
            (Resources { memory_mib: 0, huge_memory_mib: 512, ..base.clone() }, "1024 MiB each"),
            (Resources { disk_mib: 1, ..base.clone() }, "has 2 MiB, and it may fill 1 MiB"),
        ] {
            let error = refused(&with(resources));
            assert!(error.contains(rule), "{error}");
        }
        let told = InstanceSpec { user_data: Some(Secret::new(String::new())), ..fine.clone() };
        assert!(refused(&told).contains("takes no user data"));
        std::fs::remove_file(&path).unwrap();
        assert!(refused(&fine).contains(path.to_str().unwrap()));
        let relative = ["kernel", "initrd"].map(Into::into);
        let [kernel, initrd] = relative;
        let boot = Boot::Kernel { kernel, initrd, command_line: String::new() };
        assert!(refused(&spec(boot)).contains("not absolute"));
    }

    #[test]
    fn what_does_not_fit_is_told_with_both_numbers() {
        let boot =
            Boot::Kernel { kernel: "/a".into(), initrd: "/b".into(), command_line: String::new() };
        let (spec, used) = (spec(boot), Resources { memory_mib: 70, ..Resources::default() });
        let capacity = Resources { vcpus: 9, memory_mib: 128, disk_mib: 9, ..Resources::default() };
        check_room(&capacity, &Resources::default(), &spec).unwrap();
        let error = check_room(&capacity, &used, &spec).unwrap_err();
        assert_eq!(error.to_string(), "not enough memory: 64 MiB needed, 58 MiB available");
    }
}
