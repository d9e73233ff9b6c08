//! From what can go wrong here to [`runner_core::Error`].

use std::io;

use runner_core::Error;

const BACKEND: &str = "disks";

/// A failure of the file system.
pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Error {
    Error::disk(BACKEND, doing, source)
}
