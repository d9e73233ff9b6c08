//! The recipe `disk`: a disk that exists already, by its path and its SHA-256.
//!
//! The image gets a copy, as whoever owns the original may overwrite it in place while instances run: one
//! that shares the original's blocks where the file system can, else one that skips blocks of zeroes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use runner_core::{
    Error, Result,
    image::{Boot, DiskFormat, UserDataDelivery},
};
use rustix::fs::ioctl_ficlone;
use sha2::{Digest, Sha256};

use crate::images::{Content, Work, bytes, check_room, disk_failed, hex, sha256_file};

/// Copies the disk at `source` into `directory`.
pub(crate) fn build(
    source: &Path,
    sha256: &str,
    user_data: UserDataDelivery,
    directory: &Path,
    work: &Work,
) -> Result<Content> {
    let expected = expected(sha256)?;
    let (file, length) = open(source)?;
    // Looked at before the copy to fail early, and again after it, because only the copy holds still.
    format(&file, length).map_err(|error| refused(source, error))?;
    let name = "disk";
    let path = directory.join(name);
    work.line(format!("copying {} ({})", source.display(), bytes(length)));
    let digest = copy(&file, source, &path, work)?;
    if digest != expected {
        return Err(Error::invalid(
            format!("disk {}", source.display()),
            format!("its SHA-256 is {digest}, and the recipe says {expected}"),
        ));
    }
    let copy = File::open(&path).map_err(|error| refused(source, Refusal::Unreadable(error)))?;
    let format = format(&copy, length).map_err(|error| refused(source, error))?;
    work.line(format!("disk: {format}, sha256 {digest}"));
    Ok(Content { boot: Boot::Disk { path: PathBuf::from(name), format, user_data }, digest })
}

fn expected(sha256: &str) -> Result<String> {
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::invalid(format!("sha256 {sha256:?}"), "it takes 64 hexadecimal digits"));
    }
    Ok(sha256.to_ascii_lowercase())
}

fn open(source: &Path) -> Result<(File, u64)> {
    let what = || format!("disk {}", source.display());
    if !source.is_absolute() {
        return Err(Error::invalid(what(), "its path must be absolute"));
    }
    // Opening a pipe would otherwise wait for someone to write to it.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(source)
        .map_err(|error| refused(source, Refusal::Unreadable(error)))?;
    let metadata = file.metadata().map_err(|error| refused(source, Refusal::Unreadable(error)))?;
    if !metadata.is_file() {
        return Err(Error::invalid(what(), "it is not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Copies `source` to `path` and returns the SHA-256 of what `path` then holds.
fn copy(source: &File, from: &Path, path: &Path, work: &Work) -> Result<String> {
    let metadata = source.metadata().map_err(|error| refused(from, Refusal::Unreadable(error)))?;
    let needed = metadata.len().min(metadata.blocks() * 512);
    let failed = |error| disk_failed(path, needed, format!("write {}", path.display()), error);
    let mut target = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .map_err(failed)?;
    if ioctl_ficlone(&target, source).is_ok() {
        work.line("it shares its blocks with the original");
        return Ok(sha256_file(path, work)?.0);
    }
    check_room(path, needed)?;
    let mut hash = Sha256::new();
    let mut length: u64 = 0;
    let mut buffer = vec![0; 1 << 20];
    let mut source = source;
    source.seek(SeekFrom::Start(0)).map_err(|error| refused(from, Refusal::Unreadable(error)))?;
    loop {
        work.check()?;
        let read =
            source.read(&mut buffer).map_err(|error| refused(from, Refusal::Unreadable(error)))?;
        if read == 0 {
            break;
        }
        let piece = &buffer[..read];
        hash.update(piece);
        length += read as u64;
        for block in piece.chunks(64 << 10) {
            if block.iter().all(|byte| *byte == 0) {
                target.seek_relative(block.len() as i64).map_err(failed)?;
            } else {
                target.write_all(block).map_err(failed)?;
            }
        }
    }
    target.set_len(length).map_err(failed)?;
    Ok(hex(&hash.finalize()))
}

/// Why a disk cannot be an image.
#[derive(Debug)]
enum Refusal {
    Unreadable(io::Error),
    Rule(String),
}

fn refused(source: &Path, refusal: Refusal) -> Error {
    let reason = match refusal {
        Refusal::Rule(reason) => reason,
        Refusal::Unreadable(error) => match error.kind() {
            io::ErrorKind::NotFound => "it does not exist".to_owned(),
            io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
            _ => format!("it cannot be read: {error}"),
        },
    };
    Error::invalid(format!("disk {}", source.display()), reason)
}

/// The format of a disk, by its first bytes and never by its name. A qcow2 that leads QEMU to other files
/// is refused: it could name any file that QEMU may read.
fn format(file: &File, length: u64) -> Result<DiskFormat, Refusal> {
    const MAGIC: &[u8] = b"QFI\xfb";
    const CORRUPT: u64 = 1 << 1;
    const EXTERNAL_DATA: u64 = 1 << 2;
    let rule = |text: &str| Err(Refusal::Rule(text.to_owned()));

    if length == 0 {
        return rule("it is empty");
    }
    let mut header = [0; 104];
    let mut filled = 0;
    while filled < header.len() {
        match file.read_at(&mut header[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => return Err(Refusal::Unreadable(error)),
        }
    }
    if !header[..filled].starts_with(MAGIC) {
        return Ok(DiskFormat::Raw);
    }
    let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap_or_default());
    let version = word(4);
    match version {
        2 if filled < 72 => return rule("its qcow2 header is cut short"),
        3 if filled < 104 => return rule("its qcow2 header is cut short"),
        2 | 3 => {}
        _ => {
            return Err(Refusal::Rule(format!(
                "it is qcow2 of version {version}, and only 2 and 3 are known"
            )));
        }
    }
    if number(8) != 0 {
        return rule(
            "it has a backing file, so it is not whole; flatten it with `qemu-img convert -O qcow2`",
        );
    }
    if word(32) != 0 {
        return rule("it is encrypted");
    }
    let incompatible = if version == 3 { number(72) } else { 0 };
    if incompatible & EXTERNAL_DATA != 0 {
        return rule(
            "its data is in another file; bring it together with `qemu-img convert -O qcow2`",
        );
    }
    if incompatible & CORRUPT != 0 {
        return rule("it is marked as corrupt; see `qemu-img check`");
    }
    Ok(DiskFormat::Qcow2)
}
