//! The way to a guest's agent: a socket that one task owns, so that no dropped caller leaves half a
//! conversation behind.

use std::time::Duration;

use async_trait::async_trait;
use guest_agent::{CallError, Transport};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use crate::{
    conversation::{Conversation, Request, late},
    instance_dir::InstanceDir,
};

/// Calls that wait for their turn.
const MAX_WAITING: usize = 64;
/// "Forever", in terms of deadlines.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
/// Talks to the agent of one instance. The connection lasts as long as this does.
pub(crate) struct QemuAgent {
    requests: mpsc::Sender<Request>,
    directory: InstanceDir,
}

impl QemuAgent {
    /// Talks to the agent of the instance in `directory`, until the task is aborted. One conversation at a
    /// time: QEMU leaves a second one waiting.
    pub(crate) fn new(directory: InstanceDir) -> (Self, AbortHandle) {
        let (sender, requests) = mpsc::channel(MAX_WAITING);
        let task = tokio::spawn(Conversation::new(directory.clone()).run(requests));
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

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixListener, sync::Arc};

    use runner_core::OwnerId;
    use serde_json::json;
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixStream,
    };

    use guest_agent::transport::MAX_ANSWER;

    use super::*;
    use crate::{
        conversation::DELIMITER,
        directory::{Root, example_mark},
        instance_dir::AGENT,
        socket,
    };

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
            let root = Root::open(directory.path(), &OwnerId::new("us").unwrap()).unwrap();
            let mark = example_mark("linux-1");
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
