//! Fresh disks: a qcow2 header and nothing else. `qemu-img` makes the same in a thousand times the time.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::FileExt, fs::OpenOptionsExt},
    path::Path,
};

use runner_core::image::DiskFormat;

const MAGIC: [u8; 4] = *b"QFI\xfb";
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one entry of the first-level table maps: a cluster of second-level entries, a cluster each.
const MAPPED_BY_ENTRY: u64 = CLUSTER * (CLUSTER / 8);
const HEADER_LENGTH: u32 = 112;
const BACKING_FORMAT: u32 = 0xE279_2ACA;
const MAX_BACKING_NAME: usize = 1023;

/// Makes an empty disk of `size_bytes` at `path`, or one that shows `backing` until it is written to.
///
/// # Errors
/// `InvalidInput` for a size above 4 TiB or a backing path above 1023 bytes; those of writing a new file.
pub fn create(
    path: &Path,
    size_bytes: u64,
    backing: Option<(&Path, DiskFormat)>,
) -> io::Result<()> {
    let head = header(size_bytes, backing)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(4 * CLUSTER)?;
    file.write_all_at(&head, 0)?;
    // The reference counts: a table with one block, which counts the four clusters there are.
    file.write_all_at(&(2 * CLUSTER).to_be_bytes(), CLUSTER)?;
    file.write_all_at(&[0, 1, 0, 1, 0, 1, 0, 1], 2 * CLUSTER)?;
    Ok(())
}

/// How large a disk is for its guest, in bytes.
///
/// # Errors
/// `InvalidData` for a file that is not in `format`; those of reading.
pub fn virtual_size(path: &Path, format: DiskFormat) -> io::Result<u64> {
    let mut file = File::open(path)?;
    match format {
        DiskFormat::Raw => Ok(file.metadata()?.len()),
        DiskFormat::Qcow2 => {
            let mut header = [0; 32];
            let invalid = || io::Error::new(io::ErrorKind::InvalidData, "it is not a qcow2 disk");
            file.read_exact(&mut header).map_err(|_| invalid())?;
            let (magic, size) = (&header[..4], &header[24..]);
            if magic != MAGIC {
                return Err(invalid());
            }
            Ok(u64::from_be_bytes(size.try_into().map_err(|_| invalid())?))
        }
    }
}

/// What the first cluster holds.
fn header(size_bytes: u64, backing: Option<(&Path, DiskFormat)>) -> io::Result<Vec<u8>> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let size = size_bytes.next_multiple_of(512);
    let entries = size.div_ceil(MAPPED_BY_ENTRY).max(1);
    if entries * 8 > CLUSTER {
        return Err(invalid("a disk has 4 TiB at most"));
    }
    let mut extensions = Vec::new();
    let mut name: &[u8] = &[];
    if let Some((path, format)) = backing {
        name = path.as_os_str().as_bytes();
        if name.len() > MAX_BACKING_NAME {
            return Err(invalid("the path of an image has 1023 bytes at most"));
        }
        let format = format.to_string();
        extensions.extend(BACKING_FORMAT.to_be_bytes());
        extensions.extend((format.len() as u32).to_be_bytes());
        extensions.extend(format.as_bytes());
        extensions.resize(extensions.len().next_multiple_of(8), 0);
    }
    extensions.extend([0; 8]);
    let name_offset = match name.len() {
        0 => 0,
        _ => u64::from(HEADER_LENGTH) + extensions.len() as u64,
    };

    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(3u32.to_be_bytes()); // Version.
    head.extend(name_offset.to_be_bytes());
    head.extend((name.len() as u32).to_be_bytes());
    head.extend(CLUSTER_BITS.to_be_bytes());
    head.extend(size.to_be_bytes());
    head.extend(0u32.to_be_bytes()); // No encryption.
    head.extend((entries as u32).to_be_bytes());
    head.extend((3 * CLUSTER).to_be_bytes()); // The first-level table.
    head.extend(CLUSTER.to_be_bytes()); // The table of reference counts,
    head.extend(1u32.to_be_bytes()); // a cluster long.
    head.extend([0; 4 + 8]); // No snapshots.
    head.extend([0; 3 * 8]); // No features.
    head.extend(4u32.to_be_bytes()); // Reference counts of 16 bits.
    head.extend(HEADER_LENGTH.to_be_bytes());
    head.extend([0; 8]); // Compression: zlib.
    debug_assert_eq!(head.len(), HEADER_LENGTH as usize);
    head.extend(extensions);
    head.extend(name);
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn qemu_img(arguments: &[&str], path: &Path) -> Option<String> {
        let output = match Command::new("qemu-img").args(arguments).arg(path).output() {
            Ok(output) => output,
            Err(_) => {
                let required = std::env::var("RUNNER_TEST_REQUIRE").unwrap_or_default();
                assert!(!required.contains("qemu"), "qemu-img is required and missing");
                eprintln!("skipped: there is no qemu-img here");
                return None;
            }
        };
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn qemu_finds_nothing_wrong_with_an_empty_disk() {
        let directory = tempfile::tempdir().unwrap();
        for size in [0, 512, 1 << 20, (5 << 30) + 1, 4 << 40] {
            let path = directory.path().join(format!("{size}.qcow2"));
            create(&path, size, None).unwrap();
            assert_eq!(virtual_size(&path, DiskFormat::Qcow2).unwrap(), size.next_multiple_of(512));
            let Some(check) = qemu_img(&["check", "-f", "qcow2"], &path) else {
                return;
            };
            assert!(check.contains("No errors were found"), "{check}");
        }
        let path = directory.path().join("large");
        assert!(create(&path, (4 << 40) + 1, None).is_err());
    }

    #[test]
    fn qemu_sees_the_backing_disk_whatever_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let odd = directory.path().join("a, 'b' \"c\" = d:e");
        std::fs::create_dir(&odd).unwrap();
        let (base, raw) = (odd.join("base.qcow2"), odd.join("raw.img"));
        create(&base, 1 << 30, None).unwrap();
        std::fs::write(&raw, vec![7; 1 << 20]).unwrap();
        for (backing, format, size) in
            [(&base, DiskFormat::Qcow2, 2u64 << 30), (&raw, DiskFormat::Raw, 1 << 20)]
        {
            let path = odd.join(format!("over-{format}.qcow2"));
            create(&path, size, Some((backing, format))).unwrap();
            let Some(check) = qemu_img(&["check", "-f", "qcow2"], &path) else {
                return;
            };
            assert!(check.contains("No errors were found"), "{check}");
            let info = qemu_img(&["info", "--output=json"], &path).unwrap();
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["virtual-size"], size);
            assert_eq!(info["backing-filename"], backing.to_str().unwrap());
            assert_eq!(info["backing-filename-format"], format.to_string());
        }
    }

    #[test]
    fn what_is_no_qcow2_has_no_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("short");
        std::fs::write(&path, "QFI").unwrap();
        assert!(virtual_size(&path, DiskFormat::Qcow2).is_err());
        std::fs::write(&path, [0; 100]).unwrap();
        assert!(virtual_size(&path, DiskFormat::Qcow2).is_err());
        assert_eq!(virtual_size(&path, DiskFormat::Raw).unwrap(), 100);
    }
}
