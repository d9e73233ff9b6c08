//! Lives the life of one runner of the local queue: waits for its guest, takes one job, runs it, ends it.
//!
//! Whatever happened is in the store or in the guest before the next step begins, so that a successor can
//! go on from there: the assignment is durable before the guest is touched; the guest starts a command once
//! by its id; the log and how far it was read are one transaction; the end is one transaction.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tracing::Instrument;

use super::{
    Inner,
    job::{InputFile, Job, JobState, Run, WORKING_DIR},
    rows,
};
use crate::{
    error::{Error, Result},
    guest::{self, Command, Cursor, ExitStatus, Guest, Output, Progress, Signal},
    name::{ProcessId, RunnerId, WorkerName},
};

/// How long to wait for news before looking at the clock and at wishes to cancel.
const LOOK: Duration = Duration::from_secs(1);
/// How often to see whether a guest that waits for a job still answers.
const IDLE_LOOK: Duration = Duration::from_secs(10);
/// How long its answer may take.
const IDLE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a guest may be out of reach after its job's deadline until the job counts as timed out.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// How long a guest that was ready may be out of reach until its job counts as never started.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// How long collecting outputs may take.
const COLLECT_LIMIT: Duration = Duration::from_secs(300);
/// Where the job's script is put in the guest.
const SCRIPT_DIR: &str = "/run/runner-job";
/// Packs what there is of the outputs: `$1` is the directory, `$2` the archive, the rest the paths.
const COLLECT: &str = r#"cd "$1" || exit 1
tar=$2; shift 2; n=$#
mkdir -p "${tar%/*}" || exit 1
while [ $n -gt 0 ]; do
  if [ -e "$1" ] || [ -L "$1" ]; then set -- "$@" "$1"; else echo "[output $1 is missing]"; fi
  shift; n=$((n - 1))
done
[ $# -gt 0 ] || exit 0
exec tar -cf "$tar" -- "$@""#;

pub(super) async fn drive(inner: &Arc<Inner>, id: &RunnerId, guest: &dyn Guest) -> Result<()> {
    let Some((name, wake)) = find(inner, id) else {
        return Ok(());
    };
    let driver = Driver { inner, name, wake, guest };
    let Some(job) = driver.take_job().await? else {
        return Ok(());
    };
    let span = tracing::error_span!("job", job = %job.id);
    driver.carry(job).instrument(span).await
}

fn find(inner: &Inner, id: &RunnerId) -> Option<(WorkerName, Arc<Notify>)> {
    let state = inner.state();
    let runner = state.runners.values().find(|runner| runner.is(id))?;
    Some((runner.row.name.clone(), runner.wake.clone()))
}

struct Driver<'a> {
    inner: &'a Arc<Inner>,
    name: WorkerName,
    wake: Arc<Notify>,
    guest: &'a dyn Guest,
}

