//! Shells in machines, over a WebSocket.
//!
//! A connection that is lost, or a service that is restarted, leaves the shell as it is: a client comes back
//! with its name and how many bytes it has, and neither misses nor repeats any.

use std::time::Duration;

use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use poem::{
    Request,
    http::{StatusCode, Uri, header},
    web::websocket::{
        BoxWebSocketUpgraded, CloseCode, Message, WebSocket, WebSocketConfig, WebSocketStream,
    },
};
use poem_openapi::{OpenApi, param::Path};
use runner_core::{
    Error, WorkerName,
    guest::{Command, Signal},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{KEEP_ALIVE, Shared, door::Admin, problem::Problem};
use crate::shells::Shell;

pub mod wire;

use wire::{Ask, Tell};

/// How long a message may be.
pub const LONGEST: usize = 1 << 20;

/// What is sent in one message.
const PART: usize = 64 << 10;

/// How long a client may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(20);

/// How long a client may be silent that is asked three times meanwhile whether it is there.
const SILENCE: Duration = Duration::from_secs(50);

/// How long one read waits for news.
const READ: Duration = Duration::from_secs(10);

/// How often to ask a guest that does not answer.
const RETRY: Duration = Duration::from_millis(500);

/// How often, before the connection ends: the client may come back.
const RETRIES: u32 = 10;

/// The route.
pub struct ShellApi(pub Shared);

#[OpenApi]
impl ShellApi {
    /// Open a shell in a worker's machine
    ///
    /// A WebSocket. Binary messages are bytes: what is typed, and what is shown. Text messages are JSON. The
    /// client begins with `{"open":{"command":[],"terminal":{"cols":80,"rows":24},"term":"xterm"}}`, where
    /// no command is a login shell and no terminal means pipes, or with
    /// `{"attach":{"session":"…","from":BYTES}}` to go on where a connection was lost. It may send
    /// `{"resize":{"cols":…,"rows":…}}`, `{"end_input":{}}` and `{"close":{}}`. The service answers
    /// `{"opened":{"session":"…"}}`, and ends with `{"exit":CODE}` or
    /// `{"problem":{"status":…,"detail":"…"}}`; `{"closed":{"detail":"…"}}` comes before the exit of a shell
    /// that nobody used for too long. A message may have 1 MiB.
    #[oai(path = "/workers/:name/terminal", method = "get", operation_id = "open_terminal")]
    async fn terminal(
        &self,
        by: Admin,
        name: Path<String>,
        request: &Request,
        socket: WebSocket,
    ) -> Result<BoxWebSocketUpgraded, Problem> {
        check_origin(request)?;
        let worker = worker_name(&name)?;
        // Refused now, where a plain status can tell it.
        self.0.0.hypervisor.guest(&worker).await?;
        self.0.let_in(&worker, by.name()).await?;
        let permit = self.0.stream()?;
        let shared = self.0.clone();
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(LONGEST);
        config.max_frame_size = Some(LONGEST);
        let socket = socket.config(config).on_upgrade(|socket| async move {
            let _held_as_long_as_the_connection = permit;
            let (sink, stream) = socket.split();
            let client = Client { sink: Mutex::new(sink) };
            let stop = shared.0.stop.clone();
            let served = stop.run_until_cancelled(client.serve(stream, &shared, &worker)).await;
            let (code, reason) = match served {
                Some(Ok(())) => (CloseCode::Normal, String::new()),
                Some(Err(Left)) => return,
                None => (CloseCode::Restart, "the service stops; the shell goes on".to_owned()),
            };
            client.send(Message::Close(Some((code, reason)))).await.ok();
        });
        Ok(socket.boxed())
    }
}

/// The client is gone.
struct Left;

/// One connection.
struct Client {
    sink: Mutex<SplitSink<WebSocketStream, Message>>,
}

impl Client {
    async fn serve(
        &self,
        mut stream: SplitStream<WebSocketStream>,
        shared: &Shared,
        worker: &WorkerName,
    ) -> Result<(), Left> {
        let first = match timeout(FIRST_WORD, stream.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(Message::Binary(_)))) => {
                return self.refuse("open or attach first, in a text message").await;
            }
            _ => return Err(Left),
        };
        let shells = &shared.0.shells;
        let (shell, from) = match serde_json::from_str(&first) {
            Ok(Ask::Open { command, terminal, term }) => {
                let mut command = Command { argv: command, ..Command::default() };
                command.env.extend(term.map(|term| ("TERM".to_owned(), term)));
                (shells.open(worker, command, terminal.map(Into::into)).await, 0)
            }
            Ok(Ask::Attach { session, from }) => (shells.attach(worker, &session).await, from),
            Ok(_) => return self.refuse("open or attach first").await,
            Err(error) => {
                return self.refuse(&format!("the message makes no sense: {error}")).await;
            }
        };
        let shell = match shell {
            Ok(shell) => shell,
            Err(error) => return self.problem(error).await,
        };
        self.tell(&Tell::Opened { session: shell.id.clone() }).await?;
        tokio::select! {
            shown = self.show(&shell, from) => shown,
            heard = self.hear(stream, &shell) => heard,
        }
    }

    /// Sends what the shell shows, to its end.
    async fn show(&self, shell: &Shell, mut from: u64) -> Result<(), Left> {
        let mut failures = 0;
        loop {
            let shown = match shell.guest.read_session(&shell.id, from, READ).await {
                Ok(shown) => shown,
                Err(error @ Error::Backend { .. }) if failures < RETRIES => {
                    failures += 1;
                    tracing::debug!(error = runner_core::error::chain(&error), "A guest is slow.");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error) => return self.problem(error).await,
            };
            failures = 0;
            from += shown.output.len() as u64;
            if !shown.output.is_empty() {
                shell.used();
            }
            for part in parts(shown.output) {
                self.send(Message::Binary(part.into())).await?;
            }
            if let Some(exit) = shown.exit {
                if let Some(detail) = shell.ended() {
                    self.tell(&Tell::Closed { detail }).await?;
                }
                return self.tell(&Tell::Exit(exit.code())).await;
            }
        }
    }

    /// Passes on what the client sends, until it leaves.
    async fn hear(
        &self,
        mut stream: SplitStream<WebSocketStream>,
        shell: &Shell,
    ) -> Result<(), Left> {
        let mut heard = Instant::now();
        loop {
            let message = match timeout(KEEP_ALIVE, stream.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(_) => return Err(Left),
                Err(_) if heard.elapsed() > SILENCE => return Err(Left),
                Err(_) => {
                    self.send(Message::Ping(Vec::new())).await?;
                    continue;
                }
            };
            heard = Instant::now();
            let done = match message {
                Message::Binary(bytes) => {
                    shell.used();
                    shell.guest.write_session(&shell.id, &bytes).await
                }
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(Ask::Resize(window)) => {
                        shell.guest.resize_session(&shell.id, window.into()).await
                    }
                    Ok(Ask::EndInput {}) => shell.guest.end_session_input(&shell.id).await,
                    Ok(Ask::Close {}) => shell.guest.kill(&shell.id, Signal::Kill).await,
                    Ok(_) => return self.refuse("there is a shell already").await,
                    Err(error) => {
                        let detail = format!("the message makes no sense: {error}");
                        return self.refuse(&detail).await;
                    }
                },
                Message::Close(_) => return Err(Left),
                Message::Ping(_) | Message::Pong(_) => Ok(()),
            };
            if let Err(error) = done {
                return self.problem(error).await;
            }
        }
    }

    async fn refuse(&self, detail: &str) -> Result<(), Left> {
        let status = StatusCode::BAD_REQUEST.as_u16();
        self.tell(&Tell::Problem { status, detail: detail.to_owned() }).await
    }

    async fn problem(&self, error: Error) -> Result<(), Left> {
        let problem = Problem::from(error);
        let (status, detail) = problem.told();
        self.tell(&Tell::Problem { status, detail }).await
    }

    async fn tell(&self, tell: &Tell) -> Result<(), Left> {
        let text = serde_json::to_string(tell).expect("strings and numbers are valid JSON");
        self.send(Message::Text(text)).await
    }

    /// Waits for a client that is slow, and not for one that does not read at all.
    async fn send(&self, message: Message) -> Result<(), Left> {
        let send = async { self.sink.lock().await.send(message).await };
        match timeout(SILENCE, send).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Left),
        }
    }
}

fn parts(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let part = bytes.split_to(bytes.len().min(PART));
        (!part.is_empty()).then_some(part)
    })
}

/// The name of a worker in a path.
pub fn worker_name(name: &str) -> Result<WorkerName, Problem> {
    WorkerName::new(name).map_err(|_| Problem::not_found(format!("worker {name:?} does not exist")))
}

/// A page may open a WebSocket to anywhere: only this service's own is meant.
fn check_origin(request: &Request) -> Result<(), Problem> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let Some(origin) = header(header::ORIGIN) else { return Ok(()) };
    let from = origin.parse::<Uri>().ok();
    let from = from.as_ref().and_then(Uri::authority).map(|authority| authority.as_str());
    if from.is_some() && from == header(header::HOST) {
        return Ok(());
    }
    let detail = "a page of another origin must not open a shell here";
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}
