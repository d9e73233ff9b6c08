//! The way to a guest's agent: a socket that one task owns, so that no dropped caller leaves half a
//! conversation behind.

use std::{io, time::Duration};

use async_trait::async_trait;
use guest_agent::{CallError, Transport, transport::MAX_ANSWER};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    directory::{AGENT, InstanceDir},
    lines::{self, Lines},
    socket,
};

/// Calls that wait for their turn.
const MAX_WAITING: usize = 64;
/// After how long an agent that did not answer is called again: it may have been restarted meanwhile.
const CALL_AGAIN: Duration = Duration::from_secs(5);
/// How long a lock may outlive a closed socket, when a process ends.
const DYING: Duration = Duration::from_secs(2);
/// "Forever", in terms of deadlines.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// What makes the agent forget half a command that it may have read, and what marks its answer to a call.
const DELIMITER: u8 = 0xff;

/// Talks to the agent of one instance. The connection lasts as long as this does.
pub(crate) struct QemuAgent {
    requests: mpsc::Sender<Request>,
    directory: InstanceDir,
}

struct Request {
    /// None to wait until the agent answers.
    call: Option<(&'static str, Value)>,
    deadline: Instant,
    answer: oneshot::Sender<Result<Value, CallError>>,
}

impl QemuAgent {
    /// Talks to the agent of the instance in `directory`, until the task is aborted. One conversation at a
    /// time: QEMU leaves a second one waiting.
    pub(crate) fn new(directory: InstanceDir) -> (Self, AbortHandle) {
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let conversation =
            Conversation { directory: directory.clone(), lines: None, synced: false, called: None };
        let task = tokio::spawn(conversation.run(requests));
        let agent = Self { requests: sender, directory };
        (agent, task.abort_handle())
    }

    async fn request(
        &self,
        call: Option<(&'static str, Value)>,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { call, deadline, answer };
        // Aborted: the instance was destroyed, or the hypervisor was closed.
        let lost = || match self.directory.is_alive() {
            Ok(false) => CallError::Gone,
            _ => CallError::failed("the conversation with the agent was closed"),
        };
        let wait = async {
            self.requests.send(request).await.map_err(|_| lost())?;
            answered.await.map_err(|_| lost())?
        };
        timeout_at(deadline, wait).await.map_err(|_| late())?
    }
}

#[async_trait]
impl Transport for QemuAgent {
    async fn ready(&self) -> Result<(), CallError> {
        self.request(None, Instant::now() + FOREVER).await.map(|_| ())
    }

    async fn call(
        &self,
        command: &'static str,
        arguments: Value,
        deadline: Instant,
    ) -> Result<Value, CallError> {
        self.request(Some((command, arguments)), deadline).await
    }
}

struct Conversation {
    directory: InstanceDir,
    lines: Option<Lines>,
    /// Whether the next line is the answer to what we send next.
    synced: bool,
    /// The number we called the agent with, and when, until it answers.
    called: Option<(u64, Instant)>,
}

impl Conversation {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
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
                tracing::debug!(%error, "Gave up a conversation with the agent of a living instance.");
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err(CallError::Gone)
    }
}

fn late() -> CallError {
    CallError::failed("the agent did not answer in time")
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixListener, sync::Arc};

