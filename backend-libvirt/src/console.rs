//! What a guest writes to its serial console: the past from the log, and what comes as the log grows.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use runner_core::{Result, WorkerName, hypervisor::Console};
use tokio::time::sleep;

use crate::{storage::Storage, watch::Watched};

/// How much of the past is shown.
const KEEP: u64 = 1024 * 1024;
/// How much of it is kept on disk: more, so that nobody who reads sees it go.
pub(crate) const KEEP_ON_DISK: u64 = 2 * KEEP;
/// How often to look for more.
const POLL: Duration = Duration::from_millis(100);
const PIECE: usize = 64 * 1024;

/// What is kept of the console, and, when `follow` has the domain that writes it, what comes until that ends.
pub(crate) async fn read(
    storage: Arc<dyn Storage>,
    name: WorkerName,
    follow: Option<Arc<Watched>>,
) -> Result<Console> {
    let size = storage.console_size(&name).await?;
    let reader = Reader { storage, name, at: size.saturating_sub(KEEP), end: size, follow };
    Ok(Box::pin(stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })))
}

struct Reader {
    storage: Arc<dyn Storage>,
    name: WorkerName,
    at: u64,
    /// Where to stop, unless it follows.
    end: u64,
    follow: Option<Arc<Watched>>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            // Before reading: what it wrote before it ended is then read too.
            let follow = self.follow.clone().filter(|watched| !watched.has_ended());
            if let Some(piece) = self.piece().await? {
                return Ok(Some(piece));
            }
            let Some(watched) = follow else {
                return Ok(None);
            };
            tokio::select! {
                () = sleep(POLL) => {}
                () = watched.ended() => {}
            }
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        if self.follow.is_some() {
            let size = self.storage.console_size(&self.name).await?;
            // A daemon may begin the log anew when it is long; and what is far behind may be gone.
            self.at = if size < self.at { 0 } else { self.at.max(size.saturating_sub(KEEP)) };
        }
        let left = match self.follow {
            Some(_) => PIECE,
            None => self.end.saturating_sub(self.at).min(PIECE as u64) as usize,
        };
        if left == 0 {
            return Ok(None);
        }
        let piece = self.storage.read_console(&self.name, self.at, left).await?;
        self.at += piece.len() as u64;
        Ok((!piece.is_empty()).then_some(piece))
    }
}
