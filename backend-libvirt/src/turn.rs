//! Whose turn it is to change an instance, and what it is doing: for lists that come between.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

use runner_core::WorkerName;
use tokio::sync::MutexGuard;

/// What is done with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doing {
    /// Nothing that a list could mistake.
    Nothing = 0,
    /// It is about to run.
    Creating = 1,
    /// It is about to be gone.
    Destroying = 2,
}

/// The turns of all names.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<WorkerName, Weak<Turn>>>);

/// The turn of one name: whoever has it is alone with the instance.
#[derive(Default)]
pub(crate) struct Turn {
    lock: tokio::sync::Mutex<()>,
    doing: AtomicU8,
}

/// A turn that was taken, until this is dropped.
pub(crate) struct Taken<'a> {
    turn: &'a Turn,
    _lock: MutexGuard<'a, ()>,
}

impl Turns {
    /// The turn of `name`.
    pub(crate) fn of(&self, name: &WorkerName) -> Arc<Turn> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = turns.get(name).and_then(Weak::upgrade).unwrap_or_default();
        turns.insert(name.clone(), Arc::downgrade(&turn));
        turn
    }
}

impl Turn {
    /// Waits for the turn and says what it is used for.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn take(&self, doing: Doing) -> Taken<'_> {
        let lock = self.lock.lock().await;
        self.doing.store(doing as u8, Ordering::Release);
        Taken { turn: self, _lock: lock }
    }

    /// The turn for a look, or what it is used for now.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn look(&self) -> Result<Taken<'_>, Doing> {
        loop {
            match self.doing.load(Ordering::Acquire) {
                1 => return Err(Doing::Creating),
                2 => return Err(Doing::Destroying),
                _ => {}
            }
            // Between a lock and the word for what it is for, or another look: short.
            let soon = tokio::time::Duration::from_millis(5);
            if let Ok(lock) = tokio::time::timeout(soon, self.lock.lock()).await {
                return Ok(Taken { turn: self, _lock: lock });
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // The lock goes after this.
        self.turn.doing.store(Doing::Nothing as u8, Ordering::Release);
    }
}
