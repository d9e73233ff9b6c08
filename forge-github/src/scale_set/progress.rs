//! How far a scale set's messages have been dealt with, kept where it survives the process.
//!
//! Written after a message has been processed and before it is acknowledged. A process that dies in between
//! hears the message again and knows that it has it already; one that dies earlier hears it for the first
//! time. So no job is lost, and none counts twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use runner_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::outstanding::AssignedJob;

/// What must survive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The scale set that the rest is about. Another one begins anew.
    pub scale_set: i64,
    /// The session that is open, or was when the process died: whoever starts next closes it, rather than
    /// wait until GitHub takes it for dead.
    pub session: Option<String>,
    /// The last message that was processed.
    pub last_message: i64,
    /// Jobs that were assigned to the scale set, and have not ended.
    pub assigned: Vec<AssignedJob>,
}

/// Keeps the progress of one scale set.
#[async_trait]
pub trait ProgressStore: Send + Sync + 'static {
    /// What was saved last; none at the first start, or when it was lost. Losing it costs a wait for the old
    /// session's end, and jobs are then counted by the service's statistics alone.
    ///
    /// # Errors
    /// `Backend` when it cannot be read for now.
    async fn load(&self) -> Result<Option<Progress>>;

    /// Keeps `progress`. Returns when it would survive the process.
    ///
    /// # Errors
    /// `Backend`, `Exhausted`. The message is then not acknowledged.
    ///
    /// # Cancel safety
    /// May be dropped at any moment: the old or the new one is kept, whole.
    async fn save(&self, progress: &Progress) -> Result<()>;
}

/// Progress in a file, mode 0600. It holds no secret; its directory must exist.
#[derive(Debug, Clone)]
pub struct ProgressFile(PathBuf);

impl ProgressFile {
    /// Will write `path`, and `path` with `.new` added.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.0.clone();
        let doing = format!("{doing} {}", path.display());
        match tokio::task::spawn_blocking(move || work(&path)).await {
            Ok(result) => result.map_err(|error| Error::backend("github", doing, error)),
            Err(error) => Err(Error::backend("github", doing, error)),
        }
    }
}

#[async_trait]
impl ProgressStore for ProgressFile {
    async fn load(&self) -> Result<Option<Progress>> {
        let read = |path: &Path| match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let Some(bytes) = self.blocking("read", read).await? else {
            return Ok(None);
        };
        let read = serde_json::from_slice(&bytes);
        if let Err(error) = &read {
            tracing::warn!(path = %self.0.display(), %error, "Progress is damaged, and begins anew.");
        }
        Ok(read.ok())
    }

    async fn save(&self, progress: &Progress) -> Result<()> {
        let bytes = serde_json::to_vec(progress)
            .map_err(|error| Error::backend("github", "write down its progress", error))?;
        self.blocking("write", move |path| {
            let mut fresh = path.as_os_str().to_owned();
            fresh.push(".new");
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, path)?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn what_was_saved_last_is_loaded_and_what_is_damaged_is_not() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("progress.json");
        let store = ProgressFile::new(&path);
        assert_eq!(store.load().await.unwrap(), None);
        for last_message in [1, 2] {
            let progress = Progress { scale_set: 3, last_message, ..Progress::default() };
            store.save(&progress).await.unwrap();
            assert_eq!(store.load().await.unwrap(), Some(progress));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{").unwrap();
        assert_eq!(store.load().await.unwrap(), None);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(store.load().await.is_err());
    }
}
