//! Disks and records in a directory of this host: an entry of `machine-disks` for each instance.
//!
//! ```text
//! ROOT/instances/NAME/
//!     instance.json              our mark: the record
//!     disk.qcow2 or disk.raw, seed.img, user-data, console.log
//!     exit.json                  why it stopped, once that is known
//! ```
//!
//! # Who may read what
//!
//! Files are mode 0600 and ours. A QEMU that runs as another user gets there because nobody is kept from passing
//! through the directories (mode 0711: nobody but us can list them), and opens its files because libvirt gives them
//! to that user when it starts a domain, and takes them back when it ends: that is its `dynamic_ownership`, on by
//! default. With `dynamic_ownership = 0`, QEMU must run as a user who can read our files: `root`, or us. With
//! `qemu:///session` it runs as us.
//!
//! What lies above ROOT, and above the images, must let that user pass too. libvirt's own error names the file that
//! could not be opened.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use machine_disks::{DiskMode, Entries, Mark, RootDisks, entries::Access, overlay, private};
use runner_core::{
    Error, OwnerId, Result, WorkerName,
    hypervisor::{ExitReason, InstanceSpec},
    image::{Boot, DiskFormat, Image},
};
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate},
    io::Errno,
};

use super::{Furnished, Piece, Storage};
use crate::{
    domain::{BootFiles, DiskSource, DomainDisk, Role},
    error::{self, blocking, is_missing},
    profile_dir::ProfileFiles,
};

const CONSOLE: &str = "console.log";
/// How much of a console is kept, in bytes, and how much more there may be until it is trimmed again.
const CONSOLE_KEEP: u64 = 2 << 20;
const CONSOLE_SLACK: u64 = 1 << 20;
const EXIT: &str = "exit.json";
const SEED: &str = "seed.img";
const USER_DATA: &str = "user-data";

/// A directory of this host.
#[derive(Debug, Clone)]
pub(crate) struct Directory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Entries,
    disks: RootDisks,
}

impl Directory {
    /// Takes charge of `root`, making it if it is missing, and sweeps what was cut short.
    ///
    /// # Errors
    /// `Busy` while another process has it, `Invalid` if it is another owner's, `Backend` if it cannot be used.
    pub(crate) async fn open(root: PathBuf, owner: OwnerId, mode: DiskMode) -> Result<Self> {
        let entries =
            blocking("open the storage", move || Entries::open(&root, &owner, Access::Passage))
                .await?;
        Ok(Self(Arc::new(Inner { entries, disks: RootDisks::new(mode) })))
    }

    #[cfg(test)]
    fn path(&self) -> &Path {
        self.0.entries.path()
    }

    async fn run<R: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Inner) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let inner = self.0.clone();
        blocking(doing, move || work(&inner)).await
    }
}

#[async_trait]
impl Storage for Directory {
    async fn room_mib(&self) -> Result<u64> {
        self.run("measure the disk", |inner| {
            let measure = || {
                let disk = rustix::fs::statvfs(inner.entries.path())?;
                Ok::<_, io::Error>(disk.f_bavail.saturating_mul(disk.f_frsize))
            };
            let free = measure().map_err(|error| error::io("measure the disk", error))?;
            let entries = inner.entries.list()?;
            let taken: u64 = entries.iter().map(|entry| taken(&entry.path)).sum();
            Ok(free.saturating_add(taken) >> 20)
        })
        .await
    }

    async fn begin(&self, mark: &Mark) -> Result<()> {
        let mark = mark.clone();
        self.run("record an instance", move |inner| {
            inner.entries.make(&mark, |_| Ok(())).map(|_| ())
        })
        .await
    }

    async fn prepare(&self, _image: &Image) -> Result<()> {
        // It is here.
        Ok(())
    }

    async fn furnish(&self, spec: &InstanceSpec, files: &ProfileFiles) -> Result<Furnished> {
        let (spec, files) = (spec.clone(), files.clone());
        self.run("make an instance's files", move |inner| inner.furnish(&spec, &files)).await
    }

