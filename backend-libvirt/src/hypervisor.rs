//! The hypervisor itself: every promise of the trait, kept by the files around.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use guest_agent::AgentGuest;
use jiff::Timestamp;
use machine_disks::Mark;
use runner_core::{
    Capacity, Changes, Error, Guest, Hint, Hypervisor, Resources, Result, WorkerName,
    error::chain,
    hypervisor::{
        Console, ExitReason, HypervisorCapabilities, Instance, InstanceSpec, InstanceState, Png,
    },
    image::Image,
};
use tokio::{sync::Semaphore, task::AbortHandle, time::timeout};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    agent::LibvirtAgent,
    config::LibvirtConfig,
    connection::{Connection, Domain, Failure, Life, OnEvent},
    console::{self, Follow, Taps},
    create,
    domain::{self, DomainSpec, MacAddress, VirtType},
    error::{self, backend},
    exit,
    network::Networks,
    profile_dir::ProfileFiles,
    screenshot,
    storage::{self, Storage},
    turn::{Doing, Turns},
    uri::Driver,
    virt_type::{self, Choice},
    watch::{Seen, Watch, Watched},
};

/// How long after a domain's end the event may come that says why.
const CONCLUDE: Duration = Duration::from_millis(500);

/// libvirt, here or on another host. See [`Hypervisor`] for what it promises.
///
/// Dropping it leaves its instances running; the next one of the same owner finds them.
pub struct LibvirtHypervisor {
    inner: Arc<Inner>,
    recorder: AbortHandle,
}

struct Inner {
    config: LibvirtConfig,
    virt: Choice,
    connection: Arc<Connection>,
    /// For what waits for guests: many of those that hang must not keep the list waiting.
    guests: Arc<Connection>,
    storage: Arc<dyn Storage>,
    networks: Networks,
    taps: Taps,
    watch: Arc<Watch>,
    hint: Hint,
    turns: Turns,
    insides: Mutex<HashMap<Uuid, Arc<AgentGuest<LibvirtAgent>>>>,
    slow: Arc<Semaphore>,
    /// Held from looking for room until the room is taken.
    admission: tokio::sync::Mutex<()>,
}

/// What there is of an instance: one or the other may be missing.
struct Found {
    mark: Mark,
    domain: Option<Domain>,
}

