//! The shells that are open in machines: who uses them may come and go, and one that nobody uses is closed.
//!
//! A shell lives in its machine and outlives this service. The next one finds it there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use runner_core::{
    Error, EventLog, Guest, Hypervisor, ProcessId, Result, Status, WorkerName,
    event::What,
    guest::{Command, Signal, TerminalSize},
    hypervisor::InstanceState,
    local::WORKING_DIR,
    plan::{Sight, Subject},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

/// How many may be open at once.
const MOST: usize = 64;

/// How the sessions are named that are shells of ours.
const PREFIX: &str = "shell-";

/// How long a machine may take to tell which shells are open in it.
const ADOPT_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait before a shell that could not be closed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// How long it is remembered of a shell that it expired, for whoever is about to read its end.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What runs when no command is asked for: the best shell there is, as if root had logged in. An agent that a
/// service manager started has no home.
const LOGIN: &str = "export HOME=\"${HOME:-/root}\" USER=root LOGNAME=root
command -v bash >/dev/null && exec bash -l
exec sh -l";

/// The shells that are open. Clones share them.
#[derive(Clone)]
pub struct Shells(Arc<Inner>);

struct Inner {
    hypervisor: Arc<dyn Hypervisor>,
    events: EventLog,
    idle: Duration,
    open: Mutex<BTreeMap<ProcessId, Entry>>,
}

struct Entry {
    worker: WorkerName,
    used: Instant,
    expired: bool,
}

/// One shell, in use.
pub struct Shell {
    shells: Shells,
    /// Its name, by which it is found again.
    pub id: ProcessId,
    /// Where it is.
    pub guest: Arc<dyn Guest>,
}

impl Shells {
    /// No shells yet, in the machines of `hypervisor`. One that was not used for `idle` will be closed.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, events: EventLog, idle: Duration) -> Self {
        let open = Mutex::default();
        Self(Arc::new(Inner { hypervisor, events, idle, open }))
    }

    /// Opens a shell, or runs a command as one if it has a program.
    ///
    /// # Errors
    /// `Exhausted` when there are too many, `Invalid`, `NotFound` without such a machine, `Backend`.
    pub async fn open(
        &self,
        worker: &WorkerName,
        mut command: Command,
        terminal: Option<TerminalSize>,
    ) -> Result<Shell> {
        if self.entries().len() >= MOST {
            return Err(Error::Exhausted {
                resource: "shells".to_owned(),
                needed: "one more".to_owned(),
                available: format!("none of {MOST}"),
            });
        }
        if command.argv.is_empty() {
            command.argv = ["/bin/sh", "-c", LOGIN].map(str::to_owned).into();
        }
        command.working_dir.get_or_insert_with(|| WORKING_DIR.to_owned());
        let guest = self.0.hypervisor.guest(worker).await?;
        let id = ProcessId::new(format!("{PREFIX}{:016x}", rand::random::<u64>()))?;
        guest.open_session(&id, &command, terminal).await?;
        self.enter(&id, worker);
        self.note(worker, format!("{id} was opened"));
        Ok(Shell { shells: self.clone(), id, guest })
    }

    /// Uses a shell that was opened before, perhaps by a service that is gone.
    ///
    /// # Errors
    /// `NotFound` without such a machine or such a shell in it, `Backend`.
    pub async fn attach(&self, worker: &WorkerName, id: &ProcessId) -> Result<Shell> {
        let unknown = || Error::not_found(format!("shell {id} in {worker}"));
        if !id.as_str().starts_with(PREFIX) {
            return Err(unknown());
        }
        let guest = self.0.hypervisor.guest(worker).await?;
        let known = self.entries().get(id).is_some_and(|entry| entry.worker == *worker);
        if !known {
            match guest.read_session(id, 0, Duration::ZERO).await {
                Err(error) if error.is_not_found() => return Err(unknown()),
                // Its beginning is forgotten, so it is there.
                Ok(_) | Err(Error::Invalid { .. }) => self.enter(id, worker),
                Err(error) => return Err(error),
            }
        }
        let shell = Shell { shells: self.clone(), id: id.clone(), guest };
        shell.used();
        Ok(shell)
    }

    /// Finds the shells that were open before this service began, so that they expire too.
    pub async fn adopt(self, mut statuses: watch::Receiver<Arc<Status>>) {
        let looked = statuses.wait_for(|status| status.hypervisor == Sight::Seen).await;
        let Ok(workers) = looked.map(|status| status.workers.clone()) else { return };
        for worker in workers {
            let instance = worker.instance.as_ref();
            if !instance.is_some_and(|instance| instance.state == InstanceState::Running) {
                continue;
            }
            let running = async { self.0.hypervisor.guest(&worker.name).await?.running().await };
            let Ok(Ok(running)) = timeout(ADOPT_LIMIT, running).await else { continue };
            for id in running.iter().filter(|id| id.as_str().starts_with(PREFIX)) {
                self.enter(id, &worker.name);
            }
        }
    }

    fn enter(&self, id: &ProcessId, worker: &WorkerName) {
        let entry = Entry { worker: worker.clone(), used: Instant::now(), expired: false };
        if self.entries().insert(id.clone(), entry).is_none() {
            tokio::spawn(self.clone().expire(id.clone(), worker.clone()));
        }
    }

    /// Closes a shell once it was not used for too long.
    async fn expire(self, id: ProcessId, worker: WorkerName) {
        loop {
            let Some(used) = self.entries().get(&id).map(|entry| entry.used) else { return };
            let due = used + self.0.idle;
            if Instant::now() < due {
                sleep_until(due).await;
                continue;
            }
            // Said before it is done: whoever reads its end will ask.
            self.mark(&id, true);
            let close = async {
                let guest = self.0.hypervisor.guest(&worker).await?;
                let runs = guest.running().await?.contains(&id);
                guest.kill(&id, Signal::Kill).await?;
                Ok::<bool, Error>(runs)
            };
            match close.await {
                // It had ended, and nobody came to read that.
                Ok(false) => break,
                Ok(true) => {
                    let idle = self.0.idle;
                    self.note(&worker, format!("{id} was closed: it was not used for {idle:?}"));
                    break;
                }
                Err(error) if error.is_not_found() => break,
                Err(error) => {
                    let error = runner_core::error::chain(&error);
                    tracing::warn!(%worker, %id, error, "A shell that expired could not be closed.");
                    self.mark(&id, false);
                    sleep(RETRY).await;
                }
            }
        }
        sleep(REMEMBERED).await;
        self.entries().remove(&id);
    }

    fn mark(&self, id: &ProcessId, expired: bool) {
        if let Some(entry) = self.entries().get_mut(id) {
            entry.expired = expired;
        }
    }

    fn note(&self, worker: &WorkerName, text: String) {
        let subject = Subject::Worker(worker.clone());
        self.0.events.record(Timestamp::now(), subject, What::Note { text });
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Entry>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shell {
    /// Something was typed or read just now.
    pub fn used(&self) {
        if let Some(entry) = self.shells.entries().get_mut(&self.id) {
            entry.used = Instant::now();
        }
    }

    /// Says that it has ended, and returns why if that was not its own doing.
    pub fn ended(&self) -> Option<String> {
        let expired = self.shells.entries().remove(&self.id).is_some_and(|entry| entry.expired);
        let idle = self.shells.0.idle;
        expired.then(|| format!("the shell was closed: it was not used for {idle:?}"))
    }
}
