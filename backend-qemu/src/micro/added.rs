//! Files of the operator's, added to a micro image: a second archive behind the first, as the kernel unpacks
//! one after the other.

use std::{
    fs,
    io::{self, Read},
    path::{Component, Path},
};

use runner_core::{Error, Result};
use tar::EntryType;

use super::{
    initrd,
    root::{self, Node, Root},
};
use crate::images::{BACKEND, Work, bytes, sha256_file, sha256_of};

/// The most that files may take together, unpacked, in bytes: they are in each machine's memory.
const MOST: u64 = 1 << 30;

/// Puts the files of the tar archive `files`, whose hash must be `sha256`, behind the archive at `initrd`. Gives
/// the hash of both together.
///
/// # Errors
/// `Invalid` for an archive with another hash, or with what an image cannot have.
pub(super) fn add(files: &Path, sha256: &str, initrd: &Path, work: &Work) -> Result<String> {
    let refused = |reason: String| Error::invalid(format!("archive {}", files.display()), reason);
    let (found, _) = sha256_file(files, work)?;
    if found != sha256 {
        return Err(refused(format!("its SHA-256 is {found}, and the recipe says {sha256}")));
    }
    let tar = fs::File::open(files)
        .map_err(|error| Error::backend(BACKEND, format!("read {}", files.display()), error))?;
    let root = read(tar).map_err(|error| refused(error.to_string()))?;
    work.check()?;
    let failed = |error| Error::backend(BACKEND, format!("write {}", initrd.display()), error);
    let mut whole = fs::read(initrd).map_err(failed)?;
    // Where an archive begins, counted from the first one's beginning.
    whole.resize(whole.len().next_multiple_of(4), 0);
    whole.extend(initrd::pack(&root)?);
    // Not in place: the file is shared with the cache.
    fs::remove_file(initrd).map_err(failed)?;
    fs::write(initrd, &whole).map_err(failed)?;
    work.line(format!("added {} files of {}", root.len(), files.display()));
    Ok(sha256_of(&whole))
}

fn read(tar: impl Read) -> io::Result<Root<'static>> {
    let mut root = Root::new();
    let mut left = MOST;
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = plain(&entry.path()?)?;
        if path.is_empty() {
            continue;
        }
        let mode = entry.header().mode()? & 0o7777;
        let node = match entry.header().entry_type() {
            EntryType::Directory => Node::Directory { mode },
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                left = left.checked_sub(size).ok_or_else(|| {
                    io::Error::other(format!("its files take more than {} together", bytes(MOST)))
                })?;
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                Node::File { mode, content: content.into() }
            }
            EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default();
                Node::Link { target: text(&target)?.to_owned() }
            }
            EntryType::XGlobalHeader => continue,
            other => {
                let problem = format!("{path} is of a kind that no image can have: {other:?}");
                return Err(io::Error::other(problem));
            }
        };
        root.insert(root::merged(&path), node);
    }
    root::add_parents(&mut root);
    Ok(root)
}

/// A path without a leading slash or dots.
fn plain(path: &Path) -> io::Result<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(text(Path::new(part))?),
            Component::CurDir | Component::RootDir => (),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!("{} leads upwards", path.display())));
            }
        }
    }
    Ok(parts.join("/"))
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other(format!("{} is no text", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use runner_core::image::BuildLog;

    fn tar(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, path: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        // As it is written, where the builder would refuse it.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    #[test]
    fn files_go_where_the_guest_has_them() {
        let tar = tar(|builder| {
            entry(builder, EntryType::Directory, "./", b"");
            entry(builder, EntryType::Regular, "./opt/runner/start.sh", b"#!/bin/sh\n");
            entry(builder, EntryType::Regular, "/bin/tool", b"x");
        });
        let root = read(&tar[..]).unwrap();
        let paths: Vec<&str> = root.keys().map(String::as_str).collect();
        let expected =
            ["opt", "opt/runner", "opt/runner/start.sh", "usr", "usr/bin", "usr/bin/tool"];
        assert_eq!(paths, expected);
        assert_eq!(
            root["opt/runner/start.sh"],
            Node::File { mode: 0o755, content: b"#!/bin/sh\n"[..].into() }
        );
    }

    #[test]
    fn what_no_image_can_have_is_refused() {
        for (kind, path) in [
            (EntryType::Regular, "../etc/passwd"),
            (EntryType::Regular, "opt/../../x"),
            (EntryType::Char, "dev/null"),
            (EntryType::Link, "opt/hard"),
        ] {
            assert!(read(&tar(|builder| entry(builder, kind, path, b""))[..]).is_err(), "{path}");
        }
        assert!(read(&[1_u8; 700][..]).is_err());
    }

    #[tokio::test]
    async fn the_cache_keeps_what_it_had() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = tar(|builder| entry(builder, EntryType::Regular, "a", b"new"));
        fs::write(at("files.tar"), &files).unwrap();
        let first = initrd::pack(&Root::from([("b".to_owned(), Node::Directory { mode: 0o755 })]));
        let first = first.unwrap();
        fs::write(at("cached"), &first).unwrap();
        fs::hard_link(at("cached"), at("initrd")).unwrap();
        let work = Work::new(BuildLog::silent());
        let hash = sha256_of(&files);
        let digest = add(&at("files.tar"), &hash, &at("initrd"), &work).unwrap();
        assert_eq!(fs::read(at("cached")).unwrap(), first);
        let both = fs::read(at("initrd")).unwrap();
        assert_eq!(digest, sha256_of(&both));
        assert!(both.starts_with(&first) && both.len() > first.len());
        let error = add(&at("files.tar"), &"0".repeat(64), &at("initrd"), &work).unwrap_err();
        assert!(error.to_string().contains(&hash), "{error}");
    }
}
