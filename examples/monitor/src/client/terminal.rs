//! A shell in a machine, over a WebSocket.

use std::time::Duration;

use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use reqwest::{Method, StatusCode, Upgraded, header};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{Client, ClientError, SILENCE_LIMIT, segment};
use crate::http::shell::{
    LONGEST,
    wire::{Ask, Tell},
};

/// What is sent in one message.
const PART: usize = 256 << 10;

/// How long the service may take to answer, as it asks the machine first.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<Upgraded>;

/// One's own end of a shell.
pub struct Speaking(SplitSink<Socket, Message>);

/// The shell's end.
pub struct Hearing {
    stream: SplitStream<Socket>,
    server: String,
}

/// What comes from a shell.
#[derive(Debug)]
pub enum Heard {
    /// What it shows.
    Shown(Bytes),
    /// What the service tells.
    Told(Tell),
}

impl Client {
    /// A connection to the shells of a worker. The first thing said on it says to which.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn terminal(&self, worker: &str) -> Result<(Speaking, Hearing), ClientError> {
        let key = generate_key();
        // As any other request until it is answered: whom to trust, and what a refusal says, is the same.
        let request = self
            .request(Method::GET, &format!("/workers/{}/terminal", segment(worker)))
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        let response = match timeout(ANSWER_LIMIT, self.send(request)).await {
            Ok(response) => response?,
            Err(_) => return Err(self.broken_terminal("it does not come")),
        };
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
        let ours = accepted.is_some_and(|accept| *accept == derive_accept_key(key.as_bytes()));
        if response.status() != StatusCode::SWITCHING_PROTOCOLS || !ours {
            return Err(self.broken_terminal("it is no WebSocket"));
        }
        let upgraded = response.upgrade().await.map_err(|error| self.broken(error))?;
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(LONGEST);
        config.max_frame_size = Some(LONGEST);
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        let (sink, stream) = socket.split();
        Ok((Speaking(sink), Hearing { stream, server: self.server.clone() }))
    }

    fn broken_terminal(&self, detail: &str) -> ClientError {
        ClientError::Broken { server: self.server.clone(), detail: detail.to_owned() }
    }
}

impl Speaking {
    /// Asks for something. False when the connection is lost.
    pub async fn ask(&mut self, ask: &Ask) -> bool {
        let text = serde_json::to_string(ask).expect("strings and numbers are valid JSON");
        self.0.send(Message::Text(text.into())).await.is_ok()
    }

    /// Types something. False when the connection is lost.
    pub async fn write(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(PART));
            if self.0.send(Message::Binary(part)).await.is_err() {
                return false;
            }
        }
        true
    }
}

impl Hearing {
    /// What comes next. None when the connection is lost: a silent one is taken for it.
    ///
    /// # Errors
    /// For a message that makes no sense.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Heard>, ClientError> {
        loop {
            let Ok(Some(Ok(message))) = timeout(SILENCE_LIMIT, self.stream.next()).await else {
                return Ok(None);
            };
            match message {
                Message::Binary(bytes) => return Ok(Some(Heard::Shown(bytes))),
                Message::Text(text) => {
                    let told = serde_json::from_str(&text);
                    let told = told.map_err(|error| ClientError::Broken {
                        server: self.server.clone(),
                        detail: error.to_string(),
                    })?;
                    return Ok(Some(Heard::Told(told)));
                }
                Message::Close(_) => return Ok(None),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}
