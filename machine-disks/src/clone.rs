//! Copies of disks: one that shares its blocks with the original, or one that has its own.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, SeekFrom, ioctl_ficlone, open, seek},
    io::Errno,
};

/// What is read and written at once, in bytes.
const PIECE: usize = 1 << 20;
/// Runs of zeroes of this length, in bytes, become holes.
const BLOCK: usize = 64 << 10;

/// Makes `to` a copy of `from` that shares all its blocks until one of the two is written to: a reflink,
/// as Btrfs, XFS and a few others have it. Takes no room and, whatever the size, milliseconds.
///
/// # Errors
/// `Unsupported` or `CrossesDevices` where the file system cannot, `AlreadyExists` for a `to` that exists,
/// those of opening files. There is no `to` afterwards, unless it was there before.
pub fn reflink(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = create(to)?;
    match ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(()),
        Err(errno) => {
            let _ = std::fs::remove_file(to);
            Err(refusal(errno))
        }
    }
}

/// Makes `to` a copy of `from` with blocks of its own. Holes stay holes, and long runs of zeroes become holes.
///
/// # Errors
/// `AlreadyExists` for a `to` that exists, `StorageFull`, those of reading and writing. There is no `to`
/// afterwards, unless it was there before.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = create(to)?;
    let copied = copy_data(&source, &target);
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied
}

/// Whether files of `directory` can be reflinks of `original`, found out by making one. It has no name, so
/// that nothing is left of it, whatever happens.
///
/// # Errors
/// Those of opening `original` and of making a file in `directory`. That it cannot be done is no error: it is
/// the reason that is returned.
pub fn probe(original: &Path, directory: &Path) -> io::Result<Result<(), io::Error>> {
    let source = File::open(original)?;
    let mode = Mode::RUSR | Mode::WUSR;
    match open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        Ok(target) => Ok(ioctl_ficlone(&target, &source).map_err(refusal)),
        // Of the file systems with reflinks, all have files without names.
        Err(errno @ (Errno::OPNOTSUPP | Errno::ISDIR)) => Ok(Err(refusal(errno))),
        Err(errno) => Err(errno.into()),
    }
}

/// The many ways in which kernels and file systems say that they have no reflinks, as one.
fn refusal(errno: Errno) -> io::Error {
    match errno {
        Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::ISDIR => {
            io::Error::new(io::ErrorKind::Unsupported, "the file system has no reflinks")
        }
        Errno::XDEV => io::Error::new(
            io::ErrorKind::CrossesDevices,
            "the image is on another file system than the instances",
        ),
        errno => errno.into(),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while let Some((start, end)) = next_data(source, at, length)? {
        at = start;
        while at < end {
            let wanted = usize::try_from(end - at).map_or(PIECE, |rest| rest.min(PIECE));
            let read = source.read_at(&mut buffer[..wanted], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (index, block) in buffer[..read].chunks(BLOCK).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    target.write_all_at(block, at + (index * BLOCK) as u64)?;
                }
            }
            at += read as u64;
        }
    }
    target.set_len(length)
}

/// The next stretch of `file` that is no hole, from `at` on and before `length`.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // It cannot tell: all of it is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, length))),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?.min(length);
    Ok((start < end).then_some((start, end)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_no_more_blocks() {
        let here = tempfile::tempdir().unwrap();
        let (from, to) = (here.path().join("from"), here.path().join("to"));
        let file = File::create(&from).unwrap();
        // A hole, data that ends within a block, written zeroes, a hole at the end.
        file.write_all_at(&[7; 100_001], 5 << 20).unwrap();
        file.write_all_at(&vec![0; 3 << 20], 8 << 20).unwrap();
        file.write_all_at(b"x", (20 << 20) - 1).unwrap();
        file.set_len((33 << 20) + 13).unwrap();
        copy(&from, &to).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        let blocks = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
        assert!(blocks(&to) < blocks(&from), "{} of {}", blocks(&to), blocks(&from));
        assert!(blocks(&to) <= 512 << 10, "{}", blocks(&to));
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_there_is_never_replaced() {
        let here = tempfile::tempdir().unwrap();
        let (from, to) = (here.path().join("from"), here.path().join("to"));
        std::fs::write(&from, "new").unwrap();
        std::fs::write(&to, "old").unwrap();
        for make in [copy, reflink] {
            assert_eq!(make(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&to).unwrap(), b"old");
        }
    }

    #[test]
    fn the_probe_tells_what_a_reflink_does_and_leaves_nothing() {
        let here = tempfile::tempdir().unwrap();
        let from = here.path().join("from");
        std::fs::write(&from, vec![7; 1 << 20]).unwrap();
        let probed = probe(&from, here.path()).unwrap();
        let to = here.path().join("to");
        let made = reflink(&from, &to);
        assert_eq!(
            probed.as_ref().map_err(io::Error::kind),
            made.as_ref().map_err(io::Error::kind)
        );
        match made {
            Ok(()) => assert_eq!(std::fs::read(&to).unwrap(), std::fs::read(&from).unwrap()),
            Err(_) => assert!(!to.exists()),
        }
        let left = std::fs::read_dir(here.path()).unwrap().count();
        assert_eq!(left, 1 + usize::from(probed.is_ok()));
    }

    #[test]
    fn another_file_system_is_a_reason_and_no_error() {
        let (here, there) = (tempfile::tempdir().unwrap(), Path::new("/dev/shm"));
        let from = here.path().join("from");
        std::fs::write(&from, "x").unwrap();
        let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
        if device(there).is_none() || device(there) == device(here.path()) {
            println!("skipped: there is one file system here");
            return;
        }
        let reason = probe(&from, there).unwrap().unwrap_err();
        let kinds = [io::ErrorKind::CrossesDevices, io::ErrorKind::Unsupported];
        assert!(kinds.contains(&reason.kind()), "{reason}");
    }
}
