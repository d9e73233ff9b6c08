//! What is in the packages, in memory: nothing of it touches the host's file system, so no link in a
//! package can lead out of it.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    path::Path,
    process::Command,
};

use runner_core::{Error, Result};
use tar::EntryType;

use crate::images::{BACKEND, Work};

/// The files of all packages, by their path without a leading slash.
#[derive(Debug, Default)]
pub(super) struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    File(Vec<u8>),
    Link(String),
}

impl Archive {
    /// Adds the files of the package at `path`.
    ///
    /// # Errors
    /// `Backend` when it cannot be read.
    pub(super) fn unpack(&mut self, path: &Path, work: &Work) -> Result<()> {
        let mut command = Command::new("dpkg-deb");
        command.arg("--fsys-tarfile").arg(path);
        let output = work.run(command)?;
        self.read(Cursor::new(output.stdout))
            .map_err(|error| Error::backend(BACKEND, format!("unpack {}", path.display()), error))
    }

    fn read(&mut self, tar: impl Read) -> std::io::Result<()> {
        for entry in tar::Archive::new(tar).entries()? {
            let mut entry = entry?;
            let path = normal("", &entry.path()?.to_string_lossy());
            let target = entry.link_name()?.map(|name| name.to_string_lossy().into_owned());
            let content = match (entry.header().entry_type(), target) {
                (EntryType::Regular, _) => {
                    let mut content = Vec::with_capacity(entry.size() as usize);
                    entry.read_to_end(&mut content)?;
                    Entry::File(content)
                }
                (EntryType::Symlink, Some(target)) => Entry::Link(target),
                // A hard link names its target from the root.
                (EntryType::Link, Some(target)) => Entry::Link(format!("/{target}")),
                _ => continue,
            };
            self.entries.insert(path, content);
        }
        Ok(())
    }

    /// The file at `path`, through links.
    pub(super) fn file(&self, path: &str) -> Option<&[u8]> {
        let mut path = path.trim_start_matches('/').to_owned();
        // As many links as a kernel follows.
        for _ in 0..40 {
            match self.entries.get(&path)? {
                Entry::File(content) => return Some(content),
                Entry::Link(target) => {
                    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                    path = normal(parent, target);
                }
            }
        }
        None
    }

    /// The paths of all files that are not links, sorted.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File(content) => Some((path.as_str(), content.as_slice())),
            Entry::Link(_) => None,
        })
    }

    /// The program of this name, where programs are, and its path.
    ///
    /// # Errors
    /// `Backend` when no package has it.
    pub(super) fn program(&self, name: &str) -> Result<(String, &[u8])> {
        ["usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .map(|directory| format!("{directory}/{name}"))
            .find_map(|path| self.file(&path).map(|content| (path, content)))
            .ok_or_else(|| missing(name))
    }
}

/// No package has `what`.
pub(super) fn missing(what: &str) -> Error {
    Error::backend(
        BACKEND,
        format!("find {what} in the packages"),
        "none of them holds it; the distribution may have moved it",
    )
}

/// `path` as seen from `parent`, without `.`, `..` and a leading slash.
fn normal(parent: &str, path: &str) -> String {
    let parent = if path.starts_with('/') { "" } else { parent };
    let mut parts: Vec<&str> = Vec::new();
    for part in parent.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_within_the_packages() {
        let mut archive = Archive::default();
        let file = |text: &str| Entry::File(text.as_bytes().to_vec());
        let link = |target: &str| Entry::Link(target.to_owned());
        archive.entries.insert("usr/lib/a.so.1.2".into(), file("a"));
        archive.entries.insert("usr/lib/a.so.1".into(), link("a.so.1.2"));
        archive.entries.insert("lib64/ld.so".into(), link("/usr/lib/../lib/a.so.1"));
        archive.entries.insert("out".into(), link("../../../etc/passwd"));
        archive.entries.insert("loop".into(), link("loop"));
        assert_eq!(archive.file("lib64/ld.so"), Some(&b"a"[..]));
        assert_eq!(archive.file("out"), None);
        assert_eq!(archive.file("loop"), None);
    }
}
