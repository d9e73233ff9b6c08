//! All that GitLab knows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use fake_host::Clock;
use jiff::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    Options,
    access::AccessToken,
    account::{Group, Level, Place, Project, User},
    faults::Faults,
    ids::{GroupId, JobId, PipelineId, ProjectId, RunnerId, UserId},
    job::Job,
    pipeline::Pipeline,
    queue::QueueValue,
    record::Record,
    runner::Runner,
    settings::Settings,
};

/// The state, and word of its changes.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Notify,
    clock: Clock,
    pub(crate) https: bool,
}

pub(crate) struct State {
    pub(crate) clock: Clock,
    last_id: u64,
    /// What tells this GitLab from all others.
    pub(crate) instance: String,
    pub(crate) settings: Settings,
    pub(crate) users: BTreeMap<UserId, User>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) projects: BTreeMap<ProjectId, Project>,
    pub(crate) members: Vec<(UserId, Place, Level)>,
    pub(crate) access_tokens: HashMap<String, AccessToken>,
    pub(crate) registration_token: String,
    pub(crate) runners: BTreeMap<RunnerId, Runner>,
    pub(crate) queue_values: HashMap<RunnerId, QueueValue>,
    pub(crate) pipelines: BTreeMap<PipelineId, Pipeline>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    /// Files on the other host, by the secret part of their address.
    pub(crate) stored: HashMap<String, Bytes>,
    /// Where that host is.
    pub(crate) storage: String,
    pub(crate) faults: Faults,
    pub(crate) down: bool,
    /// How many requests for a job wait for news.
    pub(crate) held: usize,
    pub(crate) record: Record,
}

impl Shared {
    pub(crate) fn new(options: Options, storage: String) -> Self {
        let Options { clock, settings, seed, https, .. } = options;
        let state = State {
            clock: clock.clone(),
            last_id: 0,
            instance: Uuid::new_v4().to_string(),
            settings,
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            projects: BTreeMap::new(),
            members: Vec::new(),
            access_tokens: HashMap::new(),
            registration_token: crate::ids::random_text(20),
            runners: BTreeMap::new(),
            queue_values: HashMap::new(),
            pipelines: BTreeMap::new(),
            jobs: BTreeMap::new(),
            stored: HashMap::new(),
            storage,
            faults: Faults::seeded(seed),
            down: false,
            held: 0,
            record: Record::default(),
        };
        Self { state: Mutex::new(state), changed: Notify::new(), clock, https }
    }

    /// The state as it is now, to look at.
    pub(crate) fn look(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held this has failed already.
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.end_forgotten_jobs();
        state
    }

    /// Changes the state, and wakes whoever waits for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.look());
        self.changed.notify_waiters();
        done
    }

    /// Waits until `look` finds what it looks for.
    ///
    /// # Cancel safety
    ///
    /// Looks only.
    pub(crate) async fn until<T>(&self, look: impl FnMut(&mut State) -> Option<T>) -> T {
        self.until_enough(look, |found| found).await
    }

    /// Waits until `enough` is content with what `look` sees. It may ask for more, because nothing is held then.
    ///
    /// # Cancel safety
    ///
    /// Looks only.
    pub(crate) async fn until_enough<S, T>(
        &self,
        mut look: impl FnMut(&mut State) -> S,
        mut enough: impl FnMut(S) -> Option<T>,
    ) -> T {
        loop {
            let (changed, advanced) = (self.changed.notified(), self.clock.advanced());
            tokio::pin!(changed, advanced);
            changed.as_mut().enable();
            advanced.as_mut().enable();
            let seen = look(&mut self.look());
            if let Some(found) = enough(seen) {
                return found;
            }
            tokio::select! {
                () = changed => (),
                () = advanced => (),
            }
        }
    }
}

impl State {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A number that nothing else has.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}
