//! The lasting connection to libvirt: the only place where anything waits for it.
//!
//! Every call blocks a thread, of which there are few, has a deadline, and fails at once while there is no
//! connection. What is lost is made anew in the background. The calls themselves, by what they are about, are in
//! the files below.
//!
//! **Invariant:** no object of libvirt leaves the thread that made it: to drop the last one is to close a
//! connection, and that may block. The stream of a console that is held open does, and ends in a thread of its own.

mod consoles;
mod domains;
mod guests;
mod host;
mod link;
pub(crate) mod networks;
mod threads;
pub(crate) mod volumes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use runner_core::{Hint, Result};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};
use virt::{connect::Connect, error::ErrorNumber};

pub(crate) use self::{
    domains::{Domain, Life},
    guests::{Answer, Picture},
    link::OnEvent,
};
use self::{link::Link, threads::Threads};
use crate::{error, uri::LibvirtUri};

/// A daemon answers five calls of one connection at a time, and leaves the sixth waiting (`max_client_requests`).
/// So that looks never wait for acts, they have threads of their own.
const LOOKS: usize = 2;
const ACTS: usize = 3;
/// After how long a daemon that is late is taken for one that hangs.
const SUSPECT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How many attempts to connect may hang.
const MAX_OPENING: usize = 4;

/// What kind of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only looks, and the daemon has the answer at hand.
    Look,
    /// It changes something, or waits for something.
    Act,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("there is no connection to {uri} since {}: {why}", time(*since))]
    Disconnected { uri: String, since: Timestamp, why: String },
    #[error("the daemon at {uri} does not answer since {}", time(*since))]
    Silent { uri: String, since: Timestamp },
    #[error("the daemon did not answer within {} s", patience.as_secs_f32())]
    Late { patience: Duration },
    #[error("too many calls wait for the daemon")]
    Crowded,
    #[error("{message}")]
    Refused { code: Option<ErrorNumber>, message: String },
}

