//! Whether an image still is what was built.

use std::path::Path;

use runner_core::{
    Error, Result,
    image::{Boot, Image},
};

use super::{
    hash::{sha256_file, sha256_of},
    work::Work,
};

/// Reads all of an image, and compares it with its digest.
///
/// # Errors
/// `Invalid` for one that differs, `Backend` for one that cannot be read.
pub(super) fn verify(image: &Image, work: &Work) -> Result<()> {
    let file = |path: &Path| sha256_file(path, work).map(|(hash, _)| hash);
    let found = match &image.boot {
        Boot::Kernel { kernel, initrd, command_line } => {
            let command_line = sha256_of(command_line.as_bytes());
            let (initrd, kernel) = (file(initrd)?, file(kernel)?);
            let sums =
                format!("{command_line}  command-line\n{initrd}  initrd\n{kernel}  kernel\n");
            sha256_of(sums.as_bytes())
        }
        Boot::Disk { path, .. } => file(path)?,
        _ => return Err(Error::unsupported(format!("checking image {}", image.id))),
    };
    if found == image.digest {
        return Ok(());
    }
    let problem = format!("its content has the digest {found} instead of {}", image.digest);
    Err(Error::invalid(format!("image {}", image.id), problem))
}
