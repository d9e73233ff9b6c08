//! Words that only this service can have written, about something that it need not write down.
//!
//! A word is made of the key of the data directory, of what it is for, and of what it is about: the same every
//! time, also after a restart, and nothing that anybody else could guess. What it is about may be anybody's
//! to know.

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use runner_core::Secret;
use sha2::Sha256;

use crate::token::Token;

/// The file in the data directory that has the key.
const FILE: &str = "seal-key";

/// Seals words.
#[derive(Clone)]
pub struct Seal(Token);

/// What a word is for. One for something is of no use for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A machine proves which it is.
    Guest,
    /// Whoever stands in a queue proves that the place is theirs.
    Place,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Place => "place",
        }
    }
}

impl Seal {
    /// The seal of a data directory, made when missing.
    ///
    /// # Errors
    /// For a key that cannot be read or made, or that anyone may read.
    pub fn open(data_dir: &Path) -> anyhow::Result<Self> {
        Token::kept_in(&data_dir.join(FILE)).map(Self)
    }

    /// The word about `about`: 64 hexadecimal digits.
    pub fn word(&self, purpose: Purpose, about: &str) -> Secret<String> {
        let sealed = self.mac(purpose, about).finalize().into_bytes();
        Secret::new(sealed.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether `word` is the one about `about`. Takes as long whichever it is, or almost is.
    pub fn is_about(&self, purpose: Purpose, about: &str, word: &str) -> bool {
        let digits = word.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        let lower = digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !lower || !rest.is_empty() {
            return false;
        }
        let digit = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
        let bytes: Vec<u8> =
            pairs.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect();
        self.mac(purpose, about).verify_slice(&bytes).is_ok()
    }

    fn mac(&self, purpose: Purpose, about: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose().as_bytes())
            .expect("HMAC takes keys of any length");
        // No purpose has a line end in it, so no two pairs are one text.
        mac.update(purpose.word().as_bytes());
        mac.update(b"\n");
        mac.update(about.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_about_one_thing_for_one_purpose_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::open(dir.path()).unwrap();
        let word = seal.word(Purpose::Guest, "linux-1");
        let word = word.expose();
        assert_eq!(word.len(), 64);
        let again = Seal::open(dir.path()).unwrap();
        assert!(again.is_about(Purpose::Guest, "linux-1", word));
        assert!(!again.is_about(Purpose::Guest, "linux-2", word));
        assert!(!again.is_about(Purpose::Place, "linux-1", word));
        let upper = word.to_uppercase();
        for wrong in ["", "0", &word[..62], &format!("{word}00"), &upper, "ä", &"zz".repeat(32)] {
            assert!(!again.is_about(Purpose::Guest, "linux-1", wrong), "{wrong}");
        }
        let other = tempfile::tempdir().unwrap();
        assert!(!Seal::open(other.path()).unwrap().is_about(Purpose::Guest, "linux-1", word));
    }
}