impl Driver<'_> {
    /// The job of this runner, durably its own. None when the runner is gone.
    async fn take_job(&self) -> Result<Option<Job>> {
        if self.assigned().is_none() {
            tokio::select! {
                biased;
                ready = self.guest.ready() => ready?,
                () = self.gone() => return Ok(None),
            }
            let mut state = self.inner.state();
            let Some(runner) = state.runners.get_mut(&self.name) else {
                return Ok(None);
            };
            runner.idle = true;
            state.find_job_for(&self.name, &self.inner.clock);
            drop(state);
            self.inner.hint.hint();
        }
        loop {
            let woken = self.wake.notified();
            match self.assigned() {
                Some(Assigned::Job(job)) => return self.own(*job).await.map(Some),
                Some(Assigned::Gone) => return Ok(None),
                None => tokio::select! {
                    biased;
                    () = woken => (),
                    error = self.silence() => {
                        // It stays out of reach of jobs until it answers again, or is retired.
                        let mut state = self.inner.state();
                        if let Some(runner) = state.runners.get_mut(&self.name)
                            && runner.row.job.is_none()
                        {
                            runner.idle = false;
                            drop(state);
                            self.inner.hint.hint();
                            return Err(error);
                        }
                    }
                },
            }
        }
    }

    /// Returns when the guest does not answer any more.
    async fn silence(&self) -> Error {
        let nothing = ProcessId::new("nothing").expect("a word is a valid id");
        loop {
            tokio::time::sleep(IDLE_LOOK).await;
            let ask = self.guest.follow(&nothing, Cursor::default(), Duration::ZERO);
            match tokio::time::timeout(IDLE_PATIENCE, ask).await {
                // That there is no such process is an answer. If it is the machine that is not there, the
                // list of machines shows it.
                Ok(Err(error)) if error.is_not_found() => (),
                Ok(Ok(_)) => (),
                Ok(Err(error)) => return error,
                Err(_) => {
                    let late = std::io::Error::other("it took too long");
                    return Error::backend("guest", "see whether it answers", late);
                }
            }
        }
    }

    fn assigned(&self) -> Option<Assigned> {
        let state = self.inner.state();
        let Some(runner) = state.runners.get(&self.name) else {
            return Some(Assigned::Gone);
        };
        let live = state.jobs.get(runner.row.job.as_ref()?)?;
        Some(Assigned::Job(Box::new(live.job.clone())))
    }

    async fn gone(&self) {
        loop {
            let woken = self.wake.notified();
            if matches!(self.assigned(), Some(Assigned::Gone)) {
                return;
            }
            woken.await;
        }
    }

    /// Makes the assignment durable, before the guest is touched.
    async fn own(&self, job: Job) -> Result<Job> {
        let row = {
            let state = self.inner.state();
            state.runners.get(&self.name).map(|runner| runner.row.clone())
        };
        let Some(row) = row else {
            return Err(Error::not_found(format!("runner {}", self.name)));
        };
        let written = job.clone();
        let put = self.inner.store.write_durably("hand out a job", move |tx| {
            rows::put_job(tx, &written)?;
            rows::put_runner(tx, &row)
        });
        if let Err(error) = put.await {
            self.inner.state().unassign(&job.id, &self.name);
            return Err(error);
        }
        if job.started_at.is_none() {
            self.inner.say(&job);
        }
        self.inner.hint.hint();
        Ok(job)
    }

    /// Runs the job to its end and ends it.
    async fn carry(&self, job: Job) -> Result<()> {
        let id = job.id.clone();
        let process = ProcessId::new(id.as_str())?;
        let state = match self.run(job, &process).await {
            Ok(outcome) => self.judge(outcome),
            // On another machine it would end the same.
            Err(error @ (Error::Invalid { .. } | Error::Exhausted { .. })) => {
                JobState::Interrupted { reason: format!("it could not be started: {error}") }
            }
            // Nobody has tried to start it here: another machine may.
            Err(error) if self.inner.is_untouched(&self.name) => {
                self.inner.give_back(&self.name).await?;
                return Err(error);
            }
            // The machine is gone for certain: nobody will ever know more.
            Err(error) if error.is_not_found() => {
                JobState::Interrupted { reason: "its machine died".to_owned() }
            }
            Err(error) => self.give_up(&error).ok_or(error)?,
        };
        let outputs = match state {
            JobState::Interrupted { .. } => None,
            _ => self.collect(&process).await,
        };
        let Some(job) = self.live() else {
            return Ok(());
        };
        self.inner.end(Job { state, ..job }, Some(self.name.clone()), outputs).await
    }

    /// The job as it is in memory now.
    fn live(&self) -> Option<Job> {
        match self.assigned()? {
            Assigned::Job(job) => Some(*job),
            Assigned::Gone => None,
        }
    }

    /// What an outcome means, given what was wished.
    fn judge(&self, outcome: Outcome) -> JobState {
        match outcome {
            // Also when it was done before the wish to end it could reach it.
            Outcome::Ended(exit) if exit.success() => JobState::Succeeded,
            Outcome::Ended(exit) => JobState::Failed { exit },
            Outcome::Stopped if self.live().is_some_and(|job| job.cancel_requested) => {
                JobState::Cancelled
            }
            Outcome::Stopped => JobState::TimedOut,
        }
    }

    /// Whether the job's deadline passed at least `by` ago.
    fn is_late(&self, by: Duration) -> bool {
        let deadline = self.live().and_then(|job| job.deadline(self.inner.limits.timeout));
        deadline.is_some_and(|deadline| self.is_past(deadline, by))
    }

    fn is_past(&self, time: Timestamp, by: Duration) -> bool {
        let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
        self.inner.clock.now().duration_since(time) >= by
    }

    /// What becomes of a job whose guest has been out of reach for so long that its deadline decides.
    fn give_up(&self, error: &Error) -> Option<JobState> {
        let job = self.live()?;
        let state = match (job.started_at, job.assigned_at) {
            (Some(_), _) if !self.is_late(self.inner.limits.kill_grace + LAST_PATIENCE) => {
                return None;
            }
            (Some(_), _) if job.cancel_requested => JobState::Cancelled,
            (Some(_), _) => JobState::TimedOut,
            (None, Some(assigned)) if self.is_past(assigned, START_PATIENCE) => {
                JobState::Interrupted { reason: format!("it could not be started: {error}") }
            }
            (None, _) => return None,
        };
        tracing::warn!(job = %job.id, %error, "The guest is out of reach: giving the job up.");
        Some(state)
    }

    /// Starts the command unless it was started, and follows it to its end.
    async fn run(&self, job: Job, process: &ProcessId) -> Result<Outcome> {
        if job.started_at.is_none()
            && (self.inner.is_untouched(&self.name) || !self.was_started(process).await?)
        {
            if job.cancel_requested {
                return Ok(Outcome::Stopped);
            }
            self.start(&job, process).await?;
        }
        if job.started_at.is_none() {
            self.note_start().await?;
        }
        self.follow(process).await
    }

    /// Whether a predecessor started the command and died before it could write that down.
    async fn was_started(&self, process: &ProcessId) -> Result<bool> {
        match self.guest.follow(process, Cursor::default(), Duration::ZERO).await {
            Ok(_) => Ok(true),
            // The process or the instance does not exist; the latter fails here.
            Err(error) if error.is_not_found() => self.guest.ready().await.map(|()| false),
            Err(error) => Err(error),
        }
    }

    async fn start(&self, job: &Job, process: &ProcessId) -> Result<()> {
        let inputs: Arc<Vec<InputFile>> = {
            let state = self.inner.state();
            state.jobs.get(&job.id).map(|live| live.inputs.clone()).unwrap_or_default()
        };
        let dir = job.spec.working_dir.as_deref().unwrap_or(WORKING_DIR);
        for file in inputs.iter() {
            let path = format!("{}/{}", dir.trim_end_matches('/'), file.path);
            self.guest.write_file(&path, &file.content, file.mode).await?;
        }
        let argv = match &job.spec.run {
            Run::Argv(argv) => argv.clone(),
            Run::Script(script) => {
                let path = format!("{SCRIPT_DIR}/{}", job.id);
                self.guest.write_file(&path, script.as_bytes(), 0o700).await?;
                if script.starts_with("#!") { vec![path] } else { vec!["/bin/sh".to_owned(), path] }
            }
        };
        let command = Command {
            argv,
            env: job.spec.env.clone(),
            working_dir: Some(dir.to_owned()),
            merge_stderr: true,
        };
        if let Some(live) = self.inner.state().jobs.get_mut(&job.id) {
            live.untouched = false;
        }
        self.guest.spawn(process, &command).await
    }

    /// Writes down that the command was started, and that its inputs are not needed any more.
    async fn note_start(&self) -> Result<()> {
        let now = self.inner.clock.now();
        self.change(|job| job.started_at = Some(now)).await
    }

    /// Changes the job in memory and in the store.
    async fn change(&self, change: impl FnOnce(&mut Job)) -> Result<()> {
        let job = {
            let mut state = self.inner.state();
            let id = state.runners.get(&self.name).and_then(|runner| runner.row.job.clone());
            let Some(live) = id.and_then(|id| state.jobs.get_mut(&id)) else {
                return Err(Error::not_found(format!("the job of runner {}", self.name)));
            };
            change(&mut live.job);
            live.news.send_replace(());
            live.job.clone()
        };
        self.inner.store.write("write a job", move |tx| rows::put_job(tx, &job)).await
    }

    async fn follow(&self, process: &ProcessId) -> Result<Outcome> {
        let grace = self.inner.limits.kill_grace;
        let mut asked: Option<Timestamp> = None;
        let mut forced = false;
        // The first look does not wait: what ended while nobody watched has ended in time.
        let mut wait = Duration::ZERO;
        loop {
            let Some(job) = self.live() else {
                return Err(Error::not_found(format!("the job of runner {}", self.name)));
            };
            let from = Cursor { stdout: job.read_bytes, stderr: 0 };
            let progress = tokio::select! {
                biased;
                progress = self.guest.follow(process, from, wait) => progress?,
                // A wish to cancel.
                () = self.wake.notified() => Progress::default(),
            };
            if !self.keep(job, &progress).await? {
                continue;
            }
            match progress.exit {
                Some(exit) if asked.is_some() && !exit.success() => return Ok(Outcome::Stopped),
                Some(exit) => return Ok(Outcome::Ended(exit)),
                None => (),
            }
            match asked {
                None if self.must_end() && self.still_runs(process).await? => {
                    self.guest.kill(process, Signal::Terminate).await?;
                    asked = Some(self.inner.clock.now());
                }
                Some(at) if !forced && self.is_past(at, grace) => {
                    self.guest.kill(process, Signal::Kill).await?;
                    forced = true;
                }
                // It does not even heed SIGKILL; its machine's end will end it.
                Some(at) if self.is_past(at, grace * 3) => return Ok(Outcome::Stopped),
                Some(_) | None => (),
            }
            wait = self.next_look(asked);
        }
    }

    fn must_end(&self) -> bool {
        self.is_late(Duration::ZERO) || self.live().is_some_and(|job| job.cancel_requested)
    }

    async fn still_runs(&self, process: &ProcessId) -> Result<bool> {
        Ok(self.guest.running().await?.contains(process))
    }

    /// How long to wait for news before there may be something to do.
    fn next_look(&self, asked: Option<Timestamp>) -> Duration {
        if asked.is_some() {
            return LOOK.min(self.inner.limits.kill_grace / 4).max(Duration::from_millis(10));
        }
        let deadline = self.live().and_then(|job| job.deadline(self.inner.limits.timeout));
        let left = deadline.map(|deadline| deadline.duration_since(self.inner.clock.now()));
        let left = left.and_then(|left| Duration::try_from(left).ok());
        // A moment at least, for a command that is past its deadline and about to be read to its end.
        left.map_or(LOOK, |left| LOOK.min(left)).max(Duration::from_millis(10))
    }

    /// Adds output to the log: what goes beyond the limit is counted and replaced by one clear mark. False
    /// when all of it must be read once more.
    async fn keep(&self, before: Job, progress: &Progress) -> Result<bool> {
        if self.live().is_none_or(|job| job.read_bytes != before.read_bytes) {
            return Ok(false);
        }
        if progress.stdout.is_empty() {
            return Ok(true);
        }
        let mut job = before.clone();
        let limit = self.inner.limits.log_bytes;
        let room = limit.saturating_sub(job.log_bytes).min(progress.stdout.len() as u64);
        let mut chunk = Vec::new();
        if !job.log_cut {
            chunk.extend_from_slice(&progress.stdout[..room as usize]);
            if room < progress.stdout.len() as u64 {
                let mark = format!("\n[the log is cut here: it is longer than {limit} bytes]\n");
                chunk.extend_from_slice(mark.as_bytes());
                job.log_cut = true;
            }
        }
        let start = job.log_bytes;
        job.log_bytes += chunk.len() as u64;
        job.read_bytes += progress.stdout.len() as u64;
        job.first_output_at = job.first_output_at.or_else(|| Some(self.inner.clock.now()));
        let kept = rows::append_log(&self.inner.store, job.clone(), start, chunk).await?;
        if !kept {
            // The store was begun anew and has lost what came before: the guest still has it.
            (job.log_bytes, job.read_bytes, job.log_cut) = (0, 0, false);
            rows::clear_log(&self.inner.store, job.clone()).await?;
        }
        let mut state = self.inner.state();
        if let Some(live) = state.jobs.get_mut(&job.id) {
            let cancel_requested = live.job.cancel_requested;
            live.job = Job { cancel_requested, ..job };
            live.news.send_replace(());
        }
        Ok(kept)
    }

    /// The outputs as a tar archive; a problem is said in the log and does not change how the job ended.
    async fn collect(&self, process: &ProcessId) -> Option<Arc<Vec<u8>>> {
        let job = self.live().filter(|job| !job.spec.outputs.is_empty())?;
        let collected = tokio::time::timeout(COLLECT_LIMIT, self.try_collect(&job, process)).await;
        let problem = match collected {
            Ok(Ok((tar, notes))) if notes.is_empty() => return tar,
            Ok(Ok((tar, notes))) => {
                self.remark(&notes).await;
                return tar;
            }
            Ok(Err(error)) => crate::error::chain(&error),
            Err(_) => format!("it took longer than {} s", COLLECT_LIMIT.as_secs()),
        };
        self.remark(&format!("[the outputs could not be collected: {problem}]\n")).await;
        None
    }

    async fn try_collect(
        &self,
        job: &Job,
        process: &ProcessId,
    ) -> Result<(Option<Arc<Vec<u8>>>, String)> {
        let dir = job.spec.working_dir.as_deref().unwrap_or(WORKING_DIR);
        let tar = format!("{SCRIPT_DIR}/{}.tar", job.id);
        let mut argv: Vec<String> =
            ["/bin/sh", "-c", COLLECT, "collect", dir, &tar].map(str::to_owned).to_vec();
        argv.extend(job.spec.outputs.iter().cloned());
        let command = Command { merge_stderr: true, ..Command::new(argv) };
        let id = ProcessId::new(format!("{process}.outputs"))?;
        let mut notes = String::new();
        let exit = guest::exec(self.guest, &id, &command, |output| {
            if let (Output::Stdout(text), true) = (output, notes.len() < 4096) {
                notes.push_str(&String::from_utf8_lossy(text));
            }
        })
        .await?;
        if !exit.success() {
            let error = format!("tar ended with {exit}: {}", notes.trim());
            return Err(Error::backend("guest", "pack the outputs", std::io::Error::other(error)));
        }
        let mut archive = Vec::new();
        loop {
            let part = match self.guest.read_file(&tar, archive.len() as u64, 1 << 20).await {
                Ok(part) => part,
                Err(error) if error.is_not_found() && archive.is_empty() => {
                    return Ok((None, notes));
                }
                Err(error) => return Err(error),
            };
            if part.is_empty() {
                return Ok((Some(Arc::new(archive)), notes));
            }
            archive.extend_from_slice(&part);
            let limit = self.inner.limits.output_bytes;
            super::check_limit("outputs", archive.len() as u64, limit, " bytes")?;
        }
    }

    /// Adds a line of our own to the end of the log.
    async fn remark(&self, text: &str) {
        let Some(mut job) = self.live() else { return };
        let start = job.log_bytes;
        job.log_bytes += text.len() as u64;
        let appended =
            rows::append_log(&self.inner.store, job.clone(), start, text.as_bytes().to_vec());
        if matches!(appended.await, Ok(true)) {
            let mut state = self.inner.state();
            if let Some(live) = state.jobs.get_mut(&job.id) {
                live.job.log_bytes = job.log_bytes;
                live.news.send_replace(());
            }
        }
    }
}

/// How following a command ended.
enum Outcome {
    /// By itself, or before the wish to end it could reach it.
    Ended(ExitStatus),
    /// Because it was made to end.
    Stopped,
}

/// What a runner has.
enum Assigned {
    Job(Box<Job>),
    /// There is no such runner any more.
    Gone,
}