impl Failure {
    pub(crate) fn refused(code: Option<ErrorNumber>, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    fn of(uri: &LibvirtUri, error: &virt::error::Error) -> Self {
        Self::refused(error.code().known(), uri.redact(error.message()))
    }

    /// libvirt's number for it, if it was libvirt that refused.
    pub(crate) fn code(&self) -> Option<ErrorNumber> {
        match self {
            Self::Refused { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether the daemon may be at it still.
    pub(crate) fn is_unclear(&self) -> bool {
        matches!(self, Self::Late { .. } | Self::Silent { .. } | Self::Disconnected { .. })
    }

    /// As the error of whoever was `doing` something.
    pub(crate) fn doing(self, doing: impl Into<String>) -> runner_core::Error {
        error::backend(doing, self)
    }
}

fn time(at: Timestamp) -> impl std::fmt::Display {
    at.strftime("%Y-%m-%dT%H:%M:%SZ")
}

/// Whether there is a connection.
#[derive(Clone)]
enum State {
    Up(Arc<Link>),
    /// There is one, and nobody answers.
    Silent(Arc<Link>, Timestamp),
    Down {
        since: Timestamp,
        why: String,
    },
}

/// A lasting connection. It is kept up for as long as this lives.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

struct Shared {
    uri: LibvirtUri,
    patience: Duration,
    on_event: Option<OnEvent>,
    hint: Hint,
    looks: Threads,
    acts: Threads,
    state: watch::Sender<State>,
    probing: AtomicBool,
}

impl Connection {
    /// Connects to `uri`, where a call may take `patience`. `on_event` is told of events of domains, and `hint`
    /// that the connection came or went.
    ///
    /// # Errors
    /// `Unauthorized` when the daemon refused the credentials, `Backend` when it could not be reached.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn open(
        uri: LibvirtUri,
        patience: Duration,
        on_event: Option<OnEvent>,
        hint: Hint,
    ) -> Result<Self> {
        let mut opening = Link::open(uri.clone(), on_event.clone());
        let link = match timeout(patience, &mut opening).await {
            Ok(Ok(link)) => link,
            Ok(Err(_)) => Err(Failure::refused(None, "no thread could be started")),
            Err(_) => Err(Failure::Late { patience }),
        };
        let link = link.map_err(|failure| match failure.code() {
            Some(
                ErrorNumber::AuthFailed | ErrorNumber::AuthCancelled | ErrorNumber::AccessDenied,
            ) => runner_core::Error::unauthorized(format!("libvirt at {uri}"), failure.to_string()),
            _ => failure.doing(format!("connect to {uri}")),
        })?;
        let (state, _) = watch::channel(State::Up(Arc::new(link)));
        let shared = Arc::new(Shared {
            uri,
            patience,
            on_event,
            hint,
            looks: Threads::new(LOOKS),
            acts: Threads::new(ACTS),
            state,
            probing: AtomicBool::new(false),
        });
        let keeper = tokio::spawn(shared.clone().keep()).abort_handle();
        Ok(Self { shared, keeper })
    }

    /// Has `work` done with the connection, in a thread. `work` must hand nothing of libvirt's out.
    ///
    /// # Errors
    /// All of [`Failure`].
    ///
    /// # Cancel safety
    /// When dropped, or late, the work may be done later or not at all.
    pub(crate) async fn call<R: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce(&Connect) -> Result<R, virt::error::Error> + Send + 'static,
    ) -> Result<R, Failure> {
        self.call_within(kind, self.shared.patience, work).await
    }

    /// As [`call`](Self::call), with another patience.
    pub(crate) async fn call_within<R: Send + 'static>(
        &self,
        kind: Kind,
        patience: Duration,
        work: impl FnOnce(&Connect) -> Result<R, virt::error::Error> + Send + 'static,
    ) -> Result<R, Failure> {
        let link = self.shared.link()?;
        let (answer, answered) = oneshot::channel();
        let job = {
            let link = link.clone();
            move || {
                // Whoever left before it began needs nothing done.
                if !answer.is_closed() {
                    let result = work(link.connect());
                    // What failed because nobody was there any more was not refused.
                    let broken = result.is_err() && !link.connect().is_alive().unwrap_or(true);
                    let _ = answer.send((result, broken));
                }
            }
        };
        let threads = match kind {
            Kind::Look => &self.shared.looks,
            Kind::Act => &self.shared.acts,
        };
        if !threads.run(job) {
            return Err(Failure::Crowded);
        }
        let mut gone = self.shared.state.subscribe();
        tokio::select! {
            answer = timeout(patience, answered) => match answer {
                Ok(Ok((answer, broken))) => answer.map_err(|error| match broken {
                    true => self.shared.broken(&error),
                    false => Failure::of(&self.shared.uri, &error),
                }),
                Ok(Err(_)) => Err(Failure::refused(None, "the call was given up")),
                Err(_) => {
                    self.shared.clone().suspect(link);
                    Err(Failure::Late { patience })
                }
            },
            // A daemon that hangs is not waited for by all who came before that was known.
            Ok(state) = gone.wait_for(|state| !matches!(state, State::Up(_))) => {
                Err(state.failure(&self.shared.uri))
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl State {
    fn failure(&self, uri: &LibvirtUri) -> Failure {
        let uri = uri.to_string();
        match self {
            Self::Down { since, why } => {
                Failure::Disconnected { uri, since: *since, why: why.clone() }
            }
            Self::Silent(_, since) => Failure::Silent { uri, since: *since },
            // It came back this instant.
            Self::Up(_) => Failure::refused(None, "the connection was made anew"),
        }
    }
}

impl Shared {
    fn link(&self) -> Result<Arc<Link>, Failure> {
        match &*self.state.borrow() {
            State::Up(link) => Ok(link.clone()),
            state => Err(state.failure(&self.uri)),
        }
    }

    /// What to say of a call during which the connection ended.
    fn broken(&self, error: &virt::error::Error) -> Failure {
        let why = self.uri.redact(error.message());
        Failure::Disconnected { uri: self.uri.to_string(), since: Timestamp::now(), why }
    }

    /// Watches the connection and makes it anew, for ever.
    async fn keep(self: Arc<Self>) {
        loop {
            let link = match &*self.state.borrow() {
                State::Up(link) | State::Silent(link, _) => Some(link.clone()),
                State::Down { .. } => None,
            };
            if let Some(link) = link {
                let why = link.closed().await;
                tracing::warn!(uri = %self.uri, why, "Lost the connection to libvirt.");
                let why = why.to_owned();
                self.state.send_replace(State::Down { since: Timestamp::now(), why });
                self.hint.hint();
            }
            let link = self.reconnect().await;
            tracing::info!(uri = %self.uri, "Connected to libvirt again.");
            self.state.send_replace(State::Up(Arc::new(link)));
            self.hint.hint();
        }
    }

    async fn reconnect(&self) -> Link {
        let mut pause = FIRST_PAUSE;
        let mut hanging = Vec::new();
        loop {
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LAST_PAUSE);
            // Each holds a thread until the other end says something.
            hanging.retain_mut(|opening: &mut oneshot::Receiver<_>| {
                matches!(opening.try_recv(), Err(oneshot::error::TryRecvError::Empty))
            });
            if hanging.len() >= MAX_OPENING {
                continue;
            }
            let mut opening = Link::open(self.uri.clone(), self.on_event.clone());
            let now = match timeout(self.patience, &mut opening).await {
                Ok(Ok(Ok(link))) => return link,
                Ok(Ok(Err(failure))) => failure.to_string(),
                Ok(Err(_)) => "no thread could be started".to_owned(),
                Err(_) => {
                    hanging.push(opening);
                    "the daemon does not answer".to_owned()
                }
            };
            tracing::debug!(uri = %self.uri, why = now, "Could not connect to libvirt.");
            self.state.send_if_modified(|state| match state {
                State::Down { why, .. } if *why != now => {
                    *why = now;
                    true
                }
                _ => false,
            });
        }
    }

    /// Finds out whether a daemon that was late with one thing is late with all.
    fn suspect(self: Arc<Self>, link: Arc<Link>) {
        if self.probing.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::spawn(async move {
            let (answer, mut answered) = oneshot::channel();
            let probed = link.clone();
            let probe = move || {
                let _ = answer.send(probed.connect().lib_version().map(|_| ()));
            };
            let thread = std::thread::Builder::new().name("libvirt-probe".to_owned()).spawn(probe);
            if thread.is_ok() && timeout(SUSPECT, &mut answered).await.is_err() {
                let since = Timestamp::now();
                self.change(&link, || State::Silent(link.clone(), since));
                tracing::warn!(uri = %self.uri, "libvirt does not answer.");
                // It answers or breaks: the keep-alive sees to that.
                let _ = answered.await;
                self.change(&link, || State::Up(link.clone()));
                tracing::info!(uri = %self.uri, "libvirt was silent for a while.");
            }
            self.probing.store(false, Ordering::Release);
        });
    }

    /// Changes the state, if it is about `link` still.
    fn change(&self, link: &Arc<Link>, to: impl FnOnce() -> State) {
        let changed = self.state.send_if_modified(|state| match state {
            State::Up(now) | State::Silent(now, _) if Arc::ptr_eq(now, link) => {
                *state = to();
                true
            }
            _ => false,
        });
        if changed {
            self.hint.hint();
        }
    }
}
