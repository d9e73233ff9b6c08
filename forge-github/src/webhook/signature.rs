//! Whether a delivery comes from GitHub: HMAC-SHA256 over the raw body, compared in constant time.

use hmac::{Hmac, KeyInit, Mac};
use runner_core::{Error, Result, Secret};
use sha2::Sha256;

/// The secrets that a hook may sign with. More than one, while they are being changed: add the new one
/// here, give it to GitHub, take the old one away.
pub struct Secrets(Vec<Hmac<Sha256>>);

impl Secrets {
    /// # Errors
    /// `Invalid` without any secret, or with an empty one: anybody could sign with that.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret<String>>) -> Result<Self> {
        let invalid = |reason: &str| Error::invalid("webhook secret", reason);
        let mut keys = Vec::new();
        for secret in secrets {
            let key = secret.expose().as_bytes();
            if key.is_empty() {
                return Err(invalid("it is empty"));
            }
            keys.push(Hmac::new_from_slice(key).map_err(|error| invalid(&error.to_string()))?);
        }
        if keys.is_empty() {
            return Err(invalid("there is none, and unsigned deliveries are not accepted"));
        }
        Ok(Self(keys))
    }

    /// Whether `header`, the value of `X-Hub-Signature-256`, signs `body` with one of the secrets. Takes as
    /// long for the first secret as for the last, and for a near miss as for a far one.
    pub fn sign(&self, body: &[u8], header: &str) -> bool {
        let Some(signature) = header.strip_prefix("sha256=").and_then(decode) else {
            return false;
        };
        self.0.iter().fold(false, |signed, key| {
            signed | key.clone().chain_update(body).verify_slice(&signature).is_ok()
        })
    }
}

/// Exactly 64 hexadecimal digits.
fn decode(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let value = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    const SIGNATURE: &str =
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn secrets(all: &[&str]) -> Result<Secrets> {
        let all: Vec<_> = all.iter().map(|text| Secret::new((*text).to_owned())).collect();
        Secrets::new(&all)
    }

    #[test]
    fn githubs_own_example_is_signed() {
        assert!(secrets(&[SECRET]).unwrap().sign(BODY, SIGNATURE));
    }

    #[test]
    fn each_secret_is_good_while_they_are_changed() {
        assert!(secrets(&["new", SECRET]).unwrap().sign(BODY, SIGNATURE));
        assert!(secrets(&[SECRET, "new"]).unwrap().sign(BODY, SIGNATURE));
        assert!(!secrets(&["new", "newer"]).unwrap().sign(BODY, SIGNATURE));
    }

    #[test]
    fn anything_else_is_not_signed() {
        let secrets = secrets(&[SECRET]).unwrap();
        let digits = SIGNATURE.strip_prefix("sha256=").unwrap();
        for header in [
            "",
            "sha256=",
            digits,
            &SIGNATURE[..SIGNATURE.len() - 1],
            &format!("{SIGNATURE}0"),
            &format!("sha1={digits}"),
            &SIGNATURE.replace('7', "+"),
            &SIGNATURE.replace("75", "é"),
            &SIGNATURE.replace("17", "16"),
        ] {
            assert!(!secrets.sign(BODY, header), "{header}");
        }
        assert!(!secrets.sign(b"Hello, World", SIGNATURE));
        assert!(!secrets.sign(b"Hello, World!\n", SIGNATURE));
        assert!(secrets.sign(BODY, &SIGNATURE.to_uppercase().replace("SHA256", "sha256")));
    }

    #[test]
    fn a_hook_without_a_secret_is_refused() {
        assert!(secrets(&[]).is_err());
        assert!(secrets(&["good", ""]).is_err());
    }
}
