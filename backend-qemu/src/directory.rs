//! How instances lie on disk.
//!
//! ```text
//! ROOT/lock                      held by the one process that uses ROOT
//! ROOT/owner                     whose ROOT it is
//! ROOT/instances/NAME/           one instance
//!     instance.json              our mark: owner, name and what the list says; written first, removed last
//!     lock                       held by QEMU, and so by nobody once it is dead
//!     argv, pid, stderr          what QEMU was told, its process id, and its complaints
//!     qmp, agent                 sockets
//!     disk.qcow2, seed.img, user-data, console.log
//!     exit.json                  why it stopped, once that is known
//! ROOT/instances/.new-…          not an instance yet: has no mark, or did not get its name
//! ROOT/instances/.gone-…         not an instance any more: holds the mark at most
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use runner_core::{
    Error, ImageId, OwnerId, ProfileName, Resources, Result, WorkerName,
    hypervisor::{ExitReason, Instance, InstanceState},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::{
    error::{self, is_missing},
    instance_dir::{InstanceDir, LOCK, make_private, write_private},
    lock,
};

const MARK: &str = "instance.json";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

/// What says that a directory is ours, and what instance it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) owner: OwnerId,
    pub(crate) name: WorkerName,
    pub(crate) profile: ProfileName,
    pub(crate) image: ImageId,
    pub(crate) resources: Resources,
    pub(crate) created_at: Timestamp,
}

/// The directory of all instances, ours alone while this lives.
#[derive(Debug)]
pub(crate) struct Root {
    instances: PathBuf,
    owner: OwnerId,
    _lock: File,
}

/// An instance on disk.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) directory: InstanceDir,
    pub(crate) mark: Mark,
}

impl Root {
    /// Takes charge of `path`, making it if it is missing, and sweeps what was cut short.
    ///
    /// # Errors
    /// `Busy` while another process has it, `Invalid` if it is another owner's.
    pub(crate) fn open(path: &Path, owner: &OwnerId) -> Result<Self> {
        let shown = path.display();
        let fail = |error| error::io(format!("open {shown}"), error);
        let instances = path.join("instances");
        make_private(&instances).map_err(fail)?;
        let lock = lock::hold(&path.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                Error::busy(format!("{shown} (another process keeps its instances there)"))
            }
            _ => fail(error),
        })?;
        let marked = path.join("owner");
        match fs::read_to_string(&marked) {
            Ok(other) if other.trim() == owner.as_str() => {}
            Ok(other) => {
                let reason = format!("it belongs to {:?}, and this is {owner}", other.trim());
                return Err(Error::invalid(format!("directory {shown}"), reason));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_private(&marked, owner.as_str().as_bytes()).map_err(fail)?;
            }
            Err(error) => return Err(fail(error)),
        }
        let root = Self {
            instances: instances.canonicalize().map_err(fail)?,
            owner: owner.clone(),
            _lock: lock,
        };
        root.sweep().map_err(fail)?;
        Ok(root)
    }

    /// Where instances lie, for questions about the disk.
    pub(crate) fn path(&self) -> &Path {
        &self.instances
    }

    /// Makes the directory of an instance, marked and locked. It shows under its name only once it is both.
    ///
    /// # Errors
    /// `Busy` for a name that has a directory already.
    pub(crate) fn make(&self, mark: &Mark) -> Result<(InstanceDir, File)> {
        let fail = |error| error::io(format!("make the directory of {}", mark.name), error);
        let draft =
            self.instances.join(format!("{NEW}{}.{:08x}", mark.name, rand::random::<u32>()));
        let path = self.instances.join(mark.name.as_str());
        let make = || {
            make_private(&draft)?;
            let lock = lock::hold(&draft.join(LOCK))?;
            write_private(&draft.join(MARK), &serde_json::to_vec_pretty(mark)?)?;
            // A mark that a crash of the host left empty would make this nobody's for ever.
            File::open(draft.join(MARK))?.sync_all()?;
            renameat_with(CWD, &draft, CWD, &path, RenameFlags::NOREPLACE)?;
            Ok(lock)
        };
        let lock = make().map_err(|error: io::Error| {
            // What it cannot remove now is swept later.
            let _ = fs::remove_dir_all(&draft);
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::busy(format!("directory {}", path.display()))
                }
                _ => fail(error),
            }
        })?;
        Ok((InstanceDir::at(path), lock))
    }

    /// The instance of this name, if it is ours.
    pub(crate) fn find(&self, name: &WorkerName) -> Result<Option<Found>> {
        let directory = InstanceDir::at(self.instances.join(name.as_str()));
        let mark = match fs::read(directory.join(MARK)) {
            Ok(mark) => mark,
            Err(error) if is_missing(&error) => return Ok(None),
            // What is ours we may read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(error::io(format!("read the mark of {name}"), error)),
        };
        // A mark is written whole or not at all, so what does not parse is not ours.
        let found = serde_json::from_slice::<Mark>(&mark).ok();
        Ok(found
            .filter(|mark| mark.owner == self.owner && mark.name == *name)
            .map(|mark| Found { directory, mark }))
    }

    /// Every instance of ours.
    pub(crate) fn list(&self) -> Result<Vec<Found>> {
        let fail = |error| error::io(format!("list {}", self.instances.display()), error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.instances).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            // What is no worker's name is nothing of ours.
            let Some(name) = name.to_str().and_then(|name| WorkerName::new(name).ok()) else {
                continue;
            };
            all.extend(self.find(&name)?);
        }
        all.sort_by(|a, b| a.mark.name.cmp(&b.mark.name));
        Ok(all)
    }

    /// Removes what is left of a creation or a removal that was cut short. Not while a directory is being
    /// made.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.instances)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW) || name.starts_with(GONE) {
                match fs::remove_dir_all(entry.path()) {
                    // Someone else is at it.
                    Err(error) if is_missing(&error) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// Removes a dead instance: first all it had, then its mark, so that it is listed until the rest is gone.
    pub(crate) fn remove(&self, found: &Found) -> Result<()> {
        let name = &found.mark.name;
        let remove = || {
            for entry in fs::read_dir(found.directory.path())? {
                let entry = entry?;
                if entry.file_name() == MARK || entry.file_name() == LOCK {
                    continue;
                }
                match entry.file_type()?.is_dir() {
                    true => fs::remove_dir_all(entry.path())?,
                    false => fs::remove_file(entry.path())?,
                }
            }
            let gone = format!("{GONE}{name}.{:08x}", rand::random::<u32>());
            let gone = self.instances.join(gone);
            fs::rename(found.directory.path(), &gone)?;
            fs::remove_dir_all(&gone)
        };
        match remove() {
            Err(error) if !is_missing(&error) => Err(error::io(format!("remove {name}"), error)),
            _ => Ok(()),
        }
    }
}

