//! The hypervisor itself: every promise of the trait, kept by the files around. Here is how it is opened, and how an
//! instance is destroyed.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use guest_agent::AgentGuest;
use runner_core::{
    Capacity, Changes, Error, Guest, Hint, Hypervisor, Result, WorkerName,
    error::chain,
    hypervisor::{Console, HypervisorCapabilities, Instance, InstanceSpec, Png},
    image::Image,
};
use tokio::{sync::Semaphore, task::AbortHandle};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    agent::LibvirtAgent,
    config::LibvirtConfig,
    connection::{Connection, Life, OnEvent},
    console::{self, Follow, Taps},
    domain::VirtType,
    error::{self, backend},
    network::Networks,
    screenshot,
    storage::{self, Storage},
    turn::{Doing, Turns},
    uri::Driver,
    virt_type::{self, Choice},
    watch::Watch,
};

/// libvirt, here or on another host. See [`Hypervisor`] for what it promises.
///
/// Dropping it leaves its instances running; the next one of the same owner finds them.
pub struct LibvirtHypervisor {
    inner: Arc<Inner>,
    recorder: AbortHandle,
}

pub(crate) struct Inner {
    pub(crate) config: LibvirtConfig,
    pub(crate) virt: Choice,
    pub(crate) connection: Arc<Connection>,
    /// For what waits for guests: many of those that hang must not keep the list waiting.
    pub(crate) guests: Arc<Connection>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) networks: Networks,
    pub(crate) taps: Taps,
    pub(crate) watch: Arc<Watch>,
    pub(crate) hint: Hint,
    pub(crate) turns: Turns,
    pub(crate) insides: Mutex<HashMap<Uuid, Arc<AgentGuest<LibvirtAgent>>>>,
    pub(crate) slow: Arc<Semaphore>,
    /// Held from looking for room until the room is taken.
    pub(crate) admission: tokio::sync::Mutex<()>,
}

impl LibvirtHypervisor {
    /// Connects to the configured daemon and finds what runs there already.
    ///
    /// # Errors
    /// `Unauthorized` when the daemon refuses us, `Invalid` for a configuration that cannot work, `Busy` while
    /// another process has the directory, `Backend` for the rest.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(config: LibvirtConfig) -> Result<Self> {
        let hint = Hint::default();
        let watch = Arc::new(Watch::new(hint.clone()));
        let on_event: OnEvent = {
            let watch = watch.clone();
            Arc::new(move |event| watch.note(&event))
        };
        let (uri, patience) = (&config.uri, config.patience);
        let connection =
            Connection::open(uri.clone(), patience, Some(on_event), hint.clone()).await?;
        let connection = Arc::new(connection);
        let guests = Connection::open(uri.clone(), patience, None, Hint::default()).await?;
        let guests = Arc::new(guests);
        let taps = Taps::new(guests.clone());
        let storage: Arc<dyn Storage> = storage::open(&config, &connection).await?;
        let networks =
            Networks::new(connection.clone(), config.network.clone(), config.owner.clone());
        let virt = virt_type::choose(&config, &connection).await?;
        let inner = Arc::new(Inner {
            config,
            virt,
            connection,
            guests,
            storage,
            networks,
            taps,
            watch,
            hint,
            turns: Turns::default(),
            insides: Mutex::default(),
            slow: Arc::new(Semaphore::new(1)),
            admission: tokio::sync::Mutex::default(),
        });
        let mut living = BTreeSet::new();
        for instance in inner.list().await? {
            tracing::info!(worker = %instance.name, state = ?instance.state, "Found an instance.");
            living.insert(instance.name);
        }
        inner.networks.sweep(&living).await?;
        let recorder = tokio::spawn(record(inner.watch.clone(), inner.storage.clone()));
        Ok(Self { inner, recorder: recorder.abort_handle() })
    }
}

impl LibvirtHypervisor {
    /// What runs the guests' code, and why.
    pub fn accel(&self) -> String {
        let engine = match self.inner.virt.virt {
            VirtType::Kvm => "KVM",
            VirtType::Qemu => "TCG",
            VirtType::Test => "nothing",
        };
        format!("{engine}: {}", self.inner.virt.why)
    }

    /// The addresses of an instance, those that hold on its own links aside: as its network gave them, or else as
    /// its agent tells. None if it does not run, or has none yet.
    ///
    /// # Errors
    /// `NotFound` for an instance that does not run, `Busy` for one that is about to, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        let watched = self.inner.running(name).await?;
        let addresses = self.inner.guests.addresses(watched.uuid).await;
        addresses.map_err(|failure| failure.doing(format!("ask for the addresses of {name}")))
    }
}

impl Drop for LibvirtHypervisor {
    fn drop(&mut self) {
        self.recorder.abort();
    }
}

/// Writes down why instances end, as it is heard.
async fn record(watch: Arc<Watch>, storage: Arc<dyn Storage>) {
    loop {
        for (watched, reason) in watch.ends().await {
            let name = &watched.mark.name;
            if let Err(error) = storage.set_exit(name, &reason).await {
                tracing::warn!(worker = %name, %reason, error = chain(&error), "Could not remember why an instance ended.");
            }
            // The next list tries again.
            watched.written();
        }
    }
}

