//! What a build in progress has at hand: its log, and the news that nobody wants it any more.

use std::{
    process::{Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use runner_core::{Error, Result, image::BuildLog};
use tokio::{process::Command, runtime::Handle};
use tokio_util::sync::CancellationToken;

use super::BACKEND;
use crate::environment;

/// A build in progress. It runs on a thread that may block and asks [`check`](Self::check) between steps.
#[derive(Clone)]
pub(crate) struct Work(Arc<Inner>);

struct Inner {
    log: BuildLog,
    cancellation: CancellationToken,
    runtime: Handle,
    started: Instant,
}

impl Work {
    /// A build that begins now. Call it within a runtime.
    pub(crate) fn new(log: BuildLog) -> Self {
        Self(Arc::new(Inner {
            log,
            cancellation: CancellationToken::new(),
            runtime: Handle::current(),
            started: Instant::now(),
        }))
    }

    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.0.cancellation.clone()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    pub(crate) fn line(&self, line: impl AsRef<str>) {
        self.0.log.line(line);
    }

    /// Fails once the build has been dropped. Nobody sees the error; it is how the thread ends early.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.cancellation.is_cancelled() {
            return Err(dropped());
        }
        Ok(())
    }

    /// Runs `command` with nothing to read and in English, and returns what it wrote. It is killed when
    /// the build is dropped.
    ///
    /// # Errors
    /// `Backend` when it cannot be started or does not succeed, with what it said last.
    pub(crate) fn run(&self, command: std::process::Command) -> Result<Output> {
        let (name, output) = self.output(command)?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::backend(BACKEND, format!("run {name} ({})", output.status), last_lines(&said)))
    }

    /// As [`run`](Self::run), but its failure is for the caller to judge.
    pub(crate) fn output(&self, command: std::process::Command) -> Result<(String, Output)> {
        self.check()?;
        let name = command.get_program().to_string_lossy().into_owned();
        let mut command = Command::from(command);
        command.env_clear().envs(environment::of_builds()).stdin(Stdio::null()).kill_on_drop(true);
        let output = self.0.runtime.block_on(async {
            tokio::select! {
                output = command.output() => Some(output),
                () = self.0.cancellation.cancelled() => None,
            }
        });
        match output {
            None => Err(dropped()),
            Some(Ok(output)) => Ok((name, output)),
            Some(Err(error)) => Err(Error::backend(BACKEND, format!("start {name}"), error)),
        }
    }
}

/// Runs `work` where it may block. Dropping the future does not stop it.
pub(super) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::backend(BACKEND, doing, error))?
}

fn dropped() -> Error {
    Error::backend(BACKEND, "finish the build", "it was dropped")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(5);
    lines[from..].join("; ")
}
