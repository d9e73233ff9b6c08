//! The local queue's rows in the store.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::job::{InputFile, Job};
use crate::{
    error::Result,
    name::{JobId, Label, ProfileName, ReservationId, WorkerName},
    store::{Store, json_column, to_json},
};

/// A runner of the local queue, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunnerRow {
    pub name: WorkerName,
    pub profile: ProfileName,
    pub labels: std::collections::BTreeSet<Label>,
    pub job: Option<JobId>,
    pub reserved_for: Option<ReservationId>,
}

/// Adds a job under a new number and id, which `job` is given.
pub(crate) async fn insert_job(
    store: &Store,
    job: Job,
    inputs: Arc<Vec<InputFile>>,
) -> Result<Job> {
    store
        .write_durably("write a job", move |tx| {
            let number: u64 = tx.query_row(
                "SELECT max(
                     coalesce((SELECT max(number) FROM jobs), 0),
                     coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'job'), 0)
                 ) + 1",
                [],
                |row| row.get(0),
            )?;
            tx.execute(
                "INSERT OR REPLACE INTO meta (key, value) VALUES ('job', ?1)",
                [number.to_string()],
            )?;
            // Random, so that a store begun anew does not give an old job's id to a new one.
            let tail: String =
                tx.query_row("SELECT lower(hex(randomblob(3)))", [], |row| row.get(0))?;
            let id = JobId::new(format!("{number}-{tail}")).expect("digits, a dash and hex");
            let job = Job { id, number, ..job.clone() };
            put_job(tx, &job)?;
            put_inputs(tx, &job.id, &inputs)?;
            Ok(job)
        })
        .await
}

/// Writes a job as it is now.
pub(crate) fn put_job(tx: &Transaction<'_>, job: &Job) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO jobs (number, id, state, profile, queued_at, ended_at, json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET
             state = excluded.state, ended_at = excluded.ended_at, json = excluded.json",
    )?
    .execute(params![
        job.number,
        job.id.as_str(),
        job.state.word(),
        job.spec.profile.as_ref().map(ProfileName::as_str),
        job.queued_at.to_string(),
        job.ended_at.map(|at| at.to_string()),
        to_json(job)?,
    ])
    .map(|_| ())
}

/// Writes a job unless there is one of its id.
pub(crate) fn put_job_if_missing(tx: &Transaction<'_>, job: &Job) -> rusqlite::Result<()> {
    let there = tx
        .prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?
        .query_row([job.id.as_str()], |_| Ok(()))
        .optional()?;
    if there.is_some() { Ok(()) } else { put_job(tx, job) }
}

pub(crate) fn put_inputs(
    tx: &Transaction<'_>,
    id: &JobId,
    inputs: &[InputFile],
) -> rusqlite::Result<()> {
    for file in inputs {
        tx.execute(
            "INSERT OR REPLACE INTO job_inputs (job, path, mode, content) VALUES (?1, ?2, ?3, ?4)",
            params![id.as_str(), file.path, file.mode, file.content],
        )?;
    }
    Ok(())
}

pub(crate) fn put_runner(tx: &Transaction<'_>, runner: &RunnerRow) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO local_runners (name, json) VALUES (?1, ?2)")?
        .execute(params![runner.name.as_str(), to_json(runner)?])
        .map(|_| ())
}

/// Writes the mark of a runner, if there is such a runner.
pub(crate) fn put_mark(
    tx: &Transaction<'_>,
    name: &WorkerName,
    mark: Option<&ReservationId>,
) -> rusqlite::Result<()> {
    let mut query = tx.prepare_cached("SELECT json FROM local_runners WHERE name = ?1")?;
    let row = query.query_row([name.as_str()], json_column::<RunnerRow>).optional()?;
    let Some(row) = row else {
        return Ok(());
    };
    put_runner(tx, &RunnerRow { reserved_for: mark.cloned(), ..row })
}

pub(crate) fn remove_runner(tx: &Transaction<'_>, name: &WorkerName) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM local_runners WHERE name = ?1", [name.as_str()]).map(|_| ())
}

/// What must be in memory: every runner and every job that is not over, with its inputs.
pub(crate) async fn live(
    store: &Store,
) -> Result<(Vec<RunnerRow>, Vec<(Job, Arc<Vec<InputFile>>)>)> {
    store
        .write("read the local queue", |tx| {
            let mut statement = tx.prepare("SELECT json FROM local_runners ORDER BY name")?;
            let runners = statement.query_map([], json_column)?.collect::<Result<_, _>>()?;
            let mut statement = tx.prepare(
                "SELECT json FROM jobs WHERE state IN ('queued', 'running') ORDER BY number",
            )?;
            let jobs: Vec<Job> = statement.query_map([], json_column)?.collect::<Result<_, _>>()?;
            let mut live = Vec::with_capacity(jobs.len());
            for job in jobs {
                let inputs = inputs(tx, &job.id)?;
                live.push((job, Arc::new(inputs)));
            }
            Ok((runners, live))
        })
        .await
}

