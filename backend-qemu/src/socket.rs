//! Unix sockets in directories of any depth.
//!
//! A socket's path may have 107 bytes at most, and data directories are longer than one thinks. A path through
//! `/proc/self/fd` is always short.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

/// Makes the socket `name` in `directory` and listens on it.
pub(crate) fn listen(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let directory = File::open(directory)?;
    UnixListener::bind(short(&directory, name))
}

/// Connects to the socket `name` in `directory`.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    UnixStream::connect(short(&directory, name)).await
}

fn short(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_directory_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&long).unwrap();
        let listener = listen(&long, "socket").unwrap();
        connect(&long, "socket").await.unwrap();
        listener.accept().unwrap();
    }
}
