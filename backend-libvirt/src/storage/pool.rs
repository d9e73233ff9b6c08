//! Disks and records as volumes of a pool of libvirt's: the way to another host.
//!
//! ```text
//! runner.OWNER.ID.NAME.record       our mark: the record; made first, removed last
//! runner.OWNER.ID.NAME.disk.qcow2   and so on: seed.img, user-data, console.log, exit.json
//! runner.OWNER.ID.IMAGE.image       a copy of an image: of its disk, or its kernel
//! runner.OWNER.ID.IMAGE.initrd
//! runner.OWNER.ID.IMAGE.whole       made last, once the copy is whole
//! ```
//!
//! A volume cannot be marked, renamed or made whole at once, as a directory can. So the mark is in the name: ID follows
//! from the rest of it and our owner, and nobody else makes names like that. And what is whole is told by what was made
//! after it: a copy of an image by its last volume, a record by being readable. A record that is not was cut short
//! before there was anything else of its instance, and is swept.
//!
//! A copy of an image stays until another one is uploaded and no record names it.

mod volume;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use machine_disks::{Mark, overlay};
use runner_core::{
    Error, ImageId, OwnerId, Result, WorkerName,
    hypervisor::{ExitReason, InstanceSpec},
    image::{Boot, DiskFormat, Image},
};

use self::volume::{Kind, VolumeName};
use super::{Furnished, Piece, Storage};
use crate::{
    connection::{Connection, Failure, volumes::Content},
    domain::{BootFiles, DiskSource, DomainDisk, Role},
    error,
    profile_dir::ProfileFiles,
    xml::{Tree, element, path_text},
};

/// How often a record is read that cannot be read. Twice shows one that is just being made.
const LOOKS: usize = 3;
/// What there may be of an instance without a record: one that was cut short, and why a past instance ended.
const LIGHT: [Kind; 2] = [Kind::Record, Kind::Exit];

/// Volumes of a pool.
pub(crate) struct Pool {
    connection: Arc<Connection>,
    pool: String,
    owner: OwnerId,
    /// Records that were read. They do not change.
    records: Mutex<HashMap<WorkerName, Mark>>,
    /// Held while an image is looked for and uploaded, so that it is uploaded once.
    images: tokio::sync::Mutex<()>,
}

/// A copy of an image, on the pool's host.
struct Copied {
    image: PathBuf,
    initrd: Option<PathBuf>,
}

impl Pool {
    /// Makes the pool ready, made of the directory `make` if there is none, and sweeps what was cut short.
    ///
    /// # Errors
    /// `Backend` when there is no pool and none is to be made, or it cannot be used.
    pub(crate) async fn open(
        connection: Arc<Connection>,
        pool: String,
        make: Option<&Path>,
        owner: OwnerId,
    ) -> Result<Self> {
        let doing = |what: &str| format!("{what} storage pool {pool}");
        let there = connection.pool(&pool).await;
        let there = there.map_err(|failure| failure.doing(doing("look at")))?;
        if there.is_none() {
            let missing = "libvirt has no such pool: define it, or have one made";
            let directory = make.ok_or_else(|| error::backend(doing("use"), missing))?;
            let made = connection.make_pool(document(&pool, directory)?).await;
            made.map_err(|failure| failure.doing(doing("make")))?;
            tracing::info!(pool, directory = %directory.display(), "Made a storage pool.");
        }
        let started = connection.start_pool(&pool).await;
        started.map_err(|failure| failure.doing(doing("start")))?;
        let (records, images) = Default::default();
        let storage = Self { connection, pool, owner, records, images };
        storage.sweep().await?;
        Ok(storage)
    }

    fn fail(&self, doing: impl Into<String>) -> impl FnOnce(Failure) -> Error {
        let doing = format!("{} in storage pool {}", doing.into(), self.pool);
        move |failure| failure.doing(doing)
    }

