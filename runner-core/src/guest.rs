//! The inside of an instance that has an agent: run commands, write and read files.
//!
//! Commands run *detached*: the guest keeps their output and exit status, so that whoever started one may
//! die, and its successor goes on reading where the first had stopped.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    name::ProcessId,
};

/// What to run in a guest. Nothing here passes through a shell.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The program, by absolute path or found in the guest's `PATH`, and its arguments.
    pub argv: Vec<String>,
    /// Added to the agent's environment. May hold secrets: `Debug` shows the names only. A name has letters,
    /// digits and `_`, and no digit first.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where to run it; made when missing. `/` if none.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Whether standard error goes into standard output, in the order it was written.
    #[serde(default)]
    pub merge_stderr: bool,
}

impl Command {
    /// `program` with `args`, with nothing else set.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Refuses what no guest could run.
    ///
    /// # Errors
    /// `Invalid` for a command without a program, an environment variable whose name is not
    /// `[A-Za-z_][A-Za-z0-9_]*`, and a NUL character anywhere.
    pub fn check(&self) -> Result<()> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("the command", "name a program to run"));
        }
        let mut texts = self.argv.iter().chain(self.env.values()).chain(&self.working_dir);
        if texts.any(|text| text.contains('\0')) {
            return Err(Error::invalid("the command", "it holds a NUL character"));
        }
        // A shell drops other names without a word.
        let plain = |name: &str| {
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        };
        match self.env.keys().find(|name| !plain(name)) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(
                format!("environment variable {name:?}"),
                "use letters, digits and '_', and no digit first",
            )),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("argv", &self.argv)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("working_dir", &self.working_dir)
            .field("merge_stderr", &self.merge_stderr)
            .finish()
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code, 0 to 255.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl ExitStatus {
    /// Whether it returned 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// As a shell says it: the code, or 128 plus the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }

    /// What a shell's status means: above 128 it was a signal.
    pub fn from_shell(status: u8) -> Self {
        match status {
            129..=192 => Self::Signal(status - 128),
            code => Self::Code(code),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// How far the output of a process has been read, in bytes from its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Of standard output.
    pub stdout: u64,
    /// Of standard error.
    pub stderr: u64,
}

/// What a process has done since a [`Cursor`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Standard output from the cursor on.
    pub stdout: Bytes,
    /// Standard error from the cursor on.
    pub stderr: Bytes,
    /// How it ended, once it has ended *and* its output has been read to the end.
    pub exit: Option<ExitStatus>,
}

impl Progress {
    /// The cursor after this progress.
    pub fn advance(&self, cursor: Cursor) -> Cursor {
        Cursor {
            stdout: cursor.stdout + self.stdout.len() as u64,
            stderr: cursor.stderr + self.stderr.len() as u64,
        }
    }
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// How many there are in a row.
    pub columns: u16,
    /// How many rows there are.
    pub rows: u16,
}

/// What a session has shown from an offset on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The bytes, standard error among them, as they came.
    pub output: Bytes,
    /// How it ended, once it has ended *and* what it showed has been read to the end.
    pub exit: Option<ExitStatus>,
}

/// How hard to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ask (`SIGTERM`).
    Terminate,
    /// Force (`SIGKILL`).
    Kill,
}

/// The inside of one instance.
///
/// # Contract
/// - A process is named by its [`ProcessId`] for the life of the instance. Spawning an id twice runs it
///   once, also when the first caller died half-way.
/// - Processes, their output and their exit status outlive every caller; any number of callers may follow
///   one process.
/// - A *session* is a process that is also written to. It lives and is named as any other: callers may die,
///   and their successors read on and write on.
/// - `NotFound` naming the *instance* means that the instance does not run any more, for certain. Every
///   other failure to reach the guest is `Backend`, and the guest may be well.
#[async_trait]
pub trait Guest: Send + Sync {
    /// Returns when the guest's agent answers. Waits without limit: give it a deadline.
    ///
    /// # Errors
    /// `NotFound` when the instance does not run.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn ready(&self) -> Result<()>;

    /// Starts `command` detached as `id`, or does nothing if `id` was started before. The command leads a
    /// process group of its own. A program that cannot be executed ends with exit code 127 or 126.
    ///
    /// # Errors
    /// `Invalid` for a command that fails its [`check`](Command::check), `NotFound`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; repeat it to be sure.
    async fn spawn(&self, id: &ProcessId, command: &Command) -> Result<()>;

    /// What `id` wrote since `from`, and how it ended. Waits up to `wait` for news, then returns empty
    /// progress. Returns part of the output when there is much; ask again from the advanced cursor.
    ///
    /// It has ended when the leader of its group has: what that left behind may run on, and what it writes
    /// from then on need not be returned.
    ///
    /// # Errors
    /// `NotFound` when `id` was never started or the instance does not run, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is consumed.
    async fn follow(&self, id: &ProcessId, from: Cursor, wait: Duration) -> Result<Progress>;

    /// Signals the process group of `id`. Fine when it has ended already.
    ///
    /// # Errors
    /// `NotFound` when `id` was never started or the instance does not run, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment.
    async fn kill(&self, id: &ProcessId, signal: Signal) -> Result<()>;