fn inputs(tx: &Transaction<'_>, id: &JobId) -> rusqlite::Result<Vec<InputFile>> {
    let mut statement =
        tx.prepare_cached("SELECT path, mode, content FROM job_inputs WHERE job = ?1")?;
    let file = |row: &rusqlite::Row<'_>| {
        Ok(InputFile { path: row.get(0)?, mode: row.get(1)?, content: row.get(2)? })
    };
    statement.query_map([id.as_str()], file)?.collect()
}

/// One job.
pub(crate) async fn job(store: &Store, id: JobId) -> Result<Option<Job>> {
    store
        .write("read a job", move |tx| {
            tx.query_row("SELECT json FROM jobs WHERE id = ?1", [id.as_str()], json_column)
                .optional()
        })
        .await
}

/// The newest jobs below a number, newest first.
pub(crate) async fn jobs(store: &Store, below: Option<u64>, limit: u32) -> Result<Vec<Job>> {
    // Below what is beyond SQLite's numbers is everything.
    let below = below.map(|below| i64::try_from(below).unwrap_or(i64::MAX));
    store
        .write("read the jobs", move |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT json FROM jobs WHERE ?1 IS NULL OR number < ?1
                 ORDER BY number DESC LIMIT ?2",
            )?;
            statement.query_map(params![below, limit], json_column)?.collect()
        })
        .await
}

/// Appends to a job's log and writes how far it was read, in one transaction. False, and nothing is
/// written, when the log in the store does not end where the new part begins.
pub(crate) async fn append_log(
    store: &Store,
    job: Job,
    start: u64,
    chunk: Vec<u8>,
) -> Result<bool> {
    store
        .write("write a job's log", move |tx| {
            if log_end(tx, &job.id)? != start {
                return Ok(false);
            }
            put_job(tx, &job)?;
            if !chunk.is_empty() {
                tx.prepare_cached("INSERT INTO job_log (job, start, chunk) VALUES (?1, ?2, ?3)")?
                    .execute(params![job.id.as_str(), start, chunk])?;
            }
            Ok(true)
        })
        .await
}

/// Where a job's log ends.
pub(crate) fn log_end(tx: &Transaction<'_>, id: &JobId) -> rusqlite::Result<u64> {
    let end = tx
        .prepare_cached(
            "SELECT start + length(chunk) FROM job_log WHERE job = ?1 ORDER BY start DESC LIMIT 1",
        )?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(end.unwrap_or(0))
}

/// Empties a job's log, to read it from the guest once more.
pub(crate) async fn clear_log(store: &Store, job: Job) -> Result<()> {
    store
        .write("clear a job's log", move |tx| {
            tx.execute("DELETE FROM job_log WHERE job = ?1", [job.id.as_str()])?;
            put_job(tx, &job)
        })
        .await
}

/// A part of a job's log from an offset on, about `max_bytes` long at most.
pub(crate) async fn read_log(
    store: &Store,
    id: JobId,
    from: u64,
    max_bytes: usize,
) -> Result<Vec<u8>> {
    store
        .write("read a job's log", move |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT start, chunk FROM job_log
                 WHERE job = ?1 AND start + length(chunk) > ?2 ORDER BY start",
            )?;
            let mut rows =
                statement.query(params![id.as_str(), i64::try_from(from).unwrap_or(i64::MAX)])?;
            let mut text = Vec::new();
            while let Some(row) = rows.next()? {
                let start: u64 = row.get(0)?;
                let chunk = row.get_ref(1)?.as_blob()?;
                let skip = from.saturating_sub(start).min(chunk.len() as u64) as usize;
                text.extend_from_slice(&chunk[skip..]);
                if text.len() >= max_bytes {
                    break;
                }
            }
            Ok(text)
        })
        .await
}

/// A job is over: its last state, its outputs, no more inputs and no more runner, in one transaction.
pub(crate) async fn end_job(
    store: &Store,
    job: Job,
    runner: Option<WorkerName>,
    outputs: Option<Arc<Vec<u8>>>,
    keep: u64,
) -> Result<()> {
    store
        .write_durably("end a job", move |tx| {
            put_job(tx, &job)?;
            tx.execute("DELETE FROM job_inputs WHERE job = ?1", [job.id.as_str()])?;
            if let Some(tar) = &outputs {
                tx.execute(
                    "INSERT OR REPLACE INTO job_outputs (job, tar) VALUES (?1, ?2)",
                    params![job.id.as_str(), **tar],
                )?;
            }
            if let Some(runner) = &runner {
                remove_runner(tx, runner)?;
            }
            tx.execute(
                "DELETE FROM jobs WHERE ended_at IS NOT NULL AND number <= ?1",
                [job.number.saturating_sub(keep)],
            )?;
            Ok(())
        })
        .await
}

/// The collected outputs of a job, as a tar archive.
pub(crate) async fn outputs(store: &Store, id: JobId) -> Result<Option<Vec<u8>>> {
    store
        .write("read a job's outputs", move |tx| {
            tx.query_row("SELECT tar FROM job_outputs WHERE job = ?1", [id.as_str()], |row| {
                row.get(0)
            })
            .optional()
        })
        .await
}
