//! The machine protocol: commands to QEMU, and events from it.

use std::{collections::HashMap, io, time::Duration};

use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::lines::{self, Lines};

/// QEMU greets within milliseconds, but a loaded host may take its time.
const GREETING: Duration = Duration::from_secs(10);
/// How long QEMU may leave what we send unread.
const SEND: Duration = Duration::from_secs(5);
/// The longest answer we ask for is a few hundred bytes.
const MAX_LINE: usize = 1024 * 1024;
/// Commands sent and not answered yet.
const MAX_PENDING: usize = 64;

/// Sends commands on one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Qmp(mpsc::Sender<Request>);

/// The connection itself: nothing is answered unless it is [run](Connection::run).
pub(crate) struct Connection {
    lines: Lines,
    requests: mpsc::Receiver<Request>,
    pending: HashMap<u64, oneshot::Sender<Result<Value, QmpError>>>,
    next_id: u64,
}

#[derive(Debug)]
struct Request {
    command: &'static str,
    arguments: Value,
    answer: oneshot::Sender<Result<Value, QmpError>>,
}

/// Something that QEMU says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// The machine ends, for this reason.
    Shutdown(String),
    /// The guest's kernel panicked.
    Panicked,
    /// It was paused, or goes on.
    Paused,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("qemu does not answer")]
    Closed,
    #[error("qemu did not answer {0} in time")]
    Late(&'static str),
    #[error("qemu refused: {0}")]
    Refused(String),
    #[error("qemu broke its protocol")]
    Broken(#[source] io::Error),
}

/// Speaks first words on a fresh connection.
///
/// # Errors
/// Any, within the time a greeting may take; QEMU greets one client at a time.
pub(crate) async fn connect(stream: UnixStream) -> Result<(Qmp, Connection), QmpError> {
    let (sender, requests) = mpsc::channel(MAX_PENDING);
    let mut connection = Connection {
        lines: Lines::new(stream, MAX_LINE),
        requests,
        pending: HashMap::new(),
        next_id: 0,
    };
    let greeting = timeout(GREETING, connection.greet()).await;
    greeting.map_err(|_| QmpError::Late("its greeting"))?.map_err(QmpError::Broken)?;
    Ok((Qmp(sender), connection))
}

impl Qmp {
    /// Calls `command` with `arguments`, an object, and returns what it returned.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; QEMU may then have done the command or not.
    pub(crate) async fn call(
        &self,
        command: &'static str,
        arguments: Value,
        patience: Duration,
    ) -> Result<Value, QmpError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { command, arguments, answer };
        let call = async {
            self.0.send(request).await.map_err(|_| QmpError::Closed)?;
            answered.await.map_err(|_| QmpError::Closed)?
        };
        timeout(patience, call).await.map_err(|_| QmpError::Late(command))?
    }

    /// Asks QEMU to end. It may do so without an answer.
    pub(crate) async fn quit(&self, patience: Duration) {
        let _ = self.call("quit", json!({}), patience).await;
    }
}

impl Connection {
    async fn greet(&mut self) -> io::Result<()> {
        let greeting = lines::parse(&self.lines.next().await?)?;
        if greeting.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not greet"));
        }
        self.lines.send(&json!({ "execute": "qmp_capabilities" })).await?;
        loop {
            let line = lines::parse(&self.lines.next().await?)?;
            if line.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = line.get("error") {
                return Err(io::Error::other(error.to_string()));
            }
        }
    }

    /// Serves the connection to its end, and returns why it ended.
    ///
    /// # Cancel safety
    /// Dropping it ends the connection.
    pub(crate) async fn run(mut self, mut on_event: impl FnMut(Event)) -> QmpError {
        loop {
            let step = tokio::select! {
                line = self.lines.next() => match line {
                    Ok(line) => self.receive(&line, &mut on_event),
                    Err(error) => Err(error),
                },
                Some(request) = self.requests.recv() => self.send(request).await,
            };
            match step {
                Ok(()) => {}
                Err(error) if is_end(&error) => return QmpError::Closed,
                Err(error) => return QmpError::Broken(error),
            }
        }
    }

    async fn send(&mut self, request: Request) -> io::Result<()> {
        self.pending.retain(|_, answer| !answer.is_closed());
        if self.pending.len() >= MAX_PENDING {
            let _ = request.answer.send(Err(QmpError::Late(request.command)));
            return Ok(());
        }
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, request.answer);
        let line = json!({ "execute": request.command, "arguments": request.arguments, "id": id });
        timeout(SEND, self.lines.send(&line)).await?
    }

    fn receive(&mut self, line: &[u8], on_event: &mut impl FnMut(Event)) -> io::Result<()> {
        let line = lines::parse(line)?;
        if line.get("event").is_some() {
            if let Some(event) = event(&line) {
                on_event(event);
            }
            return Ok(());
        }
        // Without an id it answers what we never asked, or not in JSON.
        let id = line.get("id").and_then(Value::as_u64);
        let Some(answer) = id.and_then(|id| self.pending.remove(&id)) else {
            return Ok(());
        };
        let result = match (line.get("return"), line.get("error")) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(error)) => {
                let text = error.get("desc").and_then(Value::as_str);
                Err(QmpError::Refused(text.map_or_else(|| error.to_string(), str::to_owned)))
            }
            (None, None) => Err(QmpError::Refused("it said neither yes nor no".to_owned())),
        };
        // Whoever asked may have left.
        let _ = answer.send(result);
        Ok(())
    }
}

