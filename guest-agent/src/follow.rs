//! Reading on in the output of processes, through files that stay open in the guest.
//!
//! A poll is three reads and no opening: the status, then both outputs. In this order, so that an exit is
//! only reported when what was written before it has been read to the end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use runner_core::{
    ProcessId, Result,
    guest::{Cursor, ExitStatus, Progress},
};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep},
};

use crate::{
    agent::Piece,
    error::{self, Complaint},
    guest::AgentGuest,
    open_file::OpenFile,
    process,
    transport::{CallError, Transport},
};

/// The pause between two looks without news, first and at last.
const FIRST_POLL: Duration = Duration::from_millis(10);
const LAST_POLL: Duration = Duration::from_millis(250);
/// How long a program takes to answer what it was sent, at least.
const AFTER_HINT: Duration = Duration::from_millis(2);
/// How often to see whether a silent process still has someone to write its exit status.
const LOST_CHECK: Duration = Duration::from_secs(2);
/// What one call returns of each output, at most.
const MAX_OUTPUT: usize = 512 * 1024;
/// Our status has a dozen bytes.
const MAX_STATUS: usize = 64;
/// The processes whose files are kept open at once. Others are opened anew at every call.
const MAX_OPEN: usize = 32;

/// The open files of processes that are being followed.
pub(crate) struct Followed<T: Transport>(std::sync::Mutex<HashMap<ProcessId, Shared<T>>>);

/// Followers of one process take turns.
type Shared<T> = Arc<Mutex<Option<Files<T>>>>;

struct Files<T: Transport> {
    status: OpenFile<T>,
    /// What of the status has been read. It only grows.
    status_text: Vec<u8>,
    stdout: OpenFile<T>,
    /// None if it is not looked at, which makes looking faster.
    stderr: Option<OpenFile<T>>,
}

/// What to look at, and how often.
pub(crate) struct Manner<'a> {
    /// Whether all output is on standard output.
    pub(crate) merged: bool,
    /// The longest pause between two looks without news.
    pub(crate) last_poll: Duration,
    /// Hints that news are likely.
    pub(crate) hint: Option<&'a Notify>,
}

impl<T: Transport> Default for Followed<T> {
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<T: Transport> Followed<T> {
    fn of(&self, id: &ProcessId) -> Shared<T> {
        let mut all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if all.len() >= MAX_OPEN && !all.contains_key(id) {
            all.retain(|_, files| Arc::strong_count(files) > 1);
            if all.len() >= MAX_OPEN {
                return Shared::default();
            }
        }
        all.entry(id.clone()).or_default().clone()
    }

    fn forget(&self, id: &ProcessId) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(id);
    }
}

impl<T: Transport> AgentGuest<T> {
    pub(crate) async fn news(
        &self,
        id: &ProcessId,
        from: Cursor,
        wait: Duration,
    ) -> Result<Progress> {
        let manner = Manner { merged: false, last_poll: LAST_POLL, hint: None };
        self.news_in(id, from, wait, &manner).await
    }

