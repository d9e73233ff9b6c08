//! All that GitHub knows.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard},
};

use fake_host::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::{
    access::{Caller, Token},
    account::{Account, Enterprise, Repository},
    app::{AppRecord, Installation},
    artifact::{Artifact, Link},
    downloads::{self, Download},
    exchange::Addresses,
    faults::Faults,
    hook::{Delivery, Hook, Receiver},
    job::Run,
    jobs::Jobs,
    limits::{Limits, Quotas},
    record::Record,
    runner::{Group, Runner},
    scale_set::ScaleSet,
    scope::Scope,
    webhooks::{Weather, WebhookFaults},
};

/// How long a registration stays whose program is not connected. All of them are for one job.
const UNCONNECTED: SignedDuration = SignedDuration::from_hours(24);

/// The state, and word of its changes.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) changed: Notify,
    pub(crate) clock: Clock,
    pub(crate) options: Options,
}

/// What is decided before the start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) ghes: bool,
    pub(crate) https: bool,
    pub(crate) long_poll: std::time::Duration,
    pub(crate) storage_port: u16,
    /// Where files come from for whoever comes by loopback.
    pub(crate) storage_host: String,
}

pub(crate) struct State {
    clock: Clock,
    /// When it was last seen to what time does.
    caught_up_at: Option<Timestamp>,
    last_id: i64,
    pub(crate) enterprises: Vec<Enterprise>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) repositories: Vec<Repository>,
    pub(crate) groups: Vec<Group>,
    pub(crate) runners: BTreeMap<i64, Runner>,
    pub(crate) runs: BTreeMap<i64, Run>,
    pub(crate) jobs: Jobs,
    pub(crate) artifacts: BTreeMap<i64, Artifact>,
    pub(crate) tokens: HashMap<String, Token>,
    pub(crate) apps: Vec<AppRecord>,
    pub(crate) installations: Vec<Installation>,
    pub(crate) limits: Limits,
    pub(crate) quotas: Quotas,
    pub(crate) faults: Faults,
    pub(crate) record: Record,
    pub(crate) downloads: Vec<Download>,
    pub(crate) registration_tokens: HashMap<String, (Scope, Timestamp)>,
    pub(crate) storage_links: HashMap<String, Link>,
    /// What is in repositories, by their numbers and the path.
    pub(crate) files: HashMap<(i64, String), Vec<u8>>,
    pub(crate) hooks: Vec<Hook>,
    /// Who takes a hook's deliveries in memory.
    pub(crate) receivers: HashMap<i64, Receiver>,
    pub(crate) deliveries: BTreeMap<i64, Delivery>,
    /// Deliveries that are to be sent.
    pub(crate) outbox: VecDeque<i64>,
    pub(crate) weather: Weather,
    /// Who may use the service of scale sets, by token, and until when.
    pub(crate) connections: HashMap<String, (Scope, Timestamp)>,
    pub(crate) scale_sets: Vec<ScaleSet>,
    /// Whether scale sets are offered jobs, and not just given them.
    pub(crate) must_acquire: bool,
    /// Where we are, for what we say without being asked.
    pub(crate) home: Addresses,
}

impl Shared {
    pub(crate) fn new(clock: Clock, limits: Limits, options: Options, home: Addresses) -> Self {
        let state = State {
            clock: clock.clone(),
            caught_up_at: None,
            last_id: 1000,
            enterprises: Vec::new(),
            accounts: Vec::new(),
            repositories: Vec::new(),
            groups: Vec::new(),
            runners: BTreeMap::new(),
            runs: BTreeMap::new(),
            jobs: Jobs::default(),
            artifacts: BTreeMap::new(),
            tokens: HashMap::new(),
            apps: Vec::new(),
            installations: Vec::new(),
            limits,
            quotas: Quotas::default(),
            faults: Faults::default(),
            record: Record::default(),
            downloads: downloads::current(),
            registration_tokens: HashMap::new(),
            storage_links: HashMap::new(),
            files: HashMap::new(),
            hooks: Vec::new(),
            receivers: HashMap::new(),
            deliveries: BTreeMap::new(),
            outbox: VecDeque::new(),
            weather: Weather::new(WebhookFaults::default()),
            connections: HashMap::new(),
            scale_sets: Vec::new(),
            must_acquire: options.ghes,
            home,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), clock, options }
    }

    /// The state as it is now, to look at.
    pub(crate) fn look(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held this has failed already.
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        state.catch_up();
        state
    }

    /// Changes the state, and wakes whoever waits for that.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let done = change(&mut self.look());
        self.changed.notify_waiters();
        done
    }
}

impl State {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A number that nothing else has.
    pub(crate) fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// Takes an App away from an account.
    pub(crate) fn uninstall(&mut self, installation: i64) {
        self.installations.retain(|one| one.id != installation);
        let is_of = |caller: &Caller| matches!(caller, Caller::Installation { id, .. } if *id == installation);
        self.tokens.retain(|_, token| !is_of(&token.caller));
    }

    /// Lets the deliveries go that were kept back.
    pub(crate) fn release_webhooks(&mut self, copies: usize, reversed: bool) {
        self.weather.held = false;
        let mut held: Vec<_> = self.outbox.drain(..).collect();
        if reversed {
            held.reverse();
        }
        self.outbox.extend(held.into_iter().flat_map(|id| std::iter::repeat_n(id, copies)));
    }

    /// Does what time does, once for each moment: a simulation looks a thousand times at one.
    fn catch_up(&mut self) {
        let now = self.now();
        if self.caught_up_at.replace(now) == Some(now) {
            return;
        }
        self.end_old_jobs();
        self.lose_silent_runners();
        self.runners.retain(|_, runner| {
            runner.session.is_some()
                || runner.job.is_some()
                || now.duration_since(runner.seen) < UNCONNECTED
        });
    }
}