fn event(line: &Value) -> Option<Event> {
    match line.get("event")?.as_str()? {
        "SHUTDOWN" => {
            let reason = line.pointer("/data/reason").and_then(Value::as_str);
            Some(Event::Shutdown(reason.unwrap_or_default().to_owned()))
        }
        "GUEST_PANICKED" => Some(Event::Panicked),
        "STOP" | "RESUME" => Some(Event::Paused),
        _ => None,
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const GREETING: &[u8] = b"{\"QMP\": {}}\n{\"return\": {}}\n";
    const PATIENCE: Duration = Duration::from_secs(2);

    async fn peer(says: &[u8]) -> (Result<(Qmp, Connection), QmpError>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(says).await.unwrap();
        (connect(ours).await, theirs)
    }

    #[tokio::test]
    async fn answers_find_their_questions_and_events_their_ears() {
        let (connection, mut peer) = peer(GREETING).await;
        let (qmp, connection) = connection.unwrap();
        let (heard, mut events) = mpsc::unbounded_channel();
        let run = tokio::spawn(connection.run(move |event| heard.send(event).unwrap()));
        let first = tokio::spawn({
            let qmp = qmp.clone();
            async move { qmp.call("a", json!({}), PATIENCE).await }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn(async move { qmp.call("b", json!({}), PATIENCE).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let lines = [
            r#"{"event": "NOVEL", "data": {"x": 1}}"#,
            r#"{"id": 1, "error": {"class": "GenericError", "desc": "no"}}"#,
            r#"{"id": 99, "return": 0}"#,
            r#"{"id": 0, "return": {"v": 7}}"#,
            r#"{"event": "GUEST_PANICKED"}"#,
            r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
        ];
        peer.write_all((lines.join("\n") + "\n").as_bytes()).await.unwrap();
        assert_eq!(first.await.unwrap().unwrap(), json!({ "v": 7 }));
        assert_eq!(second.await.unwrap().unwrap_err().to_string(), "qemu refused: no");
        assert_eq!(events.recv().await, Some(Event::Panicked));
        assert_eq!(events.recv().await, Some(Event::Shutdown("guest-reset".to_owned())));
        drop(peer);
        assert!(matches!(run.await.unwrap(), QmpError::Closed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_is_late() {
        let (connection, _peer) = peer(b"").await;
        assert!(matches!(connection, Err(QmpError::Late(_))));
    }

    #[tokio::test]
    async fn a_peer_that_talks_nonsense_is_an_error() {
        for says in [&b"hello\n"[..], b"[]\n", b"{}\n", b"\xff\xfe\n", b"{\"QMP\": {}}\nnope\n"] {
            let (connection, _peer) = peer(says).await;
            assert!(matches!(connection, Err(QmpError::Broken(_))), "{says:?}");
        }
    }

    #[tokio::test]
    async fn nonsense_after_the_greeting_ends_the_connection_and_its_calls() {
        let (connection, mut peer) = peer(GREETING).await;
        let (qmp, connection) = connection.unwrap();
        let run = tokio::spawn(connection.run(|_| ()));
        let call = tokio::spawn(async move { qmp.call("a", json!({}), PATIENCE).await });
        peer.write_all(b"nonsense\n").await.unwrap();
        assert!(matches!(run.await.unwrap(), QmpError::Broken(_)));
        assert!(matches!(call.await.unwrap(), Err(QmpError::Closed)));
    }

    #[tokio::test]
    async fn an_endless_line_does_not_fill_the_memory() {
        let (connection, mut peer) = peer(GREETING).await;
        let (_qmp, connection) = connection.unwrap();
        let run = tokio::spawn(connection.run(|_| ()));
        let flood = tokio::spawn(async move {
            let chunk = vec![b'x'; 65536];
            let mut sent = 0;
            while peer.write_all(&chunk).await.is_ok() {
                sent += chunk.len();
            }
            sent
        });
        assert!(matches!(run.await.unwrap(), QmpError::Broken(_)));
        assert!(flood.await.unwrap() < 3 * MAX_LINE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_makes_calls_late() {
        let (connection, mut peer) = peer(GREETING).await;
        let (qmp, connection) = connection.unwrap();
        let _run = tokio::spawn(connection.run(|_| ()));
        let call = qmp.call("a", json!({ "big": "x".repeat(1 << 20) }), PATIENCE).await;
        assert!(matches!(call, Err(QmpError::Late("a"))), "{call:?}");
        let mut read = [0; 10];
        peer.read_exact(&mut read).await.unwrap();
    }
}
