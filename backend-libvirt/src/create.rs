//! From a specification to a domain that runs.

use runner_core::{
    Error, Resources, Result,
    hypervisor::InstanceSpec,
    image::{Boot, UserDataDelivery},
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
        Boot::Kernel { .. } => Ok(()),
        Boot::Disk { user_data: UserDataDelivery::None, .. } if spec.user_data.is_some() => {
            invalid("its image takes no user data")
        }
        Boot::Disk { .. } => Ok(()),
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