    use runner_core::{ImageId, OwnerId, ProfileName, Resources, WorkerName};
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixStream,
    };

    use super::*;
    use crate::directory::{Mark, Root};

    /// An instance whose agent is the test.
    struct Fixture {
        agent: Arc<QemuAgent>,
        listener: tokio::net::UnixListener,
        lock: File,
        _root: Root,
        _directory: TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let owner = OwnerId::new("us").unwrap();
            let root = Root::open(directory.path(), &owner).unwrap();
            let mark = Mark {
                owner,
                name: WorkerName::new("linux-1").unwrap(),
                profile: ProfileName::new("linux").unwrap(),
                image: ImageId::new("linux.1").unwrap(),
                resources: Resources::default(),
                created_at: jiff::Timestamp::UNIX_EPOCH,
            };
            let (instance, lock) = root.make(&mark).unwrap();
            let listener: UnixListener = socket::listen(instance.path(), AGENT).unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            let agent = Arc::new(QemuAgent::new(instance).0);
            Self { agent, listener, lock, _root: root, _directory: directory }
        }

        async fn accept(&self) -> Peer {
            Peer(BufReader::new(self.listener.accept().await.unwrap().0))
        }

        fn call(
            &self,
            command: &'static str,
            patience: Duration,
        ) -> tokio::task::JoinHandle<Result<Value, CallError>> {
            let agent = self.agent.clone();
            let deadline = Instant::now() + patience;
            tokio::spawn(async move { agent.call(command, json!({}), deadline).await })
        }
    }

    struct Peer(BufReader<UnixStream>);

    impl Peer {
        async fn hear(&mut self) -> Value {
            let mut line = Vec::new();
            self.0.read_until(b'\n', &mut line).await.unwrap();
            let start = line.iter().position(|byte| *byte == b'{').unwrap();
            serde_json::from_slice(&line[start..]).unwrap()
        }

        async fn say(&mut self, text: &[u8]) {
            self.0.get_mut().write_all(text).await.unwrap();
        }

        async fn sync(&mut self) {
            let call = self.hear().await;
            assert_eq!(call["execute"], "guest-sync-delimited");
            let id = &call["arguments"]["id"];
            self.say(b"\0\n").await;
            self.say(&[DELIMITER]).await;
            self.say(format!("{{\"return\": {id}}}\n").as_bytes()).await;
        }
    }

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn noise_before_the_first_answer_is_skipped() {
        let fixture = Fixture::new();
        let call = fixture.call("guest-ping", LONG);
        let mut peer = fixture.accept().await;
        peer.say(b"half an old answer\"}\n{\"return\": 5}\n").await;
        peer.sync().await;
        assert_eq!(peer.hear().await["execute"], "guest-ping");
        peer.say(b"{\"return\": {}}\n").await;
        assert_eq!(call.await.unwrap().unwrap(), json!({}));
        // Nobody is called twice without need.
        let call = fixture.call("guest-other", LONG);
        assert_eq!(peer.hear().await["execute"], "guest-other");
        peer.say(b"{\"error\": {\"class\": \"X\", \"desc\": \"no\"}}\n").await;
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(&error, CallError::Refused(why) if why == "no"), "{error:?}");
    }

    #[tokio::test]
    async fn a_late_answer_is_not_taken_for_the_next_one() {
        let fixture = Fixture::new();
        let first = fixture.call("guest-slow", SHORT);
        let mut peer = fixture.accept().await;
        peer.sync().await;
        peer.hear().await;
        assert!(matches!(first.await.unwrap(), Err(CallError::Failed(_))));
        let second = fixture.call("guest-next", LONG);
        peer.say(b"{\"return\": \"late\"}\n").await;
        peer.sync().await;
        assert_eq!(peer.hear().await["execute"], "guest-next");
        peer.say(b"{\"return\": \"right\"}\n").await;
        assert_eq!(second.await.unwrap().unwrap(), "right");
    }

    #[tokio::test]
    async fn a_caller_that_leaves_takes_no_answer_along() {
        let fixture = Fixture::new();
        let first = fixture.call("guest-left", LONG);
        let mut peer = fixture.accept().await;
        peer.sync().await;
        peer.hear().await;
        first.abort();
        let second = fixture.call("guest-next", LONG);
        tokio::time::sleep(SHORT).await;
        peer.say(b"{\"return\": \"for nobody\"}\n").await;
        assert_eq!(peer.hear().await["execute"], "guest-next");
        peer.say(b"{\"return\": \"right\"}\n").await;
        assert_eq!(second.await.unwrap().unwrap(), "right");
    }

    #[tokio::test]
    async fn nonsense_is_an_error_and_the_next_call_works() {
        for nonsense in [&b"nonsense\n"[..], b"[]\n", b"{}\n", b"\xff\xfe\n"] {
            let fixture = Fixture::new();
            let call = fixture.call("guest-ping", LONG);
            let mut peer = fixture.accept().await;
            peer.sync().await;
            peer.hear().await;
            peer.say(nonsense).await;
            assert!(matches!(call.await.unwrap(), Err(CallError::Failed(_))));
            let call = fixture.call("guest-ping", LONG);
            peer.sync().await;
            peer.hear().await;
            peer.say(b"{\"return\": 1}\n").await;
            assert_eq!(call.await.unwrap().unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_and_the_connection_made_anew() {
        let fixture = Fixture::new();
        let call = fixture.call("guest-ping", LONG);
        let mut peer = fixture.accept().await;
        peer.sync().await;
        peer.hear().await;
        let flood = tokio::spawn(async move {
            let (chunk, mut sent) = (vec![b'x'; 65536], 0);
            while peer.0.get_mut().write_all(&chunk).await.is_ok() {
                sent += chunk.len();
            }
            sent
        });
        assert!(matches!(call.await.unwrap(), Err(CallError::Failed(_))));
        assert!(flood.await.unwrap() < 3 * MAX_ANSWER);
        let call = fixture.call("guest-ping", LONG);
        let mut peer = fixture.accept().await;
        peer.sync().await;
        peer.hear().await;
        peer.say(b"{\"return\": 1}\n").await;
        assert_eq!(call.await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_silent_agent_is_late_and_calls_do_not_pile_up() {
        let fixture = Fixture::new();
        let all: Vec<_> = (0..20).map(|_| fixture.call("guest-ping", SHORT)).collect();
        let mut peer = fixture.accept().await;
        for call in all {
            assert!(matches!(call.await.unwrap(), Err(CallError::Failed(_))));
        }
        // It wakes up: one call waits for it, and not twenty.
        let call = fixture.call("guest-ping", LONG);
        peer.sync().await;
        assert_eq!(peer.hear().await["execute"], "guest-ping");
        peer.say(b"{\"return\": 1}\n").await;
        assert_eq!(call.await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn the_end_of_the_instance_ends_every_call() {
        let fixture = Fixture::new();
        let ready = tokio::spawn({
            let agent = fixture.agent.clone();
            async move { agent.ready().await }
        });
        let peer = fixture.accept().await;
        let call = fixture.call("guest-ping", LONG);
        tokio::time::sleep(SHORT).await;
        let start = Instant::now();
        drop(peer);
        tokio::time::sleep(SHORT).await;
        drop(fixture.lock);
        drop(fixture.listener);
        assert!(matches!(ready.await.unwrap(), Err(CallError::Gone)));
        assert!(matches!(call.await.unwrap(), Err(CallError::Gone)));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