    async fn entries(&self) -> Result<Vec<Mark>> {
        self.run("list the instances", |inner| {
            let entries = inner.entries.list()?;
            // Whoever looks after instances looks often.
            for entry in &entries {
                if let Err(error) = trim(&entry.path.join(CONSOLE)) {
                    let name = &entry.mark.name;
                    tracing::debug!(worker = %name, %error, "Could not trim a console.");
                }
            }
            Ok(entries.into_iter().map(|entry| entry.mark).collect())
        })
        .await
    }

    async fn entry(&self, name: &WorkerName) -> Result<Option<Mark>> {
        let name = name.clone();
        self.run("find an instance", move |inner| {
            Ok(inner.entries.find(&name)?.map(|entry| entry.mark))
        })
        .await
    }

    async fn remove(&self, name: &WorkerName) -> Result<()> {
        let name = name.clone();
        self.run("remove an instance", move |inner| match inner.entries.find(&name)? {
            Some(entry) => inner.entries.remove(&entry, &[]),
            None => Ok(()),
        })
        .await
    }

    async fn set_exit(&self, name: &WorkerName, reason: &ExitReason) -> Result<()> {
        let (name, reason) = (name.clone(), reason.clone());
        self.run("remember why an instance ended", move |inner| {
            let Some(entry) = inner.entries.find(&name)? else {
                return Ok(());
            };
            let path = entry.path.join(EXIT);
            if read_exit(&path, &name)?.is_some() {
                return Ok(());
            }
            let failed = |error| error::io(format!("remember why {name} ended"), error);
            let text = serde_json::to_vec(&reason).map_err(|error| failed(error.into()))?;
            match private::write(&path, &text) {
                // It was removed this instant.
                Err(error) if is_missing(&error) => Ok(()),
                result => result.map_err(failed),
            }
        })
        .await
    }

    async fn exit(&self, name: &WorkerName) -> Result<Option<ExitReason>> {
        let name = name.clone();
        self.run("look why an instance ended", move |inner| match inner.entries.find(&name)? {
            Some(entry) => read_exit(&entry.path.join(EXIT), &name),
            None => Ok(None),
        })
        .await
    }

    async fn console_size(&self, name: &WorkerName) -> Result<u64> {
        let name = name.clone();
        self.run("look at a console", move |inner| {
            let Some(file) = inner.console(&name, OpenOptions::new().read(true))? else {
                return Ok(0);
            };
            let length = file.metadata().map(|metadata| metadata.len());
            length.map_err(|error| error::io(format!("look at the console of {name}"), error))
        })
        .await
    }

    async fn read_console(&self, name: &WorkerName, offset: u64, limit: usize) -> Result<Piece> {
        let name = name.clone();
        self.run("read a console", move |inner| {
            let Some(file) = inner.console(&name, OpenOptions::new().read(true))? else {
                return Ok(Piece { at: offset, bytes: Bytes::new() });
            };
            let read = read_kept(&file, offset, limit);
            read.map_err(|error| error::io(format!("read the console of {name}"), error))
        })
        .await
    }
}