    /// Every volume of ours.
    async fn volumes(&self) -> Result<Vec<VolumeName>> {
        let mut names = self.connection.volumes(&self.pool).await;
        if matches!(names, Err(Failure::Refused { .. }))
            && matches!(self.connection.pool(&self.pool).await, Ok(Some(false)))
        {
            // Someone stopped it, or its host came back without it.
            let started = self.connection.start_pool(&self.pool).await;
            started.map_err(self.fail("start what is stopped"))?;
            tracing::info!(pool = self.pool, "Started a storage pool.");
            names = self.connection.volumes(&self.pool).await;
        }
        let names = names.map_err(self.fail("list the volumes"))?;
        Ok(names.iter().filter_map(|name| VolumeName::parse(&self.owner, name)).collect())
    }

    fn of(&self, name: &WorkerName, kind: Kind) -> String {
        VolumeName::of_instance(name, kind).render(&self.owner)
    }

    /// A record, if it is whole.
    async fn record(&self, name: &WorkerName) -> Result<Option<Mark>> {
        let known = self.records.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let volume = self.of(name, Kind::Record);
        let read = self.connection.download(&self.pool, &volume, 0, 1 << 20).await;
        let read = read.map_err(self.fail(format!("read the record of {name}")))?;
        let mark = read.and_then(|text| serde_json::from_slice::<Mark>(&text).ok());
        let mark = mark.filter(|mark| mark.owner == self.owner && mark.name == *name);
        if let Some(mark) = &mark {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            records.insert(name.clone(), mark.clone());
        }
        Ok(mark)
    }

    /// Removes what was cut short.
    async fn sweep(&self) -> Result<()> {
        let volumes = self.volumes().await?;
        let names: BTreeSet<_> = volumes.iter().filter_map(VolumeName::instance).collect();
        for name in names {
            self.sweep_record(name).await?;
        }
        // A copy that is not whole is nobody's.
        let whole: BTreeSet<_> =
            volumes.iter().filter(|volume| volume.kind == Kind::Whole).map(|v| &v.of).collect();
        for volume in &volumes {
            if volume.kind.is_of_an_image() && !whole.contains(&volume.of) {
                self.remove_volume(&volume.render(&self.owner)).await?;
            }
        }
        Ok(())
    }

    /// The record of this name, or nothing if there is none, or it was cut short.
    ///
    /// # Errors
    /// `Backend` for one that cannot be read and belongs to an instance that has disks: that was not cut short.
    async fn look(&self, name: &WorkerName) -> Result<Option<Mark>> {
        let mut other = None;
        for _ in 0..LOOKS {
            if let Some(mark) = self.record(name).await? {
                return Ok(Some(mark));
            }
            // Read before the others are listed, a record may be whole by now, or gone with them.
            let volumes = self.volumes().await?;
            let ours = |volume: &&VolumeName| {
                volume.instance() == Some(name) && !LIGHT.contains(&volume.kind)
            };
            other = volumes.iter().find(ours).map(|volume| volume.render(&self.owner));
            if other.is_none() {
                return Ok(None);
            }
        }
        let reason = format!(
            "it is missing or cannot be read, and there is a volume {}: remove both with `virsh vol-delete` \
             once nothing uses them",
            other.unwrap_or_default()
        );
        Err(error::backend(
            format!("read the record of {name} in storage pool {}", self.pool),
            reason,
        ))
    }

    /// Removes a record that was cut short, and what was written of an instance after its end.
    async fn sweep_record(&self, name: &WorkerName) -> Result<()> {
        if self.look(name).await?.is_none() {
            for kind in LIGHT {
                self.remove_volume(&self.of(name, kind)).await?;
            }
        }
        Ok(())
    }

    async fn remove_volume(&self, volume: &str) -> Result<()> {
        let removed = self.connection.remove_volume(&self.pool, volume).await;
        removed.map_err(self.fail(format!("remove volume {volume}")))
    }

