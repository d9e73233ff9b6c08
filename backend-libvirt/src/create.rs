//! From a specification to a domain that runs: what is refused.

use machine_disks::admission;
pub(crate) use machine_disks::admission::check_room;
use runner_core::{Result, hypervisor::InstanceSpec};

use crate::{error, profile_dir::ProfileFiles};

/// Refuses a specification that cannot work, whatever the host has.
///
/// # Errors
/// `Invalid`, with the rule.
pub(crate) async fn check(spec: &InstanceSpec, files: &ProfileFiles) -> Result<()> {
    let mut checked = spec.clone();
    if files.tells() {
        // The operator has a place for it beside their own, whatever the image takes.
        checked.user_data = None;
    }
    error::blocking("look at an image", move || admission::check_spec(&checked)).await
}
