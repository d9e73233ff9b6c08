//! Room on the disk, and the error that says how much of it is missing.

use std::{io, path::Path};

use runner_core::{Error, Result};

use super::BACKEND;

/// Fails unless `needed` bytes are free where `path` is, so that a build which cannot end never begins.
///
/// # Errors
/// `Exhausted` with both numbers.
pub(crate) fn check_room(path: &Path, needed: u64) -> Result<()> {
    match free(path) {
        Some(available) if available < needed => Err(exhausted(path, needed, available)),
        // A file system that does not say is given the benefit of the doubt: the write will tell.
        _ => Ok(()),
    }
}

/// The error of a write of `needed` bytes to `path`: `Exhausted` when there is no room, else `Backend`.
pub(crate) fn disk_failed(
    path: &Path,
    needed: u64,
    doing: impl Into<String>,
    error: io::Error,
) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            exhausted(path, needed, free(path).unwrap_or(0))
        }
        _ => Error::backend(BACKEND, doing, error),
    }
}

/// `count` bytes as an operator would say it.
pub(crate) fn bytes(count: u64) -> String {
    const KIB: f64 = 1024.0;
    let count = count as f64;
    if count < KIB {
        format!("{count} bytes")
    } else if count < KIB * KIB {
        format!("{:.1} KiB", count / KIB)
    } else if count < KIB * KIB * KIB {
        format!("{:.1} MiB", count / KIB / KIB)
    } else {
        format!("{:.1} GiB", count / KIB / KIB / KIB)
    }
}

fn exhausted(path: &Path, needed: u64, available: u64) -> Error {
    Error::Exhausted {
        resource: format!("disk space at {}", path.display()),
        needed: bytes(needed),
        available: bytes(available),
    }
}

/// What is free where `path` is, or would be.
fn free(path: &Path) -> Option<u64> {
    path.ancestors()
        .find_map(|path| rustix::fs::statvfs(path).ok())
        .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_room_is_told_with_numbers() {
        let here = tempfile::tempdir().unwrap();
        assert!(check_room(here.path(), 1).is_ok());
        let error = check_room(here.path(), 1 << 62).unwrap_err();
        assert!(matches!(error, Error::Exhausted { .. }));
        let text = error.to_string();
        assert!(text.contains("4294967296.0 GiB needed"), "{text}");
    }

    #[test]
    fn a_write_that_met_a_full_disk_is_exhaustion() {
        let here = tempfile::tempdir().unwrap();
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let error = disk_failed(here.path(), 3 << 20, "write it", error);
        assert!(matches!(&error, Error::Exhausted { needed, .. } if needed == "3.0 MiB"));
    }
}
