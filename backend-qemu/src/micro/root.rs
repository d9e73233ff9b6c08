//! The guest's root directory, before it is packed.

use std::collections::BTreeMap;

use runner_core::Result;

use super::{
    archive::{Archive, missing},
    libraries, modules,
};

/// A file system in memory: what is at each path, without a leading slash. Parents sort before children.
pub(super) type Root<'a> = BTreeMap<String, Node<'a>>;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node<'a> {
    Directory { mode: u32 },
    File { mode: u32, content: Content<'a> },
    Link { target: String },
}

/// Bytes that are in a package or in this program, or that were made.
pub(super) type Content<'a> = std::borrow::Cow<'a, [u8]>;

/// A file that this crate brings to the guest.
#[derive(Debug)]
pub(super) struct GuestFile {
    pub(super) path: &'static str,
    pub(super) mode: u32,
    pub(super) content: &'static str,
}

macro_rules! guest_files {
    ($($path:literal $mode:literal $source:literal),* $(,)?) => {
        &[$(GuestFile {
            path: $path,
            mode: $mode,
            content: include_str!(concat!("guest/", $source)),
        }),*]
    };
}

/// What runs in the guest, and its configuration.
pub(super) const GUEST_FILES: &[GuestFile] = guest_files![
    "etc/acpi/PWRF/00000080" 0o755 "power-button",
    "etc/fstab" 0o644 "fstab",
    "etc/group" 0o644 "group",
    "etc/hosts" 0o644 "hosts",
    "etc/inittab" 0o644 "inittab",
    "etc/passwd" 0o644 "passwd",
    "etc/profile" 0o644 "profile",
    "etc/resolv.conf" 0o644 "resolv.conf",
    "init" 0o755 "init",
    "usr/lib/runner/agent" 0o755 "agent",
    "usr/lib/runner/lease" 0o755 "lease",
    "usr/lib/runner/settle" 0o755 "settle",
    "usr/sbin/shutdown" 0o755 "shutdown",
];

/// Directories that are empty in the archive. The others come with their files.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("mnt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr/share", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
    ("work", 0o755),
];

/// As the distribution has it: one directory for each kind, and the old names for it.
const LINKS: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("etc/mtab", "../proc/self/mounts"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("sbin", "usr/sbin"),
    ("usr/sbin/mkfs.ext2", "mke2fs"),
    ("usr/sbin/mkfs.ext4", "mke2fs"),
    ("var/run", "../run"),
];

/// Applets that are expected in `sbin`: the kernel, `init` and the agent call some by that path.
const SYSTEM_APPLETS: &[&str] = &["halt", "init", "insmod", "modprobe", "poweroff", "reboot"];

/// Applets whose place something better takes, or that would be wrong: there is no package database.
const LEFT_OUT: &[&str] = &["dpkg", "dpkg-deb", "linuxrc", "mke2fs", "rpm"];

/// Everything of the guest but its kernel.
///
/// # Errors
/// `Backend` when the packages lack something.
pub(super) fn assemble<'a>(
    archive: &'a Archive,
    kernel_version: &str,
    applets: &[String],
) -> Result<Root<'a>> {
    let mut root = Root::new();
    for (path, mode) in DIRECTORIES {
        root.insert((*path).to_owned(), Node::Directory { mode: *mode });
    }
    for (path, target) in LINKS {
        link(&mut root, path, target);
    }
    for guest_file in GUEST_FILES {
        let content = guest_file.content.as_bytes();
        file(&mut root, guest_file.path, guest_file.mode, content.into());
    }

    let (_, busybox) = archive.program("busybox")?;
    file(&mut root, "usr/bin/busybox", 0o755, busybox.into());
    for applet in applets {
        if SYSTEM_APPLETS.contains(&applet.as_str()) {
            link(&mut root, &format!("usr/sbin/{applet}"), "../bin/busybox");
        } else if !LEFT_OUT.contains(&applet.as_str()) {
            link(&mut root, &format!("usr/bin/{applet}"), "busybox");
        }
    }

    let mut programs = Vec::new();
    for name in ["mke2fs", "qemu-ga"] {
        let (_, content) = archive.program(name)?;
        let path = format!("usr/sbin/{name}");
        file(&mut root, &path, 0o755, content.into());
        programs.push((path, content));
    }
    for (path, content) in libraries::closure(archive, &programs)? {
        file(&mut root, &merged(&path), 0o755, content.into());
    }
    let profile = "etc/mke2fs.conf";
    let content = archive.file(profile).ok_or_else(|| missing(profile))?;
    file(&mut root, profile, 0o644, content.into());

    let modules = modules::select(archive, kernel_version)?;
    let directory = format!("usr/lib/modules/{kernel_version}");
    for (path, content) in &modules.files {
        file(&mut root, &format!("{directory}/{path}"), 0o644, (*content).into());
    }
    for (name, content) in [
        ("modules.dep", modules.dep.into_bytes().into()),
        ("modules.alias", modules.alias.into_bytes().into()),
        ("modules.builtin", modules.builtin.into()),
    ] {
        file(&mut root, &format!("{directory}/{name}"), 0o644, content);
    }
    add_parents(&mut root);
    Ok(root)
}

/// `path` with the old names of directories replaced: an archive cannot write through its own links.
pub(super) fn merged(path: &str) -> String {
    let old = ["bin/", "lib/", "lib64/", "sbin/"];
    if old.iter().any(|old| path.starts_with(old)) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

fn file<'a>(root: &mut Root<'a>, path: &str, mode: u32, content: Content<'a>) {
    root.insert(path.to_owned(), Node::File { mode, content });
}

fn link(root: &mut Root<'_>, path: &str, target: &str) {
    let target = target.to_owned();
    root.insert(path.to_owned(), Node::Link { target });
}

pub(super) fn add_parents(root: &mut Root<'_>) {
    let paths: Vec<String> = root.keys().cloned().collect();
    for path in paths {
        let mut path = path.as_str();
        while let Some((parent, _)) = path.rsplit_once('/') {
            root.entry(parent.to_owned()).or_insert(Node::Directory { mode: 0o755 });
            path = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_with_their_children_and_before_them() {
        let mut root = Root::new();
        file(&mut root, &merged("lib64/ld.so"), 0o755, Content::default());
        add_parents(&mut root);
        let paths: Vec<&str> = root.keys().map(String::as_str).collect();
        assert_eq!(paths, ["usr", "usr/lib64", "usr/lib64/ld.so"]);
    }

    #[test]
    fn scripts_are_executable_and_nothing_else_is() {
        for file in GUEST_FILES {
            assert_eq!(file.content.starts_with("#!"), file.mode == 0o755, "{}", file.path);
        }
    }
}
