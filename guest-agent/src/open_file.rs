//! A file that the agent holds open for us, closed when we let go of it.

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use crate::{
    agent::{Agent, Piece},
    transport::{CallError, Transport},
};

/// What is asked for at once: base64 makes a third more of it, within
/// [`MAX_ANSWER`](crate::transport::MAX_ANSWER).
const PIECE: usize = 256 * 1024;

/// A handle on a file in the guest. It is closed in the background when dropped, so that callers may be
/// dropped at any moment. One that leaks, because we were killed, costs the agent a file descriptor.
pub(crate) struct OpenFile<T: Transport> {
    agent: Agent<T>,
    handle: i64,
    /// Where the handle stands; unknown while a call that moves it is under way, or was dropped.
    position: Option<u64>,
}

impl<T: Transport> OpenFile<T> {
    pub(crate) async fn open(agent: &Agent<T>, path: &str) -> Result<Self, CallError> {
        Self::open_as(agent, path, "r").await
    }

    /// Opens it in a mode that `fopen` knows.
    pub(crate) async fn open_as(
        agent: &Agent<T>,
        path: &str,
        mode: &'static str,
    ) -> Result<Self, CallError> {
        // In a task of its own, so that a caller who is dropped meanwhile leaves no handle behind.
        let (agent, path) = (agent.clone(), path.to_owned());
        let open = tokio::spawn(async move {
            let handle = agent.open(&path, mode).await?;
            Ok(Self { agent, handle, position: Some(0) })
        });
        open.await.map_err(CallError::failed)?
    }

    /// Reads once, up to `max_bytes` from `offset` on.
    pub(crate) async fn read_at(
        &mut self,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Piece, CallError> {
        if self.position.take() != Some(offset) {
            self.agent.seek(self.handle, offset).await?;
        }
        let piece = self.agent.read(self.handle, max_bytes.min(PIECE)).await?;
        self.position = Some(offset + piece.content.len() as u64);
        Ok(piece)
    }

    /// Writes where the handle stands: at the end of a file that was opened to be added to.
    pub(crate) async fn write(&mut self, content: &[u8]) -> Result<(), CallError> {
        self.position = None;
        for piece in content.chunks(self.agent.max_content().min(PIECE)) {
            self.agent.write(self.handle, piece).await?;
        }
        Ok(())
    }

    /// Writes over the file's beginning.
    pub(crate) async fn write_over(&mut self, content: &[u8]) -> Result<(), CallError> {
        self.position = None;
        self.agent.seek(self.handle, 0).await?;
        self.agent.write(self.handle, content).await
    }

    /// How long the file is.
    pub(crate) async fn len(&mut self) -> Result<u64, CallError> {
        self.position = None;
        self.agent.seek_end(self.handle).await
    }

    /// Reads from `offset` on until the end or `max_bytes`.
    pub(crate) async fn read_all(
        &mut self,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Piece, CallError> {
        let mut content = BytesMut::new();
        let mut eof = false;
        while !eof && content.len() < max_bytes {
            let at = offset + content.len() as u64;
            let piece = self.read_at(at, max_bytes - content.len()).await?;
            eof = piece.eof || piece.content.is_empty();
            content.extend_from_slice(&piece.content);
        }
        Ok(Piece { content: Bytes::from(content), eof })
    }
}

impl<T: Transport> Drop for OpenFile<T> {
    fn drop(&mut self) {
        let (agent, handle) = (self.agent.clone(), self.handle);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { agent.close(handle).await });
        }
    }
}
