//! The guest that a transport leads to.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use runner_core::{
    Guest, ProcessId, Result, WorkerName,
    guest::{Command, Cursor, Progress, Shown, Signal, TerminalSize},
};
use tokio::sync::OnceCell;

use crate::{agent::Agent, error, follow::Followed, session::Sessions, transport::Transport};

/// Where processes live in the guest, unless told otherwise: gone with the instance, and in memory.
pub const STATE: &str = "/run/runner";

/// The inside of one instance. Keep one per instance: it holds files open in the guest.
///
/// The guest needs `/bin/sh`, `setsid` and the usual file commands, from busybox or any distribution. What
/// sessions need beside these goes there with the first.
pub struct AgentGuest<T: Transport> {
    pub(crate) instance: WorkerName,
    pub(crate) agent: Agent<T>,
    pub(crate) state: String,
    pub(crate) environment: OnceCell<BTreeMap<String, String>>,
    pub(crate) followed: Followed<T>,
    pub(crate) sessions: Sessions<T>,
}

impl<T: Transport> AgentGuest<T> {
    /// The inside of `instance`, reached by `transport`.
    pub fn new(instance: WorkerName, transport: T) -> Self {
        Self {
            instance,
            agent: Agent::new(transport),
            state: STATE.to_owned(),
            environment: OnceCell::new(),
            followed: Followed::default(),
            sessions: Sessions::default(),
        }
    }

    /// Keeps processes and their output in another directory of the guest. Whoever follows them must use
    /// the same.
    #[must_use]
    pub fn with_state(mut self, directory: impl Into<String>) -> Self {
        self.state = directory.into();
        self
    }
}

#[async_trait]
impl<T: Transport> Guest for AgentGuest<T> {
    async fn ready(&self) -> Result<()> {
        let doing = || format!("wait for {}", self.instance);
        let ready = async {
            self.agent.ready().await?;
            self.prepare().await
        };
        ready.await.map_err(|error| error::call(&self.instance, doing(), error))
    }

    async fn spawn(&self, id: &ProcessId, command: &Command) -> Result<()> {
        self.start(id, command).await
    }

    async fn follow(&self, id: &ProcessId, from: Cursor, wait: Duration) -> Result<Progress> {
        self.news(id, from, wait).await
    }

    async fn kill(&self, id: &ProcessId, signal: Signal) -> Result<()> {
        self.signal(id, signal).await
    }

    async fn running(&self) -> Result<Vec<ProcessId>> {
        self.not_ended().await
    }

    async fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.write(path, content, mode).await
    }

    async fn read_file(&self, path: &str, offset: u64, max_bytes: usize) -> Result<Bytes> {
        self.read(path, offset, max_bytes).await
    }

    async fn open_session(
        &self,
        id: &ProcessId,
        command: &Command,
        terminal: Option<TerminalSize>,
    ) -> Result<()> {
        self.start_session(id, command, terminal).await
    }

    async fn write_session(&self, id: &ProcessId, input: &[u8]) -> Result<()> {
        self.feed_session(id, input).await
    }

    async fn end_session_input(&self, id: &ProcessId) -> Result<()> {
        self.end_input(id).await
    }

    async fn resize_session(&self, id: &ProcessId, size: TerminalSize) -> Result<()> {
        self.resize(id, size).await
    }

    async fn read_session(&self, id: &ProcessId, from: u64, wait: Duration) -> Result<Shown> {
        self.session_news(id, from, wait).await
    }
}
