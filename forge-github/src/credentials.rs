//! Where credentials come from. They are read again when their file changes, so that they can be swapped
//! without a restart.

use std::{
    env,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use runner_core::Secret;
use serde::Deserialize;

use crate::{
    error::{Answer, ApiError},
    scope::{Place, Scope},
};

/// The longest secret that is read. A GitHub App's key has less than 4 KiB.
const LONGEST: u64 = 64 * 1024;

/// Where a secret is read from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretFrom {
    /// A file, looked at before every use. To swap it, write another file and rename it over this one.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// A credential that systemd passes: a file of this name in `$CREDENTIALS_DIRECTORY`.
    Systemd(String),
}

impl SecretFrom {
    /// The secret as it is now, without white space around it.
    ///
    /// # Errors
    /// `Unauthorized`, saying where it should be, when it cannot be read, is empty or is still the example.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn read(&self) -> runner_core::Result<Secret<String>> {
        let read = Reader::new(self.clone()).read().await;
        read.map_err(|error| error.explain("read a secret", "github", "a secret that can be read"))
    }
}

/// What proves to GitHub who we are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// A personal access token, fine-grained or classic.
    Token(SecretFrom),
    /// A GitHub App.
    App {
        /// Its client id (preferred, `Iv…`) or app id.
        id: String,
        /// Its private key, as GitHub gives it: PEM.
        key: SecretFrom,
        /// Its installation. Found out for the scope, if none.
        #[serde(default)]
        installation: Option<u64>,
    },
}

/// What a file was like when it was read.
type Seen = (u64, u64, i64, i64, u64);

/// Reads one secret, as often as it changes.
pub(crate) struct Reader {
    from: SecretFrom,
    last: Mutex<Option<(Seen, Secret<String>)>>,
}

impl Reader {
    pub fn new(from: SecretFrom) -> Self {
        Self { from, last: Mutex::new(None) }
    }

    /// The secret as it is now, without white space around it.
    pub async fn read(&self) -> Answer<Secret<String>> {
        match &self.from {
            SecretFrom::File(path) => self.read_file(path).await,
            SecretFrom::Systemd(name) => {
                let directory = env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    let why = format!("systemd passes no credentials, so no {name:?} either");
                    ApiError::credentials(format!("{why}: set LoadCredential= for the service"))
                })?;
                if name.contains('/') || name.starts_with('.') {
                    return Err(ApiError::credentials(format!("{name:?} is no credential's name")));
                }
                self.read_file(&Path::new(&directory).join(name)).await
            }
            SecretFrom::Environment(name) => {
                let value = env::var(name).map_err(|_| {
                    ApiError::credentials(format!("the environment variable {name} is not set"))
                })?;
                check(value, &format!("the environment variable {name}"))
            }
        }
    }

    async fn read_file(&self, path: &Path) -> Answer<Secret<String>> {
        let shown = path.display();
        let broken = |error: std::io::Error| {
            ApiError::credentials(format!("the credentials in {shown} cannot be read: {error}"))
        };
        let file = tokio::fs::metadata(path).await.map_err(broken)?;
        let seen = (file.ino(), file.size(), file.mtime(), file.mtime_nsec(), file.dev());
        if let Some((then, secret)) = &*self.last()
            && *then == seen
        {
            return Ok(secret.clone());
        }
        if !file.is_file() || file.size() > LONGEST {
            let what = "is not a file of at most 64 KiB";
            return Err(ApiError::credentials(format!("{shown} {what}")));
        }
        if file.mode() & 0o007 != 0 {
            tracing::warn!(path = %shown, "Anyone may read these credentials; run: chmod o= on them.");
        }
        let text = tokio::fs::read_to_string(path).await.map_err(broken)?;
        let secret = check(text, &format!("the file {shown}"))?;
        *self.last() = Some((seen, secret.clone()));
        Ok(secret)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Seen, Secret<String>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what is empty, or still the example.
fn check(text: String, whence: &str) -> Answer<Secret<String>> {
    match text.trim() {
        "" => Err(ApiError::credentials(format!("{whence} holds no credentials: it is empty"))),
        "ChangeMe" => {
            Err(ApiError::credentials(format!("{whence} still holds the example, not credentials")))
        }
        text => Ok(Secret::new(text.to_owned())),
    }
}

/// Refuses what cannot work at a place, before GitHub does so with less words.
pub(crate) fn check_kind(token: Option<&Secret<String>>, place: &Place) -> Answer<()> {
    let Scope::Enterprise(_) = place.scope() else { return Ok(()) };
    let kind = match token {
        None => "a GitHub App",
        Some(token) if token.expose().starts_with("github_pat_") => "a fine-grained token",
        Some(_) => return Ok(()),
    };
    let needs = place.scope().permission();
    Err(ApiError::credentials(format!(
        "{kind} cannot manage an enterprise's runners. It takes {needs}"
    )))
}

/// A value for the header, marked so that nothing prints it.
pub(crate) fn bearer(token: &Secret<String>) -> Answer<http::HeaderValue> {
    let odd = || ApiError::credentials("the token holds characters that no token has");
    if !token.expose().bytes().all(|b| b.is_ascii_graphic()) {
        return Err(odd());
    }
    let value = format!("Bearer {}", token.expose());
    let mut value = http::HeaderValue::from_str(&value).map_err(|_| odd())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "ghp_old\n").unwrap();
        let reader = Reader::new(SecretFrom::File(path.clone()));
        assert!(reader.read().await.unwrap().expose() == "ghp_old");
        // In place, of the same length, and renamed over.
        std::fs::write(&path, "ghp_new\n").unwrap();
        assert!(reader.read().await.unwrap().expose() == "ghp_new");
        std::fs::write(directory.path().join("next"), "ghp_3rd\n").unwrap();
        std::fs::rename(directory.path().join("next"), &path).unwrap();
        assert!(reader.read().await.unwrap().expose() == "ghp_3rd");
        std::fs::remove_file(&path).unwrap();
        assert!(reader.read().await.is_err(), "what is gone is not used any more");
    }

    #[tokio::test]
    async fn what_is_no_secret_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (text, why) in [(" \n", "it is empty"), ("ChangeMe", "still holds the example")] {
            std::fs::write(&path, text).unwrap();
            let error = Reader::new(SecretFrom::File(path.clone())).read().await.err().unwrap();
            assert!(error.to_string().contains(why), "{error}");
        }
        let error =
            Reader::new(SecretFrom::Environment("NO_SUCH_VARIABLE".to_owned())).read().await;
        let error = error.err().unwrap().to_string();
        assert_eq!(error, "the environment variable NO_SUCH_VARIABLE is not set");
    }

    #[test]
    fn an_enterprise_refuses_what_cannot_work_before_github_does() {
        let place = Place::new("https://github.com/enterprises/acme").unwrap();
        let token = |text: &str| Secret::new(text.to_owned());
        assert!(check_kind(None, &place).is_err());
        assert!(check_kind(Some(&token("github_pat_x")), &place).is_err());
        assert!(check_kind(Some(&token("ghp_x")), &place).is_ok());
        assert!(check_kind(None, &Place::new("https://github.com/acme").unwrap()).is_ok());
    }

    #[test]
    fn a_header_does_not_print_its_token() {
        let value = bearer(&Secret::new("ghp_hunter2".to_owned())).unwrap();
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(bearer(&Secret::new("two\nlines".to_owned())).is_err());
    }
}
