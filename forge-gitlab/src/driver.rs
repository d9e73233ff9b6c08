//! Lives the life of one worker: waits for its guest and for a job, and sees the job through.

use std::{sync::Arc, time::Duration};

use runner_core::{Error, Guest, ProcessId, Result, RunnerId, guest::Cursor};
use tokio::sync::Notify;
use tracing::Instrument;

use crate::{
    error::failed,
    forge::{Inner, end},
    job::LiveJob,
    run::Run,
    state::Row,
    update::{Reason, Verdict},
};

/// How often to see whether a guest that waits for a job still answers.
const IDLE_LOOK: Duration = Duration::from_secs(10);
/// How long its answer may take.
const IDLE_PATIENCE: Duration = Duration::from_secs(30);
/// How long a guest may be out of reach after its job's deadline until the job counts as timed out.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn drive(inner: &Arc<Inner>, id: &RunnerId, guest: Arc<dyn Guest>) -> Result<()> {
    let found = {
        let state = inner.state();
        state.runner(id).map(|runner| (runner.row.clone(), runner.wake.clone()))
    };
    let Some((row, wake)) = found else { return Ok(()) };
    let driver = Driver { inner, row, wake, guest };
    let Some(job) = driver.take_job().await? else { return Ok(()) };
    let span = tracing::error_span!("job", job = job.id());
    driver.carry(&job).instrument(span).await
}

struct Driver<'a> {
    inner: &'a Arc<Inner>,
    row: Row,
    wake: Arc<Notify>,
    guest: Arc<dyn Guest>,
}

/// What a worker has.
enum Assigned {
    Job(Arc<LiveJob>),
    Nothing,
    /// There is no such worker any more.
    Gone,
}

impl Driver<'_> {
    /// The job of this worker, which is its own on disk. None when the worker is gone.
    async fn take_job(&self) -> Result<Option<Arc<LiveJob>>> {
        if matches!(self.assigned(), Assigned::Nothing) {
            tokio::select! {
                biased;
                ready = self.guest.ready() => ready?,
                () = self.gone() => return Ok(None),
            }
            self.set_idle(true)?;
        }
        loop {
            let woken = self.wake.notified();
            match self.assigned() {
                Assigned::Job(job) => return Ok(Some(job)),
                Assigned::Gone => return Ok(None),
                Assigned::Nothing => tokio::select! {
                    biased;
                    () = woken => (),
                    error = self.silence() => {
                        // It stays out of reach of jobs until it answers again, or is retired.
                        self.set_idle(false)?;
                        if matches!(self.assigned(), Assigned::Nothing) {
                            return Err(error);
                        }
                    }
                },
            }
        }
    }

    fn set_idle(&self, idle: bool) -> Result<()> {
        let mut state = self.inner.state();
        if let Some(runner) = state.runners.get_mut(&self.row.name) {
            runner.idle = idle;
        }
        let handed = state.hand_out();
        drop(state);
        self.inner.hint.hint();
        self.inner.room.notify_waiters();
        handed
    }

    fn assigned(&self) -> Assigned {
        let state = self.inner.state();
        match state.runners.get(&self.row.name) {
            None => Assigned::Gone,
            Some(_) => state.job_of(&self.row.name).map_or(Assigned::Nothing, Assigned::Job),
        }
    }

    async fn gone(&self) {
        loop {
            let woken = self.wake.notified();
            if matches!(self.assigned(), Assigned::Gone) {
                return;
            }
            woken.await;
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
                Err(_) => return failed("see whether a guest answers", "it took too long"),
            }
        }
    }

    /// Runs the job to its end, which is then on disk for its attendant to report.
    async fn carry(&self, job: &Arc<LiveJob>) -> Result<()> {
        self.inner.hint.hint();
        let run = Run::new(self.inner, &self.row, job, &*self.guest);
        if let Err(error) = run.to_the_end().await {
            let broken = |reason| Verdict::Failed { reason, exit_code: None };
            match &error {
                // On another machine it would end the same.
                Error::Invalid { .. } | Error::Exhausted { .. } | Error::Unsupported { .. } => {
                    job.change(|progress, text| {
                        let why = error.to_string();
                        end(progress, text, broken(Reason::RunnerSystemFailure), Some(&why));
                    })?;
                }
                // The machine is gone for certain: nobody will ever know more.
                Error::NotFound { .. } => {
                    let why = if job.inherited {
                        "the service was restarted, and its machine died meanwhile"
                    } else {
                        "its machine died"
                    };
                    self.inner.give_back(job, why)?;
                    if job.progress().verdict.is_none() {
                        self.release()?;
                        return Err(error);
                    }
                }
                _ if run.is_not_getting_ready() => {
                    self.inner.give_back(job, "its machine did not get ready")?;
                    self.release()?;
                    return Err(error);
                }
                _ if run.is_late(LAST_PATIENCE) => {
                    tracing::warn!(%error, "The guest is out of reach: giving the job up.");
                    job.change(|progress, text| {
                        let why = "it took too long, and its machine is out of reach";
                        end(progress, text, broken(Reason::JobExecutionTimeout), Some(why));
                    })?;
                }
                _ => return Err(error),
            }
        }
        self.inner.end_runner(&self.row)
    }

    /// The job waits again; this worker takes none any more.
    fn release(&self) -> Result<()> {
        let mut state = self.inner.state();
        if let Some(runner) = state.runners.get_mut(&self.row.name) {
            runner.job = None;
            runner.idle = false;
        }
        state.hand_out()?;
        drop(state);
        self.inner.hint.hint();
        Ok(())
    }
}
