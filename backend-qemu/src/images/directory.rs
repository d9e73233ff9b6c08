//! The directory of images: what begins, commits, lists, deletes and sweeps.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use runner_core::{
    Error, ImageId, ProfileName, Result,
    image::{Boot, Image},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{BACKEND, disk_failed};
use machine_disks::{lock, private::is_missing};

const BUILDING: &str = ".building-";
const DELETING: &str = ".deleting-";
const ROOT_LOCK: &str = ".lock";
const BUILD_LOCK: &str = "lock";
const DESCRIPTION: &str = "image.json";

/// The directory of images. Every method may block.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn open(root: &Path) -> Result<Self> {
        Ok(Self { root: make(root)? })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Begins a build under an id that nothing else has.
    pub(super) fn begin(&self, profile: &ProfileName, now: Timestamp) -> Result<Building> {
        let _lock = self.lock()?;
        let id = self.unused_id(profile, now)?;
        let path = self.root.join(format!("{BUILDING}{id}"));
        let failed = |error| disk_failed(&path, 0, format!("make {}", path.display()), error);
        DirBuilder::new().mode(0o755).create(&path).map_err(failed)?;
        let lock = lock::hold(&path.join(BUILD_LOCK)).map_err(failed)?;
        Ok(Building { directory: self.clone(), id, path, lock, committed: false })
    }

    /// Every image, oldest first.
    pub(super) fn images(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for name in self.names()? {
            if !name.starts_with('.')
                && let Some(image) = self.image(&name)?
                // It is no image any more; a build of its profile deletes it.
                && lost_file(&image)?.is_none()
            {
                images.push(image);
            }
        }
        images.sort_by(|a, b| (a.built_at, &a.id).cmp(&(b.built_at, &b.id)));
        Ok(images)
    }

    /// Deletes an image; what has no description is not ours and stays.
    pub(super) fn delete(&self, id: &ImageId) -> Result<()> {
        let path = self.root.join(id.as_str());
        let doomed = {
            let _lock = self.lock()?;
            if !exists(&path.join(DESCRIPTION))? {
                return Ok(());
            }
            self.doom(&path, id.as_str())?
        };
        remove(&doomed)
    }

    /// Removes what builds and deletions that died have left. What is alive holds its lock.
    pub(super) fn sweep(&self) -> Result<()> {
        let leftover = |name: &String| name.starts_with(BUILDING) || name.starts_with(DELETING);
        if !self.names()?.iter().any(leftover) {
            return Ok(());
        }
        let doomed = {
            let _lock = self.lock()?;
            let mut doomed = Vec::new();
            for name in self.names()? {
                let path = self.root.join(&name);
                if name.starts_with(DELETING) {
                    doomed.push(path);
                } else if let Some(id) = name.strip_prefix(BUILDING)
                    && is_dead(&path)?
                {
                    tracing::info!(path = %path.display(), "Sweeping a build that died.");
                    doomed.push(self.doom(&path, id)?);
                }
            }
            doomed
        };
        doomed.iter().try_for_each(|path| remove(path))
    }

    fn image(&self, name: &str) -> Result<Option<Image>> {
        let directory = self.root.join(name);
        let path = directory.join(DESCRIPTION);
        let failed = |error| Error::backend(BACKEND, format!("read {}", path.display()), error);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let image: Image = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        if image.id.as_str() != name {
            let reason = format!("it describes {}", image.id);
            return Err(failed(io::Error::other(reason)));
        }
        Ok(exists(&path)?.then_some(image))
    }

    /// Deletes the images of a profile that lack a file, as nothing can boot from them any more. Returns
    /// what was wrong with each.
    pub(super) fn delete_broken(&self, profile: &ProfileName) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for name in self.names()?.iter().filter(|name| !name.starts_with('.')) {
            let Some(image) = self.image(name)?.filter(|image| image.recipe.profile == *profile)
            else {
                continue;
            };
            if let Some(file) = lost_file(&image)? {
                self.delete(&image.id)?;
                let file = file.display();
                broken.push(format!("image {} is deleted: {file} does not exist", image.id));
            }
        }
        Ok(broken)
    }

    fn unused_id(&self, profile: &ProfileName, now: Timestamp) -> Result<ImageId> {
        let base = format!("{profile}.{}", now.strftime("%Y%m%dT%H%M%SZ"));
        for suffix in 1_u32.. {
            let name = match suffix {
                1 => base.clone(),
                _ => format!("{base}.{suffix}"),
            };
            if !exists(&self.root.join(&name))?
                && !exists(&self.root.join(format!("{BUILDING}{name}")))?
            {
                return ImageId::new(name);
            }
        }
        Err(Error::busy(format!("every image id of {base}")))
    }

    /// Renames `path` to a name that only a sweep looks at. Hold the lock.
    fn doom(&self, path: &Path, id: &str) -> Result<PathBuf> {
        for suffix in 0_u32.. {
            let doomed = self.root.join(format!("{DELETING}{id}.{suffix}"));
            match renameat_with(CWD, path, CWD, &doomed, RenameFlags::NOREPLACE) {
                Ok(()) => {
                    sync(&self.root)?;
                    return Ok(doomed);
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => {
                    let doing = format!("set {} aside", path.display());
                    return Err(Error::backend(BACKEND, doing, error));
                }
            }
        }
        Err(Error::busy(format!("every name to delete {id} under")))
    }

    /// Excludes every other process from turning one kind of directory into another. Held for moments.
    fn lock(&self) -> Result<File> {
        let path = self.root.join(ROOT_LOCK);
        lock::wait(&path)
            .map_err(|error| disk_failed(&path, 0, format!("lock {}", path.display()), error))
    }

    /// The names in the directory. Those that are not UTF-8 are not ours.
    fn names(&self) -> Result<Vec<String>> {
        let failed =
            |error| Error::backend(BACKEND, format!("list {}", self.root.display()), error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }
}

/// A build: a directory that is ours alone while this lives, and that goes when this is dropped.
#[derive(Debug)]
pub(super) struct Building {
    directory: Directory,
    id: ImageId,
    path: PathBuf,
    lock: File,
    committed: bool,
}

impl Building {
    pub(super) fn id(&self) -> &ImageId {
        &self.id
    }

    /// Where to build.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the files will be once the build is an image.
    pub(super) fn destination(&self) -> PathBuf {
        self.directory.root.join(self.id.as_str())
    }

    /// Makes the files read-only, sees them to the disk, and returns what they take there.
    pub(super) fn seal(&self) -> Result<u64> {
        let failed = |error| {
            let doing = format!("write {}", self.path.display());
            disk_failed(&self.path, 0, doing, error)
        };
        let mut size = 0;
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == BUILD_LOCK {
                continue;
            }
            let file = File::open(entry.path()).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            let metadata = file.metadata().map_err(failed)?;
            if metadata.permissions().mode() & 0o777 != 0o444 {
                file.set_permissions(Permissions::from_mode(0o444)).map_err(failed)?;
            }
            size += metadata.blocks() * 512;
        }
        Ok(size)
    }

    /// Writes the description, last of all.
    pub(super) fn describe(&self, image: &Image) -> Result<()> {
        let path = self.path.join(DESCRIPTION);
        let failed = |error| disk_failed(&path, 4096, format!("write {}", path.display()), error);
        let text = serde_json::to_vec_pretty(image).map_err(|error| failed(error.into()))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        sync(&self.path)
    }

    /// Makes it an image.
    pub(super) fn commit(mut self) -> Result<()> {
        let _lock = self.directory.lock()?;
        let failed = |error: io::Error| {
            Error::backend(BACKEND, format!("commit {}", self.path.display()), error)
        };
        fs::remove_file(self.path.join(BUILD_LOCK)).map_err(failed)?;
        let flags = RenameFlags::NOREPLACE;
        renameat_with(CWD, &self.path, CWD, self.destination(), flags)
            .map_err(|error| failed(error.into()))?;
        self.committed = true;
        sync(&self.directory.root)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(error = %runner_core::error::chain(&error), "The next sweep will retry.");
        }
        // Named so that nobody takes it for unused: the lock is held until the directory is gone.
        let _ = self.lock.unlock();
    }
}