    /// Makes a raw volume that holds `content`, which replaces one that was cut short.
    async fn put(&self, volume: &str, length: u64, content: Content) -> Result<PathBuf> {
        let text = raw(volume, length)?;
        let doing = || format!("make volume {volume}");
        let mut made = self.connection.make_volume(&self.pool, text.clone()).await;
        if matches!(made, Ok(None)) {
            self.remove_volume(volume).await?;
            made = self.connection.make_volume(&self.pool, text).await;
        }
        let path = made.map_err(self.fail(doing()))?;
        let path = path.ok_or_else(|| Error::busy(format!("volume {volume}")))?;
        if length > 0 {
            let uploaded = self.connection.upload(&self.pool, volume, content).await;
            uploaded.map_err(self.fail(format!("fill volume {volume}")))?;
        }
        Ok(path)
    }

    /// A whole copy of the image, uploaded now if there is none.
    async fn copied(&self, image: &Image) -> Result<Copied> {
        let _turn = self.images.lock().await;
        let of = |kind| VolumeName::of_image(&image.id, &image.digest, kind).render(&self.owner);
        let (files, last) = match &image.boot {
            Boot::Kernel { kernel, initrd, .. } => (
                vec![(of(Kind::Image), kernel.clone()), (of(Kind::Initrd), initrd.clone())],
                of(Kind::Whole),
            ),
            Boot::Disk { path, .. } => (vec![(of(Kind::Image), path.clone())], of(Kind::Whole)),
            _ => return Err(unknown_boot(&image.id)),
        };
        let mut paths = Vec::new();
        let whole = self.connection.volume_path(&self.pool, &last).await;
        if whole.map_err(self.fail("look for an image"))?.is_some() {
            for (volume, _) in &files {
                let path = self.connection.volume_path(&self.pool, volume).await;
                paths.extend(path.map_err(self.fail("look for an image"))?);
            }
        }
        if paths.len() < files.len() {
            paths.clear();
            self.remove_volume(&last).await?;
            self.forget_images(&image.id).await?;
            tracing::info!(image = %image.id, pool = self.pool, "Uploading an image.");
            for (volume, file) in &files {
                let length = tokio::fs::metadata(file).await.map(|metadata| metadata.len());
                let what = || format!("image {}", image.id);
                let length = length.map_err(|error| Error::invalid(what(), error.to_string()))?;
                paths.push(self.put(volume, length, Content::File(file.clone())).await?);
            }
            self.put(&last, 0, Content::Bytes(Vec::new())).await?;
        }
        let mut paths = paths.into_iter();
        let image = paths.next().unwrap_or_default();
        Ok(Copied { image, initrd: paths.next() })
    }

