//! One service, from its start to its end: data directory, store, queue, pool, HTTP.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use poem::EndpointExt;
use runner_core::{
    Clock, EventLog, Forge, OwnerId, Pool, PoolParts, Status, Store, error::chain,
    local::LocalQueue,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    compose::{self, Backends},
    config::{Config, HttpConfig, local_forge},
    data_dir::{self, DataDir},
    guests::{Desk, Guests, Handing},
    http::{self, Door, Shared, guest},
    metrics::{Metrics, Sources, otlp},
    open_files,
    peers::Peers,
    reload::{ConfigState, Edit, Hangup, Reload, Source},
    remote::{self, Remotes},
    seal::Seal,
    shells::Shells,
    systemd,
    token::{Token, TokenSource},
    tokens::Tokens,
};

/// How long a backend gets to tell what the host has before the service starts without knowing.
const CAPACITY_LIMIT: Duration = Duration::from_secs(10);

/// What happens to the machines when the service is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtExit {
    /// They run on, and the next start adopts them.
    Leave,
    /// Jobs end, and then no machine is left.
    Drain,
}

/// A running service.
pub struct Service {
    pool: Arc<Pool>,
    config: watch::Sender<Arc<ConfigState>>,
    address: SocketAddr,
    stop: CancellationToken,
    http: JoinHandle<io::Result<()>>,
    data: DataDir,
    metrics: Metrics,
    /// What the pool publishes, with the troubles of forges.
    statuses: watch::Receiver<Arc<Status>>,
    store: Store,
    remotes: Remotes,
    desk: Option<(SocketAddr, AbortOnDropHandle<()>)>,
    _counting: AbortOnDropHandle<()>,
    _attending: AbortOnDropHandle<()>,
    peers: Option<Peers>,
    _brokering: Option<AbortOnDropHandle<()>>,
    exporting: Option<JoinHandle<()>>,
}

/// What a service stands on: what must outlive the process.
pub struct Base {
    data: DataDir,
    store: Store,
    owner: OwnerId,
}

impl Base {
    /// Takes a data directory into use.
    ///
    /// # Errors
    /// For a store that cannot be opened.
    pub async fn open(data: DataDir) -> anyhow::Result<Self> {
        let store = Store::open(data.store_file()).await?;
        let owner = store.owner(fresh_owner()).await?;
        Ok(Self { data, store, owner })
    }

    /// Whose everything is that is made.
    pub fn owner(&self) -> &OwnerId {
        &self.owner
    }
}