impl Inner {
    fn furnish(&self, spec: &InstanceSpec, files: &ProfileFiles) -> Result<Furnished> {
        let name = &spec.name;
        let entry = self.entries.find(name)?;
        let entry = entry.ok_or_else(|| Error::not_found(format!("the record of {name}")))?;
        let make = |what: &str| {
            let doing = format!("make the {what} of {name}");
            move |error| error::io(doing, error)
        };
        let own = |file: PathBuf, format, role| DomainDisk {
            source: DiskSource::File(file),
            format,
            role,
        };
        let mut disks = Vec::new();
        let mut user_data = None;
        let wanted = spec.resources.disk_mib << 20;
        let boot = match &spec.image.boot {
            Boot::Disk { path, format, .. } => {
                let made = self.disks.make(path, *format, wanted, &entry.path, "disk");
                let (path, format) = made.map_err(make("disk"))?;
                disks.push(own(path, format, Role::Root));
                BootFiles::Disk
            }
            Boot::Kernel { kernel, initrd, command_line } => {
                if wanted > 0 {
                    let path = entry.path.join("disk.qcow2");
                    overlay::create(&path, wanted, None).map_err(make("disk"))?;
                    disks.push(own(path, DiskFormat::Qcow2, Role::Root));
                }
                if let Some(text) = &spec.user_data {
                    let path = entry.path.join(USER_DATA);
                    let text = text.expose().as_bytes();
                    private::write(&path, text).map_err(make("user data"))?;
                    user_data = Some(path);
                }
                BootFiles::Kernel {
                    kernel: kernel.clone(),
                    initrd: initrd.clone(),
                    command_line: command_line.clone(),
                }
            }
            _ => {
                let reason = "nobody knows how to boot its image";
                return Err(Error::invalid(format!("instance {name}"), reason));
            }
        };
        if let Some(seed) = files.seed(spec)? {
            let path = entry.path.join(SEED);
            private::write(&path, &seed).map_err(make("seed disk"))?;
            disks.push(own(path, DiskFormat::Raw, Role::Seed));
        }
        // Ours, so that we may read it whoever appends to it.
        let console_log = entry.path.join(CONSOLE);
        let console = OpenOptions::new().append(true).create(true).mode(0o600).open(&console_log);
        console.map_err(make("console"))?;
        Ok(Furnished { boot, disks, user_data, console_log })
    }

    /// The console of an instance of ours, if it has one.
    fn console(&self, name: &WorkerName, options: &mut OpenOptions) -> Result<Option<File>> {
        let Some(entry) = self.entries.find(name)? else {
            return Ok(None);
        };
        match options.open(entry.path.join(CONSOLE)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error::io(format!("open the console of {name}"), error)),
        }
    }
}

/// Gives back the room of all but the end of a console. Offsets stay what they are.
fn trim(path: &Path) -> io::Result<()> {
    let metadata = match fs::metadata(path) {
        Err(error) if is_missing(&error) => return Ok(()),
        result => result?,
    };
    if metadata.blocks() * 512 <= CONSOLE_KEEP + CONSOLE_SLACK {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Whole blocks only: a part of one would be filled with zeros, which look like content.
    let block = metadata.blksize().max(4096);
    let end = metadata.len().saturating_sub(CONSOLE_KEEP) / block * block;
    fallocate(OpenOptions::new().write(true).open(path)?, flags, 0, end)?;
    Ok(())
}

/// Up to `limit` bytes from `offset` on, or from the end of what was trimmed.
fn read_kept(file: &File, offset: u64, limit: usize) -> io::Result<Piece> {
    let mut at = offset;
    loop {
        let mut bytes = vec![0; limit];
        let read = file.read_at(&mut bytes, at)?;
        bytes.truncate(read);
        // Looked at afterwards: what is trimmed while it is read looks like zeros.
        let kept = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(kept) => kept,
            // There is nothing more, or it was all trimmed.
            Err(Errno::NXIO) => return Ok(Piece { at, bytes: Bytes::new() }),
            Err(error) => return Err(error.into()),
        };
        let trimmed = kept.saturating_sub(at);
        if trimmed < read as u64 || read == 0 {
            let bytes = Bytes::from(bytes).slice((trimmed as usize).min(read)..);
            return Ok(Piece { at: at + trimmed, bytes });
        }
        at = kept;
    }
}

