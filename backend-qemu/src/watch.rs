//! Watches one running instance: what QEMU says of it, how much its console takes, and why it ends.

use std::{io, os::unix::process::ExitStatusExt, sync::Arc, time::Duration};

use guest_agent::AgentGuest;
use runner_core::{Hint, WorkerName, error::chain, hypervisor::ExitReason};
use tokio::{
    process::Child,
    sync::watch,
    task::AbortHandle,
    time::{interval, sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    agent::QemuAgent,
    argv::file,
    console,
    instance_dir::{InstanceDir, QMP, STDERR},
    qmp::{self, Connection, Event, Qmp},
    socket,
};

/// How often to look how much a console takes.
const TICK: Duration = Duration::from_secs(1);
/// How long to wait before talking to QEMU again after it could not be talked to.
const RECONNECT: Duration = Duration::from_millis(200);
/// How long a dead child may take to be collected.
const COLLECT: Duration = Duration::from_secs(2);
/// How much of QEMU's complaints is told.
pub(crate) const COMPLAINTS: u64 = 2048;

/// A running instance, watched for as long as this lives.
pub(crate) struct Running {
    /// Its inside. One for all callers: it holds files open in the guest.
    pub(crate) guest: Arc<AgentGuest<QemuAgent>>,
    qmp: watch::Receiver<Option<Qmp>>,
    ended: watch::Receiver<bool>,
    tasks: [AbortHandle; 2],
}

impl Running {
    /// Watches the instance in `directory`, and collects `child` if it is ours.
    pub(crate) fn start(
        name: WorkerName,
        directory: InstanceDir,
        child: Option<Child>,
        hint: Hint,
    ) -> Self {
        let (agent, conversation) = QemuAgent::new(directory.clone());
        let guest = Arc::new(AgentGuest::new(name.clone(), agent));
        let (qmp_sender, qmp) = watch::channel(None);
        let (ended_sender, ended) = watch::channel(false);
        let watcher = Watcher { name, directory, hint, qmp: qmp_sender };
        let task = tokio::spawn(async move {
            watcher.run(child).await;
            ended_sender.send_replace(true);
            watcher.hint.hint();
        });
        Self { guest, qmp, ended, tasks: [task.abort_handle(), conversation] }
    }

    /// Returns when QEMU has answered for the first time, or is dead: whether it answered.
    pub(crate) async fn started(&self) -> bool {
        let mut qmp = self.qmp.clone();
        tokio::select! {
            answered = qmp.wait_for(Option::is_some) => answered.is_ok(),
            () = self.ended() => false,
        }
    }

    /// Returns when it is dead and why is known.
    pub(crate) async fn ended(&self) {
        // An error means that the watcher is gone, and then there is nothing to wait for.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// The way to talk to QEMU, if there is one at the moment.
    pub(crate) fn qmp(&self) -> Option<Qmp> {
        self.qmp.borrow().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The conversations too: a successor would wait for their end.
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Watcher {
    name: WorkerName,
    directory: InstanceDir,
    hint: Hint,
    qmp: watch::Sender<Option<Qmp>>,
}

impl Watcher {
    async fn run(&self, child: Option<Child>) {
        while self.is_alive() {
            let connect = async {
                let stream = socket::connect(self.directory.path(), QMP).await;
                qmp::connect(stream.map_err(qmp::QmpError::Broken)?).await
            };
            let connected = tokio::select! {
                connected = connect => connected,
                // Without a conversation, only the lock tells that it died.
                () = self.dead() => break,
            };
            let error = match connected {
                Ok((qmp, connection)) => {
                    self.qmp.send_replace(Some(qmp));
                    self.converse(connection).await
                }
                Err(error) => error,
            };
            self.qmp.send_replace(None);
            self.bound();
            // A process that ends closes its socket a moment before its lock.
            tokio::select! {
                () = self.dead() => break,
                () = sleep(RECONNECT) => {}
            }
            debug!(worker = %self.name, error = chain(&error), "QEMU closed a conversation, but lives.");
        }
        self.conclude(child).await;
    }

    /// Serves a connection until it ends.
    async fn converse(&self, connection: Connection) -> qmp::QmpError {
        let run = connection.run(|event| self.note(event));
        tokio::pin!(run);
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                error = &mut run => return error,
                _ = tick.tick() => self.bound(),
            }
        }
    }

    fn note(&self, event: Event) {
        debug!(worker = %self.name, ?event, "QEMU says something.");
        let reason = match event {
            Event::Panicked => ExitReason::GuestPanic,
            Event::Shutdown(reason) => match &*reason {
                "guest-shutdown" => ExitReason::GuestShutdown,
                "guest-reset" | "subsystem-reset" => ExitReason::GuestReset,
                "guest-panic" => ExitReason::GuestPanic,
                "host-qmp-quit" | "host-signal" | "host-ui" => ExitReason::HostStopped,
                other => ExitReason::Crashed(format!("qemu said {other:?}")),
            },
            Event::Paused => return self.hint.hint(),
        };
        self.set_exit(&reason);
        self.hint.hint();
    }

    fn bound(&self) {
        for file in [file::CONSOLE, STDERR] {
            if let Err(error) = console::bound(&self.directory.join(file)) {
                warn!(worker = %self.name, file, %error, "Could not bound a file.");
            }
        }
    }

    /// Says why it ended, if nobody has: whoever ends without a word has crashed.
    async fn conclude(&self, child: Option<Child>) {
        let mut how = "it ended without a word".to_owned();
        if let Some(mut child) = child
            && let Ok(Ok(status)) = timeout(COLLECT, child.wait()).await
        {
            how = match (status.signal(), status.code()) {
                (Some(signal), _) => format!("signal {signal} ended it"),
                (None, Some(code)) => format!("it exited with code {code}"),
                (None, None) => how,
            };
        }
        let complaints = self.directory.tail(STDERR, COMPLAINTS);
        if !complaints.is_empty() {
            how = format!("{how}: {complaints}");
        }
        self.set_exit(&ExitReason::Crashed(how));
    }

    fn set_exit(&self, reason: &ExitReason) {
        match self.directory.set_exit(reason) {
            Ok(()) => {}
            // It is being removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                warn!(worker = %self.name, %reason, %error, "Could not remember why an instance stopped.");
            }
        }
    }

    fn is_alive(&self) -> bool {
        self.directory.is_alive().unwrap_or_else(|error| {
            warn!(worker = %self.name, %error, "Could not see whether an instance lives.");
            true
        })
    }

    async fn dead(&self) {
        while self.is_alive() {
            sleep(Duration::from_millis(20)).await;
        }
    }
}
