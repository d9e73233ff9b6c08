//! Locks that tell who lives: the kernel holds one exactly as long as some process has the file open.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

/// Makes the lock at `path` and holds it. The file closes on `exec`, unless it is passed on explicitly.
///
/// # Errors
/// `WouldBlock` when someone else holds it; those of making a file.
pub fn hold(path: &Path) -> io::Result<File> {
    let file = open(OpenOptions::new().create(true), path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Makes the lock at `path` and holds it as soon as nobody else does. Blocks.
///
/// # Errors
/// Those of making a file.
pub fn wait(path: &Path) -> io::Result<File> {
    let file = open(OpenOptions::new().create(true), path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Whether someone holds the lock at `path`.
///
/// # Errors
/// `NotFound` when there is no such file; those of opening one.
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = open(&mut OpenOptions::new(), path)?;
    // Shared, so that two who look at once do not see each other.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.read(true).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_as_long_as_its_file_is_open_somewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert_eq!(is_held(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let first = hold(&path).unwrap();
        let passed_on = first.try_clone().unwrap();
        assert!(is_held(&path).unwrap());
        assert_eq!(hold(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(is_held(&path).unwrap());
        drop(passed_on);
        assert!(!is_held(&path).unwrap());
    }
}
