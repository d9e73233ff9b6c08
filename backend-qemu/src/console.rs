//! What a guest writes to its serial console: kept within limits on disk, and read as it grows.
//!
//! A guest may write for ever. QEMU appends to one file; we punch holes into its beginning. Offsets stay what
//! they were, so whoever reads along is not disturbed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use runner_core::{Result, hypervisor::Console};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use tokio::time::sleep;

use crate::{argv::file, error, instance_dir::InstanceDir};

/// How much of the past is kept, at least.
pub(crate) const KEEP: u64 = 1024 * 1024;
/// How much more there may be before it is cut.
const SLACK: u64 = 1024 * 1024;
/// How often to look for more.
const POLL: Duration = Duration::from_millis(100);
const PIECE: usize = 64 * 1024;

/// Gives the disk space of all but the end of `path` back.
pub(crate) fn bound(path: &Path) -> io::Result<()> {
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    let metadata = file.metadata()?;
    if metadata.blocks() * 512 > KEEP + SLACK {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Whole blocks only: a part of one would be filled with zeros, which look like content.
        let end = metadata.len().saturating_sub(KEEP) / 4096 * 4096;
        fallocate(&file, flags, 0, end)?;
    }
    Ok(())
}

/// What is kept of the console, and, when followed, what comes until the instance is dead.
pub(crate) fn read(directory: InstanceDir, follow: bool) -> Result<Console> {
    let fail = |error| error::io("open a console", error);
    let file = match File::open(directory.join(file::CONSOLE)) {
        // It never started.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Box::pin(stream::empty()));
        }
        result => result.map_err(fail)?,
    };
    let size = file.metadata().map_err(fail)?.len();
    let reader = Reader { file, at: size.saturating_sub(KEEP), end: size, follow, directory };
    Ok(Box::pin(stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error::io("read a console", error)), None)),
        }
    })))
}

struct Reader {
    file: File,
    at: u64,
    /// Where to stop, unless it follows.
    end: u64,
    follow: bool,
    directory: InstanceDir,
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Before reading: what it wrote before it died is then read too.
            let alive = self.follow && self.directory.is_alive()?;
            if let Some(piece) = self.piece()? {
                return Ok(Some(piece));
            }
            if !alive {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    fn piece(&mut self) -> io::Result<Option<Bytes>> {
        // Past what was cut meanwhile.
        self.at = match seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(at) => at,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let left = match self.follow {
            true => PIECE as u64,
            false => self.end.saturating_sub(self.at).min(PIECE as u64),
        };
        let mut buffer = vec![0; left as usize];
        let count = self.file.read_at(&mut buffer, self.at)?;
        buffer.truncate(count);
        self.at += count as u64;
        Ok((count > 0).then(|| buffer.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::TryStreamExt;
    use runner_core::OwnerId;

    use super::*;
    use crate::directory::{Root, example_mark};

    #[tokio::test]
    async fn a_flood_keeps_its_end_and_little_space() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), &OwnerId::new("us").unwrap()).unwrap();
        let mark = example_mark("linux-1");
        let (instance, lock) = root.make(&mark).unwrap();
        let path = instance.join(file::CONSOLE);
        let mut console = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for n in 0..100 {
            let line = [b'a' + n % 26; 99_999];
            console.write_all(&line).unwrap();
            console.write_all(b"\n").unwrap();
            bound(&path).unwrap();
        }
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 10_000_000);
        assert!(metadata.blocks() * 512 <= KEEP + SLACK + 200_000, "{}", metadata.blocks());

        let all = |console: Console| async move {
            let pieces: Vec<Bytes> = console.try_collect().await.unwrap();
            pieces.concat()
        };
        let past = all(read(instance.clone(), false).unwrap()).await;
        assert_eq!(past.len() as u64, KEEP);
        assert!(!past.contains(&0));

        let followed = tokio::spawn(all(read(instance.clone(), true).unwrap()));
        tokio::time::sleep(Duration::from_millis(150)).await;
        console.write_all(b"the end\n").unwrap();
        drop(lock);
        let followed = tokio::time::timeout(Duration::from_secs(5), followed).await;
        let followed = followed.unwrap().unwrap();
        assert_eq!(followed.len() as u64, KEEP + 8);
        assert!(followed.ends_with(b"the end\n"));
    }
}
