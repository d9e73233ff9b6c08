//! What people asked of the pool, and what was seen of workers at their end.

use rusqlite::{OptionalExtension, params};

use super::{Store, json_column, to_json};
use crate::{
    error::Result,
    event::Event,
    name::WorkerName,
    policy::Override,
    recorder::{FLIGHTS_KEPT, FlightRecord},
    wish::{Adjustment, Dismissal, Hold},
};

/// Everything that people asked of the pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    pub holds: Vec<Hold>,
    pub dismissals: Vec<Dismissal>,
    pub adjustments: Vec<Adjustment>,
    pub policy: Option<Override>,
}

/// Where the policy override is among the few things of which there is one: as JSON.
const OVERRIDE: &str = "override";

impl Store {
    pub(crate) async fn wishes(&self) -> Result<Wishes> {
        self.write("read the wishes", |tx| {
            let mut holds = tx.prepare("SELECT json FROM holds ORDER BY worker")?;
            let mut dismissals = tx.prepare("SELECT json FROM dismissals ORDER BY worker")?;
            let mut adjustments = tx.prepare("SELECT json FROM adjustments ORDER BY profile")?;
            let mut policy = tx.prepare("SELECT value FROM meta WHERE key = ?1")?;
            Ok(Wishes {
                policy: policy.query_row([OVERRIDE], json_column).optional()?,
                holds: holds.query_map([], json_column)?.collect::<Result<_, _>>()?,
                dismissals: dismissals.query_map([], json_column)?.collect::<Result<_, _>>()?,
                adjustments: adjustments.query_map([], json_column)?.collect::<Result<_, _>>()?,
            })
        })
        .await
    }

    pub(crate) async fn put_hold(&self, hold: Hold) -> Result<()> {
        self.write_durably("write a hold", move |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO holds (worker, asker, until, json) VALUES (?1, ?2, ?3, ?4)",
                params![hold.worker.as_str(), hold.by, hold.until.to_string(), to_json(&hold)?],
            )
            .map(drop)
        })
        .await
    }

    pub(crate) async fn remove_hold(&self, worker: WorkerName) -> Result<()> {
        self.write_durably("remove a hold", move |tx| {
            tx.execute("DELETE FROM holds WHERE worker = ?1", [worker.as_str()]).map(drop)
        })
        .await
    }

    pub(crate) async fn put_dismissal(&self, dismissal: Dismissal) -> Result<()> {
        self.write_durably("write a dismissal", move |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO dismissals (worker, asker, json) VALUES (?1, ?2, ?3)",
                params![dismissal.worker.as_str(), dismissal.by, to_json(&dismissal)?],
            )
            .map(drop)
        })
        .await
    }

    pub(crate) async fn remove_dismissal(&self, worker: WorkerName) -> Result<()> {
        self.write("remove a dismissal", move |tx| {
            tx.execute("DELETE FROM dismissals WHERE worker = ?1", [worker.as_str()]).map(drop)
        })
        .await
    }

    pub(crate) async fn put_adjustment(&self, adjustment: Adjustment) -> Result<()> {
        self.write_durably("write an adjustment", move |tx| {
            let key = adjustment.profile.as_str();
            if adjustment.is_none() {
                return tx.execute("DELETE FROM adjustments WHERE profile = ?1", [key]).map(drop);
            }
            tx.execute(
                "INSERT OR REPLACE INTO adjustments (profile, asker, json) VALUES (?1, ?2, ?3)",
                params![key, adjustment.by, to_json(&adjustment)?],
            )
            .map(drop)
        })
        .await
    }

    /// Writes the policy override, or that there is none.
    pub(crate) async fn put_override(&self, policy: Option<Override>) -> Result<()> {
        self.write_durably("write the policy override", move |tx| match &policy {
            None => tx.execute("DELETE FROM meta WHERE key = ?1", [OVERRIDE]).map(drop),
            Some(policy) => tx
                .execute(
                    "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)",
                    [OVERRIDE, &to_json(policy)?],
                )
                .map(drop),
        })
        .await
    }

    /// Keeps what was seen of a worker, and drops the oldest beyond [`FLIGHTS_KEPT`].
    pub(crate) async fn put_flight(
        &self,
        record: FlightRecord,
        screenshot: Option<Vec<u8>>,
    ) -> Result<()> {
        self.write("write a flight record", move |tx| {
            tx.execute(
                "INSERT OR REPLACE INTO flights (worker, at, json, screenshot) VALUES (?1, ?2, ?3, ?4)",
                params![
                    record.worker.as_str(),
                    record.at.to_string(),
                    to_json(&record)?,
                    screenshot
                ],
            )?;
            tx.execute(
                "DELETE FROM flights WHERE number <= (SELECT max(number) FROM flights) - ?1",
                [FLIGHTS_KEPT],
            )
            .map(drop)
        })
        .await
    }

    /// What was seen of ended workers, newest first.
    ///
    /// # Errors
    /// `Backend` when the store fails.
    pub async fn flights(&self, limit: u32) -> Result<Vec<FlightRecord>> {
        self.write("read flight records", move |tx| {
            let mut statement =
                tx.prepare_cached("SELECT json FROM flights ORDER BY number DESC LIMIT ?1")?;
            statement.query_map([limit], json_column)?.collect()
        })
        .await
    }

    /// What was seen of one ended worker, if it is kept still.
    ///
    /// # Errors
    /// `Backend` when the store fails.
    pub async fn flight(&self, worker: WorkerName) -> Result<Option<FlightRecord>> {
        self.write("read a flight record", move |tx| {
            let mut statement = tx.prepare_cached("SELECT json FROM flights WHERE worker = ?1")?;
            statement.query_row([worker.as_str()], json_column).optional()
        })
        .await
    }

    /// The last picture of one ended worker's screen, if it is kept still: a PNG.
    ///
    /// # Errors
    /// `Backend` when the store fails.
    pub async fn flight_screenshot(&self, worker: WorkerName) -> Result<Option<Vec<u8>>> {
        self.write("read a flight's screenshot", move |tx| {
            let mut statement =
                tx.prepare_cached("SELECT screenshot FROM flights WHERE worker = ?1")?;
            let row = statement.query_row([worker.as_str()], |row| row.get(0)).optional()?;
            Ok(row.flatten())
        })
        .await
    }

    /// The newest events about any of `subjects`, as they are written, oldest first.
    pub(crate) async fn events_about(
        &self,
        subjects: Vec<String>,
        limit: u32,
    ) -> Result<Vec<Event>> {
        self.write("read events", move |tx| {
            let mut statement = tx.prepare_cached(
                "SELECT json FROM events WHERE subject IN (SELECT value FROM json_each(?1))
                 ORDER BY id DESC LIMIT ?2",
            )?;
            let subjects = to_json(&subjects)?;
            let mut events = statement
                .query_map(params![subjects, limit], json_column)?
                .collect::<Result<Vec<Event>, _>>()?;
            events.reverse();
            Ok(events)
        })
        .await
    }
}
