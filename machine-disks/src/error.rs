//! From what can go wrong here to [`runner_core::Error`].

use std::io;

use runner_core::Error;

const BACKEND: &str = "disks";

/// A failure of the file system: a full one is exhausted, all else is a failure of the backend.
pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Exhausted {
            resource: "disk space".to_owned(),
            needed: format!("more to {}", doing.into()),
            available: "none".to_owned(),
        },
        _ => Error::backend(BACKEND, doing, source),
    }
}
