//! Files of a worker's machine.

use bytes::Bytes;
use reqwest::{Method, Response};

use super::{Client, ClientError, segment};

/// A file as it comes.
pub struct Incoming {
    response: Response,
    /// Its permission bits.
    pub mode: Option<u32>,
    /// How many bytes there are, where that is known.
    pub size: Option<u64>,
}

impl Client {
    /// Writes a file with these permission bits into a worker's machine.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put_file(
        &self,
        worker: &str,
        path: &str,
        mode: u32,
        content: Vec<u8>,
    ) -> Result<(), ClientError> {
        let place = place(worker, path);
        let request = self
            .request(Method::PUT, &format!("{place}&mode={mode:o}"))
            .header("Content-Type", "application/octet-stream")
            .body(content);
        self.send(request).await.map(|_| ())
    }

    /// Reads a file of a worker's machine.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get_file(&self, worker: &str, path: &str) -> Result<Incoming, ClientError> {
        let response = self.send(self.request(Method::GET, &place(worker, path))).await?;
        let header = |name| response.headers().get(name)?.to_str().ok();
        let mode = header("File-Mode").and_then(|bits| u32::from_str_radix(bits, 8).ok());
        let size = header("File-Size").and_then(|size| size.parse().ok());
        Ok(Incoming { mode, size, response })
    }
}

impl Incoming {
    /// What comes next; none at the end.
    ///
    /// # Errors
    /// For an answer that ends early.
    pub async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        Ok(self.response.chunk().await.map_err(reqwest::Error::without_url)?)
    }
}

fn place(worker: &str, path: &str) -> String {
    format!("/workers/{}/files?path={}", segment(worker), segment(path))
}
