//! Lines of JSON over a socket, none longer than a limit.
//!
//! Both QEMU's machine protocol and its guest agent's are JSON lines. Crate `qapi` speaks both, but its codec
//! reads a line of any length, which a hostile guest would use, and treats an event or a value that its
//! schema does not know as the end of the connection, which a newer QEMU would cause. What is left of the
//! protocols without it are the few dozen lines here, in `qmp.rs` and in `agent.rs`.

use std::io;

use bytes::{BufMut, Bytes};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio_util::codec::{AnyDelimiterCodec, AnyDelimiterCodecError, Framed};

pub(crate) struct Lines(Framed<UnixStream, AnyDelimiterCodec>);

impl Lines {
    pub(crate) fn new(stream: UnixStream, max_bytes: usize) -> Self {
        let end = b"\n".to_vec();
        let codec = AnyDelimiterCodec::new_with_max_length(end.clone(), end, max_bytes);
        Self(Framed::new(stream, codec))
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end, `InvalidData` for a line that is too long; those of the socket.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> io::Result<Bytes> {
        match self.0.next().await {
            Some(Ok(line)) => Ok(line),
            Some(Err(error)) => Err(plain(error)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Sends `value` on one line.
    ///
    /// # Cancel safety
    /// A dropped send leaves the rest of its line to the next one, which then goes out behind it.
    pub(crate) async fn send(&mut self, value: &Value) -> io::Result<()> {
        self.0.send(value.to_string()).await.map_err(plain)
    }

    /// Puts a byte before the next line that is sent.
    pub(crate) fn prefix(&mut self, byte: u8) {
        self.0.write_buffer_mut().put_u8(byte);
    }
}

fn plain(error: AnyDelimiterCodecError) -> io::Error {
    match error {
        AnyDelimiterCodecError::Io(error) => error,
        AnyDelimiterCodecError::MaxChunkLengthExceeded => {
            io::Error::new(io::ErrorKind::InvalidData, "a line is too long")
        }
    }
}

/// Reads a JSON object from a line.
pub(crate) fn parse(line: &[u8]) -> io::Result<Value> {
    let value: Value = serde_json::from_slice(line)?;
    match value.is_object() {
        true => Ok(value),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a JSON object")),
    }
}