    /// Every id that was started and has not ended.
    ///
    /// # Errors
    /// `NotFound`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn running(&self) -> Result<Vec<ProcessId>>;

    /// Writes a whole file with these permission bits, making the directories above it. Whoever reads the
    /// path sees the old content or the new, never a part.
    ///
    /// # Errors
    /// `Invalid` for a path that is not absolute, `Exhausted` for a full disk, `NotFound`, `Backend`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; repeat it to be sure.
    async fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()>;

    /// Reads up to `max_bytes` of a file, starting `offset` bytes in. Empty at and past the end.
    ///
    /// # Errors
    /// `NotFound` naming the file when there is none, or the instance; `Invalid`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn read_file(&self, path: &str, offset: u64, max_bytes: usize) -> Result<Bytes>;

    /// Starts `command` as the session `id`, or does nothing if `id` was started before: in a terminal of
    /// this size, whose foreground program a typed Ctrl-C interrupts, or, without a size, with pipes for its
    /// standard streams. [`running`](Self::running) lists it; [`kill`](Self::kill) hangs its terminal up,
    /// and by force ends all that was started in it.
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn), and `Unsupported`.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; repeat it to be sure.
    async fn open_session(
        &self,
        id: &ProcessId,
        command: &Command,
        terminal: Option<TerminalSize>,
    ) -> Result<()> {
        let _ = (command, terminal);
        Err(Error::unsupported(format!("session {id}")))
    }

    /// Adds `input` to what the session reads. Waits while there is much that it has not read yet; what is
    /// written after its end goes nowhere.
    ///
    /// # Errors
    /// `NotFound` when `id` is no session or the instance does not run, `Exhausted`, `Unsupported`, `Backend`.
    ///
    /// # Cancel safety
    /// When dropped, or after `Backend`, `input` may have arrived or not: repeating may repeat it.
    async fn write_session(&self, id: &ProcessId, input: &[u8]) -> Result<()> {
        let _ = input;
        Err(Error::unsupported(format!("session {id}")))
    }

    /// Ends the input, after what was written so far: a pipe is closed, a terminal gets a Ctrl-D.
    ///
    /// # Errors
    /// Those of [`write_session`](Self::write_session).
    ///
    /// # Cancel safety
    /// May be dropped at any moment; repeat it to be sure.
    async fn end_session_input(&self, id: &ProcessId) -> Result<()> {
        Err(Error::unsupported(format!("session {id}")))
    }

    /// Changes the size of the session's terminal and tells its foreground program. Nothing happens to one
    /// without a terminal.
    ///
    /// # Errors
    /// Those of [`write_session`](Self::write_session).
    ///
    /// # Cancel safety
    /// May be dropped at any moment; repeat it to be sure.
    async fn resize_session(&self, id: &ProcessId, size: TerminalSize) -> Result<()> {
        let _ = size;
        Err(Error::unsupported(format!("session {id}")))
    }

    /// What the session has shown from `from` bytes on, and how it ended; as [`follow`](Self::follow)
    /// otherwise.
    ///
    /// To ask from an offset is to have read what is before it. A session that is far ahead of all its
    /// readers waits for them, and forgets what is far behind the first.
    ///
    /// # Errors
    /// `Invalid` for an offset whose bytes are forgotten, and those of [`follow`](Self::follow).
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is consumed.
    async fn read_session(&self, id: &ProcessId, from: u64, wait: Duration) -> Result<Shown> {
        let _ = (from, wait);
        Err(Error::unsupported(format!("session {id}")))
    }
}

/// A piece of output, as [`exec`] hands it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output<'a> {
    /// Of standard output.
    Stdout(&'a [u8]),
    /// Of standard error.
    Stderr(&'a [u8]),
}

/// Runs `command` as `id` to its end, handing its output on as it comes, and returns how it ended.
///
/// # Errors
/// Those of [`Guest::spawn`] and [`Guest::follow`].
///
/// # Cancel safety
/// Dropping it leaves the command running: call it again with the same id to go on from the start of the
/// output, or [`Guest::kill`] it.
pub async fn exec(
    guest: &dyn Guest,
    id: &ProcessId,
    command: &Command,
    mut output: impl FnMut(Output<'_>),
) -> Result<ExitStatus> {
    guest.spawn(id, command).await?;
    let mut cursor = Cursor::default();
    loop {
        let progress = guest.follow(id, cursor, Duration::from_secs(10)).await?;
        cursor = progress.advance(cursor);
        if !progress.stdout.is_empty() {
            output(Output::Stdout(&progress.stdout));
        }
        if !progress.stderr.is_empty() {
            output(Output::Stderr(&progress.stderr));
        }
        if let Some(exit) = progress.exit {
            return Ok(exit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_guest_could_run_is_refused() {
        let with = |name: &str, value: &str| Command {
            env: [(name.to_owned(), value.to_owned())].into(),
            ..Command::new(["true"])
        };
        assert!(with("A_1", "any thing").check().is_ok());
        for refused in [
            with("1A", ""),
            with("A=B", ""),
            with("A.B", ""),
            with("", ""),
            with("A", "\0"),
            Command::new(["a\0b"]),
            Command::new([""]),
            Command::default(),
        ] {
            assert!(refused.check().is_err(), "{refused:?}");
        }
    }
}
