//! The one small file in an artifact. The archive was made by whoever wants something of us.

use std::io::{Cursor, Read};

use zip::{CompressionMethod, ZipArchive, result::ZipError};

/// The largest archive that is opened, in bytes.
pub(super) const MOST_ARCHIVE_BYTES: u64 = 64 << 10;

/// The largest file that is read, in bytes.
const MOST_FILE_BYTES: u64 = 4 << 10;

/// The longest name of a file, in bytes.
const MOST_NAME_BYTES: usize = 200;

/// Reads the one file in `archive`, or says what is wrong.
pub(super) fn read(archive: &[u8]) -> Result<String, String> {
    if archive.len() as u64 > MOST_ARCHIVE_BYTES {
        return Err(format!("it is larger than {MOST_ARCHIVE_BYTES} bytes"));
    }
    let unreadable = |error: ZipError| format!("it is no sound zip archive: {error}");
    let mut zip = ZipArchive::new(Cursor::new(archive)).map_err(unreadable)?;
    if zip.len() != 1 {
        return Err(format!("it holds {} files, and should hold one", zip.len()));
    }
    if zip.offset() != 0 {
        return Err("something stands before the archive".to_owned());
    }
    let file = zip.by_index(0).map_err(unreadable)?;
    check_name(file.name_raw())?;
    if !file.is_file() {
        return Err("what it holds is no ordinary file".to_owned());
    }
    if file.encrypted() {
        return Err("its file is encrypted".to_owned());
    }
    if !matches!(file.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return Err("its file is compressed in an unusual way".to_owned());
    }
    let too_large = || Err(format!("its file is larger than {MOST_FILE_BYTES} bytes"));
    if file.size() > MOST_FILE_BYTES {
        return too_large();
    }
    // What the archive says of its sizes need not be so.
    let mut text = Vec::new();
    file.take(MOST_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("its file cannot be read: {error}"))?;
    if text.len() as u64 > MOST_FILE_BYTES {
        return too_large();
    }
    String::from_utf8(text).map_err(|_| "its file is no text".to_owned())
}

/// Nothing is ever written under this name; but who names a file oddly means something by it.
fn check_name(name: &[u8]) -> Result<(), String> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let sound = !name.is_empty()
        && name.len() <= MOST_NAME_BYTES
        && name.iter().all(plain)
        && name.iter().any(|b| *b != b'.');
    if sound { Ok(()) } else { Err("its file has an odd name".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    /// Overwrites the little-endian number at `offset` behind each signature of a header.
    fn patch(archive: &mut [u8], local: usize, central: usize, bytes: &[u8]) {
        for at in 0..archive.len().saturating_sub(4) {
            let offset = match &archive[at..at + 4] {
                b"PK\x03\x04" => local,
                b"PK\x01\x02" => central,
                _ => continue,
            };
            archive[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn refused(archive: &[u8], word: &str) {
        let error = read(archive).unwrap_err();
        assert!(error.contains(word), "{error:?} should speak of {word:?}");
    }

    #[test]
    fn one_small_file_is_read() {
        assert_eq!(read(&zip(&[("a-b_c.txt", b"run_id=1\n")])).unwrap(), "run_id=1\n");
    }

    #[test]
    fn anything_but_one_file_is_refused() {
        refused(&zip(&[]), "0 files");
        refused(&zip(&[("a", b"1"), ("b", b"2")]), "2 files");
        let many: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (&**name, &b""[..])).collect();
        refused(&zip(&many), "500 files");
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.add_directory("d", SimpleFileOptions::default()).unwrap();
        assert!(read(&writer.finish().unwrap().into_inner()).is_err());
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.add_symlink("link", "/etc/passwd", SimpleFileOptions::default()).unwrap();
        refused(&writer.finish().unwrap().into_inner(), "no ordinary file");
    }

    #[test]
    fn odd_names_are_refused() {
        for name in ["../evil", "/etc/passwd", "a/b", "..", "a b", "a\nb", "é", "a\\b", "C:x"] {
            refused(&zip(&[(name, b"1")]), "odd name");
        }
        refused(&zip(&[(&"a".repeat(201), b"1")]), "odd name");
        let mut archive = zip(&[("ab", b"1")]);
        patch(&mut archive, 30, 46, b"a\0");
        refused(&archive, "odd name");
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let bomb = zip(&[("a", &vec![0; 32 << 20])]);
        assert!((bomb.len() as u64) < MOST_ARCHIVE_BYTES);
        refused(&bomb, "larger than 4096");
        // One that lies about its size.
        let mut liar = bomb;
        patch(&mut liar, 22, 24, &16u32.to_le_bytes());
        assert!(read(&liar).is_err());
    }

    #[test]
    fn what_is_too_large_or_no_archive_is_refused() {
        refused(&vec![0; MOST_ARCHIVE_BYTES as usize + 1], "larger than 65536");
        refused(b"<html>", "no sound zip archive");
        refused(b"", "no sound zip archive");
        refused(&zip(&[("a", &[0xff, 0xfe])]), "no text");
        let archive = zip(&[("a", b"1")]);
        refused(&[b"#!/bin/sh\n", &archive[..]].concat(), "before the archive");
        let mut encrypted = archive.clone();
        patch(&mut encrypted, 6, 8, &1u16.to_le_bytes());
        assert!(read(&encrypted).is_err());
        let mut odd = archive;
        patch(&mut odd, 8, 10, &12u16.to_le_bytes());
        assert!(read(&odd).is_err());
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::with_cases(2000)
        })]

        #[test]
        fn no_archive_makes_it_panic(changes: Vec<(proptest::sample::Index, u8)>, cut: proptest::sample::Index) {
            let mut archive = zip(&[("proof", b"unique_id=1\nrun_id=2\n")]);
            for (at, byte) in changes {
                let at = at.index(archive.len());
                archive[at] = byte;
            }
            let _ = read(&archive);
            let _ = read(&archive[..cut.index(archive.len())]);
        }
    }
}