/// Why an instance was not made.
enum Unmade {
    /// It does not run, and will not.
    Failed(Error),
    /// It may, or may soon.
    Unclear(Error),
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
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
    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        let name = &spec.name;
        let turn = self.turns.of(name);
        let _taken = turn.take(Doing::Creating).await;
        if let Some(found) = self.find(name).await? {
            return self.settle(&found).await;
        }
        let files = self.files(spec).await?;
        create::check(spec, &files).await?;
        if let Some(foreign) = self.domain(name).await? {
            let what = format!(
                "domain {name} (it is not ours, with the UUID {}: undefine or rename it)",
                foreign.uuid
            );
            return Err(Error::busy(what));
        }
        let mark = Mark::of(spec, &self.config.owner, Timestamp::now());
        {
            let _admission = self.admission.lock().await;
            create::check_room(&self.capacity().await?, &self.used().await?, spec)?;
            self.storage.begin(&mark).await?;
        }
        let uuid = Uuid::new_v4();
        let watched = self.watch.ours(uuid, mark.clone());
        let result = self.launch(spec, &files, &watched).await;
        self.hint.hint();
        match result {
            Ok(()) => Ok(mark.instance(InstanceState::Running)),
            // It may start yet. It is listed, and whoever asked for it decides.
            Err(Unmade::Unclear(error)) => Err(error),
            Err(Unmade::Failed(error)) => {
                self.give_up(&watched, &error).await;
                Err(error)
            }
        }
    }

    /// Makes and starts the domain of an instance whose storage has begun.
    async fn launch(
        &self,
        spec: &InstanceSpec,
        files: &ProfileFiles,
        watched: &Watched,
    ) -> Result<(), Unmade> {
        let name = &spec.name;
        let furnished = self.storage.furnish(spec, files).await?;
        let network = self.networks.plug(spec).await?;
        let document = domain::document(
            &files.template,
            &DomainSpec {
                name,
                uuid: watched.uuid,
                mac: MacAddress::of(&self.config.owner, name),
                virt: self.virt.virt,
                emulator: None,
                resources: &spec.resources,
                boot: furnished.boot,
                disks: furnished.disks,
                user_data: furnished.user_data,
                network: Some(network),
                console_log: Some(&furnished.console_log),
                mark: &watched.mark,
            },
        )?;
        let unmade = |doing: &'static str| {
            move |failure: Failure| {
                let unclear = failure.is_unclear();
                let error = failure.doing(format!("{doing} {name}"));
                if unclear { Unmade::Unclear(error) } else { Unmade::Failed(error) }
            }
        };
        self.connection.define(document).await.map_err(unmade("define"))?;
        self.connection.start(watched.uuid).await.map_err(unmade("start"))
    }

    /// What the operator keeps of the instance's profile.
    async fn files(&self, spec: &InstanceSpec) -> Result<ProfileFiles> {
        let Some(profiles) = self.config.profiles.clone() else {
            return Ok(ProfileFiles::none());
        };
        let profile = spec.profile.clone();
        error::blocking("read a profile", move || ProfileFiles::read(&profiles, &profile)).await
    }

    /// Removes what is left of a creation that failed, if it is certain that nothing runs.
    async fn give_up(&self, watched: &Watched, why: &Error) {
        let name = &watched.mark.name;
        let remove = async {
            let doing = || format!("remove {name}");
            let life = self.connection.life(watched.uuid).await;
            match life.map_err(|failure| failure.doing(doing()))? {
                // It runs after all, or will in a moment. It is listed, and whoever asked for it decides.
                Some(Life::Active) => return Ok(()),
                Some(Life::Ended(_)) => {
                    let undefined = self.connection.undefine(watched.uuid).await;
                    undefined.map_err(|failure| failure.doing(doing()))?;
                }
                None => {}
            }
            self.networks.unplug(name).await?;
            self.storage.remove(name).await?;
            self.watch.forget(watched.uuid);
            Ok::<_, Error>(())
        };
        if let Err(error) = remove.await {
            tracing::warn!(worker = %name, error = chain(&error), "Could not remove an instance that did not start.");
            let reason = ExitReason::Crashed(chain(why));
            if let Err(error) = self.storage.set_exit(name, &reason).await {
                tracing::warn!(worker = %name, error = chain(&error), "Could not remember why an instance did not start.");
            }
        }
    }

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

    async fn list(&self) -> Result<Vec<Instance>> {
        let mut all = Vec::new();
        for found in self.found().await?.into_values() {
            all.extend(self.look(found).await?);
        }
        Ok(all)
    }

    /// Everything of ours, by name.
    async fn found(&self) -> Result<BTreeMap<WorkerName, Found>> {
        // Storage first: what is made meanwhile is then seen as a domain, and not as one that is missing.
        let entries = self.storage.entries().await?;
        let domains = self.connection.domains().await;
        let domains = domains.map_err(|failure| failure.doing("list the domains"))?;
        self.watch.keep(&domains.iter().map(|domain| domain.uuid).collect::<HashSet<_>>());
        let mut all: BTreeMap<_, _> = entries
            .into_iter()
            .map(|mark| (mark.name.clone(), Found { mark, domain: None }))
            .collect();
        for domain in domains {
            if let Some(mark) = self.ours(&domain).await? {
                all.insert(mark.name.clone(), Found { mark, domain: Some(domain) });
            }
        }
        Ok(all)
    }

    /// What there is of one name.
    async fn find(&self, name: &WorkerName) -> Result<Option<Found>> {
        let entry = self.storage.entry(name).await?;
        if let Some(domain) = self.domain(name).await?
            && let Some(mark) = self.ours(&domain).await?
        {
            return Ok(Some(Found { mark, domain: Some(domain) }));
        }
        Ok(entry.map(|mark| Found { mark, domain: None }))
    }

    /// The domain of this name, whoever's it is.
    async fn domain(&self, name: &WorkerName) -> Result<Option<Domain>> {
        let domain = self.connection.domain(name.as_str()).await;
        domain.map_err(|failure| failure.doing(format!("look for domain {name}")))
    }

    /// The mark of a domain, if it is ours.
    async fn ours(&self, domain: &Domain) -> Result<Option<Mark>> {
        match self.watch.seen(domain.uuid) {
            Some(Seen::Ours(watched)) if watched.mark.name.as_str() == domain.name => {
                return Ok(Some(watched.mark.clone()));
            }
            Some(Seen::Foreign) => return Ok(None),
            _ => {}
        }
        let document = self.connection.document(domain.uuid).await;
        let document =
            document.map_err(|failure| failure.doing(format!("look at domain {}", domain.name)))?;
        // It vanished meanwhile.
        let Some(document) = document else { return Ok(None) };
        let mark = self.mark(domain, &document)?;
        match &mark {
            Some(mark) => drop(self.watch.ours(domain.uuid, mark.clone())),
            None => self.watch.foreign(domain.uuid),
        }
        Ok(mark)
    }

    /// Reads the mark of a domain from its document, if it is ours.
    fn mark(&self, domain: &Domain, document: &str) -> Result<Option<Mark>> {
        let mark = domain::mark(document, &self.config.owner)?;
        // It may have been renamed since its document was asked for.
        Ok(mark.filter(|mark| mark.name.as_str() == domain.name))
    }

    /// What the list says of it; nothing if it is gone by now.
    async fn look(&self, found: Found) -> Result<Option<Instance>> {
        if let Some(Domain { life: Life::Active, .. }) = found.domain {
            return Ok(Some(found.mark.instance(InstanceState::Running)));
        }
        let name = &found.mark.name;
        if let Some(reason) = self.storage.exit(name).await? {
            return Ok(Some(found.mark.instance(InstanceState::Stopped(reason))));
        }
        // Nobody wrote down why it does not run: it may be just being made.
        let turn = self.turns.of(name);
        match turn.look().await {
            Ok(_taken) => match self.find(name).await? {
                Some(found) => self.settle(&found).await.map(Some),
                None => Ok(None),
            },
            Err(Doing::Creating) => Ok(Some(found.mark.instance(InstanceState::Running))),
            Err(_) => {
                let reason = InstanceState::Stopped(ExitReason::Unknown);
                Ok(Some(found.mark.instance(reason)))
            }
        }
    }

    /// What the list says of an instance, which nobody is at; and why it ended, if it did, is written down.
    async fn settle(&self, found: &Found) -> Result<Instance> {
        let mark = &found.mark;
        if let Some(reason) = self.storage.exit(&mark.name).await? {
            return Ok(mark.instance(InstanceState::Stopped(reason)));
        }
        let reason = match &found.domain {
            Some(Domain { life: Life::Active, .. }) => {
                return Ok(mark.instance(InstanceState::Running));
            }
            Some(Domain { life: Life::Ended(reason), uuid, .. }) => {
                let watched = self.watch.ours(*uuid, mark.clone());
                let heard = match exit::is_ambiguous(*reason) {
                    true => timeout(CONCLUDE, watched.exited()).await.ok(),
                    false => watched.exit(),
                };
                heard.unwrap_or_else(|| exit::of_state(*reason))
            }
            // Its domain is gone, and what was heard of it is all there is.
            None => {
                let heard = self.watch.named(&mark.name);
                heard.iter().find_map(|watched| watched.exit()).unwrap_or(ExitReason::Unknown)
            }
        };
        if reason != ExitReason::Unknown {
            self.storage.set_exit(&mark.name, &reason).await?;
        }
        Ok(mark.instance(InstanceState::Stopped(reason)))
    }

    /// The domain of an instance that runs.
    async fn running(&self, name: &WorkerName) -> Result<Arc<Watched>> {
        match self.find(name).await? {
            Some(Found { mark, domain: Some(Domain { life: Life::Active, uuid, .. }) }) => {
                Ok(self.watch.ours(uuid, mark))
            }
            None => Err(error::no_instance(name)),
            // It may be between its making and its start.
            Some(_) => match self.turns.of(name).look().await {
                Err(Doing::Creating) => Err(Error::busy(format!("instance {name}"))),
                _ => Err(error::no_instance(name)),
            },
        }
    }

    /// What the listed instances hold.
    async fn used(&self) -> Result<Resources> {
        let mut used = Resources::default();
        for found in self.found().await?.values() {
            used.add(&found.mark.resources);
        }
        Ok(used)
    }

    async fn capacity(&self) -> Result<Capacity> {
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
