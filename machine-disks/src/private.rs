//! Files and directories that others do not get to read.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Makes a directory, and those above it that are missing, that only we may enter.
///
/// # Errors
/// Those of making directories; one that exists is fine, whatever its mode.
pub fn make_directory(path: &Path) -> io::Result<()> {
    make_directory_with(path, 0o700)
}

/// The same with another mode, before the process's mask.
pub(crate) fn make_directory_with(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Gives a directory of ours this mode, whatever the process's mask.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Makes a file that only we may read. Replaces one that is there, whole: whoever reads it meanwhile, and
/// whoever looks after this process was killed, finds the old content or the new.
///
/// # Errors
/// Those of writing. A draft, `PATH.part`, may be left.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut draft = OsString::from(path);
    draft.push(".part");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    fs::rename(&draft, path)
}

/// Whether something was not there, for a list or a removal that others take part in.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
