//! What is noticed of domains between two looks: that one ended and why, and that an agent came.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use machine_disks::Mark;
use runner_core::{Hint, hypervisor::ExitReason};
use tokio::sync::{Notify, futures::Notified, watch};
use uuid::Uuid;
use virt::sys;

use crate::{
    events::{Event, What},
    exit,
};

/// The domains that were looked at, and what was heard of them since.
#[derive(Default)]
pub(crate) struct Watch {
    domains: Mutex<HashMap<Uuid, Seen>>,
    hint: Hint,
    /// That something is to be written down.
    ended: Notify,
}

/// Whose a domain is. It stays so for as long as it is defined.
#[derive(Clone)]
pub(crate) enum Seen {
    Ours(Arc<Watched>),
    Foreign,
}

/// A domain of ours.
pub(crate) struct Watched {
    pub(crate) uuid: Uuid,
    pub(crate) mark: Mark,
    ended: watch::Sender<bool>,
    exit: watch::Sender<Option<ExitReason>>,
    agent: Notify,
    written: Mutex<bool>,
}

impl Watch {
    pub(crate) fn new(hint: Hint) -> Self {
        Self { hint, ..Self::default() }
    }

    /// Takes note of an event. Never blocks.
    pub(crate) fn note(&self, event: &Event) {
        let seen = self.lock().get(&event.domain).cloned();
        match seen {
            Some(Seen::Ours(watched)) => {
                tracing::debug!(worker = %watched.mark.name, what = ?event.what, "libvirt says something.");
                watched.note(&event.what);
                if watched.exit().is_some() {
                    self.ended.notify_one();
                }
                self.hint.hint();
            }
            // It may be ours, or become ours. A foreigner's life is nothing to look at.
            Some(Seen::Foreign) if !is_definition(&event.what) => {}
            seen => {
                if seen.is_some() {
                    self.lock().remove(&event.domain);
                }
                self.hint.hint();
            }
        }
    }

    /// What is known of a domain.
    pub(crate) fn seen(&self, domain: Uuid) -> Option<Seen> {
        self.lock().get(&domain).cloned()
    }

    /// Watches a domain of ours from now on.
    pub(crate) fn ours(&self, uuid: Uuid, mark: Mark) -> Arc<Watched> {
        let mut domains = self.lock();
        match domains.get(&uuid) {
            Some(Seen::Ours(watched)) => watched.clone(),
            _ => {
                let watched = Arc::new(Watched {
                    uuid,
                    mark,
                    ended: watch::channel(false).0,
                    exit: watch::channel(None).0,
                    agent: Notify::new(),
                    written: Mutex::new(false),
                });
                domains.insert(uuid, Seen::Ours(watched.clone()));
                watched
            }
        }
    }

    /// Remembers that a domain is another's.
    pub(crate) fn foreign(&self, domain: Uuid) {
        self.lock().insert(domain, Seen::Foreign);
    }

    /// Forgets foreign domains other than these.
    pub(crate) fn keep(&self, there: &HashSet<Uuid>) {
        self.lock().retain(|uuid, seen| matches!(seen, Seen::Ours(_)) || there.contains(uuid));
    }

    /// Forgets a domain of ours, which does not exist any more.
    pub(crate) fn forget(&self, domain: Uuid) {
        let forgotten = self.lock().remove(&domain);
        if let Some(Seen::Ours(watched)) = forgotten {
            watched.ended.send_replace(true);
        }
    }

    /// What was heard last of an instance of this name, whose domain need not exist any more.
    pub(crate) fn named(&self, name: &runner_core::WorkerName) -> Vec<Arc<Watched>> {
        let domains = self.lock();
        let ours = domains.values().filter_map(|seen| match seen {
            Seen::Ours(watched) if watched.mark.name == *name => Some(watched.clone()),
            _ => None,
        });
        ours.collect()
    }

    /// Waits for ends that are known and not written down, and returns them.
    ///
    /// # Cancel safety
    /// Cancel safe: they are returned until [`Watched::written`] says that they need not be.
    pub(crate) async fn ends(&self) -> Vec<(Arc<Watched>, ExitReason)> {
        loop {
            self.ended.notified().await;
            let all: Vec<_> = {
                let domains = self.lock();
                let ours = domains.values().filter_map(|seen| match seen {
                    Seen::Ours(watched) => watched.unwritten().map(|exit| (watched.clone(), exit)),
                    Seen::Foreign => None,
                });
                ours.collect()
            };
            if !all.is_empty() {
                return all;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Seen>> {
        // Every change of the map is one call, so that a panic leaves nothing half done.
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn note(&self, what: &What) {
        if let Some(reason) = exit::of_event(what) {
            self.exit.send_if_modified(|exit| {
                let first = exit.is_none();
                exit.get_or_insert(reason);
                first
            });
        }
        match what {
            What::Lifecycle { event: sys::VIR_DOMAIN_EVENT_STOPPED, .. } => {
                self.ended.send_replace(true);
            }
            // Someone started it again.
            What::Lifecycle { event: sys::VIR_DOMAIN_EVENT_STARTED, .. } => {
                self.ended.send_replace(false);
            }
            What::Agent => self.agent.notify_waiters(),
            _ => {}
        }
    }

    /// Why it ended, if that was heard.
    pub(crate) fn exit(&self) -> Option<ExitReason> {
        self.exit.borrow().clone()
    }

    /// Waits to hear why it ended.
    pub(crate) async fn exited(&self) -> ExitReason {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(ExitReason::Unknown),
            Err(_) => ExitReason::Unknown,
        }
    }

    /// Waits to hear that it ended.
    pub(crate) async fn ended(&self) {
        // An error means that nobody watches any more, and then there is nothing to wait for.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Hears the next time that its agent comes or goes.
    pub(crate) fn agent(&self) -> Notified<'_> {
        self.agent.notified()
    }

    /// Why it ended is on disk.
    pub(crate) fn written(&self) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn unwritten(&self) -> Option<ExitReason> {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written { None } else { self.exit() }
    }
}

fn is_definition(what: &What) -> bool {
    matches!(
        what,
        What::Lifecycle {
            event: sys::VIR_DOMAIN_EVENT_DEFINED | sys::VIR_DOMAIN_EVENT_UNDEFINED,
            ..
        }
    )
}
