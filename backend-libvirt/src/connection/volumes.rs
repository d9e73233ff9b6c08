//! Calls about pools of volumes, and the streams that fill and read volumes.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use virt::{
    connect::Connect,
    error::{Error, ErrorNumber},
    storage_pool::StoragePool,
    storage_vol::StorageVol,
    stream::Stream,
};

use super::{Connection, Failure, Kind};

/// What is sent at once, in bytes: libvirt's protocol takes 256 KiB with what goes around it.
const PIECE: usize = 128 << 10;
/// How long the upload of a file may take.
const UPLOAD: Duration = Duration::from_secs(3600);

/// What is put into a volume.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    /// A file of this host.
    File(PathBuf),
}

impl Connection {
    /// Whether there is a pool of this name, and if so, whether it is active.
    pub(crate) async fn pool(&self, pool: &str) -> Result<Option<bool>, Failure> {
        let pool = pool.to_owned();
        self.call(Kind::Look, move |connect| {
            present(connect.lookup_storage_pool_by_name(&pool).and_then(|pool| pool.is_active()))
        })
        .await
    }

    /// Makes a pool that lasts and is started with the host, and what it needs on the disk.
    pub(crate) async fn make_pool(&self, document: String) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| {
            let pool = connect.define_storage_pool_xml(&document, 0)?;
            pool.build(0)?;
            pool.set_autostart(true).map(|_| ())
        })
        .await
    }

    /// Starts a pool if it is not active, and looks at its volumes anew.
    pub(crate) async fn start_pool(&self, pool: &str) -> Result<(), Failure> {
        let pool = pool.to_owned();
        self.call(Kind::Act, move |connect| {
            let pool = connect.lookup_storage_pool_by_name(&pool)?;
            match pool.create(0) {
                // It is active, and maybe someone else made it so.
                Err(_) if pool.is_active()? => pool.refresh(0),
                result => result,
            }
        })
        .await
    }

    /// The names of all volumes of a pool.
    pub(crate) async fn volumes(&self, pool: &str) -> Result<Vec<String>, Failure> {
        let pool = pool.to_owned();
        self.call(Kind::Look, move |connect| {
            // Not `list_volumes`, which of more than 1024 names leaves some out.
            let volumes = connect.lookup_storage_pool_by_name(&pool)?.list_all_volumes(0)?;
            volumes.iter().map(StorageVol::name).collect()
        })
        .await
    }

    /// What is free in a pool and what these volumes of it take, in bytes.
    pub(crate) async fn pool_room(&self, pool: &str, volumes: Vec<String>) -> Result<u64, Failure> {
        let pool = pool.to_owned();
        self.call(Kind::Act, move |connect| {
            let pool = connect.lookup_storage_pool_by_name(&pool)?;
            // What is free was measured when the pool was looked at last, and what volumes take is measured now:
            // what they grew by in between would count twice.
            if let Err(error) = pool.refresh(0) {
                // It is refused while a volume is being made.
                tracing::debug!(%error, "Could not look at a storage pool anew.");
            }
            let mut room = pool.info()?.available;
            for volume in volumes {
                let volume = pool.lookup_storage_vol_by_name(&volume);
                let info = present(volume.and_then(|volume| volume.info()))?;
                room = room.saturating_add(info.map_or(0, |info| info.allocation));
            }
            Ok(room)
        })
        .await
    }

    /// Makes a volume, and returns where it lies on its host. None if there is one of that name.
    pub(crate) async fn make_volume(
        &self,
        pool: &str,
        document: String,
    ) -> Result<Option<PathBuf>, Failure> {
        let pool = pool.to_owned();
        self.call(Kind::Act, move |connect| {
            let pool = connect.lookup_storage_pool_by_name(&pool)?;
            match StorageVol::create_xml(&pool, &document, 0) {
                Ok(volume) => volume.path().map(|path| Some(path.into())),
                Err(error) if is(&error, ErrorNumber::StorageVolExist) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Where a volume lies on its host; None if there is none.
    pub(crate) async fn volume_path(
        &self,
        pool: &str,
        volume: &str,
    ) -> Result<Option<PathBuf>, Failure> {
        self.look_at_volume(pool, volume, |_, volume| volume.path().map(PathBuf::from)).await
    }

    /// How long a volume is now, in bytes; None if there is none.
    pub(crate) async fn volume_size(
        &self,
        pool: &str,
        volume: &str,
    ) -> Result<Option<u64>, Failure> {
        self.look_at_volume(pool, volume, |_, volume| volume.info().map(|info| info.capacity)).await
    }

    /// Puts `content` at the start of a volume. Until it returns, the volume holds a part of it.
    pub(crate) async fn upload(
        &self,
        pool: &str,
        volume: &str,
        content: Content,
    ) -> Result<(), Failure> {
        let (pool, volume) = (pool.to_owned(), volume.to_owned());
        let patience = match &content {
            Content::Bytes(_) => None,
            Content::File(_) => Some(UPLOAD),
        };
        let work = move |connect: &Connect| {
            let volume = find(connect, &pool, &volume)?;
            match &content {
                Content::Bytes(bytes) => upload(connect, &volume, bytes.len() as u64, &bytes[..]),
                Content::File(path) => match open(path) {
                    Ok((file, length)) => upload(connect, &volume, length, file),
                    Err(error) => Ok(Err(error)),
                },
            }
        };
        let uploaded = match patience {
            None => self.call(Kind::Act, work).await?,
            Some(patience) => self.call_within(Kind::Act, patience, work).await?,
        };
        uploaded.map_err(|error| Failure::refused(None, format!("a file cannot be read: {error}")))
    }

    /// Up to `limit` bytes of a volume from `offset` on; None if there is no volume.
    pub(crate) async fn download(
        &self,
        pool: &str,
        volume: &str,
        offset: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, Failure> {
        self.look_at_volume(pool, volume, move |connect, volume| {
            let length = volume.info()?.capacity.saturating_sub(offset).min(limit as u64);
            if length == 0 {
                return Ok(Vec::new());
            }
            let stream = Stream::new(connect, 0)?;
            volume.download(&stream, offset, length, 0)?;
            let mut content = vec![0; length as usize];
            let mut filled = 0;
            while filled < content.len() {
                match stream.recv(&mut content[filled..]) {
                    Ok(0) => break,
                    Ok(read) => filled += read.unsigned_abs(),
                    Err(error) => {
                        let _ = stream.abort();
                        return Err(error);
                    }
                }
            }
            content.truncate(filled);
            match filled < length as usize {
                true => stream.finish()?,
                // It is as long as it was when the download began, and may be longer now.
                false => drop(stream.finish()),
            }
            Ok(content)
        })
        .await
    }

    /// Removes a volume. Fine when there is none.
    pub(crate) async fn remove_volume(&self, pool: &str, volume: &str) -> Result<(), Failure> {
        let (pool, volume) = (pool.to_owned(), volume.to_owned());
        self.call(Kind::Act, move |connect| {
            let removed = find(connect, &pool, &volume).and_then(|volume| volume.delete(0));
            present(removed).map(|_| ())
        })
        .await
    }

    async fn look_at_volume<R: Send + 'static>(
        &self,
        pool: &str,
        volume: &str,
        look: impl FnOnce(&Connect, &StorageVol) -> Result<R, Error> + Send + 'static,
    ) -> Result<Option<R>, Failure> {
        let (pool, volume) = (pool.to_owned(), volume.to_owned());
        self.call(Kind::Look, move |connect| {
            present(find(connect, &pool, &volume).and_then(|volume| look(connect, &volume)))
        })
        .await
    }
}

fn find(connect: &Connect, pool: &str, volume: &str) -> Result<StorageVol, Error> {
    let pool: StoragePool = connect.lookup_storage_pool_by_name(pool)?;
    pool.lookup_storage_vol_by_name(volume)
}

fn open(path: &Path) -> std::io::Result<(File, u64)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// The outer failure is libvirt's, the inner one that of reading `content`.
fn upload(
    connect: &Connect,
    volume: &StorageVol,
    length: u64,
    content: impl Read,
) -> Result<std::io::Result<()>, Error> {
    let stream = Stream::new(connect, 0)?;
    volume.upload(&stream, 0, length, 0)?;
    let mut content = content.take(length);
    let mut piece = vec![0; PIECE];
    loop {
        let read = match content.read(&mut piece) {
            Ok(0) => return stream.finish().map(Ok),
            Ok(read) => read,
            Err(error) => {
                stream.abort()?;
                return Ok(Err(error));
            }
        };
        let mut rest = &piece[..read];
        while !rest.is_empty() {
            match stream.send(rest) {
                Ok(sent) => rest = &rest[sent.unsigned_abs().min(rest.len())..],
                Err(error) => {
                    let _ = stream.abort();
                    return Err(error);
                }
            }
        }
    }
}

fn is(error: &Error, number: ErrorNumber) -> bool {
    error.code().known() == Some(number)
}

/// None for what does not exist.
fn present<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error)
            if is(&error, ErrorNumber::NoStoragePool)
                || is(&error, ErrorNumber::NoStorageVolume) =>
        {
            Ok(None)
        }
        result => result.map(Some),
    }
}
