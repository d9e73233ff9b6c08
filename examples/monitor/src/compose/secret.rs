//! Reads secrets from where a configuration says that they are.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use runner_core::Secret;

use crate::config::SecretPlace;

/// No token is nearly as long.
const LONGEST: u64 = 64 << 10;

/// Warns of a file that anybody may read.
pub(crate) fn warn_of(place: &SecretPlace) {
    if let Some(path) = open_file(place) {
        let path = path.display();
        tracing::warn!(%path, "Anyone may read these credentials; run: chmod o= on them.");
    }
}

/// The file of a secret that anybody may read.
pub(super) fn open_file(place: &SecretPlace) -> Option<&Path> {
    match place {
        SecretPlace::File(path) => {
            let is_open = fs::metadata(path).is_ok_and(|file| file.mode() & 0o007 != 0);
            is_open.then_some(path)
        }
        SecretPlace::Environment(_) | SecretPlace::Credential(_) => None,
    }
}

/// The secret as it is now, without white space around it.
///
/// # Errors
/// When it cannot be read or there is none, saying where it should be.
pub(crate) fn read(place: &SecretPlace) -> anyhow::Result<Secret<String>> {
    let (text, shown) = match place {
        SecretPlace::File(path) => (file(path)?, path.display().to_string()),
        SecretPlace::Environment(name) => {
            let text = env::var(name);
            let text =
                text.with_context(|| format!("the environment variable {name} is not set"))?;
            (text, format!("the environment variable {name}"))
        }
        SecretPlace::Credential(name) => {
            let Some(directory) = env::var_os("CREDENTIALS_DIRECTORY") else {
                bail!("systemd passes no credential {name}; set LoadCredential= for the service");
            };
            (file(&PathBuf::from(directory).join(name))?, format!("the credential {name}"))
        }
    };
    let text = text.trim();
    // What cannot be put into a header is no token, and would be told by whoever refuses it.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        bail!("{shown} holds no token; write the token there, and nothing else");
    }
    Ok(Secret::new(text.to_owned()))
}

fn file(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let metadata = fs::metadata(path).with_context(|| format!("could not read {shown}"))?;
    if metadata.len() > LONGEST {
        bail!("{shown} is too long for a token");
    }
    fs::read_to_string(path).with_context(|| format!("could not read {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_token_is_refused_and_not_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let place = SecretPlace::File(path.clone());
        let error = |place| format!("{:#}", read(place).err().unwrap());
        assert!(error(&place).contains("could not read"));
        for (content, said) in [("", "no token"), ("planted 7c\n", "no token"), ("å", "no token")]
        {
            fs::write(&path, content).unwrap();
            let error = error(&place);
            assert!(error.contains(said) && !error.contains("planted"), "{error}");
        }
        fs::write(&path, "glpat-1\n").unwrap();
        assert_eq!(read(&place).unwrap().expose(), "glpat-1");
        let absent = SecretPlace::Environment("NOBODY_SETS_THIS_VARIABLE".to_owned());
        assert!(error(&absent).contains("NOBODY_SETS_THIS_VARIABLE is not set"));
    }
}
