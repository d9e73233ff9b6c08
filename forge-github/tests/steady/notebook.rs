//! Where a listener writes down how far it has come. It outlives the manager, most of the time.

use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use forge_github::scale_set::{Progress, ProgressStore};
use runner_core::{Error, Result};

use super::storm::Luck;

/// Clones share what is written.
#[derive(Clone)]
pub struct Notebook {
    kept: Arc<Mutex<Option<Progress>>>,
    luck: Luck,
}

impl Notebook {
    pub fn new(luck: Luck) -> Self {
        Self { kept: Arc::default(), luck }
    }

    /// As when somebody deletes the file.
    pub fn lose(&self) {
        *self.kept() = None;
    }

    /// The last message that is known to have been dealt with.
    pub fn last_message(&self) -> i64 {
        self.kept().as_ref().map_or(0, |progress| progress.last_message)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Progress>> {
        self.kept.lock().unwrap()
    }

    fn fails(&self, doing: &str) -> Result<()> {
        match self.luck.strikes(0.005) {
            true => Err(Error::backend("notebook", doing, std::io::Error::other("bad luck"))),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl ProgressStore for Notebook {
    async fn load(&self) -> Result<Option<Progress>> {
        self.fails("read")?;
        Ok(self.kept().clone())
    }

    async fn save(&self, progress: &Progress) -> Result<()> {
        self.fails("write")?;
        // Whoever dies here has written nothing.
        tokio::task::yield_now().await;
        *self.kept() = Some(progress.clone());
        tokio::task::yield_now().await;
        self.fails("say that it is written")
    }
}
