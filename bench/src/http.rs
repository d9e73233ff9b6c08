//! A client that costs little: one connection, one request at a time.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Sends a change on a connection of its own. Returns the whole answer, head and body.
pub async fn change(
    address: SocketAddr,
    (method, path): (&str, &str),
    token: &str,
    body: &Value,
) -> anyhow::Result<String> {
    let body = body.to_string();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A connection that is kept.
pub struct Connection {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    body: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::with_capacity(64 << 10, stream), address, body: Vec::new() })
    }

    /// The body of what is at `path`.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<&[u8]> {
        self.ask(path, "1.1").await?;
        self.answer().await
    }

    /// The body of what a change is answered with.
    pub async fn post(&mut self, path: &str, token: &str) -> anyhow::Result<&[u8]> {
        self.change("POST", path, token).await?;
        self.answer().await
    }

    /// Removes what is at `path`.
    pub async fn delete(&mut self, path: &str, token: &str) -> anyhow::Result<()> {
        self.change("DELETE", path, token).await?;
        self.head(|_, _| ()).await
    }

    /// The body of what a whole request, as it goes over the wire, is answered with.
    pub async fn send(&mut self, request: &[u8]) -> anyhow::Result<&[u8]> {
        self.stream.get_mut().write_all(request).await?;
        self.answer().await
    }

    async fn change(&mut self, method: &str, path: &str, token: &str) -> anyhow::Result<()> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n",
            self.address
        );
        Ok(self.stream.get_mut().write_all(request.as_bytes()).await?)
    }

    async fn answer(&mut self) -> anyhow::Result<&[u8]> {
        let mut length = None;
        self.head(|name, value| {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok();
            }
        })
        .await?;
        self.body.resize(length.context("an answer without a length")?, 0);
        self.stream.read_exact(&mut self.body).await?;
        Ok(&self.body)
    }

    /// Asks for a stream; what comes is read by [`line`](Self::line). In the old way, which has no chunks
    /// that cut lines.
    pub async fn begin(&mut self, path: &str) -> anyhow::Result<()> {
        self.ask(path, "1.0").await?;
        self.head(|_, _| ()).await
    }

    async fn ask(&mut self, path: &str, version: &str) -> anyhow::Result<()> {
        let host = self.address;
        let request = format!("GET {path} HTTP/{version}\r\nHost: {host}\r\n\r\n");
        Ok(self.stream.get_mut().write_all(request.as_bytes()).await?)
    }

    /// Reads the head of an answer.
    async fn head(&mut self, mut header: impl FnMut(&str, &str)) -> anyhow::Result<()> {
        let mut line = self.line().await?;
        if !line.contains(" 200 ") && !line.contains(" 204 ") {
            bail!("refused: {line}");
        }
        loop {
            line = self.line().await?;
            match line.trim().split_once(": ") {
                Some((name, value)) => header(name, value),
                None => return Ok(()),
            }
        }
    }

    pub async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            bail!("the connection ended");
        }
        Ok(line)
    }
}
