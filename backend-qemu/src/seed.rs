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

/// The most user data that fits on a seed disk.
pub const MAX_USER_DATA_BYTES: usize = 1 << 20;

/// What the disk takes: the user data, and room for the file system around it.
const DISK_BYTES: usize = MAX_USER_DATA_BYTES + (256 << 10);

/// Writes a seed disk to `path`: a FAT volume labelled `CIDATA` that holds `meta-data`, with `name` as
/// instance id and host name, and `user-data`. The same input gives the same bytes.
///
/// The file is mode 0600, as user data holds secrets, and replaces what was there. Attach it as a raw
/// disk. Blocks for as long as it takes to write 1.25 MiB.
///
/// # Errors
/// `Invalid` for more than [`MAX_USER_DATA_BYTES`], `Exhausted` for a full disk, `Backend` for the rest.
pub fn write(path: &Path, name: &WorkerName, user_data: &str) -> Result<()> {
    if user_data.len() > MAX_USER_DATA_BYTES {
        return Err(Error::invalid(
            format!("user data of {name}"),
            format!("it is {} bytes long, and the most is {MAX_USER_DATA_BYTES}", user_data.len()),
        ));
    }
    let failed = |error| error::io(format!("write the seed disk of {name}"), error);
    let disk = volume(name, user_data).map_err(failed)?;
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

fn volume(name: &WorkerName, user_data: &str) -> std::io::Result<Vec<u8>> {
    let mut disk = vec![0; DISK_BYTES];
    let options = FormatVolumeOptions::new().volume_label(*b"CIDATA     ").volume_id(0x4349_4441);
    format_volume(Cursor::new(&mut disk[..]), options)?;
    {
        let volume = FileSystem::new(Cursor::new(&mut disk[..]), FsOptions::new())?;
        let root = volume.root_dir();
        // A worker's name is a host name label, so it needs no quoting in YAML beyond these quotes, which
        // keep `1-0` and `null` what they are.
        let meta_data = format!("instance-id: \"{name}\"\nlocal-hostname: \"{name}\"\n");
        for (file, content) in [("meta-data", meta_data.as_str()), ("user-data", user_data)] {
            let mut file = root.create_file(file)?;
            file.write_all(content.as_bytes())?;
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

    #[test]
    fn a_seed_reads_back() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("seed.img");
        let name = WorkerName::new("linux-17").unwrap();
        for user_data in
            ["#cloud-config\n{}\n".to_owned(), String::new(), "x".repeat(MAX_USER_DATA_BYTES)]
        {
            write(&path, &name, &user_data).unwrap();
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
        assert_eq!(volume(&name, "a").unwrap(), volume(&name, "a").unwrap());
    }

    #[test]
    fn too_much_user_data_is_refused() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("seed.img");
        let name = WorkerName::new("linux-17").unwrap();
        let error = write(&path, &name, &"x".repeat(MAX_USER_DATA_BYTES + 1)).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn other_programs_read_a_seed() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("seed.img");
        write(&path, &WorkerName::new("linux-17").unwrap(), "hello").unwrap();
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
