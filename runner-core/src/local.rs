//! The local queue: a forge inside this crate. Jobs come from this process and run in its pool's workers.
//!
//! What is alive is in memory and in the store; what is over is in the store only. A job is handed to a
//! ready worker in the moment it is submitted, without waiting for the pool's loop.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};

use crate::{
    changes::Hint,
    clock::Clock,
    error::{Error, Result, chain},
    event::{EventLog, What},
    name::{JobId, ReservationId, WorkerName},
    plan::Subject,
    store::Store,
};

mod driver;
mod forge;
mod job;
mod rows;
mod state;

pub use job::{InputFile, Job, JobSpec, JobState, Run, WORKING_DIR};
use rows::RunnerRow;
use state::{Live, LocalRunner, State, order};

/// How much a local queue takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalLimits {
    /// How much of a job's log is kept, in bytes.
    pub log_bytes: u64,
    /// How much a job's outputs may take, in bytes.
    pub output_bytes: u64,
    /// How much a job's input files may take together, in bytes.
    pub input_bytes: u64,
    /// How many jobs may wait.
    pub queued_jobs: usize,
    /// How many jobs that are over are kept, with log and outputs.
    pub kept_jobs: u64,
    /// How long a job may run that does not say.
    pub timeout: Duration,
    /// How long a job has to end after it was asked to, before it is forced to.
    pub kill_grace: Duration,
}

impl Default for LocalLimits {
    fn default() -> Self {
        Self {
            log_bytes: 16 << 20,
            output_bytes: 64 << 20,
            input_bytes: 64 << 20,
            queued_jobs: 10_000,
            kept_jobs: 1_000,
            timeout: Duration::from_secs(3600),
            kill_grace: Duration::from_secs(5),
        }
    }
}

/// The local queue. Clones share it.
#[derive(Clone)]
pub struct LocalQueue(Arc<Inner>);

struct Inner {
    store: Store,
    events: EventLog,
    clock: Clock,
    limits: LocalLimits,
    hint: Hint,
    state: Mutex<State>,
}

