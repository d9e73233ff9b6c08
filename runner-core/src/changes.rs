//! Hints that something changed: without data, possibly late, repeated or never.

use std::sync::Arc;

use tokio::sync::watch;

/// The sending side: an implementation keeps one and [hints](Hint::hint) whenever a list may differ.
#[derive(Debug, Clone)]
pub struct Hint(Arc<watch::Sender<u64>>);

impl Default for Hint {
    fn default() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }
}

impl Hint {
    /// Says that something may have changed. Never blocks.
    pub fn hint(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A listener that hears every later hint, many hints as one.
    pub fn changes(&self) -> Changes {
        Changes(Some(self.0.subscribe()))
    }
}

/// The listening side. The reader looks at the list again: the hint itself says nothing.
#[derive(Debug, Clone)]
pub struct Changes(Option<watch::Receiver<u64>>);

impl Changes {
    /// For an implementation that has no way to know: it never hints.
    pub fn never() -> Self {
        Self(None)
    }

    /// Waits for a hint; for ever, once the sender is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: a hint that comes meanwhile is heard by the next call.
    pub async fn next(&mut self) {
        if let Some(receiver) = &mut self.0 {
            if receiver.changed().await.is_ok() {
                return;
            }
            self.0 = None;
        }
        std::future::pending().await
    }
}
