//! Files of a worker's machine, in and out.

use bytes::Bytes;
use futures::stream;
use poem::Body;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Path, Query},
    payload::Binary,
};
use runner_core::{
    Guest, ProcessId, WorkerName,
    guest::{Command, Output, exec},
};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

use super::{Shared, door::Admin, problem::Problem, shell::worker_name};

/// What is read at once.
const PART: usize = 1 << 20;

/// How long a guest may take to tell what a file is.
const LOOK: Duration = Duration::from_secs(30);

pub struct FilesApi(pub Shared);

#[derive(ApiResponse)]
enum Stored {
    /// The file is there, whole.
    #[oai(status = 204)]
    Done,
}

#[derive(ApiResponse)]
enum Fetched {
    /// The file's bytes.
    #[oai(status = 200, content_type = "application/octet-stream")]
    Bytes(
        Binary<Body>,
        /// Its permission bits, in octal.
        #[oai(header = "File-Mode")]
        String,
        /// How many bytes there are. Missing for what has no size, as in `/proc`.
        #[oai(header = "File-Size")]
        Option<u64>,
    ),
}

#[OpenApi]
impl FilesApi {
    /// Write a file into a worker's machine
    ///
    /// The body is its content, as large as any request may be (`body_limit` in `[http]`). Directories above
    /// it are made. Whoever reads the path in the machine sees the old content or the new, never a part.
    #[oai(path = "/workers/:name/files", method = "put", operation_id = "put_file")]
    async fn put(
        &self,
        by: Admin,
        name: Path<String>,
        /// Its absolute path in the machine.
        path: Query<String>,
        /// Its permission bits, in octal.
        #[oai(default = "default_mode")]
        mode: Query<String>,
        content: Binary<Body>,
    ) -> Result<Stored, Problem> {
        let bits = u32::from_str_radix(&mode, 8).ok().filter(|bits| *bits <= 0o7777);
        let bits = bits.ok_or_else(|| {
            Problem::bad_request(format!("mode {:?} is none; write it like 644 or 755", mode.0))
        })?;
        let worker = worker_name(&name)?;
        let guest = self.0.0.hypervisor.guest(&worker).await?;
        self.0.let_in(&worker, by.name()).await?;
        let content = content.0.into_bytes().await;
        let content = content.map_err(|error| Problem::bad_request(error.to_string()))?;
        guest.write_file(&path, &content, bits).await?;
        Ok(Stored::Done)
    }

    /// Read a file of a worker's machine
    ///
    /// Of any size: it is sent as it is read. A file that cannot be read to its end ends the answer early.
    #[oai(path = "/workers/:name/files", method = "get", operation_id = "get_file")]
    async fn get(
        &self,
        _admin: Admin,
        name: Path<String>,
        /// Its absolute path in the machine.
        path: Query<String>,
    ) -> Result<Fetched, Problem> {
        let worker = worker_name(&name)?;
        let guest = self.0.0.hypervisor.guest(&worker).await?;
        // Its errors are plain statuses as long as nothing is sent.
        let first = guest.read_file(&path, 0, PART).await?;
        let (mode, size) = look(&*guest, &worker, &path).await?;
        // What has no size is read to its end; a log that grows, up to where it was.
        let size = (size > 0 || first.is_empty()).then_some(size);
        let part = Part { guest, path: path.0, at: 0, end: size.unwrap_or(u64::MAX), first };
        let parts = self.0.limited(stream::try_unfold(part, Part::next))?;
        let mode = format!("{mode:o}");
        Ok(Fetched::Bytes(Binary(Body::from_bytes_stream(parts)), mode, size))
    }
}

fn default_mode() -> String {
    "644".to_owned()
}

/// The permission bits and the size of a file.
async fn look(guest: &dyn Guest, worker: &WorkerName, path: &str) -> Result<(u32, u64), Problem> {
    let id = ProcessId::new(format!("stat-{:016x}", rand::random::<u64>()))?;
    let command = Command::new(["stat", "-L", "-c", "%a %s", path]);
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    let take = |output: Output<'_>| match output {
        Output::Stdout(text) => said.extend_from_slice(text),
        Output::Stderr(text) => complaint.extend_from_slice(text),
    };
    let looked = timeout(LOOK, exec(guest, &id, &command, take)).await;
    looked.map_err(|_| failed(worker, path, "it takes too long"))??;
    let said = String::from_utf8_lossy(&said);
    let told = said.trim().split_once(' ');
    let told = told
        .and_then(|(mode, size)| Some((u32::from_str_radix(mode, 8).ok()?, size.parse().ok()?)));
    told.ok_or_else(|| failed(worker, path, String::from_utf8_lossy(&complaint).trim()))
}

fn failed(worker: &WorkerName, path: &str, why: &str) -> Problem {
    let doing = format!("look at {path} in {worker}");
    runner_core::Error::backend("guest", doing, why.to_owned()).into()
}

/// The rest of a file.
struct Part {
    guest: Arc<dyn Guest>,
    path: String,
    at: u64,
    end: u64,
    first: Bytes,
}

impl Part {
    async fn next(mut self) -> std::io::Result<Option<(Bytes, Self)>> {
        let left = self.end - self.at;
        let mut part = std::mem::take(&mut self.first);
        if part.is_empty() && left > 0 {
            let read = self.guest.read_file(&self.path, self.at, PART);
            part = read.await.map_err(std::io::Error::other)?;
        }
        part.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        if part.is_empty() {
            return Ok(None);
        }
        self.at += part.len() as u64;
        Ok(Some((part, self)))
    }
}
