//! A directory for each instance, with a mark that says whose it is. The mark is the record of an instance
//! that is about to be made: it is written before anything else is, and removed after everything else is gone.
//!
//! ```text
//! ROOT/lock                      held by the one process that uses ROOT
//! ROOT/owner                     whose ROOT it is
//! ROOT/instances/NAME/           one instance
//!     instance.json              our mark: owner, name and what the list says; written first, removed last
//!     …                          whatever the instance has
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
    hypervisor::{Instance, InstanceSpec, InstanceState},
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};

use crate::{
    error, lock,
    private::{self, is_missing},
};

const MARK: &str = "instance.json";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";

/// What says that something is ours, and what instance it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose it is.
    pub owner: OwnerId,
    /// The instance's name.
    pub name: WorkerName,
    /// The profile it was made for.
    pub profile: ProfileName,
    /// What it boots.
    pub image: ImageId,
    /// What it takes.
    pub resources: Resources,
    /// When it was marked.
    pub created_at: Timestamp,
}

/// Who may enter the directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody but us.
    Private,
    /// Nobody may list them, but whoever was given a file in them gets there: for a daemon that runs
    /// instances as another user.
    Passage,
}

/// The directories of all instances, ours alone while this lives.
#[derive(Debug)]
pub struct Entries {
    instances: PathBuf,
    owner: OwnerId,
    mode: u32,
    _lock: File,
}

/// The directory of an instance of ours.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its mark.
    pub mark: Mark,
}

impl Entries {
    /// Takes charge of `root`, making it if it is missing, and sweeps what was cut short.
    ///
    /// # Errors
    /// `Busy` while another process has it, `Invalid` if it is another owner's, `Backend` if it cannot be used.
    pub fn open(root: &Path, owner: &OwnerId, access: Access) -> Result<Self> {
        let shown = root.display();
        let fail = |error| error::io(format!("open {shown}"), error);
        let instances = root.join("instances");
        let mode = match access {
            Access::Private => 0o700,
            Access::Passage => 0o711,
        };
        let existed = root.exists();
        private::make_directory_with(&instances, mode).map_err(fail)?;
        if !existed {
            private::set_mode(root, mode).map_err(fail)?;
        }
        private::set_mode(&instances, mode).map_err(fail)?;
        let lock = lock::hold(&root.join("lock")).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                Error::busy(format!("{shown} (another process keeps its instances there)"))
            }
            _ => fail(error),
        })?;
        let marked = root.join("owner");
        match fs::read_to_string(&marked) {
            Ok(other) if other.trim() == owner.as_str() => {}
            // A crash of the host left it empty. What is in it has marks of its own.
            Ok(other) if other.trim().is_empty() => {
                private::write(&marked, owner.as_str().as_bytes()).map_err(fail)?;
            }
            Ok(other) => {
                let reason = format!("it belongs to {:?}, and this is {owner}", other.trim());
                return Err(Error::invalid(format!("directory {shown}"), reason));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private::write(&marked, owner.as_str().as_bytes()).map_err(fail)?;
            }
            Err(error) => return Err(fail(error)),
        }
        let entries = Self {
            instances: instances.canonicalize().map_err(fail)?,
            owner: owner.clone(),
            mode,
            _lock: lock,
        };
        entries.sweep()?;
        Ok(entries)
    }

    /// Where the directories lie, for questions about the disk.
    pub fn path(&self) -> &Path {
        &self.instances
    }

    /// Makes the directory of an instance, with what `prepare` puts into it and the mark. It shows under its
    /// name only once it has both.
    ///
    /// # Errors
    /// `Busy` for a name that has a directory already, ours or not; `Exhausted`, `Backend`.
    pub fn make<T>(
        &self,
        mark: &Mark,
        prepare: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<(Entry, T)> {
        let draft =
            self.instances.join(format!("{NEW}{}.{:08x}", mark.name, rand::random::<u32>()));
        let path = self.instances.join(mark.name.as_str());
        let make = || {
            private::make_directory_with(&draft, self.mode)?;
            private::set_mode(&draft, self.mode)?;
            let prepared = prepare(&draft)?;
            private::write(&draft.join(MARK), &serde_json::to_vec_pretty(mark)?)?;
            // A mark that a crash of the host left empty would make this nobody's for ever.
            File::open(draft.join(MARK))?.sync_all()?;
            renameat_with(CWD, &draft, CWD, &path, RenameFlags::NOREPLACE)?;
            Ok(prepared)
        };
        let prepared = make().map_err(|error: io::Error| {
            // What it cannot remove now is swept later.
            let _ = fs::remove_dir_all(&draft);
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    Error::busy(format!("directory {}", path.display()))
                }
                _ => error::io(format!("make the directory of {}", mark.name), error),
            }
        })?;
        Ok((Entry { path, mark: mark.clone() }, prepared))
    }

    /// The entry of this name, if it is ours.
    ///
    /// # Errors
    /// `Backend` when the mark is there and cannot be read.
    pub fn find(&self, name: &WorkerName) -> Result<Option<Entry>> {
        let path = self.instances.join(name.as_str());
        let mark = match fs::read(path.join(MARK)) {
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
            .map(|mark| Entry { path, mark }))
    }

    /// Every entry of ours, by name.
    ///
    /// # Errors
    /// `Backend` when one of them could not be read: a list is whole or it is an error.
    pub fn list(&self) -> Result<Vec<Entry>> {
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
    ///
    /// # Errors
    /// `Backend` when something could not be removed.
    pub fn sweep(&self) -> Result<()> {
        let sweep = || {
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
        };
        sweep().map_err(|error| error::io(format!("sweep {}", self.instances.display()), error))
    }

    /// Removes the entry of a dead instance: first all it had, then the files named in `last` and the mark, so
    /// that it is listed until the rest is gone. Fine if it is gone already.
    ///
    /// # Errors
    /// `Backend` when something could not be removed; it is listed still.
    pub fn remove(&self, entry: &Entry, last: &[&str]) -> Result<()> {
        let name = &entry.mark.name;
        let remove = || {
            for file in fs::read_dir(&entry.path)? {
                let file = file?;
                let stays = |last: &str| file.file_name() == last;
                if stays(MARK) || last.iter().any(|last| stays(last)) {
                    continue;
                }
                let removed = match file.file_type() {
                    Ok(kind) if kind.is_dir() => fs::remove_dir_all(file.path()),
                    Ok(_) => fs::remove_file(file.path()),
                    Err(error) => Err(error),
                };
                match removed {
                    // A file that someone wrote this instant has its own name by now, and goes with the directory.
                    Err(error) if is_missing(&error) => {}
                    removed => removed?,
                }
            }
            let gone = format!("{GONE}{name}.{:08x}", rand::random::<u32>());
            let gone = self.instances.join(gone);
            fs::rename(&entry.path, &gone)?;
            loop {
                match fs::remove_dir_all(&gone) {
                    // Who found it under its old name may have put one more file into it, and no others can.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    removed => return removed,
                }
            }
        };
        match remove() {
            Err(error) if !is_missing(&error) => Err(error::io(format!("remove {name}"), error)),
            _ => Ok(()),
        }
    }
}

