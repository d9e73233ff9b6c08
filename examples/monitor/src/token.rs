//! The text of an API token: where it comes from, and what none may be.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use runner_core::Secret;

/// The environment variable that goes before every file.
pub const TOKEN_VARIABLE: &str = "MONITOR_API_TOKEN";

/// What documentation calls the token. Whoever copies it into a configuration has not chosen one.
const SAMPLE: &str = "ChangeMe";

/// A token: whoever sends it is let in.
#[derive(Clone)]
pub struct Token(Secret<String>);

/// Where a token came from, to tell an operator without telling the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The environment.
    Environment,
    /// A file that was there.
    File(PathBuf),
    /// A file that was made.
    Generated(PathBuf),
}

impl Token {
    /// Takes a token, unless it is one that anybody would guess.
    ///
    /// # Errors
    /// For one that is empty, the sample, or cannot be put into a header.
    pub fn new(text: &str) -> anyhow::Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            bail!("the API token is empty; generate one with `openssl rand -hex 32`");
        }
        if text.eq_ignore_ascii_case(SAMPLE) {
            bail!(
                "the API token is the sample from the documentation; \
                 generate one with `openssl rand -hex 32`"
            );
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            bail!("the API token must hold printable ASCII without spaces only");
        }
        Ok(Self(Secret::new(text.to_owned())))
    }

    /// The token of a server: from the environment, else from `file`, which is made when missing.
    ///
    /// # Errors
    /// For a token that is refused, and a file that cannot be read or made, or that anyone may read.
    pub fn of_server(file: &Path) -> anyhow::Result<(Self, TokenSource)> {
        if let Some(token) = Self::from_environment()? {
            return Ok((token, TokenSource::Environment));
        }
        if let Some(token) = Self::from_file(file)? {
            return Ok((token, TokenSource::File(file.to_owned())));
        }
        let made = Self::generate(file)?;
        Ok((made, TokenSource::Generated(file.to_owned())))
    }

    /// The token in `file`, which is made when missing.
    ///
    /// # Errors
    /// As [`of_server`](Self::of_server).
    pub fn kept_in(file: &Path) -> anyhow::Result<Self> {
        match Self::from_file(file)? {
            Some(token) => Ok(token),
            None => Self::generate(file),
        }
    }

    /// The token that systemd gave to this service as the credential `api-token`, if it did.
    ///
    /// # Errors
    /// As [`of_server`](Self::of_server).
    pub fn of_systemd() -> anyhow::Result<Option<(Self, TokenSource)>> {
        let Some(dir) = env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
        let file = PathBuf::from(dir).join("api-token");
        let token = Self::from_credential(&file)?;
        Ok(token.map(|token| (token, TokenSource::File(file))))
    }

    /// The token of a client: from `file` if one is named, else from the environment, else from `default`.
    /// None where nobody has left one.
    ///
    /// # Errors
    /// As [`of_server`](Self::of_server); also for a named file that is not there.
    pub fn of_client(file: Option<&Path>, default: &Path) -> anyhow::Result<Option<Self>> {
        if let Some(file) = file {
            let token = Self::from_file(file)?;
            return match token {
                Some(token) => Ok(Some(token)),
                None => bail!("there is no token file {}", file.display()),
            };
        }
        match Self::from_environment()? {
            Some(token) => Ok(Some(token)),
            None => Self::from_file(default),
        }
    }

    /// The token itself, for a request's header.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    fn from_environment() -> anyhow::Result<Option<Self>> {
        match env::var(TOKEN_VARIABLE) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Self::new(&text).with_context(|| TOKEN_VARIABLE).map(Some),
            Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => bail!("{TOKEN_VARIABLE} is not text"),
        }
    }

    /// The token in `file`, if there is such a file.
    ///
    /// # Errors
    /// For a file that cannot be read or that others may read, and a token that is refused.
    pub fn from_file(file: &Path) -> anyhow::Result<Option<Self>> {
        Self::from_private(file, 0o077)
    }

    /// As [`from_file`](Self::from_file), for a file that systemd made: an access list gives it to the
    /// service alone, which shows as rights of its group.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_credential(file: &Path) -> anyhow::Result<Option<Self>> {
        Self::from_private(file, 0o007)
    }

    fn from_private(file: &Path, exposed: u32) -> anyhow::Result<Option<Self>> {
        let shown = file.display();
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("could not read token file {shown}"));
            }
        };
        if fs::metadata(file).is_ok_and(|file| file.mode() & exposed != 0) {
            bail!("others may read or write token file {shown}; run: chmod 600 {shown}");
        }
        let token = Self::new(&text).with_context(|| format!("token file {shown}"))?;
        Ok(Some(token))
    }

    fn generate(file: &Path) -> anyhow::Result<Self> {
        let bytes: [u8; 32] = rand::random();
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // Complete under another name first: a reader finds a whole token or none.
        let partial = file.with_extension("partial");
        let made = (|| {
            let _ = fs::remove_file(&partial);
            let mut out =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            writeln!(out, "{text}")?;
            out.sync_all()?;
            fs::rename(&partial, file)
        })();
        made.with_context(|| format!("could not make token file {}", file.display()))?;
        Self::new(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessable_tokens_are_refused() {
        for bad in ["", "  ", "ChangeMe", "changeme\n", "two words", "smörgås"] {
            assert!(Token::new(bad).is_err(), "{bad:?}");
        }
        let token = Token::new("s3cret\n").unwrap();
        assert_eq!(token.expose(), "s3cret");
    }

    #[test]
    fn a_generated_token_is_for_its_owner_only_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("api-token");
        let made = Token::generate(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let read = Token::from_file(&file).unwrap().unwrap();
        assert_eq!(read.expose(), made.expose());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_token_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("api-token");
        fs::write(&file, "s3cret\n").unwrap();
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = Token::from_file(&file).err().unwrap().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
        assert!(Token::from_credential(&file).unwrap().is_some());
    }
}