impl LocalQueue {
    /// Opens the queue as the store has it. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Backend` when the store cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn open(
        store: Store,
        events: EventLog,
        clock: Clock,
        limits: LocalLimits,
    ) -> Result<Self> {
        let mut renewals = store.renewals();
        renewals.mark_unchanged();
        let (runners, jobs) = rows::live(&store).await?;
        let mut state = State::default();
        for (job, inputs) in jobs {
            state.add(job, inputs);
        }
        for row in runners {
            state.runners.insert(row.name.clone(), LocalRunner::new(row));
        }
        let hint = Hint::default();
        let state = Mutex::new(state);
        let queue = Self(Arc::new(Inner { store, events, clock, limits, hint, state }));
        let weak = Arc::downgrade(&queue.0);
        tokio::spawn(async move {
            while renewals.changed().await.is_ok() {
                let Some(inner) = weak.upgrade() else { return };
                if let Err(error) = inner.write_again().await {
                    tracing::error!(error = chain(&error), "The queue could not be written again.");
                }
            }
        });
        Ok(queue)
    }

    /// Adds a job. It is durable when this returns, and handed to a worker if one is ready for it.
    ///
    /// # Errors
    /// `Invalid` naming what is wrong with it, `Exhausted` for too many waiting jobs or too large inputs,
    /// `Backend` when it could not be written.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have added the job.
    pub async fn submit(&self, spec: JobSpec, inputs: Vec<InputFile>) -> Result<Job> {
        spec.check()?;
        inputs.iter().try_for_each(InputFile::check)?;
        let limits = &self.0.limits;
        let size: u64 = inputs.iter().map(|file| file.content.len() as u64).sum();
        check_limit("input files", size, limits.input_bytes, " bytes")?;
        let waiting = self.0.state().waiting.len() as u64 + 1;
        check_limit("waiting jobs", waiting, limits.queued_jobs as u64, "")?;
        let unnamed = JobId::new("0").expect("a digit is a valid id");
        let job = Job {
            id: unnamed,
            number: 0,
            spec,
            state: JobState::Queued,
            queued_at: self.0.clock.now(),
            assigned_at: None,
            started_at: None,
            first_output_at: None,
            ended_at: None,
            worker: None,
            log_bytes: 0,
            read_bytes: 0,
            log_cut: false,
            cancel_requested: false,
            has_outputs: false,
        };
        let inputs = Arc::new(inputs);
        let job = rows::insert_job(&self.0.store, job, inputs.clone()).await?;
        self.0.say(&job);
        {
            let mut state = self.0.state();
            state.add(job.clone(), inputs);
            state.hand_out(&job.id, &self.0.clock);
        }
        self.0.hint.hint();
        Ok(job)
    }

    /// Wants a job cancelled: at once if it waits; if it runs, its command is ended first. Fine when it is
    /// over.
    ///
    /// # Errors
    /// `NotFound`, `Backend`.
    ///
    /// # Cancel safety
    /// Repeat it to be sure.
    pub async fn cancel(&self, id: &JobId) -> Result<Job> {
        let waiting = {
            let mut state = self.0.state();
            match state.jobs.get_mut(id) {
                None => None,
                Some(live) => {
                    live.job.cancel_requested = true;
                    let job = live.job.clone();
                    state.waiting.remove(&order(&job));
                    Some(job)
                }
            }
        };
        let Some(mut job) = waiting else {
            return self.job(id).await;
        };
        if job.state == JobState::Queued {
            job.state = JobState::Cancelled;
            self.0.end(job, None, None).await?;
        } else {
            let row = job.clone();
            let put = move |tx: &rusqlite::Transaction<'_>| rows::put_job(tx, &row);
            self.0.store.write("write a job", put).await?;
            self.0.wake_driver_of(&job);
        }
        self.job(id).await
    }

    /// One job.
    ///
    /// # Errors
    /// `NotFound`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn job(&self, id: &JobId) -> Result<Job> {
        let live = self.0.state().jobs.get(id).map(|live| live.job.clone());
        match live {
            Some(job) => Ok(job),
            None => rows::job(&self.0.store, id.clone())
                .await?
                .ok_or_else(|| Error::not_found(format!("job {id}"))),
        }
    }

    /// The newest jobs whose number is below `below`, newest first.
    ///
    /// # Errors
    /// `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn jobs(&self, below: Option<u64>, limit: u32) -> Result<Vec<Job>> {
        let mut jobs = rows::jobs(&self.0.store, below, limit).await?;
        let state = self.0.state();
        for job in &mut jobs {
            if let Some(live) = state.jobs.get(&job.id) {
                *job = live.job.clone();
            }
        }
        Ok(jobs)
    }

    /// Waits until a job is over.
    ///
    /// # Errors
    /// `NotFound`, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait(&self, id: &JobId) -> Result<Job> {
        loop {
            let news = self.0.state().jobs.get(id).map(|live| live.news.subscribe());
            match news {
                Some(mut news) => while news.changed().await.is_ok() {},
                None => return self.job(id).await,
            }
        }
    }

    /// A job's log from `from` bytes on, as it comes, until the job is over.
    ///
    /// # Errors
    /// `NotFound` at once; an item is `Backend` when the store fails, and is the last.
    pub async fn log(&self, id: &JobId, from: u64) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.job(id).await?;
        let start = Some((self.clone(), id.clone(), from));
        let stream = futures::stream::unfold(start, |at| async move {
            let (queue, id, from) = at?;
            match queue.next_log(&id, from).await {
                Ok(bytes) if bytes.is_empty() => None,
                Ok(bytes) => {
                    let next = from + bytes.len() as u64;
                    Some((Ok(bytes), Some((queue, id, next))))
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(stream.boxed())
    }

    /// The next part of a log; empty at its end.
    async fn next_log(&self, id: &JobId, from: u64) -> Result<Bytes> {
        loop {
            // Listen before looking, so that nothing falls between.
            let news = self.0.state().jobs.get(id).map(|live| live.news.subscribe());
            let bytes = rows::read_log(&self.0.store, id.clone(), from, 256 << 10).await?;
            match news {
                Some(mut news) if bytes.is_empty() => drop(news.changed().await),
                _ => return Ok(bytes.into()),
            }
        }
    }

    /// A job's collected outputs as a tar archive.
    ///
    /// # Errors
    /// `NotFound` when there are none, `Backend`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn outputs(&self, id: &JobId) -> Result<Bytes> {
        let tar = rows::outputs(&self.0.store, id.clone()).await?;
        tar.map(Bytes::from).ok_or_else(|| Error::not_found(format!("outputs of job {id}")))
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock leaves the state half-changed when it panics.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn say(&self, job: &Job) {
        let detail = match (&job.state, &job.worker) {
            (JobState::Running, Some(worker)) => format!("on worker {worker}"),
            (JobState::Failed { exit }, _) => exit.to_string(),
            (JobState::Interrupted { reason }, _) => reason.clone(),
            _ => job.spec.title.clone(),
        };
        let what = What::Job { state: job.state.word().to_owned(), detail };
        self.events.record(self.clock.now(), Subject::Job(job.id.clone()), what);
    }

    async fn put_runner(&self, row: RunnerRow) -> Result<()> {
        self.store.write("write a runner", move |tx| rows::put_runner(tx, &row)).await
    }

    /// Writes a runner's mark and nothing else of it: its driver may be writing that it has a job.
    async fn put_mark(&self, name: WorkerName, mark: Option<ReservationId>) -> Result<()> {
        let put = move |tx: &rusqlite::Transaction<'_>| rows::put_mark(tx, &name, mark.as_ref());
        self.store.write("mark a runner", put).await?;
        self.hint.hint();
        Ok(())
    }

    async fn remove_runner(&self, name: WorkerName) -> Result<()> {
        let row = name.clone();
        let removed =
            self.store.write("remove a runner", move |tx| rows::remove_runner(tx, &row)).await;
        let mut state = self.state();
        match removed {
            Ok(()) => {
                if let Some(runner) = state.runners.remove(&name) {
                    runner.wake.notify_one();
                }
            }
            Err(_) => {
                if let Some(runner) = state.runners.get_mut(&name) {
                    runner.leaving = false;
                }
            }
        }
        drop(state);
        self.hint.hint();
        removed
    }

    /// Whether it is certain that nobody tried to start the runner's job there.
    fn is_untouched(&self, name: &WorkerName) -> bool {
        let state = self.state();
        let job = state.runners.get(name).and_then(|runner| runner.row.job.as_ref());
        job.and_then(|job| state.jobs.get(job)).is_some_and(|live| live.untouched)
    }

    /// Takes an untouched job from a runner and queues it again: in the store first, so that no successor
    /// finds it in both places.
    async fn give_back(&self, name: &WorkerName) -> Result<()> {
        let (mut job, mut row) = {
            let state = self.state();
            let Some(row) = state.runners.get(name).map(|runner| runner.row.clone()) else {
                return Ok(());
            };
            let live = row.job.as_ref().and_then(|job| state.jobs.get(job));
            let Some(job) = live.map(|live| live.job.clone()) else {
                return Ok(());
            };
            (job, row)
        };
        (job.state, job.worker, job.assigned_at) = (JobState::Queued, None, None);
        row.job = None;
        let written = job.clone();
        self.store
            .write_durably("take a job back", move |tx| {
                rows::put_job(tx, &written)?;
                rows::put_runner(tx, &row)
            })
            .await?;
        {
            let mut state = self.state();
            state.unassign(&job.id, name);
            state.hand_out(&job.id, &self.clock);
        }
        self.say(&job);
        self.hint.hint();
        Ok(())
    }

    fn wake_driver_of(&self, job: &Job) {
        let state = self.state();
        if let Some(runner) = job.worker.as_ref().and_then(|name| state.runners.get(name)) {
            runner.wake.notify_one();
        }
    }

    /// Ends a job for good: in the store first, then in memory.
    async fn end(
        &self,
        mut job: Job,
        runner: Option<WorkerName>,
        outputs: Option<Arc<Vec<u8>>>,
    ) -> Result<()> {
        job.ended_at = Some(self.clock.now());
        job.has_outputs = outputs.is_some();
        job.spec = job.spec.without_secrets();
        rows::end_job(&self.store, job.clone(), runner.clone(), outputs, self.limits.kept_jobs)
            .await?;
        {
            let mut state = self.state();
            state.waiting.remove(&order(&job));
            // Dropping what is alive of it ends whoever waits for it.
            if state.jobs.remove(&job.id).is_none() {
                return Ok(());
            }
            if let Some(runner) = runner.and_then(|name| state.runners.remove(&name)) {
                runner.wake.notify_one();
            }
        }
        self.say(&job);
        self.hint.hint();
        Ok(())
    }

    /// Writes what is in memory into a store that was begun anew.
    async fn write_again(&self) -> Result<()> {
        let (runners, jobs) = {
            let state = self.state();
            let runners: Vec<RunnerRow> = state.runners.values().map(|r| r.row.clone()).collect();
            let live = |live: &Live| (live.job.clone(), live.inputs.clone());
            (runners, state.jobs.values().map(live).collect::<Vec<_>>())
        };
        let cut = self
            .store
            .write_durably("write the local queue again", move |tx| {
                let mut cut = Vec::new();
                for (job, inputs) in &jobs {
                    // What is there already was written since, and is newer.
                    rows::put_job_if_missing(tx, job)?;
                    rows::put_inputs(tx, &job.id, inputs)?;
                    if rows::log_end(tx, &job.id)? < job.log_bytes {
                        cut.push(job.id.clone());
                    }
                }
                runners.iter().try_for_each(|runner| rows::put_runner(tx, runner))?;
                Ok(cut)
            })
            .await?;
        cut.into_iter().for_each(|id| self.read_again(&id));
        Ok(())
    }

    /// Forgets how far a log was read: the store has lost it, and the guest still has it.
    fn read_again(&self, id: &JobId) {
        if let Some(live) = self.state().jobs.get_mut(id) {
            (live.job.log_bytes, live.job.read_bytes, live.job.log_cut) = (0, 0, false);
        }
    }
}

fn check_limit(what: &str, needed: u64, available: u64, unit: &str) -> Result<()> {
    if needed <= available {
        return Ok(());
    }
    Err(Error::Exhausted {
        resource: format!("room for {what}"),
        needed: format!("{needed}{unit}"),
        available: format!("{available}{unit}"),
    })
}
