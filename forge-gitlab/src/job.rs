//! A job that GitLab gave us, from then until GitLab knows how it ended.
//!
//! What is on disk is always ahead of what others see: text is added to the trace and the progress written
//! before GitLab may read it, and a stage is written down before the guest is told to begin it. So a
//! successor that reads the progress goes on from exactly there.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use runner_core::{JobId, ProfileName, ReservationId, Result, WorkerName, forge::QueuedJob};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{error::failed, files, payload::Payload, update::Verdict};

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Through which profile's runner it came.
    pub came_by: ProfileName,
    /// Which profile it runs on.
    pub profile: ProfileName,
    /// Which worker has it.
    pub worker: Option<WorkerName>,
    pub received_at: Timestamp,
    /// When its first stage began, from which its timeout counts.
    pub started_at: Option<Timestamp>,
    /// The stage it is at, and the state of that.
    pub stage: usize,
    pub at: Option<AtStage>,
    /// Its script was begun: from then on it is cleared up after.
    #[serde(default)]
    pub scripted: bool,
    /// The length of the trace, in bytes; what the file holds beyond is not there.
    pub trace: u64,
    /// How much of it GitLab has.
    pub sent: u64,
    /// Output is left out since the trace reached its limit.
    pub cut: bool,
    /// How the script failed, while later stages are still to come.
    pub failure: Option<Verdict>,
    /// How it ended: nothing is left to do but to tell GitLab.
    pub verdict: Option<Verdict>,
}

/// The state of the stage a job is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AtStage {
    pub began_at: Timestamp,
    /// Which attempt it is, from 0.
    pub attempt: u32,
    /// How much of its process's output is in the trace, or left out on purpose.
    pub cursor: u64,
    /// The output stopped within a token that is masked.
    pub in_token: bool,
}

/// What GitLab wants of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To run.
    Run,
    /// To end: what its script left is to be cleared up by its `after_script`.
    Cancel,
    /// To end at once: GitLab does not know it any more, or has ended it. In words, why.
    Abort(String),
}

/// A job that is not over.
pub(crate) struct LiveJob {
    pub payload: Payload,
    /// Whose workers alone may have it.
    pub reserved_for: Option<ReservationId>,
    dir: PathBuf,
    trace_limit: u64,
    /// A predecessor of this process received it.
    pub inherited: bool,
    state: Mutex<State>,
    /// The progress, for whoever waits for it to change.
    news: watch::Sender<()>,
    wish: watch::Sender<Wish>,
}

struct State {
    progress: Progress,
    trace: File,
}

/// Text for the trace.
#[derive(Default)]
pub(crate) struct Text {
    bytes: Vec<u8>,
}

impl LiveJob {
    /// Writes down a job that GitLab just gave us.
    pub(crate) fn begin(
        jobs: &Path,
        body: &[u8],
        payload: Payload,
        came_by: ProfileName,
        profile: ProfileName,
        now: Timestamp,
        trace_limit: u64,
    ) -> Result<Self> {
        let dir = jobs.join(payload.id.to_string());
        // GitLab gave it to us anew: what we had of it is of no use.
        files::remove_dir(&dir)?;
        files::make_dir(&dir)?;
        let progress = Progress {
            came_by,
            profile,
            worker: None,
            received_at: now,
            started_at: None,
            stage: 0,
            at: None,
            scripted: false,
            trace: 0,
            sent: 0,
            cut: false,
            failure: None,
            verdict: None,
        };
        files::write_json(&dir.join("progress"), &progress)?;
        // What makes the directory a job.
        files::write(&dir.join("payload"), body)?;
        Self::new(dir, payload, progress, trace_limit, false)
    }

