//! Whether there is room for the store, the images and the machines' disks.

use std::path::Path;

use runner_core::image::RecipeKind;

use super::{Check, Subject};

/// Below this the store itself is in danger.
const LEAST_MIB: u64 = 256;

/// What an image and what it is made of take.
const IMAGE_MIB: u64 = 512;

pub(super) fn check(subject: &Subject) -> Vec<Check> {
    let largest = subject.config.profiles.iter().map(|profile| profile.resources.disk_mib).max();
    let largest = largest.unwrap_or(0);
    let is_micro =
        |kind: &RecipeKind| matches!(kind, RecipeKind::Micro {} | RecipeKind::MicroWith { .. });
    let builds = subject.config.profiles.iter().any(|profile| is_micro(&profile.recipe.kind));
    let images = if builds { IMAGE_MIB } else { 0 };
    vec![
        room("space for data", &subject.data_dir, LEAST_MIB + largest + images),
        room("space for the cache", &subject.cache_dir, LEAST_MIB + images),
    ]
}

fn room(name: &str, path: &Path, wanted_mib: u64) -> Check {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let stats = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    let Some(stats) = stats else {
        let found = format!("nobody knows how much room there is at {}", path.display());
        return Check::failure(name, found, "mount a file system there");
    };
    let free_mib = stats.f_bavail.saturating_mul(stats.f_frsize) >> 20;
    let found = format!("{free_mib} MiB are free at {}", path.display());
    let way_out = "remove what is not needed, enlarge the file system, \
                   or choose another directory in [data]";
    if free_mib < LEAST_MIB {
        return Check::failure(name, format!("only {found}"), way_out);
    }
    if free_mib < wanted_mib {
        let found = format!("{found}, and one machine with its image may take {wanted_mib} MiB");
        return Check::warning(name, found, way_out);
    }
    Check::ok(name, found)
}