impl Found {
    /// What the list says of it.
    pub(crate) fn instance(&self) -> Result<Instance> {
        let name = &self.mark.name;
        let fail = |error| error::io(format!("look at {name}"), error);
        let state = match self.directory.is_alive().map_err(fail)? {
            true => InstanceState::Running,
            false => {
                let reason = self.directory.exit().map_err(fail)?;
                InstanceState::Stopped(reason.unwrap_or(ExitReason::Unknown))
            }
        };
        Ok(self.mark.instance(state))
    }
}

impl Mark {
    /// For tests of what lies in a directory.
    #[cfg(test)]
    pub(crate) fn example(name: &str) -> Self {
        Self {
            owner: OwnerId::new("us").unwrap(),
            name: WorkerName::new(name).unwrap(),
            profile: ProfileName::new("linux").unwrap(),
            image: ImageId::new("linux.1").unwrap(),
            resources: Resources::default(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    pub(crate) fn instance(&self, state: InstanceState) -> Instance {
        Instance {
            name: self.name.clone(),
            profile: self.profile.clone(),
            image: self.image.clone(),
            resources: self.resources.clone(),
            created_at: self.created_at,
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn open(path: &Path) -> Root {
        Root::open(path, &OwnerId::new("us").unwrap()).unwrap()
    }

    #[test]
    fn a_root_has_one_user_and_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let us = OwnerId::new("us").unwrap();
        let root = open(&path);
        let error = Root::open(&path, &us).unwrap_err();
        assert!(error.is_busy(), "{error}");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(root);
        let error = Root::open(&path, &OwnerId::new("them").unwrap()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        Root::open(&path, &us).unwrap();
    }

    #[test]
    fn what_lacks_our_mark_is_neither_listed_nor_touched() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let instances = directory.path().join("instances");
        let foreign = ["linux-1", "linux-2", "linux-3", "linux-4", "NOT A NAME"];
        for name in foreign {
            fs::create_dir(instances.join(name)).unwrap();
        }
        let mut other = Mark::example("linux-2");
        other.owner = OwnerId::new("them").unwrap();
        fs::write(instances.join("linux-2").join(MARK), serde_json::to_vec(&other).unwrap())
            .unwrap();
        fs::write(instances.join("linux-3").join(MARK), "{ not json").unwrap();
        let copied = serde_json::to_vec(&Mark::example("linux-9")).unwrap();
        fs::write(instances.join("linux-4").join(MARK), copied).unwrap();
        fs::write(instances.join("linux-5"), "a file").unwrap();
        assert!(root.list().unwrap().is_empty());
        root.sweep().unwrap();
        assert_eq!(fs::read_dir(&instances).unwrap().count(), 6);
        assert!(root.make(&Mark::example("linux-1")).unwrap_err().is_busy());
        assert_eq!(fs::read_dir(&instances).unwrap().count(), 6);
    }

    #[test]
    fn what_was_cut_short_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()));
        let instances = directory.path().join("instances");
        for name in [".new-linux-1.0", ".gone-linux-2.0"] {
            fs::create_dir(instances.join(name)).unwrap();
            fs::write(instances.join(name).join("disk"), "x").unwrap();
        }
        let root = open(directory.path());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_instance_lives_as_long_as_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let (made, lock) = root.make(&Mark::example("linux-1")).unwrap();
        assert_eq!(fs::metadata(made.path()).unwrap().mode() & 0o777, 0o700);
        let state = |root: &Root| root.list().unwrap()[0].instance().unwrap().state;
        assert_eq!(state(&root), InstanceState::Running);
        drop(lock);
        assert_eq!(state(&root), InstanceState::Stopped(ExitReason::Unknown));
        made.set_exit(&ExitReason::GuestPanic).unwrap();
        made.set_exit(&ExitReason::GuestReset).unwrap();
        assert_eq!(state(&root), InstanceState::Stopped(ExitReason::GuestPanic));
        let found = root.find(&Mark::example("linux-1").name).unwrap().unwrap();
        root.remove(&found).unwrap();
        root.remove(&found).unwrap();
        assert!(root.list().unwrap().is_empty());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
