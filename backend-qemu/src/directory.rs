//! How instances lie on disk: entries of `machine-disks`, with what a QEMU has.
//!
//! ```text
//! ROOT/instances/NAME/           one instance
//!     instance.json              our mark
//!     lock                       held by QEMU, and so by nobody once it is dead
//!     argv, pid, stderr          what QEMU was told, its process id, and its complaints
//!     qmp, agent                 sockets
//!     disk.qcow2, seed.img, user-data, console.log
//!     exit.json                  why it stopped, once that is known
//! ```

use std::{fs::File, path::Path};

use machine_disks::{Entries, Entry, Mark, entries::Access, lock};
use runner_core::{
    OwnerId, Result, WorkerName,
    hypervisor::{ExitReason, Instance, InstanceState},
};

use crate::{
    error,
    instance_dir::{InstanceDir, LOCK},
};

/// The directory of all instances, ours alone while this lives.
#[derive(Debug)]
pub(crate) struct Root(Entries);

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
        Entries::open(path, owner, Access::Private).map(Self)
    }

    /// Where instances lie, for questions about the disk.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Makes the directory of an instance, marked and locked. It shows under its name only once it is both.
    ///
    /// # Errors
    /// `Busy` for a name that has a directory already.
    pub(crate) fn make(&self, mark: &Mark) -> Result<(InstanceDir, File)> {
        let (entry, lock) = self.0.make(mark, |draft| lock::hold(&draft.join(LOCK)))?;
        Ok((InstanceDir::at(entry.path), lock))
    }

    /// The instance of this name, if it is ours.
    pub(crate) fn find(&self, name: &WorkerName) -> Result<Option<Found>> {
        Ok(self.0.find(name)?.map(Found::from))
    }

    /// Every instance of ours.
    pub(crate) fn list(&self) -> Result<Vec<Found>> {
        Ok(self.0.list()?.into_iter().map(Found::from).collect())
    }

    /// Removes what is left of a creation or a removal that was cut short. Not while a directory is being
    /// made.
    pub(crate) fn sweep(&self) -> Result<()> {
        self.0.sweep()
    }

    /// Removes a dead instance: first all it had, then its mark, so that it is listed until the rest is gone.
    pub(crate) fn remove(&self, found: &Found) -> Result<()> {
        let (path, mark) = (found.directory.path().to_owned(), found.mark.clone());
        self.0.remove(&Entry { path, mark }, &[LOCK])
    }
}

impl From<Entry> for Found {
    fn from(entry: Entry) -> Self {
        Self { directory: InstanceDir::at(entry.path), mark: entry.mark }
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

/// A mark for tests of what lies in a directory.
#[cfg(test)]
pub(crate) fn example_mark(name: &str) -> Mark {
    use runner_core::{ImageId, ProfileName, Resources};

    Mark {
        owner: OwnerId::new("us").unwrap(),
        name: WorkerName::new(name).unwrap(),
        profile: ProfileName::new("linux").unwrap(),
        image: ImageId::new("linux.1").unwrap(),
        resources: Resources::default(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    #[test]
    fn an_instance_lives_as_long_as_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), &OwnerId::new("us").unwrap()).unwrap();
        let mark = example_mark("linux-1");
        let (made, lock) = root.make(&mark).unwrap();
        assert_eq!(fs::metadata(made.path()).unwrap().mode() & 0o777, 0o700);
        let state = |root: &Root| root.list().unwrap()[0].instance().unwrap().state;
        assert_eq!(state(&root), InstanceState::Running);
        drop(lock);
        assert_eq!(state(&root), InstanceState::Stopped(ExitReason::Unknown));
        made.set_exit(&ExitReason::GuestPanic).unwrap();
        made.set_exit(&ExitReason::GuestReset).unwrap();
        assert_eq!(state(&root), InstanceState::Stopped(ExitReason::GuestPanic));
        let found = root.find(&mark.name).unwrap().unwrap();
        root.remove(&found).unwrap();
        root.remove(&found).unwrap();
        assert!(root.list().unwrap().is_empty());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
