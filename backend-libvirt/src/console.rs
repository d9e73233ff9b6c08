//! What a guest writes to its serial console: the past from the log, and what comes as the log grows.

mod tap;

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use runner_core::{Result, WorkerName, hypervisor::Console};

use self::tap::Sign;
pub(crate) use self::tap::{Ear, Taps};
use crate::{storage::Storage, watch::Watched};

/// How much of the past is shown.
const KEEP: u64 = 1024 * 1024;
const PIECE: usize = 64 * 1024;

/// Whoever writes a console, and one who listens to it.
pub(crate) struct Follow {
    pub(crate) watched: Arc<Watched>,
    pub(crate) ear: Ear,
}

/// What is kept of the console, and, when `follow` has the domain that writes it, what comes until that ends.
pub(crate) async fn read(
    storage: Arc<dyn Storage>,
    name: WorkerName,
    follow: Option<Follow>,
) -> Result<Console> {
    let size = storage.console_size(&name).await?;
    let reader = Reader {
        storage,
        name,
        at: size.saturating_sub(KEEP),
        end: size,
        follow,
        sign: Sign::Start,
    };
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
    follow: Option<Follow>,
    /// Why it looks.
    sign: Sign,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            // Before reading: what it wrote before it ended is then read too.
            let has_ended = self.follow.as_ref().is_none_or(|follow| follow.watched.has_ended());
            if let Some(piece) = self.piece().await? {
                let bytes = piece.len();
                tracing::trace!(worker = %self.name, sign = ?self.sign, bytes, "More of a console.");
                return Ok(Some(piece));
            }
            let Some(follow) = self.follow.as_mut().filter(|_| !has_ended) else {
                return Ok(None);
            };
            self.sign = follow.ear.sign(&follow.watched).await;
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
        self.at = piece.at + piece.bytes.len() as u64;
        Ok((!piece.bytes.is_empty()).then_some(piece.bytes))
    }
}