/// What the files of an instance take on the disk, in bytes.
fn taken(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

fn read_exit(path: &Path, name: &WorkerName) -> Result<Option<ExitReason>> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error::io(format!("read why {name} ended"), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use machine_disks::lock;
    use runner_core::{
        ImageId, ProfileName, Resources, Secret,
        hypervisor::Network,
        image::{Recipe, RecipeKind, UserDataDelivery},
    };

    use super::*;

    fn us() -> OwnerId {
        OwnerId::new("us").unwrap()
    }

    async fn open(root: &Path) -> Directory {
        Directory::open(root.to_owned(), us(), DiskMode::Auto).await.unwrap()
    }

    fn spec(serial: u64, boot: Boot) -> InstanceSpec {
        let profile = ProfileName::new("linux").unwrap();
        InstanceSpec {
            name: WorkerName::of(&profile, serial),
            profile: profile.clone(),
            image: Image {
                id: ImageId::new("linux.1").unwrap(),
                recipe: Recipe { profile, kind: RecipeKind::Micro {} },
                built_at: jiff::Timestamp::UNIX_EPOCH,
                digest: "0".repeat(64),
                size_bytes: 0,
                boot,
            },
            resources: Resources { vcpus: 1, memory_mib: 64, disk_mib: 3, ..Default::default() },
            network: Network::Open,
            user_data: Some(Secret::new("told".to_owned())),
        }
    }

    fn kernel() -> Boot {
        let (kernel, initrd) = ("/kernel".into(), "/initrd".into());
        Boot::Kernel { kernel, initrd, command_line: "quiet".to_owned() }
    }

    fn mark(spec: &InstanceSpec) -> Mark {
        Mark::of(spec, &us(), jiff::Timestamp::UNIX_EPOCH)
    }

    async fn begin(storage: &Directory, spec: &InstanceSpec) -> Furnished {
        storage.begin(&mark(spec)).await.unwrap();
        storage.furnish(spec, &ProfileFiles::none()).await.unwrap()
    }

    #[tokio::test]
    async fn an_instance_has_a_record_before_it_has_anything() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path()).await;
        let spec = spec(1, kernel());
        let error = storage.furnish(&spec, &ProfileFiles::none()).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        storage.begin(&mark(&spec)).await.unwrap();
        assert_eq!(storage.entries().await.unwrap(), [mark(&spec)]);
        assert!(storage.begin(&mark(&spec)).await.unwrap_err().is_busy());
        storage.furnish(&spec, &ProfileFiles::none()).await.unwrap();
        storage.remove(&spec.name).await.unwrap();
        storage.remove(&spec.name).await.unwrap();
        assert!(storage.entries().await.unwrap().is_empty());
        assert_eq!(fs::read_dir(storage.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_kernel_gets_an_empty_disk_and_a_file_that_tells_it() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path()).await;
        let spec = spec(1, kernel());
        let furnished = begin(&storage, &spec).await;
        let directory = storage.path().join("linux-1");
        assert_eq!(furnished.user_data.as_deref(), Some(directory.join(USER_DATA).as_path()));
        assert_eq!(fs::read(directory.join(USER_DATA)).unwrap(), b"told");
        let [disk] = &furnished.disks[..] else { panic!("{:?}", furnished.disks) };
        assert_eq!(disk.source, DiskSource::File(directory.join("disk.qcow2")));
        let size = overlay::virtual_size(&directory.join("disk.qcow2"), disk.format);
        assert_eq!(size.unwrap(), 3 << 20);
        for file in fs::read_dir(&directory).unwrap() {
            let file = file.unwrap();
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.path().display());
        }
    }

    #[tokio::test]
    async fn a_disk_that_asks_for_one_gets_a_seed() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(&root.path().join("storage")).await;
        let path = root.path().join("image.raw");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let format = DiskFormat::Raw;
        let user_data = UserDataDelivery::NoCloud;
        let spec = spec(1, Boot::Disk { path: path.clone(), format, user_data });
        let furnished = begin(&storage, &spec).await;
        let roles: Vec<Role> = furnished.disks.iter().map(|disk| disk.role).collect();
        assert_eq!(roles, [Role::Root, Role::Seed]);
        assert_eq!(furnished.user_data, None);
        let seed = fs::read(storage.path().join("linux-1").join(SEED)).unwrap();
        assert!(seed.windows(4).any(|part| part == b"told"));
        storage.remove(&spec.name).await.unwrap();
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_was_cut_short_is_listed_or_swept_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path()).await;
        let (first, second) = (spec(1, kernel()), spec(2, kernel()));
        begin(&storage, &first).await;
        storage.begin(&mark(&second)).await.unwrap();
        let draft = storage.path().join(".new-linux-3.0");
        fs::create_dir(&draft).unwrap();
        drop(storage);
        let storage = open(root.path()).await;
        assert_eq!(storage.entries().await.unwrap(), [mark(&first), mark(&second)]);
        assert!(!draft.exists());
    }

    #[tokio::test]
    async fn two_never_share_a_root() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path()).await;
        let again = Directory::open(root.path().to_owned(), us(), DiskMode::Auto).await;
        assert!(again.unwrap_err().is_busy());
        drop(storage);
        let them = OwnerId::new("them").unwrap();
        let theirs = Directory::open(root.path().to_owned(), them, DiskMode::Auto).await;
        assert!(matches!(theirs.unwrap_err(), Error::Invalid { .. }));
        assert!(!lock::is_held(&root.path().join("lock")).unwrap());
    }

    #[tokio::test]
    async fn the_first_reason_is_kept_and_goes_with_the_instance() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path()).await;
        let spec = spec(1, kernel());
        storage.set_exit(&spec.name, &ExitReason::GuestPanic).await.unwrap();
        assert_eq!(storage.exit(&spec.name).await.unwrap(), None);
        begin(&storage, &spec).await;
        storage.set_exit(&spec.name, &ExitReason::GuestPanic).await.unwrap();
        storage.set_exit(&spec.name, &ExitReason::HostStopped).await.unwrap();
        drop(storage);
        let storage = open(root.path()).await;
        assert_eq!(storage.exit(&spec.name).await.unwrap(), Some(ExitReason::GuestPanic));
        storage.remove(&spec.name).await.unwrap();
        assert_eq!(storage.exit(&spec.name).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_console_is_read_at_offsets_that_stay_when_it_is_trimmed() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path()).await;
        let spec = spec(1, kernel());
        let name = &spec.name;
        assert_eq!(storage.console_size(name).await.unwrap(), 0);
        assert!(storage.read_console(name, 0, 10).await.unwrap().bytes.is_empty());
        let furnished = begin(&storage, &spec).await;
        let text: Vec<u8> = (0..500_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        fs::write(&furnished.console_log, &text).unwrap();
        assert_eq!(storage.console_size(name).await.unwrap(), text.len() as u64);
        let middle = storage.read_console(name, 1000, 50).await.unwrap();
        assert_eq!((middle.at, &middle.bytes[..]), (1000, &text[1000..1050]));
        let before = fs::metadata(&furnished.console_log).unwrap().blocks();
        storage.entries().await.unwrap();
        let kept = text.len() - (1 << 20);
        let end = storage.read_console(name, kept as u64, 2 << 20).await.unwrap();
        assert!(end.bytes == text[kept..], "the end is not what was written");
        let end = storage.read_console(name, text.len() as u64, 10).await.unwrap();
        assert!(end.bytes.is_empty());
        assert!(fs::metadata(&furnished.console_log).unwrap().blocks() < before);
    }

    #[tokio::test]
    async fn whoever_is_behind_what_is_trimmed_goes_on_with_what_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let storage = open(root.path()).await;
        let spec = spec(1, kernel());
        let furnished = begin(&storage, &spec).await;
        let text: Vec<u8> = (0..700_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        fs::write(&furnished.console_log, &text).unwrap();
        storage.entries().await.unwrap();
        let hole = text.len() as u64 - CONSOLE_KEEP;
        for limit in [10, 4096, 64 * 1024, 3 << 20] {
            for offset in [0, 1, 4095, hole - 4097, hole - 4096, hole - 5, hole, hole + 5] {
                let piece = storage.read_console(&spec.name, offset, limit).await.unwrap();
                let (at, bytes) = (piece.at as usize, &piece.bytes[..]);
                assert!(piece.at >= offset && piece.at <= hole.max(offset), "{at} from {offset}");
                assert!(!bytes.is_empty(), "nothing from {offset}");
                assert!(bytes == &text[at..at + bytes.len()], "{limit} bytes from {offset}");
            }
        }
        // Nothing is kept.
        let file = File::options().write(true).open(&furnished.console_log).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, flags, 0, (text.len() as u64).next_multiple_of(4096)).unwrap();
        let piece = storage.read_console(&spec.name, 0, 10).await.unwrap();
        assert!(piece.bytes.is_empty());
    }
}
