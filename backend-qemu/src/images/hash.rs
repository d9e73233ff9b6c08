//! SHA-256, as 64 hexadecimal digits.

use std::{fmt::Write as _, fs::File, io::Read, path::Path};

use runner_core::{Error, Result};
use sha2::{Digest, Sha256};

use super::{BACKEND, Work};

/// The hash of `content`.
pub(crate) fn sha256_of(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// The hash of the file at `path`, and its length.
///
/// # Errors
/// `Backend` when it cannot be read, or when the build was dropped meanwhile.
pub(crate) fn sha256_file(path: &Path, work: &Work) -> Result<(String, u64)> {
    let failed = |error| Error::backend(BACKEND, format!("read {}", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        work.check()?;
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok((hex(&hash.finalize()), length)),
            read => {
                hash.update(&buffer[..read]);
                length += read as u64;
            }
        }
    }
}

/// `bytes` as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_hash_that_sha256sum_prints() {
        assert_eq!(
            sha256_of(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