#[async_trait]
impl Hypervisor for LibvirtHypervisor {
    fn capabilities(&self) -> HypervisorCapabilities {
        let real = self.inner.config.uri.driver() == Driver::Qemu;
        HypervisorCapabilities {
            changes: true,
            guest: real,
            screenshot: real,
            console: real,
            adopts: real,
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.inner.capacity().await
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        // In a task of its own: a caller who is dropped must not leave a turn half taken.
        let (inner, spec) = (self.inner.clone(), spec.clone());
        let create = tokio::spawn(async move { inner.create(&spec).await }.in_current_span());
        create.await.map_err(|error| backend("create an instance", error))?
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        let (inner, name) = (self.inner.clone(), name.clone());
        let destroy = tokio::spawn(async move { inner.destroy(&name).await }.in_current_span());
        destroy.await.map_err(|error| backend("destroy an instance", error))?
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.inner.list().await
    }

    async fn prepare(&self, image: &Image) -> Result<()> {
        self.inner.storage.prepare(image).await
    }

    fn changes(&self) -> Changes {
        self.inner.hint.changes()
    }

    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        if !self.capabilities().screenshot {
            return Err(Error::unsupported(format!("a screenshot of {name}")));
        }
        let watched = self.inner.running(name).await?;
        let doing = || format!("take a screenshot of {name}");
        match self.inner.guests.screenshot(watched.uuid).await {
            Ok(picture) => screenshot::png(picture).map_err(|why| backend(doing(), why)),
            Err(failure) => match self.inner.connection.life(watched.uuid).await {
                Ok(None | Some(Life::Ended(_))) => Err(error::no_instance(name)),
                _ => Err(failure.doing(doing())),
            },
        }
    }

    async fn console(&self, name: &WorkerName, follow: bool) -> Result<Console> {
        if !self.capabilities().console {
            return Err(Error::unsupported(format!("the console of {name}")));
        }
        let found = self.inner.find(name).await?.ok_or_else(|| error::no_instance(name))?;
        let follow = match &found.domain {
            Some(domain) if follow && domain.life == Life::Active => {
                let watched = self.inner.watch.ours(domain.uuid, found.mark);
                let ear = self.inner.taps.listen(&watched);
                Some(Follow { watched, ear })
            }
            _ => None,
        };
        console::read(self.inner.storage.clone(), name.clone(), follow).await
    }

    async fn given_addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        let watched = self.inner.running(name).await?;
        let addresses = self.inner.guests.given_addresses(watched.uuid).await;
        addresses.map_err(|failure| failure.doing(format!("ask for the addresses of {name}")))
    }

    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        if !self.capabilities().guest {
            return Err(Error::unsupported(format!("the guest of {name}")));
        }
        let watched = self.inner.running(name).await?;
        let mut insides = self.inner.insides.lock().unwrap_or_else(PoisonError::into_inner);
        let inside = insides.entry(watched.uuid).or_insert_with(|| {
            let (guests, slow) = (self.inner.guests.clone(), self.inner.slow.clone());
            let agent = LibvirtAgent::new(guests, watched, slow);
            Arc::new(AgentGuest::new(name.clone(), agent))
        });
        Ok(inside.clone())
    }
}

impl Inner {
    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        let turn = self.turns.of(name);
        let _taken = turn.take(Doing::Destroying).await;
        let doing = || format!("destroy {name}");
        if let Some(domain) = self.domain(name).await? {
            // Read anew: what it was when it was seen last is not enough to unmake it.
            let document = self.connection.document(domain.uuid).await;
            let document = document.map_err(|failure| failure.doing(doing()))?;
            let ours = match document {
                Some(document) => self.mark(&domain, &document)?.is_some(),
                None => false,
            };
            if ours {
                let stopped = self.connection.stop(domain.uuid).await;
                stopped.map_err(|failure| failure.doing(format!("stop {name}")))?;
                let undefined = self.connection.undefine(domain.uuid).await;
                undefined.map_err(|failure| failure.doing(format!("undefine {name}")))?;
            }
        }
        self.networks.unplug(name).await?;
        self.storage.remove(name).await?;
        for watched in self.watch.named(name) {
            self.watch.forget(watched.uuid);
            self.insides.lock().unwrap_or_else(PoisonError::into_inner).remove(&watched.uuid);
        }
        self.hint.hint();
        Ok(())
    }

    pub(crate) async fn capacity(&self) -> Result<Capacity> {
        if let Some(capacity) = &self.config.capacity {
            return Ok(capacity.clone());
        }
        let host = self.connection.host().await;
        let host = host.map_err(|failure| failure.doing("measure the host"))?;
        Ok(Capacity {
            vcpus: host.processors,
            memory_mib: host.memory_mib - (host.memory_mib / 8).max(512).min(host.memory_mib),
            disk_mib: self.storage.room_mib().await?,
            ..Capacity::default()
        })
    }
}