impl Mark {
    /// The mark of what `spec` asks for, made by `owner` at this time.
    pub fn of(spec: &InstanceSpec, owner: &OwnerId, created_at: Timestamp) -> Self {
        Self {
            owner: owner.clone(),
            name: spec.name.clone(),
            profile: spec.profile.clone(),
            image: spec.image.id.clone(),
            resources: spec.resources.clone(),
            created_at,
        }
    }

    /// What the list says of it, in this state.
    pub fn instance(&self, state: InstanceState) -> Instance {
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
    use std::{os::unix::fs::MetadataExt, process::Command};

    use super::*;

    fn example(name: &str) -> Mark {
        Mark {
            owner: OwnerId::new("us").unwrap(),
            name: WorkerName::new(name).unwrap(),
            profile: ProfileName::new("linux").unwrap(),
            image: ImageId::new("linux.1").unwrap(),
            resources: Resources::default(),
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn open(path: &Path) -> Entries {
        Entries::open(path, &OwnerId::new("us").unwrap(), Access::Private).unwrap()
    }

    fn make(entries: &Entries, name: &str) -> Result<Entry> {
        entries.make(&example(name), |_| Ok(())).map(|(entry, ())| entry)
    }

    #[test]
    fn a_root_has_one_user_and_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let us = OwnerId::new("us").unwrap();
        let entries = open(&path);
        let error = Entries::open(&path, &us, Access::Private).unwrap_err();
        assert!(error.is_busy(), "{error}");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(entries);
        let them = OwnerId::new("them").unwrap();
        let error = Entries::open(&path, &them, Access::Private).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        Entries::open(&path, &us, Access::Private).unwrap();
    }

    #[test]
    fn a_root_whose_owner_a_crash_of_the_host_left_empty_is_taken_again() {
        let directory = tempfile::tempdir().unwrap();
        let entries = open(directory.path());
        make(&entries, "linux-1").unwrap();
        drop(entries);
        fs::write(directory.path().join("owner"), "").unwrap();
        assert_eq!(open(directory.path()).list().unwrap().len(), 1);
        let them = OwnerId::new("them").unwrap();
        let error = Entries::open(directory.path(), &them, Access::Private).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }

    #[test]
    fn others_pass_where_they_are_let_and_never_look_around() {
        let directory = tempfile::tempdir().unwrap();
        let us = OwnerId::new("us").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        for (access, expected) in [(Access::Private, 0o700), (Access::Passage, 0o711)] {
            let root = directory.path().join(format!("{access:?}"));
            let entries = Entries::open(&root, &us, access).unwrap();
            let entry = make(&entries, "linux-1").unwrap();
            for path in [&root, entries.path(), &entry.path] {
                assert_eq!(mode(path), expected, "{}", path.display());
            }
            for file in [root.join("owner"), root.join("lock"), entry.path.join(MARK)] {
                assert_eq!(mode(&file), 0o600, "{}", file.display());
            }
        }
    }

    #[test]
    fn what_is_removed_is_gone_though_someone_writes_into_it() {
        use std::sync::atomic::{AtomicBool, Ordering};

        let directory = tempfile::tempdir().unwrap();
        let entries = open(directory.path());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = entries.path().join("linux-1").join("note");
                while !done.load(Ordering::Relaxed) {
                    // Its draft is there for a moment, and the directory only now and then.
                    let _ = crate::private::write(&file, b"why");
                }
            });
            let rounds = (0..500).map(|_| {
                let entry = make(&entries, "linux-1")?;
                entries.remove(&entry, &[])?;
                entries.list()
            });
            let left = rounds.collect::<Result<Vec<_>>>();
            done.store(true, Ordering::Relaxed);
            assert!(left.unwrap().iter().all(Vec::is_empty), "it is listed still");
        });
    }

    #[test]
    fn what_lacks_our_mark_is_neither_listed_nor_touched() {
        let directory = tempfile::tempdir().unwrap();
        let entries = open(directory.path());
        let instances = directory.path().join("instances");
        let foreign = ["linux-1", "linux-2", "linux-3", "linux-4", "NOT A NAME"];
        for name in foreign {
            fs::create_dir(instances.join(name)).unwrap();
        }
        let mut other = example("linux-2");
        other.owner = OwnerId::new("them").unwrap();
        fs::write(instances.join("linux-2").join(MARK), serde_json::to_vec(&other).unwrap())
            .unwrap();
        fs::write(instances.join("linux-3").join(MARK), "{ not json").unwrap();
        let copied = serde_json::to_vec(&example("linux-9")).unwrap();
        fs::write(instances.join("linux-4").join(MARK), copied).unwrap();
        fs::write(instances.join("linux-5"), "a file").unwrap();
        assert!(entries.list().unwrap().is_empty());
        entries.sweep().unwrap();
        assert_eq!(fs::read_dir(&instances).unwrap().count(), 6);
        assert!(make(&entries, "linux-1").unwrap_err().is_busy());
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
        let entries = open(directory.path());
        assert_eq!(fs::read_dir(entries.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_prepared_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let entries = open(directory.path());
        let refused = entries.make(&example("linux-1"), |draft| {
            fs::write(draft.join("file"), "x")?;
            Err::<(), _>(io::Error::other("refused"))
        });
        assert!(matches!(refused.unwrap_err(), Error::Backend { .. }));
        assert_eq!(fs::read_dir(entries.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_entry_is_listed_until_the_rest_of_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let entries = open(directory.path());
        let entry = make(&entries, "linux-1").unwrap();
        fs::write(entry.path.join("disk"), "x").unwrap();
        fs::write(entry.path.join("lock"), "").unwrap();
        assert_eq!(entries.list().unwrap()[0].mark, entry.mark);
        // Nobody can remove what is mounted.
        let busy = entry.path.join("busy");
        fs::create_dir(&busy).unwrap();
        let stuck = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&busy).output();
        if stuck.is_ok_and(|output| output.status.success()) {
            let removed = entries.remove(&entry, &["lock"]);
            let (listed, locked) = (entries.list(), entry.path.join("lock").exists());
            assert!(Command::new("umount").arg(&busy).status().unwrap().success());
            assert!(matches!(removed.unwrap_err(), Error::Backend { .. }));
            assert_eq!(listed.unwrap().len(), 1);
            assert!(locked);
        }
        entries.remove(&entry, &["lock"]).unwrap();
        entries.remove(&entry, &["lock"]).unwrap();
        assert!(entries.list().unwrap().is_empty());
        assert_eq!(fs::read_dir(entries.path()).unwrap().count(), 0);
    }
}
