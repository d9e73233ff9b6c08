//! Unpacks what a job left.
//!
//! The archive comes from a machine that a job had for itself: nothing in it is trusted to stay where it
//! should.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};

/// Unpacks those of an archive's entries that were asked for into `dir`, and returns how many files.
pub fn unpack(archive: &[u8], wanted: &[String], dir: &Path) -> anyhow::Result<usize> {
    std::fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_mtime(false);
    let mut count = 0;
    for entry in archive.entries().context("the outputs are no archive")? {
        let mut entry = entry.context("the outputs are cut short")?;
        let path: PathBuf = entry.path().context("an output has no name")?.into_owned();
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        let asked_for = wanted.iter().any(|wanted| path.starts_with(wanted));
        if !path.components().all(inside) || !asked_for {
            bail!("the outputs hold {path:?}, which nobody asked for");
        }
        let kind = entry.header().entry_type();
        if !kind.is_file() && !kind.is_dir() {
            eprintln!("monitor: output {path:?} is neither file nor directory: left out");
            continue;
        }
        entry.unpack_in(dir).with_context(|| format!("could not unpack {}", path.display()))?;
        count += usize::from(kind.is_file());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(paths: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for path in paths {
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            header.set_mode(0o644);
            // Not by `set_path`, which would refuse what a guest may well send.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"hi"[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn only_what_was_asked_for_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = ["out".to_owned(), "report.xml".to_owned()];
        let good = archive(&["out/a", "report.xml"]);
        assert_eq!(unpack(&good, &wanted, dir.path()).unwrap(), 2);
        assert_eq!(std::fs::read(dir.path().join("out/a")).unwrap(), b"hi");
        for bad in ["../x", "out/../../x", "/etc/x", ".bashrc"] {
            assert!(unpack(&archive(&[bad]), &wanted, dir.path()).is_err(), "{bad}");
        }
    }
}
