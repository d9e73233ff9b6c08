//! Machines of ours as clients of this service: how each proves which it is, and what it is handed.
//!
//! A machine finds in its user data where to ask, and a secret of its own: the worker's name, sealed
//! ([`Seal`]). So nothing is written down that could get lost or left over: the secret is good from the moment
//! that its worker is made, also after a restart, until the worker is gone. A machine that was told nothing is
//! known by its address, if the hypervisor itself says that exactly one machine of ours has it.
//!
//! What it is handed is prepared while its runner is registered ([`Handing`]), and waits on disk (`kept`).

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use runner_core::{
    Hypervisor, OwnerId, ProfileName, Result, Secret, Status, Store, WorkerName,
    error::chain,
    image::{RecipeKind, UserDataDelivery},
    worker::Phase,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    config::GuestsConfig,
    reload::ConfigState,
    seal::{Purpose, Seal},
};

mod handing;
mod kept;

pub use handing::Handing;
use kept::Kept;

/// How long it is believed which machine has which address.
const ADDRESSES_FRESH: Duration = Duration::from_secs(2);
/// How long a hypervisor may take to tell one machine's.
const ADDRESS_LIMIT: Duration = Duration::from_secs(3);
/// How many it is asked for at once.
const ADDRESSES_AT_ONCE: usize = 8;
/// How often what is kept is looked through for what is kept in vain.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Where a machine asks, and what it proves itself with.
pub struct Contact {
    /// The address before `/boot` and all the others.
    pub url: String,
    /// Good for this machine alone, as its job can read it.
    pub token: Secret<String>,
}

/// What machines are handed, and how they are known. Clones share it.
#[derive(Clone)]
pub struct Desk(Arc<DeskInner>);

struct DeskInner {
    config: GuestsConfig,
    url: String,
    owner: OwnerId,
    seal: Seal,
    kept: Kept,
    state: watch::Receiver<Arc<ConfigState>>,
}

impl Desk {
    /// A desk at `url`, which keeps what it must not forget below `data_dir`.
    ///
    /// # Errors
    /// When the directory of what is kept cannot be made.
    pub fn open(
        config: GuestsConfig,
        url: String,
        data_dir: PathBuf,
        owner: OwnerId,
        seal: Seal,
        state: watch::Receiver<Arc<ConfigState>>,
    ) -> anyhow::Result<Self> {
        let kept = Kept::open(data_dir.join("guests"))?;
        Ok(Self(Arc::new(DeskInner { config, url, owner, seal, kept, state })))
    }

    /// How it is configured.
    pub fn config(&self) -> &GuestsConfig {
        &self.0.config
    }

    /// Where the machine of a worker asks.
    pub fn contact(&self, worker: &WorkerName) -> Contact {
        let word = self.0.seal.word(Purpose::Guest, &self.about(worker));
        let token = Secret::new(format!("{worker}.{}", word.expose()));
        Contact { url: self.0.url.clone(), token }
    }

    /// Whose secret this is: of a worker that is, was, or will be.
    pub fn proven(&self, token: &str) -> Option<WorkerName> {
        let (name, word) = token.split_once('.')?;
        let worker = WorkerName::new(name).ok()?;
        self.0.seal.is_about(Purpose::Guest, &self.about(&worker), word).then_some(worker)
    }

    /// Another owner's worker of the same name is another worker.
    fn about(&self, worker: &WorkerName) -> String {
        format!("{}\n{worker}", self.0.owner)
    }

