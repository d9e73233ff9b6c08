//! Where an instance's disks and its record lie.
//!
//! A record is made before anything else of an instance and removed after everything else of it, so that whatever
//! was cut short is found: [`Storage::begin`], [`Storage::furnish`], then the domain; and on the way back the
//! domain, then [`Storage::remove`].

pub(crate) mod directory;
pub(crate) mod pool;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use machine_disks::{DiskMode, Mark};
use runner_core::{
    Result, WorkerName,
    hypervisor::{ExitReason, InstanceSpec},
    image::Image,
};

use serde::{Deserialize, Serialize};

use self::{directory::Directory, pool::Pool};
use crate::{
    config::LibvirtConfig,
    connection::Connection,
    domain::{BootFiles, DomainDisk},
    profile_dir::ProfileFiles,
};

/// Where instances' disks and records lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageConfig {
    /// In a directory of this host, which must be the daemon's host too. One process at a time uses it, and no
    /// other owner ever.
    Directory {
        /// Made when missing.
        path: PathBuf,
        /// How instances get their disks.
        disks: DiskMode,
    },
    /// In a pool of libvirt's, on the daemon's host, wherever that is. Images are uploaded there, once each. The pool
    /// may hold other volumes, and those of other owners. One process at a time uses it for one owner.
    Pool {
        /// The pool's name. It keeps volumes as files: it is of the type `dir`, `fs` or `netfs`.
        name: String,
        /// The directory of the daemon's host to make a pool of, if there is no pool of that name.
        make: Option<PathBuf>,
    },
}

/// What a domain finds on its host.
#[derive(Debug)]
pub(crate) struct Furnished {
    pub(crate) boot: BootFiles,
    pub(crate) disks: Vec<DomainDisk>,
    /// User data for a guest without a disk to boot from.
    pub(crate) user_data: Option<PathBuf>,
    /// What gets the guest's words.
    pub(crate) console_log: PathBuf,
}

/// A part of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it begins.
    pub(crate) at: u64,
    pub(crate) bytes: Bytes,
}

/// A place for disks and records that one owner has to itself.
///
/// # Contract
/// - **Ours only.** What lacks our mark is never listed or touched.
/// - **Idempotent by name.** Removing what is not there succeeds.
/// - **A list is whole or it is an error.**
/// - **Room is held until it is free.** A record is listed until the rest of the instance is gone.
#[async_trait]
pub(crate) trait Storage: Send + Sync + 'static {
    /// What all instances together may fill, in MiB: what is free, and what they have taken already.
    ///
    /// # Errors
    /// `Backend` when it could not be measured.
    async fn room_mib(&self) -> Result<u64>;

    /// Records an instance that is about to be made.
    ///
    /// # Errors
    /// `Busy` for a name that has something here already, ours or not; `Exhausted`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped or killed: the record is there, whole, or it is not.
    async fn begin(&self, mark: &Mark) -> Result<()>;

    /// Brings an image to where its instances need it. Idempotent; [`furnish`](Self::furnish) does it too.
    ///
    /// # Errors
    /// `Invalid` for an image that cannot be read, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped or killed: what it brought is swept later, or whole.
    async fn prepare(&self, image: &Image) -> Result<()>;

    /// Makes the disks of an instance that has a record.
    ///
    /// # Errors
    /// `Invalid` for user data that is too long, `Exhausted`, `Backend`. What was made goes with the record.
    ///
    /// # Cancel safety
    /// As above.
    async fn furnish(&self, spec: &InstanceSpec, files: &ProfileFiles) -> Result<Furnished>;

    /// Every record of ours, by name. Where it can, it gives back the room of all but the end of each console;
    /// offsets stay what they are.
    ///
    /// # Errors
    /// `Backend` when one could not be read.
    async fn entries(&self) -> Result<Vec<Mark>>;

    /// The record of one instance.
    ///
    /// # Errors
    /// `Backend` when it could not be read.
    async fn entry(&self, name: &WorkerName) -> Result<Option<Mark>>;

    /// Removes what an instance had, and then its record. Its domain is gone.
    ///
    /// # Errors
    /// `Backend` when something could not be removed; the record is listed still.
    ///
    /// # Cancel safety
    /// May be dropped or killed: repeat it until it succeeds.
    async fn remove(&self, name: &WorkerName) -> Result<()>;

    /// Remembers why an instance ended. The first reason is the true one; the others follow from it. Nothing
    /// happens if there is no such instance.
    ///
    /// # Errors
    /// `Exhausted`, `Backend`.
    async fn set_exit(&self, name: &WorkerName, reason: &ExitReason) -> Result<()>;

    /// Why an instance ended, if that was remembered.
    ///
    /// # Errors
    /// `Backend` when it could not be read.
    async fn exit(&self, name: &WorkerName) -> Result<Option<ExitReason>>;

    /// How much the guest wrote to its console so far, in bytes.
    ///
    /// # Errors
    /// `Backend` when it could not be found out.
    async fn console_size(&self, name: &WorkerName) -> Result<u64>;

    /// Up to `limit` bytes of the console from `offset` on, or from where what is kept of it begins; none at its end,
    /// or if there is no such instance.
    ///
    /// # Errors
    /// `Backend` when it could not be read.
    async fn read_console(&self, name: &WorkerName, offset: u64, limit: usize) -> Result<Piece>;
}

/// The storage that is configured.
///
/// # Errors
/// `Busy` while another process has the directory, `Invalid` for one of another owner, `Backend` for one, or for a
/// pool, that cannot be used.
pub(crate) async fn open(
    config: &LibvirtConfig,
    connection: &Arc<Connection>,
) -> Result<Arc<dyn Storage>> {
    let owner = config.owner.clone();
    Ok(match &config.storage {
        StorageConfig::Directory { path, disks } => {
            Arc::new(Directory::open(path.clone(), owner, *disks).await?)
        }
        StorageConfig::Pool { name, make } => {
            let pool = Pool::open(connection.clone(), name.clone(), make.as_deref(), owner);
            Arc::new(pool.await?)
        }
    })
}
