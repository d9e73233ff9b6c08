//! What is said to a guest's agent, one thing at a time, and whose turn it is after something went wrong.

use std::{io, time::Duration};

use guest_agent::{CallError, transport::MAX_ANSWER};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    instance_dir::{AGENT, InstanceDir},
    lines::{self, Lines},
    socket,
};

/// After how long an agent that did not answer is called again: it may have been restarted meanwhile.
const CALL_AGAIN: Duration = Duration::from_secs(5);
/// How long a lock may outlive a closed socket, when a process ends.
const DYING: Duration = Duration::from_secs(2);
/// What makes the agent forget half a command that it may have read, and what marks its answer to a call.
pub(crate) const DELIMITER: u8 = 0xff;

/// One command, and where its answer goes.
pub(crate) struct Request {
    /// None to wait until the agent answers.
    pub(crate) call: Option<(&'static str, Value)>,
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Result<Value, CallError>>,
}

/// The one conversation with an agent. QEMU leaves a second one waiting.
pub(crate) struct Conversation {
    directory: InstanceDir,
    lines: Option<Lines>,
    /// Whether the next line is the answer to what we send next.
    synced: bool,
    /// The number we called the agent with, and when, until it answers.
    called: Option<(u64, Instant)>,
}

impl Conversation {
    pub(crate) fn new(directory: InstanceDir) -> Self {
        Self { directory, lines: None, synced: false, called: None }
    }

    /// Serves requests in their order until nobody can make any.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(mut request) = requests.recv().await {
            let answer = tokio::select! {
                // Whoever left before the command was sent need not be served.
                () = request.answer.closed() => continue,
                synced = self.sync(request.deadline) => synced,
            };
            let answer = match (answer, request.call) {
                (Ok(()), Some((command, arguments))) => {
                    self.exchange(command, &arguments, request.deadline).await
                }
                (Ok(()), None) => Ok(Value::Null),
                (Err(error), _) => Err(error),
            };
            let _ = request.answer.send(answer);
        }
    }

    /// Makes sure that agent and we agree on whose turn it is.
    ///
    /// # Cancel safety
    /// Cancel safe: the agent's late answer to a call is still heard by the next.
    async fn sync(&mut self, deadline: Instant) -> Result<(), CallError> {
        loop {
            let step = timeout_at(deadline, self.try_sync()).await;
            match step.map_err(|_| late())? {
                Ok(()) => return Ok(()),
                Err(error) => self.hang_up(error).await?,
            }
        }
    }

    async fn try_sync(&mut self) -> io::Result<()> {
        if self.lines.is_none() {
            let stream = socket::connect(self.directory.path(), AGENT).await?;
            self.lines = Some(Lines::new(stream, MAX_ANSWER));
            self.called = None;
            self.synced = false;
        }
        let Some(lines) = &mut self.lines else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        while !self.synced {
            let (id, at) = match self.called {
                Some((id, at)) if at.elapsed() < CALL_AGAIN => (id, at),
                _ => {
                    // The agent reads numbers as signed.
                    let id = u64::from(rand::random::<u32>());
                    let call =
                        json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
                    lines.prefix(DELIMITER);
                    lines.send(&call).await?;
                    let now = Instant::now();
                    self.called = Some((id, now));
                    (id, now)
                }
            };
            let Ok(line) = timeout_at(at + CALL_AGAIN, lines.next()).await else {
                continue;
            };
            // What it says before that is the end of an older conversation, or noise.
            let line = line?;
            let last = line.iter().rposition(|byte| *byte == DELIMITER);
            let answer = last.and_then(|at| lines::parse(&line[at + 1..]).ok());
            if answer.and_then(|answer| answer.get("return")?.as_u64()) == Some(id) {
                self.called = None;
                self.synced = true;
            }
        }
        Ok(())
    }

    /// Sends one command and waits for its answer, whether or not its caller does.
    async fn exchange(
        &mut self,
        command: &str,
        arguments: &Value,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        let Some(lines) = &mut self.lines else {
            return Err(CallError::failed("there is no connection"));
        };
        // Until the answer is there, nobody knows whose turn it is.
        self.synced = false;
        let exchange = async {
            lines.send(&json!({ "execute": command, "arguments": arguments })).await?;
            lines.next().await
        };
        let line = match timeout_at(deadline, exchange).await {
            Err(_) => return Err(late()),
            Ok(Err(error)) => {
                let text = error.to_string();
                self.hang_up(error).await?;
                return Err(CallError::failed(text));
            }
            Ok(Ok(line)) => line,
        };
        let answer = lines::parse(&line).map_err(CallError::failed)?;
        if let Some(value) = answer.get("return") {
            self.synced = true;
            return Ok(value.clone());
        }
        match answer.get("error") {
            Some(error) => {
                self.synced = true;
                let text = error.get("desc").and_then(Value::as_str);
                Err(CallError::Refused(text.map_or_else(|| error.to_string(), str::to_owned)))
            }
            None => Err(CallError::failed("the agent said neither yes nor no")),
        }
    }

    /// Gives the connection up. An error that comes of the end of the instance is told as such.
    async fn hang_up(&mut self, error: io::Error) -> Result<(), CallError> {
        self.lines = None;
        self.synced = false;
        let start = Instant::now();
        while self.directory.is_alive().map_err(CallError::failed)? {
            // A peer that breaks the protocol is not about to die.
            if error.kind() == io::ErrorKind::InvalidData || start.elapsed() > DYING {
                let worker = self.directory.name();
                tracing::debug!(worker, %error, "Gave up a conversation with a living instance.");
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(CallError::Gone)
    }
}

pub(crate) fn late() -> CallError {
    CallError::failed("the agent did not answer in time")
}