    /// Whether machines of a profile find what they are told on a disk.
    fn tells(&self, profile: &ProfileName) -> bool {
        let state = self.0.state.borrow();
        let profile = state.profiles.iter().find(|offered| offered.name == *profile);
        let kind = profile.map(|profile| &profile.recipe.kind);
        !matches!(kind, Some(RecipeKind::Disk { user_data: UserDataDelivery::None, .. }))
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The machine of this worker.
    Machine(WorkerName),
    /// Nobody that can be told: this is why.
    Nobody(&'static str),
    /// Two machines have the address.
    Ambiguous,
    /// The worker is gone.
    Gone(WorkerName),
}

/// The machines that ask. Clones share it.
#[derive(Clone)]
pub struct Guests(Arc<Inner>);

struct Inner {
    desk: Desk,
    hypervisor: Arc<dyn Hypervisor>,
    status: watch::Receiver<Arc<Status>>,
    store: Store,
    addresses: tokio::sync::Mutex<Addresses>,
}

/// Which machine has which address; none where several have one.
type Addresses = Option<(Instant, Arc<BTreeMap<IpAddr, Option<WorkerName>>>)>;

impl Guests {
    /// The machines of a running pool.
    pub fn new(
        desk: Desk,
        hypervisor: Arc<dyn Hypervisor>,
        status: watch::Receiver<Arc<Status>>,
        store: Store,
    ) -> Self {
        let addresses = tokio::sync::Mutex::default();
        Self(Arc::new(Inner { desk, hypervisor, status, store, addresses }))
    }

    /// How they are served.
    pub fn config(&self) -> &GuestsConfig {
        self.0.desk.config()
    }

    /// Who sends this secret.
    ///
    /// # Errors
    /// `Backend` when it cannot be found out for now.
    pub async fn by_token(&self, token: &str) -> Result<Known> {
        match self.0.desk.proven(token) {
            None => Ok(Known::Nobody("this secret is not a machine's of this service")),
            Some(worker) if self.lives(&worker).await? => Ok(Known::Machine(worker)),
            Some(worker) => Ok(Known::Gone(worker)),
        }
    }

    /// Who has this address. What the guest says of itself is never asked.
    pub async fn by_address(&self, address: IpAddr) -> Known {
        match self.addresses().await.get(&address.to_canonical()) {
            Some(Some(worker)) => Known::Machine(worker.clone()),
            Some(None) => Known::Ambiguous,
            None => Known::Nobody("this address is not a machine's of this service"),
        }
    }

    /// The secret of a worker's runner, once.
    ///
    /// # Errors
    /// `Backend` when it cannot be read or given away.
    pub async fn take_secret(&self, worker: &WorkerName) -> Result<Option<Secret<String>>> {
        self.0.desk.0.kept.take_secret(worker).await
    }

    /// The boot script of a worker's machine, as it was when the worker was made.
    ///
    /// # Errors
    /// `Backend` when it cannot be read.
    pub async fn boot_script(&self, worker: &WorkerName) -> Result<Option<String>> {
        self.0.desk.0.kept.boot_script(worker).await
    }

    /// Removes what is kept in vain, as long as the pool lives: for workers that are gone, and secrets of
    /// runners that came online without asking.
    pub async fn attend(self) {
        let mut status = self.0.status.clone();
        loop {
            if let Err(error) = self.sweep().await {
                let error = chain(&error);
                tracing::warn!(error, "What is kept for machines could not be looked through.");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    async fn sweep(&self) -> Result<()> {
        let kept = &self.0.desk.0.kept;
        for worker in kept.workers().await? {
            // Its record was written before anything was kept for it.
            if !self.0.store.has_worker(&worker).await? {
                kept.remove(&worker).await?;
            } else if matches!(
                self.phase(&worker),
                Some(Phase::Idle | Phase::Reserved | Phase::Busy)
            ) {
                drop(kept.take_secret(&worker).await?);
            }
        }
        Ok(())
    }

    fn phase(&self, worker: &WorkerName) -> Option<Phase> {
        let status = self.0.status.borrow();
        let found = status.workers.iter().find(|seen| seen.name == *worker);
        found.map(|seen| seen.phase.clone())
    }

    async fn lives(&self, worker: &WorkerName) -> Result<bool> {
        match self.phase(worker) {
            Some(phase) => Ok(!matches!(phase, Phase::Over(_))),
            // Just made: the pool tells of it with its next look.
            None => self.0.store.has_worker(worker).await,
        }
    }

    async fn addresses(&self) -> Arc<BTreeMap<IpAddr, Option<WorkerName>>> {
        // Whoever else asks meanwhile waits for the same answer.
        let mut known = self.0.addresses.lock().await;
        if let Some((at, addresses)) = &*known
            && at.elapsed() < ADDRESSES_FRESH
        {
            return addresses.clone();
        }
        let status = self.0.status.borrow().clone();
        let living = status
            .workers
            .iter()
            .filter(|worker| worker.instance.is_some() && !matches!(worker.phase, Phase::Over(_)));
        let names: Vec<WorkerName> = living.map(|worker| worker.name.clone()).collect();
        let asked = stream::iter(names).map(|name| async move {
            let asked = self.0.hypervisor.given_addresses(&name);
            let given = tokio::time::timeout(ADDRESS_LIMIT, asked).await;
            // One that cannot tell now is asked again by the next who wants to know.
            (name, given.ok().and_then(Result::ok).unwrap_or_default())
        });
        let given: Vec<_> = asked.buffer_unordered(ADDRESSES_AT_ONCE).collect().await;
        let mut addresses: BTreeMap<IpAddr, Option<WorkerName>> = BTreeMap::new();
        for (name, given) in given {
            for address in given {
                addresses
                    .entry(address.to_canonical())
                    .and_modify(|holder| {
                        if holder.as_ref() != Some(&name) {
                            *holder = None;
                        }
                    })
                    .or_insert_with(|| Some(name.clone()));
            }
        }
        let addresses = Arc::new(addresses);
        *known = Some((Instant::now(), addresses.clone()));
        addresses
    }
}