/// Makes the directory and returns its absolute path.
pub(super) fn make(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path)
        .and_then(|()| fs::canonicalize(path))
        .map_err(|error| disk_failed(path, 0, format!("make directory {}", path.display()), error))
}

/// Whether the build at `path` has no process any more. Hold the directory's lock: under it, a build
/// that begins has its lock already.
fn is_dead(path: &Path) -> Result<bool> {
    let failed = |error| Error::backend(BACKEND, format!("look at {}", path.display()), error);
    match lock::is_held(&path.join(BUILD_LOCK)) {
        Ok(held) => Ok(!held),
        Err(error) if is_missing(&error) => exists(path),
        Err(error) => Err(failed(error)),
    }
}

fn files(boot: &Boot) -> Vec<&Path> {
    match boot {
        Boot::Kernel { kernel, initrd, .. } => vec![kernel, initrd],
        Boot::Disk { path, .. } => vec![path],
        _ => Vec::new(),
    }
}

/// A file that the image boots from and that does not exist.
fn lost_file(image: &Image) -> Result<Option<&Path>> {
    for file in files(&image.boot) {
        if !exists(file)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Removes a directory and all in it; fine when another sweep is faster.
fn remove(path: &Path) -> Result<()> {
    for _ in 0..10 {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => {
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::backend(BACKEND, format!("remove {}", path.display()), error));
            }
        }
    }
    Err(Error::busy(path.display().to_string()))
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(Error::backend(BACKEND, format!("look at {}", path.display()), error)),
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| disk_failed(path, 0, format!("sync {}", path.display()), error))
}