    /// Takes up a job of a predecessor. None if it died while it wrote the job down.
    pub(crate) fn resume(jobs: &Path, name: &str, trace_limit: u64) -> Result<Option<Self>> {
        let dir = jobs.join(name);
        let payload: Option<Payload> = files::read_json(&dir.join("payload"))?;
        let progress: Option<Progress> = files::read_json(&dir.join("progress"))?;
        match (payload, progress) {
            (Some(payload), Some(progress)) if payload.id.to_string() == name => {
                Self::new(dir, payload, progress, trace_limit, true).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn new(
        dir: PathBuf,
        payload: Payload,
        progress: Progress,
        trace_limit: u64,
        inherited: bool,
    ) -> Result<Self> {
        let trace = files::open(&dir.join("trace"))?;
        // What was added and not written down is added again.
        trace.set_len(progress.trace).map_err(|error| failed("open a trace", error))?;
        Ok(Self {
            // One that asks for what cannot be is refused before anybody looks here.
            reserved_for: payload.reserved_for().unwrap_or_default(),
            payload,
            dir,
            trace_limit,
            inherited,
            state: Mutex::new(State { progress, trace }),
            news: watch::channel(()).0,
            wish: watch::channel(Wish::Run).0,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock leaves the state half-changed when it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> u64 {
        self.payload.id
    }

    pub(crate) fn job_id(&self) -> JobId {
        JobId::new(self.payload.id.to_string()).expect("digits are a valid id")
    }

    /// Where its files are on the host.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn progress(&self) -> Progress {
        self.state().progress.clone()
    }

    pub(crate) fn as_queued(&self) -> QueuedJob {
        let state = self.state();
        QueuedJob {
            id: self.job_id(),
            profile: Some(state.progress.profile.clone()),
            labels: Default::default(),
            reserved_for: self.reserved_for.clone(),
            queued_at: state.progress.received_at,
        }
    }

    /// Changes the progress and adds to the trace: both or neither, on disk first.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut Progress, &mut Text) -> T) -> Result<T> {
        let mut state = self.state();
        let (mut progress, mut text) = (state.progress.clone(), Text::default());
        let result = work(&mut progress, &mut text);
        if !text.bytes.is_empty() {
            let at = SeekFrom::Start(progress.trace);
            let added = state.trace.seek(at).and_then(|_| state.trace.write_all(&text.bytes));
            added.map_err(|error| failed("write a trace", error))?;
            progress.trace += text.bytes.len() as u64;
        }
        if progress != state.progress {
            files::write_json(&self.dir.join("progress"), &progress)?;
            state.progress = progress;
        }
        drop(state);
        self.news.send_replace(());
        Ok(result)
    }

    /// Adds a line of our own.
    pub(crate) fn say(&self, line: impl AsRef<str>) -> Result<()> {
        self.change(|_, text| text.line(line))
    }

    /// Adds output of the job, unless the trace has reached its limit.
    pub(crate) fn add_output(&self, progress: &mut Progress, text: &mut Text, output: &[u8]) {
        if progress.cut || output.is_empty() {
            return;
        }
        let room = self.trace_limit.saturating_sub(progress.trace + text.bytes.len() as u64);
        let kept = output.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        text.bytes.extend_from_slice(&output[..kept]);
        if kept < output.len() {
            progress.cut = true;
            let limit = self.trace_limit;
            text.line(format!(
                "\n\x1b[33;1mThe trace is cut here: it is longer than {limit} bytes. The job goes on.\x1b[0;m"
            ));
        }
    }

    /// A part of the trace.
    pub(crate) fn read_trace(&self, from: u64, most: usize) -> Result<Bytes> {
        let state = self.state();
        let length = state.progress.trace.saturating_sub(from).min(most as u64) as usize;
        let mut part = vec![0; length];
        let read = state.trace.read_exact_at(&mut part, from);
        read.map_err(|error| failed("read a trace", error))?;
        Ok(part.into())
    }

    /// CRC-32 of the whole trace.
    pub(crate) fn trace_checksum(&self) -> Result<u32> {
        let (mut sum, mut at) = (crc32fast::Hasher::new(), 0);
        loop {
            let part = self.read_trace(at, 1 << 20)?;
            if part.is_empty() {
                return Ok(sum.finalize());
            }
            sum.update(&part);
            at += part.len() as u64;
        }
    }

    /// Hears of every change from now on.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    pub(crate) fn wish(&self) -> Wish {
        self.wish.borrow().clone()
    }

    pub(crate) fn wishes(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    /// Takes in what GitLab wants. To end it at once is the last word.
    pub(crate) fn wants(&self, wish: Wish) {
        self.wish.send_if_modified(|now| {
            let changes = match (&*now, &wish) {
                (Wish::Abort(_), _) => false,
                (Wish::Cancel, Wish::Run) => false,
                (now, wish) => now != wish,
            };
            if changes {
                *now = wish;
            }
            changes
        });
    }

    /// Removes all that is kept of it.
    pub(crate) fn forget(&self) -> Result<()> {
        // First what makes it a job, so that a process that dies here leaves none.
        files::remove(&self.dir.join("payload"))?;
        files::remove_dir(&self.dir)
    }
}

impl Text {
    /// Adds a line of our own, which no limit cuts off.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.bytes.extend_from_slice(line.as_ref().as_bytes());
        self.bytes.push(b'\n');
    }

    pub(crate) fn raw(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }
}
