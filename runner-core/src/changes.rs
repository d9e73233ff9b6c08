//! Hints that something changed: without data, possibly late, repeated or never.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// The sending side: an implementation keeps one and [hints](Hint::hint) whenever a list may differ.
#[derive(Debug, Clone, Default)]
pub struct Hint(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicU64,
    // Wakes in the order of waiting, unlike `watch`, so that a paused clock repeats a run exactly.
    notify: Notify,
}

impl Hint {
    /// Says that something may have changed. Never blocks.
    pub fn hint(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
        self.0.notify.notify_waiters();
    }

    /// A listener that hears every later hint, many hints as one.
    pub fn changes(&self) -> Changes {
        let heard = self.0.count.load(Ordering::Acquire);
        Changes(Some((self.0.clone(), heard)))
    }
}

/// The listening side. The reader looks at the list again: the hint itself says nothing.
#[derive(Debug, Clone)]
pub struct Changes(Option<(Arc<Shared>, u64)>);

impl Changes {
    /// For an implementation that has no way to know: it never hints.
    pub fn never() -> Self {
        Self(None)
    }

    /// Waits for a hint.
    ///
    /// # Cancel safety
    /// Cancel safe: a hint that comes meanwhile is heard by the next call.
    pub async fn next(&mut self) {
        let Some((shared, heard)) = &mut self.0 else {
            return std::future::pending().await;
        };
        loop {
            // Listen before looking, so that nothing falls between.
            let hinted = shared.notify.notified();
            let count = shared.count.load(Ordering::Acquire);
            if count != *heard {
                *heard = count;
                return;
            }
            hinted.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_hints_are_heard_as_one_and_none_is_missed() {
        let hint = Hint::default();
        let mut changes = hint.changes();
        hint.hint();
        hint.hint();
        changes.next().await;
        let none = tokio::time::timeout(std::time::Duration::from_millis(20), changes.next()).await;
        assert!(none.is_err());
        hint.hint();
        changes.next().await;
    }
}