    /// Removes the copies of images that no record names, but for `kept`.
    async fn forget_images(&self, kept: &ImageId) -> Result<()> {
        let volumes = self.volumes().await?;
        let mut named = BTreeSet::from([kept.clone()]);
        for mark in self.entries().await? {
            named.insert(mark.image);
        }
        // The one that says that a copy is whole goes first.
        for last in [true, false] {
            for volume in &volumes {
                let goes = volume.image().is_some_and(|image| !named.contains(image));
                if goes && (volume.kind == Kind::Whole) == last {
                    self.remove_volume(&volume.render(&self.owner)).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes a qcow2 disk, over `backing` if there is any.
    async fn make_disk(
        &self,
        name: &WorkerName,
        size_bytes: u64,
        backing: Option<(&Path, DiskFormat)>,
    ) -> Result<DomainDisk> {
        let volume = self.of(name, Kind::Disk);
        let format = element("format").attribute("type", DiskFormat::Qcow2);
        let mut text = element("volume")
            .child(element("name").text(&volume))
            .child(element("capacity").attribute("unit", "bytes").text(size_bytes))
            .child(element("target").child(format).child(private()));
        if let Some((path, format)) = backing {
            let backing = element("backingStore")
                .child(element("path").text(path_text(path)?))
                .child(element("format").attribute("type", format));
            text = text.child(backing);
        }
        let made = self.connection.make_volume(&self.pool, Tree::of(text)?.into_xml()).await;
        let made = made.map_err(self.fail(format!("make the disk of {name}")))?;
        made.ok_or_else(|| Error::busy(format!("volume {volume}")))?;
        Ok(self.disk(volume, DiskFormat::Qcow2, Role::Root))
    }

    fn disk(&self, volume: String, format: DiskFormat, role: Role) -> DomainDisk {
        DomainDisk { source: DiskSource::Volume { pool: self.pool.clone(), volume }, format, role }
    }
}

#[async_trait]
impl Storage for Pool {
    async fn room_mib(&self) -> Result<u64> {
        let volumes = self.volumes().await?;
        let ours = volumes.iter().filter(|volume| volume.instance().is_some());
        let ours = ours.map(|volume| volume.render(&self.owner)).collect();
        let room = self.connection.pool_room(&self.pool, ours).await;
        Ok(room.map_err(self.fail("measure the room"))? >> 20)
    }

    async fn begin(&self, mark: &Mark) -> Result<()> {
        let name = &mark.name;
        let volumes = self.volumes().await?;
        if volumes.iter().any(|volume| volume.instance() == Some(name)) {
            self.sweep_record(name).await?;
        }
        let volume = self.of(name, Kind::Record);
        let doing = || format!("record {name}");
        let text = serde_json::to_vec_pretty(mark).map_err(|why| error::backend(doing(), why))?;
        let made = self.connection.make_volume(&self.pool, raw(&volume, text.len() as u64)?).await;
        if made.map_err(self.fail(doing()))?.is_none() {
            return Err(Error::busy(format!("volume {volume}")));
        }
        let filled = self.connection.upload(&self.pool, &volume, Content::Bytes(text)).await;
        filled.map_err(self.fail(doing()))
    }

    async fn prepare(&self, image: &Image) -> Result<()> {
        self.copied(image).await.map(|_| ())
    }

    async fn furnish(&self, spec: &InstanceSpec, files: &ProfileFiles) -> Result<Furnished> {
        let name = &spec.name;
        let copied = self.copied(&spec.image).await?;
        let wanted = spec.resources.disk_mib << 20;
        let mut disks = Vec::new();
        let mut user_data = None;
        let boot = match &spec.image.boot {
            Boot::Disk { path, format, .. } => {
                let least = overlay::virtual_size(path, *format).map_err(|error| {
                    Error::invalid(format!("image {}", spec.image.id), error.to_string())
                })?;
                let backing = Some((copied.image.as_path(), *format));
                disks.push(self.make_disk(name, wanted.max(least), backing).await?);
                BootFiles::Disk
            }
            Boot::Kernel { command_line, .. } => {
                if wanted > 0 {
                    disks.push(self.make_disk(name, wanted, None).await?);
                }
                if let Some(text) = &spec.user_data {
                    let text = text.expose().clone().into_bytes();
                    let volume = self.of(name, Kind::UserData);
                    let length = text.len() as u64;
                    user_data = Some(self.put(&volume, length, Content::Bytes(text)).await?);
                }
                BootFiles::Kernel {
                    kernel: copied.image,
                    initrd: copied.initrd.unwrap_or_default(),
                    command_line: command_line.clone(),
                }
            }
            _ => return Err(unknown_boot(&spec.image.id)),
        };
        if let Some(seed) = files.seed(spec)? {
            let volume = self.of(name, Kind::Seed);
            let length = seed.len() as u64;
            self.put(&volume, length, Content::Bytes(seed)).await?;
            disks.push(self.disk(volume, DiskFormat::Raw, Role::Seed));
        }
        let console = self.of(name, Kind::Console);
        let console_log = self.put(&console, 0, Content::Bytes(Vec::new())).await?;
        Ok(Furnished { boot, disks, user_data, console_log })
    }

    async fn entries(&self) -> Result<Vec<Mark>> {
        let volumes = self.volumes().await?;
        let names: BTreeSet<_> = volumes.iter().filter_map(VolumeName::instance).collect();
        let mut all = Vec::new();
        for name in names {
            // One that is being made, or was cut short, is not there.
            all.extend(self.look(name).await?);
        }
        Ok(all)
    }

    async fn entry(&self, name: &WorkerName) -> Result<Option<Mark>> {
        let volume = self.of(name, Kind::Record);
        let there = self.connection.volume_path(&self.pool, &volume).await;
        match there.map_err(self.fail(format!("look for the record of {name}")))? {
            Some(_) => self.record(name).await,
            None => Ok(None),
        }
    }

    async fn remove(&self, name: &WorkerName) -> Result<()> {
        // Before the volume goes, so that nobody is told of a record that is gone.
        let forget = || {
            self.records.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        };
        for volume in self.volumes().await? {
            if volume.instance() == Some(name) && volume.kind != Kind::Record {
                self.remove_volume(&volume.render(&self.owner)).await?;
            }
        }
        forget();
        let removed = self.remove_volume(&self.of(name, Kind::Record)).await;
        forget();
        removed?;
        // It may have come since the volumes were listed.
        self.remove_volume(&self.of(name, Kind::Exit)).await
    }

    async fn set_exit(&self, name: &WorkerName, reason: &ExitReason) -> Result<()> {
        if self.entry(name).await?.is_none() || self.exit(name).await?.is_some() {
            return Ok(());
        }
        let doing = || format!("remember why {name} ended");
        let text = serde_json::to_vec(reason).map_err(|why| error::backend(doing(), why))?;
        let volume = self.of(name, Kind::Exit);
        let put = self.put(&volume, text.len() as u64, Content::Bytes(text)).await;
        if self.entry(name).await?.is_none() {
            // It was removed meanwhile, and whoever did may have missed this.
            return self.remove_volume(&volume).await;
        }
        put.map(|_| ())
    }

    async fn exit(&self, name: &WorkerName) -> Result<Option<ExitReason>> {
        let volume = self.of(name, Kind::Exit);
        let read = self.connection.download(&self.pool, &volume, 0, 1 << 20).await;
        let read = read.map_err(self.fail(format!("read why {name} ended")))?;
        Ok(read.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    async fn console_size(&self, name: &WorkerName) -> Result<u64> {
        let size = self.connection.volume_size(&self.pool, &self.of(name, Kind::Console)).await;
        Ok(size.map_err(self.fail(format!("look at the console of {name}")))?.unwrap_or(0))
    }

    async fn read_console(&self, name: &WorkerName, offset: u64, limit: usize) -> Result<Piece> {
        let volume = self.of(name, Kind::Console);
        let read = self.connection.download(&self.pool, &volume, offset, limit).await;
        let read = read.map_err(self.fail(format!("read the console of {name}")))?;
        Ok(Piece { at: offset, bytes: read.unwrap_or_default().into() })
    }
}

/// The document of a pool that keeps volumes as files in a directory.
fn document(pool: &str, directory: &Path) -> Result<String> {
    let target = element("target").child(element("path").text(path_text(directory)?));
    let pool =
        element("pool").attribute("type", "dir").child(element("name").text(pool)).child(target);
    Ok(Tree::of(pool)?.into_xml())
}

/// The document of a volume that holds bytes and nothing else.
fn raw(volume: &str, length: u64) -> Result<String> {
    let format = element("format").attribute("type", DiskFormat::Raw);
    let text = element("volume")
        .child(element("name").text(volume))
        .child(element("capacity").attribute("unit", "bytes").text(length))
        .child(element("allocation").attribute("unit", "bytes").text(0))
        .child(element("target").child(format).child(private()));
    Ok(Tree::of(text)?.into_xml())
}

/// Volumes hold secrets.
fn private() -> crate::xml::Element {
    element("permissions").child(element("mode").text("0600"))
}

fn unknown_boot(image: &ImageId) -> Error {
    Error::invalid(format!("image {image}"), "nobody knows how to boot it")
}
