//! The agent's commands, with their answers checked.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::transport::{CallError, Transport};

/// How long one command may take, on a guest that has better things to do.
const CALL: Duration = Duration::from_secs(20);
/// How long one of our scripts may take.
const SCRIPT: Duration = Duration::from_secs(60);
/// No program starts and ends sooner, and asking takes its processor away.
const FIRST_POLL: Duration = Duration::from_millis(6);
const LAST_POLL: Duration = Duration::from_millis(50);

/// The agent of one instance.
pub(crate) struct Agent<T: ?Sized>(Arc<T>);

impl<T: ?Sized> Clone for Agent<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What the agent knows of a program it ran.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ExecStatus {
    exited: bool,
    #[serde(default)]
    exitcode: Option<i64>,
    #[serde(default)]
    err_data: String,
    #[serde(default)]
    out_data: String,
}

/// How a script ended.
pub(crate) struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i64>,
    pub(crate) stdout: Bytes,
    pub(crate) stderr: String,
}

/// What the agent read from a file.
pub(crate) struct Piece {
    pub(crate) content: Bytes,
    pub(crate) eof: bool,
}

impl<T: Transport> Agent<T> {
    pub(crate) fn new(transport: T) -> Self {
        Self(Arc::new(transport))
    }

    pub(crate) async fn ready(&self) -> Result<(), CallError> {
        self.0.ready().await
    }

    /// How many bytes of content a call may carry.
    pub(crate) fn max_content(&self) -> usize {
        self.0.max_content().max(1)
    }

    /// Runs a script of ours with `/bin/sh` and waits for its end. The script must end soon by itself.
    pub(crate) async fn script(
        &self,
        script: &'static str,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<Outcome, CallError> {
        let mut call = json!({
            "path": "/bin/sh",
            "arg": script_arguments(script, arguments),
            "capture-output": true,
        });
        if !input.is_empty() {
            call["input-data"] = BASE64.encode(input).into();
        }
        let deadline = Instant::now() + SCRIPT;
        let pid = self.exec(call, deadline).await?;
        let mut pause = FIRST_POLL;
        loop {
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LAST_POLL);
            if let Some(outcome) = self.ended(pid).await? {
                return Ok(outcome);
            }
            if Instant::now() > deadline {
                return Err(CallError::failed("a script in the guest takes too long"));
            }
        }
    }

    /// Runs a script of ours that goes on in the background, with all of `environment` and nothing else.
    pub(crate) async fn launch(
        &self,
        script: &'static str,
        arguments: &[&str],
        environment: &[String],
    ) -> Result<i64, CallError> {
        let call = json!({
            "path": "/bin/sh",
            "arg": script_arguments(script, arguments),
            "env": environment,
        });
        self.exec(call, Instant::now() + CALL).await
    }

    async fn exec(&self, arguments: Value, deadline: Instant) -> Result<i64, CallError> {
        #[derive(Deserialize)]
        struct Started {
            pid: i64,
        }
        let started: Started = parse(self.0.call("guest-exec", arguments, deadline).await?)?;
        Ok(started.pid)
    }

    /// How the program that the agent started as `pid` ended, if it has. The agent tells it once.
    pub(crate) async fn ended(&self, pid: i64) -> Result<Option<Outcome>, CallError> {
        let status: ExecStatus = self.call("guest-exec-status", json!({ "pid": pid })).await?;
        if !status.exited {
            return Ok(None);
        }
        let stderr = decode(&status.err_data)?;
        Ok(Some(Outcome {
            code: status.exitcode,
            stdout: decode(&status.out_data)?,
            stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
        }))
    }

    /// Opens a file, `mode` as `fopen` has it, and returns the agent's handle on it.
    pub(crate) async fn open(&self, path: &str, mode: &'static str) -> Result<i64, CallError> {
        self.call("guest-file-open", json!({ "path": path, "mode": mode })).await
    }

    pub(crate) async fn close(&self, handle: i64) -> Result<(), CallError> {
        let _: Value = self.call("guest-file-close", json!({ "handle": handle })).await?;
        Ok(())
    }

    /// Where the file ends, and its handle from now on.
    pub(crate) async fn seek_end(&self, handle: i64) -> Result<u64, CallError> {
        #[derive(Deserialize)]
        struct Seek {
            position: u64,
        }
        let arguments = json!({ "handle": handle, "offset": 0, "whence": "end" });
        let seek: Seek = self.call("guest-file-seek", arguments).await?;
        Ok(seek.position)
    }

    /// Writes all of `content` where the handle stands, so that others see it.
    pub(crate) async fn write(&self, handle: i64, content: &[u8]) -> Result<(), CallError> {
        #[derive(Deserialize)]
        struct Write {
            count: usize,
        }
        let arguments = json!({ "handle": handle, "buf-b64": BASE64.encode(content) });
        let write: Write = self.call("guest-file-write", arguments).await?;
        let _: Value = self.call("guest-file-flush", json!({ "handle": handle })).await?;
        if write.count != content.len() {
            return Err(CallError::failed("the agent wrote a part only"));
        }
        Ok(())
    }

    pub(crate) async fn seek(&self, handle: i64, offset: u64) -> Result<(), CallError> {
        let arguments = json!({ "handle": handle, "offset": offset, "whence": "set" });
        let _: Value = self.call("guest-file-seek", arguments).await?;
        Ok(())
    }

    /// Reads up to `count` bytes where the handle stands.
    pub(crate) async fn read(&self, handle: i64, count: usize) -> Result<Piece, CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Read {
            buf_b64: String,
            eof: bool,
        }
        let arguments = json!({ "handle": handle, "count": count });
        let read: Read = self.call("guest-file-read", arguments).await?;
        let content = decode(&read.buf_b64)?;
        if content.len() > count {
            return Err(CallError::failed("the agent sent more than it was asked for"));
        }
        Ok(Piece { content, eof: read.eof })
    }

    async fn call<R: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<R, CallError> {
        parse(self.0.call(command, arguments, Instant::now() + CALL).await?)
    }
}

/// `sh -c SCRIPT runner ARGUMENT...`: the script sees the arguments from `$1` on.
fn script_arguments<'a>(script: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["-c", script, "runner"], arguments].concat()
}

fn parse<R: DeserializeOwned>(value: Value) -> Result<R, CallError> {
    serde_json::from_value(value).map_err(CallError::failed)
}

fn decode(text: &str) -> Result<Bytes, CallError> {
    let bytes = BASE64.decode(text).map_err(CallError::failed)?;
    Ok(bytes.into())
}
