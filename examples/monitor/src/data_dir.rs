//! The directory with everything that must outlive the process. One process at a time has it.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// A data directory that this process has to itself, until this is dropped or the process ends.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory when missing, for its owner only, and locks it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made or written to.
    pub fn lock(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        make(path)?;
        // Absolute, because instances keep paths to it.
        let path = fs::canonicalize(path)
            .with_context(|| format!("could not find the data directory {shown}"))?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .with_context(|| format!("could not open {}", file.display()))?;
        match lock.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // For the message only; whoever holds it may not have written it yet.
                let _ = lock.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                bail!(
                    "the data directory {shown} is in use by {holder}; \
                     stop it, or choose another directory with --data"
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("could not lock {}", file.display()));
            }
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .with_context(|| format!("could not write {}", file.display()))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes down where the service is, for clients on this host, until the directory is let go.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn announce(&self, url: &str) -> anyhow::Result<()> {
        let file = address_file(&self.path);
        fs::write(&file, format!("{url}\n"))
            .with_context(|| format!("could not write {}", file.display()))
    }

    /// The store's file.
    pub fn store_file(&self) -> PathBuf {
        self.path.join("store.sqlite")
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // A crash leaves it; clients then find that nobody answers there.
        let _ = fs::remove_file(address_file(&self.path));
    }
}

/// Makes a data directory when it is missing, for its owner only.
///
/// # Errors
/// When it cannot be made.
pub fn make(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| {
        let shown = path.display();
        format!("could not make the data directory {shown}; choose one with --data")
    })
}

/// Writes a file that only its owner reads: afterwards it is the old one or the new one, whole.
///
/// # Errors
/// When it cannot be written; the old one is kept.
pub fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".new");
    let mut options = OpenOptions::new();
    let mut new = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    new.write_all(content)?;
    new.sync_all()?;
    fs::rename(&fresh, file)
}

/// Where the service of a data directory says it is, if it says so.
pub fn address(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(address_file(data_dir)).ok()?;
    Some(text.trim().to_owned())
        .filter(|text| text.starts_with("http://") || text.starts_with("https://"))
}

fn address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("address")
}

/// Where the data is when nobody says: where systemd made room for it, one place for root, and one in each
/// user's home.
pub fn default_dir() -> PathBuf {
    if let Some(dir) = directory("STATE_DIRECTORY") {
        return dir;
    }
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if is_root {
        return PathBuf::from("/var/lib/monitor");
    }
    let state = directory("XDG_STATE_HOME");
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/".into()));
    state.unwrap_or_else(|| home().join(".local/state")).join("monitor")
}

/// Where things are that can be had again, when nobody says.
pub fn default_cache(data_dir: &Path) -> PathBuf {
    directory("CACHE_DIRECTORY").unwrap_or_else(|| data_dir.join("cache"))
}

fn directory(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Where the API token is, unless it is said to be elsewhere.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("api-token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_told_who_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let held = DataDir::lock(&path).unwrap();
        let error = DataDir::lock(&path).err().unwrap().to_string();
        let pid = std::process::id().to_string();
        assert!(error.contains("in use by process") && error.contains(&pid), "{error}");
        drop(held);
        DataDir::lock(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }
}
