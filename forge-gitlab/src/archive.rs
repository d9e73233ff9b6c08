//! Archives on the host: tar to and from the guest, which has `tar`; zip to and from GitLab.
//!
//! What is in them comes from a job and is nowhere unpacked on the host. It is limited in size all the same,
//! and a path that leads out of a directory is not passed on.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Component, Path},
};

use flate2::{Compression, GzBuilder};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Turns the tar archives of a guest, one after the other, into a zip archive. Returns how many files it holds.
pub(crate) fn tar_to_zip(tar: &Path, zip: &Path) -> io::Result<usize> {
    let mut archive = open(tar)?;
    let mut writer = ZipWriter::new(BufWriter::new(File::create(zip)?));
    let mut count = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(name) = inner_name(&entry.path()?) else { continue };
        let header = entry.header();
        let options = SimpleFileOptions::default()
            .large_file(entry.size() > u64::from(u32::MAX))
            .unix_permissions(header.mode()? & 0o7777);
        let kind = header.entry_type();
        if kind.is_symlink() {
            let Some(target) = entry.link_name()? else { continue };
            writer.add_symlink(name, target.to_string_lossy(), options)?;
        } else if kind.is_file() {
            writer.start_file(name, options)?;
            io::copy(&mut entry, &mut writer)?;
        } else {
            continue;
        }
        count += 1;
    }
    writer.finish()?.flush()?;
    Ok(count)
}

/// Turns the tar archives of a guest, one after the other, into one.
pub(crate) fn tar_to_tar(from: &Path, to: &Path) -> io::Result<usize> {
    let mut archive = open(from)?;
    let mut builder = tar::Builder::new(BufWriter::new(File::create(to)?));
    let mut count = 0;
    for entry in archive.entries()? {
        let entry = entry?;
        let Some(name) = inner_name(&entry.path()?) else { continue };
        let mut header = entry.header().clone();
        match entry.link_name()? {
            Some(target) => builder.append_link(&mut header, name, &target)?,
            None => builder.append_data(&mut header, name, entry)?,
        }
        count += 1;
    }
    builder.into_inner()?.flush()?;
    Ok(count)
}

/// Turns each file of a guest's tar archive into a member of a gzip file, one after the other.
pub(crate) fn tar_to_gzip(tar: &Path, gzip: &Path) -> io::Result<usize> {
    let mut archive = open(tar)?;
    let mut out = BufWriter::new(File::create(gzip)?);
    let mut count = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(name) = inner_name(&entry.path()?) else { continue };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let mut member = GzBuilder::new().filename(name).write(&mut out, Compression::default());
        io::copy(&mut entry, &mut member)?;
        member.finish()?;
        count += 1;
    }
    out.flush()?;
    Ok(count)
}

/// Takes the first file out of a guest's tar archive. False if there is none.
pub(crate) fn tar_to_raw(tar: &Path, raw: &Path) -> io::Result<usize> {
    let mut archive = open(tar)?;
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            io::copy(&mut entry, &mut File::create(raw)?)?;
            return Ok(1);
        }
    }
    Ok(0)
}

/// Turns a zip archive of GitLab into a tar archive for a guest, of at most `limit` bytes.
pub(crate) fn zip_to_tar(zip: &Path, tar: &Path, limit: u64) -> io::Result<usize> {
    let mut archive = ZipArchive::new(BufReader::new(File::open(zip)?))?;
    let mut builder = tar::Builder::new(BufWriter::new(File::create(tar)?));
    let (mut count, mut total) = (0, 0u64);
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let Some(name) = inner_name(Path::new(entry.name()?.as_ref())) else { continue };
        let mode = entry.unix_mode();
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        // What is said of the size need not be true.
        total = total.saturating_add(entry.size());
        if total > limit {
            return Err(io::Error::other(format!("it holds more than {limit} bytes")));
        }
        if entry.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(mode.map_or(0o755, |mode| mode & 0o7777));
            header.set_size(0);
            builder.append_data(&mut header, &name, io::empty())?;
        } else if entry.is_symlink() {
            let mut target = String::new();
            entry.by_ref().take(4096).read_to_string(&mut target)?;
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            builder.append_link(&mut header, &name, &target)?;
        } else {
            header.set_mode(mode.map_or(0o644, |mode| mode & 0o7777));
            header.set_size(entry.size());
            let size = entry.size();
            let read = builder.append_data(&mut header, &name, entry.by_ref().take(size));
            read?;
        }
        count += 1;
    }
    builder.into_inner()?.flush()?;
    Ok(count)
}

fn open(tar: &Path) -> io::Result<tar::Archive<BufReader<File>>> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(tar)?));
    archive.set_ignore_zeros(true);
    Ok(archive)
}

/// The name without what leads nowhere; none if it leads out.
fn inner_name(path: &Path) -> Option<String> {
    let mut name = String::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => {
                if !name.is_empty() {
                    name.push('/');
                }
                name.push_str(part.to_str()?);
            }
            Component::CurDir => (),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_survive_the_way_there_and_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut builder = tar::Builder::new(File::create(path("1.tar")).unwrap());
        let mut add = |name: &str, content: &[u8], mode: u32| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(mode);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content).unwrap();
        };
        add("./d/a", b"one", 0o755);
        add("b", b"two", 0o600);
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        link.set_mode(0o777);
        builder.append_link(&mut link, "l", "d/a").unwrap();
        builder.into_inner().unwrap();

        assert_eq!(tar_to_zip(&path("1.tar"), &path("1.zip")).unwrap(), 3);
        assert_eq!(zip_to_tar(&path("1.zip"), &path("2.tar"), 6 + 3).unwrap(), 3);
        let mut back = tar::Archive::new(File::open(path("2.tar")).unwrap());
        let mut seen = Vec::new();
        for entry in back.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let name = entry.path().unwrap().display().to_string();
            seen.push((name, entry.header().mode().unwrap(), link.unwrap_or(text)));
        }
        let seen: Vec<_> = seen.iter().map(|(n, m, t)| (n.as_str(), *m, t.as_str())).collect();
        assert_eq!(seen, [("d/a", 0o755, "one"), ("b", 0o600, "two"), ("l", 0o777, "d/a")]);
        let error = zip_to_tar(&path("1.zip"), &path("3.tar"), 5).unwrap_err();
        assert!(error.to_string().contains("more than 5 bytes"));

        assert_eq!(tar_to_gzip(&path("1.tar"), &path("1.gz")).unwrap(), 2);
        let mut text = String::new();
        let gz = File::open(path("1.gz")).unwrap();
        flate2::read::MultiGzDecoder::new(gz).read_to_string(&mut text).unwrap();
        assert_eq!(text, "onetwo");
    }

    #[test]
    fn what_leads_out_is_left_out() {
        for (path, expected) in [
            ("a/./b", Some("a/b")),
            ("./a", Some("a")),
            ("../a", None),
            ("a/../../b", None),
            ("/etc/passwd", None),
            (".", None),
        ] {
            assert_eq!(inner_name(Path::new(path)).as_deref(), expected, "{path}");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("garbage");
        std::fs::write(&path, b"PK\x03\x04 garbage").unwrap();
        assert!(zip_to_tar(&path, &directory.path().join("t"), 100).is_err());
    }
}
