//! NoCloud seed disks: how a guest with cloud-init learns its name and its user data.

use std::{
    fs::{OpenOptions, Permissions},
    io::{Cursor, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use runner_core::{Error, Result, WorkerName};

use crate::error;

/// The most that fits on a seed disk beside `meta-data`, in bytes: user data and further files together.
pub const MAX_USER_DATA_BYTES: usize = 1 << 20;

/// What the disk takes: the user data, and room for the file system around it.
const DISK_BYTES: usize = MAX_USER_DATA_BYTES + (256 << 10);

/// What `meta-data` takes at most, in bytes. There is room for it beside the most user data.
const MAX_META_DATA_BYTES: usize = 64 << 10;

/// What a seed disk holds.
#[derive(Clone, Copy)]
pub struct Seed<'a> {
    /// Whose it is.
    pub name: &'a WorkerName,
    /// `meta-data`, 64 KiB at most; [`meta_data`] if none.
    pub meta_data: Option<&'a str>,
    /// `user-data`, as it is.
    pub user_data: &'a str,
    /// Further files in the top directory, for programs of the guest to read: their names and contents.
    pub files: &'a [(&'a str, &'a [u8])],
}

/// The least a guest must know: `name` as instance id and host name.
pub fn meta_data(name: &WorkerName) -> String {
    // A worker's name is a host name label, so it needs no quoting in YAML beyond these quotes, which
    // keep `1-0` and `null` what they are.
    format!("instance-id: \"{name}\"\nlocal-hostname: \"{name}\"\n")
}

/// Writes a seed disk to `path`: a FAT volume labelled `CIDATA` that holds `meta-data`, `user-data` and what
/// else there is. The same input gives the same bytes.
///
/// The file is mode 0600, as user data holds secrets, and replaces what was there. Attach it as a raw
/// disk. Blocks for as long as it takes to write 1.25 MiB.
///
/// # Errors
/// `Invalid` for more than [`MAX_USER_DATA_BYTES`], `Exhausted` for a full disk, `Backend` for the rest.
pub fn write(path: &Path, seed: Seed<'_>) -> Result<()> {
    let name = seed.name;
    let disk = volume(seed)?;
    let failed = |error| error::io(format!("write the seed disk of {name}"), error);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    // The mode above is only for a file that is new.
    file.set_permissions(Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(&disk))
        .map_err(failed)
}

/// The bytes of that disk, for whoever has no file to write them to.
///
/// # Errors
/// `Invalid` for more than [`MAX_USER_DATA_BYTES`].
pub fn volume(seed: Seed<'_>) -> Result<Vec<u8>> {
    let name = seed.name;
    let meta_data = seed.meta_data.map_or_else(|| meta_data(name), str::to_owned);
    let files: usize = seed.files.iter().map(|(_, content)| content.len()).sum();
    for (what, length, most) in [
        ("user data", seed.user_data.len() + files, MAX_USER_DATA_BYTES),
        ("meta data", meta_data.len(), MAX_META_DATA_BYTES),
    ] {
        if length > most {
            return Err(Error::invalid(
                format!("{what} of {name}"),
                format!("it is {length} bytes long, and the most is {most}"),
            ));
        }
    }
    let mut all =
        vec![("meta-data", meta_data.as_bytes()), ("user-data", seed.user_data.as_bytes())];
    all.extend(seed.files);
    fat(&all).map_err(|error| error::io(format!("make the seed disk of {name}"), error))
}

fn fat(files: &[(&str, &[u8])]) -> std::io::Result<Vec<u8>> {
    let mut disk = vec![0; DISK_BYTES];
    let options = FormatVolumeOptions::new().volume_label(*b"CIDATA     ").volume_id(0x4349_4441);
    format_volume(Cursor::new(&mut disk[..]), options)?;
    {
        let volume = FileSystem::new(Cursor::new(&mut disk[..]), FsOptions::new())?;
        let root = volume.root_dir();
        for (file, content) in files {
            let mut file = root.create_file(file)?;
            file.write_all(content)?;
            file.flush()?;
        }
        drop(root);
        volume.unmount()?;
    }
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, process::Command};

    use super::*;

    fn read(path: &Path, file: &str) -> String {
        let disk = std::fs::read(path).unwrap();
        let volume = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
        let mut text = String::new();
        let mut file = volume.root_dir().open_file(file).unwrap();
        file.read_to_string(&mut text).unwrap();
        text
    }

    fn seed<'a>(name: &'a WorkerName, user_data: &'a str) -> Seed<'a> {
        Seed { name, meta_data: None, user_data, files: &[] }
    }

    #[test]
    fn a_seed_reads_back() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("seed.img");
        let name = WorkerName::new("linux-17").unwrap();
        for user_data in
            ["#cloud-config\n{}\n".to_owned(), String::new(), "x".repeat(MAX_USER_DATA_BYTES)]
        {
            write(&path, seed(&name, &user_data)).unwrap();
            assert_eq!(read(&path, "user-data"), user_data);
            assert_eq!(
                read(&path, "meta-data"),
                "instance-id: \"linux-17\"\nlocal-hostname: \"linux-17\"\n"
            );
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_seed_depends_on_its_input_alone() {
        let name = WorkerName::new("linux-17").unwrap();
        let volume = || volume(seed(&name, "a")).unwrap();
        assert_eq!(volume(), volume());
    }

    #[test]
    fn a_seed_holds_what_its_maker_adds() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("seed.img");
        let name = WorkerName::new("linux-17").unwrap();
        let (large, meta_data) = (vec![b'x'; MAX_USER_DATA_BYTES - 3], "a".repeat(64 << 10));
        let files: [(&str, &[u8]); 2] = [("runner-data", b"abc"), ("a longer name.txt", &large)];
        let seed = Seed { name: &name, meta_data: Some(&meta_data), user_data: "", files: &files };
        write(&path, seed).unwrap();
        assert_eq!(read(&path, "runner-data"), "abc");
        assert_eq!(read(&path, "a longer name.txt").len(), large.len());
        assert_eq!(read(&path, "meta-data"), meta_data);
        let seed = Seed { user_data: "x", ..seed };
        assert!(matches!(write(&path, seed).unwrap_err(), Error::Invalid { .. }));
        let meta_data = "a".repeat((64 << 10) + 1);
        let seed = Seed { user_data: "", meta_data: Some(&meta_data), ..seed };
        assert!(matches!(write(&path, seed).unwrap_err(), Error::Invalid { .. }));
    }

    #[test]
    fn too_much_user_data_is_refused() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("seed.img");
        let name = WorkerName::new("linux-17").unwrap();
        let error = write(&path, seed(&name, &"x".repeat(MAX_USER_DATA_BYTES + 1))).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn other_programs_read_a_seed() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("seed.img");
        write(&path, seed(&WorkerName::new("linux-17").unwrap(), "hello")).unwrap();
        match Command::new("blkid").args(["-p", "-o", "export"]).arg(&path).output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(text.contains("TYPE=vfat"), "{text}");
                assert!(text.contains("LABEL=CIDATA"), "{text}");
            }
            Err(error) => println!("skipped: blkid: {error}"),
        }
        match Command::new("mtype").arg("-i").arg(&path).arg("::user-data").output() {
            Ok(output) => assert_eq!(output.stdout, b"hello"),
            Err(error) => println!("skipped: mtype: {error}"),
        }
    }
}
