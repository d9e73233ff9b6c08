//! What is kept on disk: tokens, runners, and the jobs that are not over.
//!
//! Files and not the pool's store, for three reasons: a trace of megabytes is appended to and read from
//! offsets, a job's directory goes with the job, and a token's file can be looked after one by one. All of
//! it is small and must outlive the process, not a loss of power, which ends the machines as well: so
//! nothing waits for a disk. Directories have mode 0700 and files 0600.
//!
//! ```text
//! STATE/lock                  held by the process that works here
//! STATE/system_id             names this host at GitLab
//! STATE/tokens/PROFILE        a runner at GitLab with its token
//! STATE/runners/WORKER        a worker that takes a job of a profile
//! STATE/jobs/ID/payload       the job as GitLab sent it, its token in it
//! STATE/jobs/ID/progress      how far it is
//! STATE/jobs/ID/trace         what it wrote, masked
//! STATE/cache/PROJECT/KEY     what jobs of a project keep for the next ones
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use runner_core::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::failed;

/// Makes a directory that only we can look into, with those above it.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|error| failed(format!("make {}", path.display()), error))
}

/// How long to wait for a predecessor to let go: the tasks of a forge end a moment after it is dropped.
const HANDOVER: Duration = Duration::from_secs(5);

/// Takes a directory for as long as the file is open. The death of a process lets go, too.
///
/// # Errors
/// `Busy` while somebody else has it.
pub(crate) async fn hold(dir: &Path) -> Result<File> {
    let file = open(&dir.join("lock"))?;
    let end = tokio::time::Instant::now() + HANDOVER;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let dir = dir.display();
                return Err(Error::busy(format!(
                    "the directory {dir}, which another process has,"
                )));
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed(format!("lock {}", dir.display()), error));
            }
        }
    }
}

/// Opens a file to append to, or makes it.
pub(crate) fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .mode(0o600)
        .truncate(false)
        .open(path);
    opened.map_err(|error| failed(format!("open {}", path.display()), error))
}

/// Replaces a whole file: whoever reads it sees the old content or the new.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let replace = || -> io::Result<()> {
        // One that was left there may have been made by somebody else, with another mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        fs::rename(&temporary, path)
    };
    replace().map_err(|error| failed(format!("write {}", path.display()), error))
}

/// As JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec(value);
    write(path, &json.map_err(|error| failed(format!("write {}", path.display()), error))?)
}

/// None if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(format!("read {}", path.display()), error)),
    }
}

/// None if there is no such file, or none that can be understood: what that means is for the caller to say.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    Ok(read(path)?.and_then(|content| match serde_json::from_slice(&content) {
        Ok(value) => Some(value),
        Err(error) => {
            // Not what was read: it may be secret.
            let (line, column) = (error.line(), error.column());
            tracing::error!(path = %path.display(), line, column, "A file cannot be understood.");
            None
        }
    }))
}

/// Fine if there is none.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// With all that is in it. Fine if there is none.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// The names in a directory; none if it does not exist. What is being written is left out.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(format!("list {}", path.display()), error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(format!("list {}", path.display()), error))?;
        if let Ok(name) = entry.file_name().into_string()
            && !name.ends_with(".new")
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What names this host at GitLab: made once, from chance.
pub(crate) fn system_id(state_dir: &Path) -> Result<String> {
    const LETTERS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let path = state_dir.join("system_id");
    let kept = read(&path)?.and_then(|text| String::from_utf8(text).ok());
    if let Some(id) = kept.filter(|id| id.len() == 14 && id.starts_with("r_")) {
        return Ok(id);
    }
    let letter = || char::from(LETTERS[usize::from(rand::random::<u8>()) % LETTERS.len()]);
    let id: String = "r_".chars().chain((0..12).map(|_| letter())).collect();
    write(&path, id.as_bytes())?;
    Ok(id)
}
