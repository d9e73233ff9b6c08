//! Packs a root directory as a cpio archive, the same bytes for the same root.

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};
use runner_core::{Error, Result};

use super::root::{Node, Root};
use crate::images::BACKEND;

/// The archive in the `newc` form: sorted, owned by root, without times, inodes counted from one.
///
/// # Errors
/// `Backend` when a file is too large for the form.
pub(super) fn pack(root: &Root<'_>) -> Result<Vec<u8>> {
    write(root).map_err(|error| Error::backend(BACKEND, "pack the initrd", error))
}

fn write(root: &Root<'_>) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (inode, (path, node)) in (1..).zip(root) {
        let builder = Builder::new(path).ino(inode).uid(0).gid(0).mtime(0);
        let (builder, content) = match node {
            Node::Directory { mode } => {
                (builder.nlink(2).mode(*mode).set_mode_file_type(ModeFileType::Directory), &[][..])
            }
            Node::File { mode, content } => (
                builder.nlink(1).mode(*mode).set_mode_file_type(ModeFileType::Regular),
                content.as_ref(),
            ),
            Node::Link { target } => (
                builder.nlink(1).mode(0o777).set_mode_file_type(ModeFileType::Symlink),
                target.as_bytes(),
            ),
        };
        let length = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path} is larger than 4 GiB")))?;
        let mut entry = builder.write(&mut archive, length);
        entry.write_all(content)?;
        entry.finish()?;
    }
    trailer(&mut archive)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_reads_back_in_order() {
        let root = Root::from([
            ("a".to_owned(), Node::Directory { mode: 0o1777 }),
            ("a/b".to_owned(), Node::File { mode: 0o755, content: b"hello"[..].into() }),
            ("c".to_owned(), Node::Link { target: "a/b".to_owned() }),
        ]);
        let archive = pack(&root).unwrap();
        assert_eq!(pack(&root).unwrap(), archive);
        let mut reader = cpio::newc::Reader::new(&archive[..]).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode()), ("a", 0o041_777));
        reader = cpio::newc::Reader::new(reader.finish().unwrap()).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode()), ("a/b", 0o100_755));
        assert_eq!(reader.entry().file_size(), 5);
        reader = cpio::newc::Reader::new(reader.finish().unwrap()).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode()), ("c", 0o120_777));
    }
}
