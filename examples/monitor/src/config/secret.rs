//! Where a secret is: never the secret itself, which no configuration holds and no error repeats.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{ConfigError, place::Source};

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Environment(String),
    /// Among systemd's credentials.
    Credential(String),
}

/// Reads one key and its text. What is written there instead may be the secret itself: no error repeats it.
impl<'de> Deserialize<'de> for SecretPlace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WAY_OUT: &str =
            "say where it is: { file = … }, { environment = … } or { credential = … }";
        struct Place;
        impl<'de> de::Visitor<'de> for Place {
            type Value = SecretPlace;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(WAY_OUT)
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<SecretPlace, E> {
                Err(E::custom(format!("a secret is not written here; {WAY_OUT}")))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<SecretPlace, A::Error> {
                let wrong = || de::Error::custom(WAY_OUT);
                let key: String = map.next_key()?.ok_or_else(wrong)?;
                let text: String = map.next_value().map_err(|_| wrong())?;
                let place = match key.as_str() {
                    "file" => SecretPlace::File(text.into()),
                    "environment" => SecretPlace::Environment(text),
                    "credential" => SecretPlace::Credential(text),
                    _ => return Err(wrong()),
                };
                if map.next_key::<String>()?.is_some() { Err(wrong()) } else { Ok(place) }
            }
        }
        deserializer.deserialize_any(Place)
    }
}

/// Checks where a secret is said to be; a file starts at `base`.
pub(super) fn secret(
    source: &Source<'_>,
    base: &Path,
    key: &str,
    place: Spanned<SecretPlace>,
) -> Result<SecretPlace, ConfigError> {
    let span = place.span();
    secret_at(source, base, key, span, place.into_inner())
}

/// As [`secret`], for one that is part of something at `span`.
pub(super) fn secret_at(
    source: &Source<'_>,
    base: &Path,
    key: &str,
    span: Range<usize>,
    place: SecretPlace,
) -> Result<SecretPlace, ConfigError> {
    let plain = |text: &str, more: &[u8]| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || more.contains(&b);
        !text.is_empty() && !text.starts_with('.') && text.bytes().all(fits)
    };
    // What is written here in place of a place may be the secret: it is not repeated.
    let problem = match &place {
        SecretPlace::File(path) if path.as_os_str().is_empty() => "name a file",
        SecretPlace::Environment(name) if !plain(name, b"_") => {
            "this is not the name of a variable; write the variable's name, not its value"
        }
        SecretPlace::Credential(name) if !plain(name, b"-_.") => {
            "this is not the name of a credential; write the ID of LoadCredential="
        }
        SecretPlace::File(path) => return Ok(SecretPlace::File(base.join(path))),
        _ => return Ok(place),
    };
    Err(source.problem(Some(span), key, problem))
}
