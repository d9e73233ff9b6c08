//! A shell in a machine, over a WebSocket.

use std::time::Duration;

use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use reqwest::{StatusCode, header};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message, client::IntoClientRequest, http::HeaderValue, protocol::WebSocketConfig,
    },
};

use super::{CONNECT_LIMIT, Client, ClientError, SILENCE_LIMIT, segment};
use crate::http::{
    API,
    shell::{
        LONGEST,
        wire::{Ask, Tell},
    },
};

/// What is sent in one message.
const PART: usize = 256 << 10;

/// How long the service may take to answer, as it asks the machine first.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What a WebSocket runs over. The one place to change for TLS.
type Transport = TcpStream;

type Socket = WebSocketStream<Transport>;

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
        let path = format!("{API}/workers/{}/terminal", segment(worker));
        let address = self.server.strip_prefix("http://").unwrap_or(&self.server);
        let (authority, base) = address.split_once('/').unwrap_or((address, ""));
        let base = if base.is_empty() { String::new() } else { format!("/{base}") };
        let mut request = format!("ws://{authority}{base}{path}")
            .into_client_request()
            .map_err(|error| self.broken_terminal(error.to_string()))?;
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let mut value = value.expect("a token is printable ASCII");
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let transport = self.connect(authority).await?;
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(LONGEST);
        config.max_frame_size = Some(LONGEST);
        let handshake = client_async_with_config(request, transport, Some(config));
        let answered = match timeout(ANSWER_LIMIT, handshake).await {
            Ok(answered) => answered,
            Err(_) => return Err(self.broken_terminal("it does not come".to_owned())),
        };
        let socket = match answered {
            Ok((socket, _)) => socket,
            Err(Error::Http(response)) => {
                let status = StatusCode::from_u16(response.status().as_u16());
                let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
                return Err(self.refused(status, response.body().as_deref().unwrap_or_default()));
            }
            Err(error) => return Err(self.broken_terminal(error.to_string())),
        };
        let (sink, stream) = socket.split();
        Ok((Speaking(sink), Hearing { stream, server: self.server.clone() }))
    }

    async fn connect(&self, authority: &str) -> Result<Transport, ClientError> {
        let with_port = match authority.rsplit_once(':') {
            Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                authority.to_owned()
            }
            _ => format!("{authority}:80"),
        };
        let unreachable = |source: Box<dyn std::error::Error + Send + Sync>| {
            ClientError::Unreachable { server: self.server.clone(), source }
        };
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(with_port)).await;
        let stream = stream.map_err(|error| unreachable(error.into()))?;
        let stream = stream.map_err(|error| unreachable(error.into()))?;
        // A keystroke is not to wait for the next.
        stream.set_nodelay(true).map_err(|error| unreachable(error.into()))?;
        Ok(stream)
    }

    fn broken_terminal(&self, detail: String) -> ClientError {
        ClientError::Broken { server: self.server.clone(), detail }
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
