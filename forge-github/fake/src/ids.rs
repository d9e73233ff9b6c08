//! Names that nobody guesses, and the opaque ones that GitHub gives everything.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rand::distr::{Alphanumeric, SampleString};

/// Letters and digits.
pub(crate) fn random_text(length: usize) -> String {
    Alphanumeric.sample_string(&mut rand::rng(), length)
}

/// A node's id, as GitHub's GraphQL knows it.
pub(crate) fn node(kind: &str, id: i64) -> String {
    BASE64.encode(format!("0{}:{kind}{id}", kind.len()))
}

/// What looks like a commit.
pub(crate) fn commit(id: i64) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(id.to_be_bytes())[..20])
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
