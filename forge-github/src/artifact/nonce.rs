//! Which proofs have been used: each is good once, also after a restart.

use std::{
    fs::{self, OpenOptions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use runner_core::{Error, Result};
use uuid::Uuid;

/// Remembers which proofs have been used.
#[async_trait]
pub trait NonceStore: Send + Sync + 'static {
    /// Whether the proof has been used. A quick look, to spare GitHub the questions.
    ///
    /// # Errors
    /// `Backend` when that cannot be read for now.
    async fn is_used(&self, nonce: &Uuid) -> Result<bool>;

    /// Uses the proof. False if it has been used: of any number of calls at once, one gets true. Returns
    /// when that would survive the process. It must be remembered for an hour at least.
    ///
    /// # Errors
    /// `Backend`, `Exhausted`: the proof may then be used, or not.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: the proof may then be used, or not.
    async fn use_up(&self, nonce: &Uuid) -> Result<bool>;
}

/// Used proofs as empty files in a directory, removed after a day.
#[derive(Debug, Clone)]
pub struct NonceDirectory(PathBuf);

/// Far longer than any artifact is young enough.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

impl NonceDirectory {
    /// Will use `path`, and make it (mode 0700) with its first file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.0.clone();
        let doing = format!("remember used proofs in {}", path.display());
        match tokio::task::spawn_blocking(move || work(&path)).await {
            Ok(result) => result.map_err(|error| Error::backend("github", doing, error)),
            Err(error) => Err(Error::backend("github", doing, error)),
        }
    }
}

#[async_trait]
impl NonceStore for NonceDirectory {
    async fn is_used(&self, nonce: &Uuid) -> Result<bool> {
        let name = nonce.to_string();
        self.blocking(move |path| path.join(name).try_exists()).await
    }

    async fn use_up(&self, nonce: &Uuid) -> Result<bool> {
        let name = nonce.to_string();
        self.blocking(move |path| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(name));
            match file {
                Ok(file) => {
                    file.sync_all()?;
                    fs::File::open(path)?.sync_all()?;
                    forget_old(path);
                    Ok(true)
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

/// As far as that works: what stays takes an inode.
fn forget_old(directory: &Path) {
    let Ok(files) = fs::read_dir(directory) else { return };
    let now = SystemTime::now();
    for file in files.flatten() {
        let age = file.metadata().and_then(|metadata| metadata.modified());
        let age = age.map(|at| now.duration_since(at).unwrap_or_default());
        let ours = file.file_name().to_str().is_some_and(|name| Uuid::try_parse(name).is_ok());
        if ours && age.is_ok_and(|age| age > REMEMBERED) {
            let _ = fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proof_is_used_once_by_whoever_comes_first_also_after_a_restart() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("deep/nonces");
        let store = NonceDirectory::new(&path);
        let (nonce, other) = (Uuid::new_v4(), Uuid::new_v4());
        assert!(!store.is_used(&nonce).await.unwrap());
        let all = futures::future::join_all((0..20).map(|_| store.use_up(&nonce))).await;
        assert_eq!(all.into_iter().filter(|used| *used.as_ref().unwrap()).count(), 1);
        let again = NonceDirectory::new(&path);
        assert!(again.is_used(&nonce).await.unwrap());
        assert!(!again.is_used(&other).await.unwrap());
        assert!(!again.use_up(&nonce).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_a_day_old_is_forgotten_and_what_is_not_ours_stays() {
        let here = tempfile::tempdir().unwrap();
        let store = NonceDirectory::new(here.path());
        let old = Uuid::new_v4();
        store.use_up(&old).await.unwrap();
        let long_ago = SystemTime::now() - REMEMBERED - Duration::from_secs(1);
        for name in [old.to_string(), "other".to_owned()] {
            let file = fs::File::create(here.path().join(name)).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        store.use_up(&Uuid::new_v4()).await.unwrap();
        assert!(!store.is_used(&old).await.unwrap());
        assert!(here.path().join("other").exists());
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_uses_nothing() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("file");
        fs::write(&path, "").unwrap();
        assert!(NonceDirectory::new(&path).use_up(&Uuid::new_v4()).await.is_err());
    }
}
