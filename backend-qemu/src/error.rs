//! From what can go wrong here to [`runner_core::Error`].

use std::io;

use runner_core::{Error, Result, WorkerName};

const BACKEND: &str = "qemu";

pub(crate) fn backend(
    doing: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::backend(BACKEND, doing, source)
}

/// A failure of the file system.
pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Error {
    Error::disk(BACKEND, doing, source)
}

pub(crate) fn no_instance(name: &WorkerName) -> Error {
    Error::not_found(format!("instance {name}"))
}

/// Runs what may block on the disk off the runtime's threads.
pub(crate) async fn blocking<R: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<R> {
    // It fails when the work panics, or the runtime is going away.
    tokio::task::spawn_blocking(work).await.map_err(|error| backend(doing, error))?
}
