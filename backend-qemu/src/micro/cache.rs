//! What builds share: downloaded packages, and the kernel and initrd that were made of them.
//!
//! ```text
//! CACHE/lock                  held by a build for as long as it looks into the cache
//! CACHE/apt/                  apt's own cache
//! CACHE/packages/             the packages, by name and version
//! CACHE/micro/KEY/            kernel, initrd and their hashes, in made.json
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use runner_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::packages::Package;
use crate::images::{BACKEND, Work, check_room, disk_failed, sha256_file, sha256_of};

/// The name of the kernel's file, here and in an image.
pub(super) const KERNEL: &str = "kernel";
/// The name of the initrd's file, here and in an image.
pub(super) const INITRD: &str = "initrd";

const MADE: &str = "made.json";

/// How often to look whether another build is done with the cache.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The cache, while this build has it to itself.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    _lock: File,
}

/// A kernel and initrd in the cache.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    #[serde(skip)]
    path: PathBuf,
    pub(super) kernel_sha256: String,
    pub(super) initrd_sha256: String,
}

impl Cache {
    /// Waits until no other build uses the cache at `path`, and sweeps what the last one may have left.
    ///
    /// # Errors
    /// `Backend` when it cannot be written to, or when the build was dropped meanwhile.
    pub(super) fn lock(path: &Path, work: &Work) -> Result<Self> {
        let failed = |error| in_cache(path, 0, error);
        let cache = Self { _lock: acquire(&path.join("lock"), work)?, path: path.to_owned() };
        for directory in [
            cache.apt_directory().join("archives/partial"),
            cache.packages_directory(),
            cache.made_directory(),
        ] {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        // We have the lock, so whatever is hidden was left by a build that died.
        for directory in [cache.packages_directory(), cache.made_directory()] {
            cache.remove_unless(&directory, |name| !name.starts_with('.'))?;
        }
        Ok(cache)
    }

    pub(super) fn apt_directory(&self) -> PathBuf {
        self.path.join("apt")
    }

    pub(super) fn packages_directory(&self) -> PathBuf {
        self.path.join("packages")
    }

    fn made_directory(&self) -> PathBuf {
        self.path.join("micro")
    }

    /// An empty directory; the next build sweeps it if this one cannot.
    pub(super) fn scratch(&self) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix(".making-")
            .tempdir_in(self.made_directory())
            .map_err(|error| in_cache(&self.path, 0, error))
    }

    /// What was made under `key`, if it is there and still what was made.
    pub(super) fn find(&self, key: &str, work: &Work) -> Result<Option<Made>> {
        let path = self.made_directory().join(key);
        let Ok(text) = fs::read(path.join(MADE)) else {
            return Ok(None);
        };
        let intact = match serde_json::from_slice::<Made>(&text) {
            Ok(made) => {
                let made = Made { path: path.clone(), ..made };
                made.is_intact(work)?.then_some(made)
            }
            Err(_) => None,
        };
        if intact.is_none() {
            work.line("the cache is damaged: making kernel and initrd again");
            fs::remove_dir_all(&path).map_err(|error| in_cache(&path, 0, error))?;
        }
        Ok(intact)
    }

    /// Keeps what was made under `key`.
    pub(super) fn keep(
        &self,
        key: &str,
        kernel: &[u8],
        initrd: &[u8],
        work: &Work,
    ) -> Result<Made> {
        let needed = (kernel.len() + initrd.len()) as u64;
        check_room(&self.path, needed)?;
        let path = self.made_directory().join(key);
        let failed = |error| in_cache(&path, needed, error);
        let here = self.scratch()?;
        let made = Made {
            path: path.clone(),
            kernel_sha256: sha256_of(kernel),
            initrd_sha256: sha256_of(initrd),
        };
        let description = serde_json::to_vec(&made).map_err(|error| failed(error.into()))?;
        for (name, content) in [(KERNEL, kernel), (INITRD, initrd), (MADE, &description)] {
            work.check()?;
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o444)
                .open(here.path().join(name))
                .and_then(|mut file| {
                    file.write_all(content)?;
                    file.sync_all()
                })
                .map_err(failed)?;
        }
        fs::rename(here.path(), &path).map_err(failed)?;
        Ok(made)
    }

    /// Removes what older versions of the packages have left. Images keep their files: they have links
    /// or copies of their own.
    pub(super) fn forget_others(&self, key: &str, packages: &[(Package, PathBuf)]) -> Result<()> {
        self.remove_unless(&self.made_directory(), |name| name == key)?;
        self.remove_unless(&self.packages_directory(), |name| {
            packages.iter().any(|(package, _)| package.file_name() == name)
        })
    }

    fn remove_unless(&self, directory: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
        let failed = |error| in_cache(directory, 0, error);
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().is_some_and(&keep) {
                continue;
            }
            if entry.file_type().map_err(failed)?.is_dir() {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            } else {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Made {
    /// Gives an image its own names for the files, or copies where the file system cannot.
    pub(super) fn place(&self, directory: &Path) -> Result<()> {
        for name in [KERNEL, INITRD] {
            let (from, to) = (self.path.join(name), directory.join(name));
            if fs::hard_link(&from, &to).is_ok() {
                continue;
            }
            let needed = fs::metadata(&from).map_or(0, |metadata| metadata.len());
            check_room(directory, needed)?;
            // `copy` takes the mode along.
            fs::copy(&from, &to).map_err(|error| {
                disk_failed(&to, needed, format!("write {}", to.display()), error)
            })?;
        }
        Ok(())
    }

    fn is_intact(&self, work: &Work) -> Result<bool> {
        for (name, sha256) in [(KERNEL, &self.kernel_sha256), (INITRD, &self.initrd_sha256)] {
            let path = self.path.join(name);
            if !path.exists() || sha256_file(&path, work)?.0 != *sha256 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn acquire(path: &Path, work: &Work) -> Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| in_cache(path, 0, error))?;
    let mut told = false;
    loop {
        work.check()?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Waiting in the kernel would be simpler, but a dropped build could not be woken.
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::Error(error)) => {
                return Err(Error::backend(BACKEND, format!("lock {}", path.display()), error));
            }
        }
        if !told {
            work.line("waiting for another build, which uses the cache");
            told = true;
        }
    }
}

fn in_cache(path: &Path, needed: u64, error: io::Error) -> Error {
    disk_failed(path, needed, format!("use the cache at {}", path.display()), error)
}