impl Service {
    /// Starts a service on `listener`, which is answered from now on.
    ///
    /// # Errors
    /// For a profile that can never fit, a store that cannot be read, or a pool that cannot start.
    pub async fn start(
        config: &Config,
        base: Base,
        backends: Backends,
        tokens: impl Into<Tokens>,
        listener: TcpListener,
    ) -> anyhow::Result<Self> {
        let address = listener.local_addr().context("could not tell the address")?;
        let server = http::Server::new(listener, &config.http)?;
        let metrics = Metrics::new();
        let capacity = backends.hypervisor.capacity();
        match tokio::time::timeout(CAPACITY_LIMIT, capacity).await {
            Ok(Ok(capacity)) => config.check_fit(&capacity)?,
            Ok(Err(error)) => tracing::warn!(
                error = chain(&error),
                "The host's capacity is not known yet; profiles are not checked against it."
            ),
            Err(_) => tracing::warn!("The host's capacity could not be learnt in time."),
        }
        let Base { data, store, owner } = base;
        let clock = Clock::system();
        let events = EventLog::open(store.clone()).await?;
        let queue = LocalQueue::open(store.clone(), events.clone(), clock, config.local).await?;
        let forge: Arc<dyn Forge> = Arc::new(queue.clone());
        let forge = metrics.forge(&local_forge(), forge);
        let mut forges = BTreeMap::from([(local_forge(), forge)]);
        let remotes = backends.forges;
        let told = watch::channel(Arc::new(ConfigState::new(config))).0;
        let seal = Seal::open(data.path())?;
        let desk = match &config.guests {
            Some(section) => {
                let listener = listen_for_machines(section.listen).await?;
                let address = listener.local_addr().context("could not tell the address")?;
                let url = section.url.clone().unwrap_or_else(|| format!("http://{address}"));
                let (state, owner) = (told.subscribe(), owner.clone());
                let data = data.path().to_owned();
                let desk = Desk::open(section.clone(), url, data, owner, seal.clone(), state)?;
                Some((desk, listener, address))
            }
            None => None,
        };
        for (name, remote) in &remotes {
            let forge = metrics.forge(name, remote.forge.clone());
            let forge = match &desk {
                Some((desk, ..)) => {
                    Arc::new(Handing::new(forge, remote.outside.clone(), desk.clone()))
                }
                None => forge,
            };
            forges.insert(name.clone(), forge);
        }
        let hypervisor = metrics.hypervisor(backends.hypervisor);
        let pool = Pool::start(PoolParts {
            hypervisor: hypervisor.clone(),
            forges,
            builder: backends.builder,
            store: store.clone(),
            events: events.clone(),
            owner,
            profiles: config.profiles.clone(),
            pace: config.pace,
            clock,
        })
        .await?;
        let pool = Arc::new(pool);
        let stop = CancellationToken::new();
        let streams = Arc::new(Semaphore::new(config.http.max_streams.min(Semaphore::MAX_PERMITS)));
        let shown = watch::channel(remote::with_troubles(&remotes, pool.status())).0;
        let (peers, brokering) =
            Peers::start(config.servo.as_ref(), data.path(), pool.clone(), events.clone(), clock)?
                .unzip();
        let counting = metrics.begin(Sources {
            status: shown.subscribe(),
            profiles: config.profiles.clone(),
            pace: config.pace,
            events: events.clone(),
            queue: queue.clone(),
            store: store.clone(),
            data: data.path().to_owned(),
            streams: (streams.clone(), config.http.max_streams),
            forges: remotes.clone(),
            peers: peers.clone(),
            clock,
        });
        let shells = Shells::new(hypervisor.clone(), events.clone(), config.shell_idle);
        tokio::spawn(stop.clone().run_until_cancelled_owned(shells.clone().adopt(pool.statuses())));
        let desk = match desk {
            Some((desk, listener, address)) => {
                let guests = Guests::new(desk, hypervisor.clone(), pool.statuses(), store.clone());
                // Machines speak plain HTTP: whatever could vouch for this service is not known to them.
                let plain = HttpConfig { tls: None, ..config.http.clone() };
                let server = http::Server::new(listener, &plain)?;
                let files = config.servo.as_ref().map(guest::Files::of).unwrap_or_default();
                let hooks = guest::Hooks::new(
                    remotes.clone(),
                    told.subscribe(),
                    pool.statuses(),
                    events.clone(),
                    clock,
                );
                let routes = guest::routes(guests.clone(), files, &plain).data(hooks);
                let serving = server.run(routes, stop.clone());
                let served = async move {
                    let (served, ()) = tokio::join!(serving, guests.attend());
                    if let Err(error) = served {
                        tracing::error!(%error, "Machines are not served any more.");
                    }
                };
                tracing::info!("machines are served on http://{address}");
                Some((address, AbortOnDropHandle::new(tokio::spawn(served))))
            }
            None => None,
        };
        let shared = Shared::new(http::Parts {
            queue,
            events,
            hypervisor,
            forges: remotes.clone(),
            shells,
            status: shown.subscribe(),
            config: told.subscribe(),
            pool: pool.clone(),
            input_limit: config.local.input_bytes,
            metrics: metrics.clone(),
            max_streams: config.http.max_streams,
            streams,
            stop: stop.clone(),
            servo: config.servo.clone().map(|servo| (servo, seal)),
            peers: peers.clone(),
        });
        let statuses = shown.subscribe();
        let attending =
            remote::attend(remotes.clone(), pool.statuses(), pool.events().clone(), clock, shown);
        let attending = AbortOnDropHandle::new(tokio::spawn(attending));
        let routes = http::routes(shared, Door::new(config, tokens));
        let http = tokio::spawn(server.run(routes, stop.clone()));
        let exporting = export(metrics.clone(), &stop);
        Ok(Self {
            pool,
            config: told,
            address,
            stop,
            http,
            data,
            metrics,
            statuses,
            store,
            remotes,
            desk,
            _counting: counting,
            _attending: attending,
            peers,
            _brokering: brokering,
            exporting,
        })
    }

