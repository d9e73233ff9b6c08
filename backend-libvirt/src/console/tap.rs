//! That a guest writes to its console, heard through libvirt while anybody follows it.
//!
//! A stream tells that there is more, and the log what it is: what a stream brings begins anywhere, goes to one
//! reader alone, and ends with the daemon. Where none can be had, because an operator has the console open or the
//! connection is gone, followers look at the log as often as they must, and a stream is tried for again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use runner_core::error::chain;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use crate::{connection::Connection, watch::Watched};

/// How long after a stream could not be had, or ended, to try again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often to look at a log without a stream.
const POLL: Duration = Duration::from_millis(100);
/// How often to look with one that is silent, and how long after its last word it is.
const IDLE: Duration = Duration::from_secs(5);
const SILENT: Duration = Duration::from_secs(1);

/// The consoles that are followed.
pub(crate) struct Taps {
    connection: Arc<Connection>,
    taps: Mutex<HashMap<Uuid, Weak<Tap>>>,
}

/// One console, for all who follow it.
struct Tap {
    heard: watch::Receiver<Heard>,
    task: AbortHandle,
}

/// What was heard of a console.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// Whether there is a stream.
    open: bool,
    /// How often a stream brought something.
    words: u64,
}

/// One who follows a console.
pub(crate) struct Ear {
    heard: watch::Receiver<Heard>,
    words: u64,
    /// Since when there was nothing to hear.
    silent: Instant,
    _tap: Arc<Tap>,
}

/// Why to look at a log again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It was not looked at before.
    Start,
    /// A stream says that the guest wrote something.
    Stream,
    /// It is time to.
    Time,
    /// The guest ended.
    End,
}

impl Taps {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, taps: Mutex::default() }
    }

    /// Listens to the console of a domain, as long as anybody keeps what this returns.
    pub(crate) fn listen(&self, watched: &Arc<Watched>) -> Ear {
        let mut taps = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
        taps.retain(|_, tap| tap.strong_count() > 0);
        let tap = taps.get(&watched.uuid).and_then(Weak::upgrade).unwrap_or_else(|| {
            let (sender, heard) = watch::channel(Heard::default());
            let task = tokio::spawn(listen(self.connection.clone(), watched.clone(), sender));
            let tap = Arc::new(Tap { heard, task: task.abort_handle() });
            taps.insert(watched.uuid, Arc::downgrade(&tap));
            tap
        });
        let heard = tap.heard.clone();
        let words = heard.borrow().words;
        Ear { heard, words, silent: Instant::now(), _tap: tap }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ear {
    /// Waits for a sign that there is more to read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(super) async fn sign(&mut self, watched: &Watched) -> Sign {
        let start = Instant::now();
        loop {
            let heard = *self.heard.borrow_and_update();
            if heard.words != self.words {
                self.words = heard.words;
                self.silent = Instant::now();
                return Sign::Stream;
            }
            // The machine writes to its console first and to the log then, so that the word of a stream may come
            // too early.
            let is_silent = heard.open && self.silent.elapsed() > SILENT;
            let pause = if is_silent { IDLE } else { POLL };
            tokio::select! {
                () = watched.ended() => return Sign::End,
                () = sleep_until(start + pause) => return Sign::Time,
                changed = self.heard.changed() => if changed.is_err() {
                    // Nobody listens: the runtime is going away.
                    sleep_until(start + POLL).await;
                    return Sign::Time;
                }
            }
        }
    }
}

/// Listens to a console for ever.
async fn listen(connection: Arc<Connection>, watched: Arc<Watched>, heard: watch::Sender<Heard>) {
    let name = &watched.mark.name;
    loop {
        match connection.open_console(watched.uuid).await {
            Ok(mut console) => {
                tracing::debug!(worker = %name, "Listening to a console.");
                heard.send_modify(|heard| heard.open = true);
                while console.bytes().await.is_some() {
                    heard.send_modify(|heard| heard.words += 1);
                }
                heard.send_modify(|heard| heard.open = false);
                tracing::debug!(worker = %name, "A console was closed to us.");
            }
            Err(failure) => {
                let error = failure.doing(format!("open the console of {name}"));
                tracing::debug!(worker = %name, error = chain(&error), "Cannot listen to a console. Its log is looked at often instead.");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