    pub(crate) async fn news_in(
        &self,
        id: &ProcessId,
        from: Cursor,
        wait: Duration,
        manner: &Manner<'_>,
    ) -> Result<Progress> {
        let start = Instant::now();
        let mut lost_check = start + LOST_CHECK;
        let mut pause = FIRST_POLL;
        let files = self.followed.of(id);
        let merged = manner.merged;
        loop {
            let mut progress = self.look(id, &files, from, merged).await?;
            if progress.exit.is_none() && is_empty(&progress) && Instant::now() >= lost_check {
                progress = self.look_for_lost(id, &files, from, merged).await?;
                lost_check = Instant::now() + LOST_CHECK;
            }
            if progress.exit.is_some() {
                self.followed.forget(id);
            }
            let left = wait.saturating_sub(start.elapsed());
            if progress.exit.is_some() || !is_empty(&progress) || left.is_zero() {
                return Ok(progress);
            }
            let hinted = async {
                match manner.hint {
                    Some(hint) => hint.notified().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep(pause.min(left)) => pause = (pause * 3 / 2).min(manner.last_poll),
                () = hinted => {
                    // The answer takes a moment too; to look before it is there only delays it.
                    pause = FIRST_POLL;
                    sleep(AFTER_HINT.min(left)).await;
                }
            }
        }
    }

    /// Looks once, and once more with files opened anew if the agent has forgotten the open ones.
    async fn look(
        &self,
        id: &ProcessId,
        files: &Shared<T>,
        from: Cursor,
        merged: bool,
    ) -> Result<Progress> {
        let mut files = files.lock().await;
        let reopened = files.is_none();
        let mut result = self.read_news(id, &mut files, from, merged).await;
        if matches!(result, Err(CallError::Refused(_))) && !reopened {
            *files = None;
            result = self.read_news(id, &mut files, from, merged).await;
        }
        result.map_err(|error| match &error {
            CallError::Refused(why) if Complaint::of(why) == Complaint::Missing => {
                process::not_found(id)
            }
            _ => {
                *files = None;
                error::call(
                    &self.instance,
                    format!("follow process {id} in {}", self.instance),
                    error,
                )
            }
        })
    }

    async fn read_news(
        &self,
        id: &ProcessId,
        files: &mut Option<Files<T>>,
        from: Cursor,
        merged: bool,
    ) -> Result<Progress, CallError> {
        let files = match files {
            Some(files) => files,
            None => files.insert(self.open_files(id, merged).await?),
        };
        let exit = files.exit().await?;
        let stdout = files.stdout.read_all(from.stdout, MAX_OUTPUT).await?;
        let stderr = match &mut files.stderr {
            Some(stderr) => stderr.read_all(from.stderr, MAX_OUTPUT).await?,
            None => Piece { content: Bytes::new(), eof: true },
        };
        Ok(Progress {
            exit: exit.filter(|_| stdout.eof && stderr.eof),
            stdout: stdout.content,
            stderr: stderr.content,
        })
    }

    /// A process whose keeper was killed never gets an exit status: it counts as killed itself, once it is gone.
    async fn look_for_lost(
        &self,
        id: &ProcessId,
        files: &Shared<T>,
        from: Cursor,
        merged: bool,
    ) -> Result<Progress> {
        let doing = || format!("follow process {id} in {}", self.instance);
        let lost = self.is_lost(id).await;
        let lost = lost.map_err(|error| error::call(&self.instance, doing(), error))?;
        // Its last words, or the exit status that it got in between.
        let mut progress = self.look(id, files, from, merged).await?;
        if lost && progress.exit.is_none() && is_empty(&progress) {
            progress.exit = Some(ExitStatus::Signal(9));
        }
        Ok(progress)
    }

    async fn open_files(&self, id: &ProcessId, merged: bool) -> Result<Files<T>, CallError> {
        let open = |file| {
            let path = self.path(id, file);
            async move { OpenFile::open(&self.agent, &path).await }
        };
        Ok(Files {
            status: open("status").await?,
            status_text: Vec::new(),
            stdout: open("stdout").await?,
            stderr: if merged { None } else { Some(open("stderr").await?) },
        })
    }
}

impl<T: Transport> Files<T> {
    async fn exit(&mut self) -> Result<Option<ExitStatus>, CallError> {
        let exit = process::parse_status(&self.status_text)?;
        if exit.is_some() {
            return Ok(exit);
        }
        // Read on where the last read ended, never back: the agent's own buffer may hold old content.
        let at = self.status_text.len() as u64;
        let piece = self.status.read_at(at, MAX_STATUS).await?;
        self.status_text.extend_from_slice(&piece.content);
        if self.status_text.len() > MAX_STATUS {
            return Err(CallError::failed("the status of a process is too long"));
        }
        process::parse_status(&self.status_text)
    }
}

fn is_empty(progress: &Progress) -> bool {
    progress.stdout.is_empty() && progress.stderr.is_empty()
}