    /// Where it is answered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where machines are served, if they are.
    pub fn guests_address(&self) -> Option<SocketAddr> {
        self.desk.as_ref().map(|(address, _)| *address)
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes an edit of the configuration.
    pub async fn reload(&self, reload: &mut Reload, edit: Edit) {
        reload.take(edit, &self.pool, &self.config).await;
        for remote in self.remotes.values() {
            remote.outside.configure(reload.config());
        }
        let servers = reload.config().servo.as_ref().map(|servo| &servo.servers[..]);
        if let (Some(peers), Some(servers)) = (&self.peers, servers)
            && let Err(error) = peers.configure(servers)
        {
            tracing::error!("queue.servers stays as it was: {error:#}");
        }
    }

    /// Lets jobs end and leaves no machine behind. Still answers meanwhile.
    ///
    /// # Errors
    /// When the pool has ended.
    pub async fn drain(&self) -> anyhow::Result<()> {
        Ok(self.pool.drain().await?)
    }

    /// Stops planning, lets actions end, ends every stream, and leaves the machines running.
    pub async fn stop(self) {
        self.stop.cancel();
        let exporting = async {
            if let Some(exporting) = self.exporting {
                // It says itself what goes wrong.
                let _ = exporting.await;
            }
        };
        // The pool first: it may be registering a runner by what is ended then.
        let pool = async {
            self.pool.stop().await;
            remote::stop(&self.remotes).await;
        };
        let (http, (), ()) = tokio::join!(self.http, pool, exporting);
        match http {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::error!(%error, "The HTTP side failed."),
            Err(error) => tracing::error!(%error, "The HTTP side panicked."),
        }
        // The values of variables that jobs no longer need leave the disk.
        if let Err(error) = self.store.tidy().await {
            tracing::warn!(error = chain(&error), "The store could not be tidied up.");
        }
    }
}

/// Sends metrics where the environment says so. One that cannot be followed does not keep runners away.
fn export(metrics: Metrics, stop: &CancellationToken) -> Option<JoinHandle<()>> {
    let begun = otlp::Target::of_environment().and_then(|target| {
        target.map(|target| otlp::begin(metrics, target, stop.child_token())).transpose()
    });
    begun.unwrap_or_else(|error| {
        tracing::warn!("Metrics are not sent by OTLP: {error:#}");
        None
    })
}

/// Runs a service until a signal ends it.
///
/// # Errors
/// For whatever keeps it from starting.
pub async fn run(source: Source, at_exit: AtExit) -> anyhow::Result<()> {
    let (mut signals, mut hangup) = (Signals::new()?, Hangup::listen()?);
    let (mut config, text) = source.read()?;
    let mut reload = Reload::new(source, config.clone(), text);
    let passed = systemd::listener()?;
    if let Some(passed) = &passed {
        config.http.listen = passed.local_addr().context("could not tell the address")?;
    }
    open_files::raise();
    config.http.check_listen()?;
    let data = DataDir::lock(&config.data_dir)?;
    let (token, source) = match (&config.http.token_file, Token::of_systemd()?) {
        (None, Some(given)) => given,
        (Some(file), _) => Token::of_server(file)?,
        (None, None) => Token::of_server(&data_dir::token_file(data.path()))?,
    };
    let tokens = Tokens::open(token, &config.tokens)?;
    let listener = listen(passed, config.http.listen).await?;
    let starting = async {
        let base = Base::open(data).await?;
        let backends = compose::backends(&config, base.data.path(), &base.owner).await?;
        Service::start(&config, base, backends, tokens, listener).await
    };
    let service = tokio::select! {
        started = starting => started?,
        // Nothing has been made yet that anyone would miss.
        () = signals.next() => return Ok(()),
    };
    match source {
        TokenSource::Environment => tracing::info!("The API token is the environment's."),
        TokenSource::File(path) => {
            tracing::info!(path = %path.display(), "The API token is in a file.")
        }
        TokenSource::Generated(path) => {
            tracing::info!(path = %path.display(), "A new API token is in a file.");
        }
    }
    let url = format!("{}://{}", config.http.scheme(), service.address());
    service.data.announce(&url)?;
    tracing::info!("listening on {url}");
    systemd::ready();
    let (statuses, states) = (service.statuses.clone(), service.config.subscribe());
    // It ends with this function, and keeps the watchdog fed while the service ends.
    let attending = tokio::spawn(systemd::attend(statuses, states, config.pace));
    let _attending = AbortOnDropHandle::new(attending);
    loop {
        let edit = tokio::select! {
            () = signals.next() => break,
            () = hangup.next() => {
                systemd::reloading();
                reload.now().await
            }
            edit = reload.changed() => edit,
        };
        service.reload(&mut reload, edit).await;
        systemd::ready();
    }
    let ending = async {
        if at_exit == AtExit::Drain {
            systemd::stopping("draining: jobs end, machines go");
            tracing::info!("Draining: jobs end, machines go. A second signal leaves them.");
            if let Err(error) = service.drain().await {
                tracing::error!("The pool could not be drained: {error:#}");
            }
        }
        systemd::stopping("stopping; the machines run on");
        tracing::info!("Stopping.");
        service.stop().await;
        tracing::info!("Stopped.");
    };
    tokio::select! {
        () = ending => Ok(()),
        // As a crash: whatever is in flight is found by the next start.
        () = signals.next() => {
            tracing::warn!("A second signal: leaving at once.");
            Ok(())
        }
    }
}

async fn listen(
    passed: Option<std::net::TcpListener>,
    address: SocketAddr,
) -> anyhow::Result<TcpListener> {
    if let Some(passed) = passed {
        passed.set_nonblocking(true).context("could not use the socket of the socket unit")?;
        return TcpListener::from_std(passed)
            .context("could not use the socket of the socket unit");
    }
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!(
            "could not listen on {address}; stop what listens there, \
             or choose another address with --listen"
        )
    })
}

async fn listen_for_machines(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!(
            "could not listen on {address} for machines; stop what listens there, \
             or choose another address as listen in [guests]"
        )
    })
}

fn fresh_owner() -> OwnerId {
    let number: u64 = rand::random();
    OwnerId::new(format!("monitor-{number:016x}")).expect("a word, a dash and hex are a valid id")
}

/// The signals that ask a process to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("could not listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}
