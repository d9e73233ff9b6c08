//! One service, from its start to its end: data directory, store, queue, pool, HTTP.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use runner_core::{
    Clock, EventLog, Forge, OwnerId, Pool, PoolParts, Store, error::chain, local::LocalQueue,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    compose::{self, Backends},
    config::{Config, local_forge},
    data_dir::{self, DataDir},
    http::{self, Door, Shared},
    open_files,
    shells::Shells,
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
    pool: Pool,
    address: SocketAddr,
    stop: CancellationToken,
    http: JoinHandle<io::Result<()>>,
    data: DataDir,
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
        let hypervisor = backends.hypervisor;
        let pool = Pool::start(PoolParts {
            hypervisor: hypervisor.clone(),
            forges: BTreeMap::from([(local_forge(), forge)]),
            builder: backends.builder,
            store,
            events: events.clone(),
            owner,
            profiles: config.profiles.clone(),
            pace: config.pace,
            clock,
        })
        .await?;
        let stop = CancellationToken::new();
        let shells = Shells::new(hypervisor.clone(), events.clone(), config.shell_idle);
        tokio::spawn(stop.clone().run_until_cancelled_owned(shells.clone().adopt(pool.statuses())));
        let shared = Shared::new(http::Parts {
            queue,
            events,
            hypervisor,
            shells,
            status: pool.statuses(),
            profiles: config.profiles.clone(),
            input_limit: config.local.input_bytes,
            max_streams: config.http.max_streams,
            stop: stop.clone(),
        });
        let routes = http::routes(shared, Door::new(&config.http, tokens));
        let http = tokio::spawn(server.run(routes, stop.clone()));
        Ok(Self { pool, address, stop, http, data })
    }

    /// Where it is answered.
    pub fn address(&self) -> SocketAddr {
        self.address
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
        let (http, ()) = tokio::join!(self.http, self.pool.stop());
        match http {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::error!(%error, "The HTTP side failed."),
            Err(error) => tracing::error!(%error, "The HTTP side panicked."),
        }
    }
}

/// Runs a service until a signal ends it.
///
/// # Errors
/// For whatever keeps it from starting.
pub async fn run(config: Config, at_exit: AtExit) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    open_files::raise();
    config.http.check_listen()?;
    let data = DataDir::lock(&config.data_dir)?;
    let token_file = config.http.token_file.clone();
    let token_file = token_file.unwrap_or_else(|| data_dir::token_file(data.path()));
    let (token, source) = Token::of_server(&token_file)?;
    let tokens = Tokens::open(token, &config.tokens)?;
    let listener = listen(config.http.listen).await?;
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
    signals.next().await;
    let ending = async {
        if at_exit == AtExit::Drain {
            tracing::info!("Draining: jobs end, machines go. A second signal leaves them.");
            if let Err(error) = service.drain().await {
                tracing::error!("The pool could not be drained: {error:#}");
            }
        }
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

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| {
        format!(
            "could not listen on {address}; stop what listens there, \
             or choose another address with --listen"
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
