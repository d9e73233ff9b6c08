//! Reservations, those that wait and those that ended, written together.

use rusqlite::{ToSql, Transaction, params};

use super::{Store, json_column, to_json};
use crate::{
    error::Result,
    name::ReservationId,
    queue::Entry,
    reservation::{ENDED_KEPT, Ended, Reservation},
};

/// One row, as it is to be from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Row {
    Reservation(ReservationId, Option<Reservation>),
    Entry(ReservationId, Option<Entry>),
    Ended(ReservationId, Option<Ended>),
}

/// Which row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowKey {
    Reservation(ReservationId),
    Entry(ReservationId),
    Ended(ReservationId),
}

/// Everything about reservations that an earlier process left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Promises {
    pub reservations: Vec<Reservation>,
    pub entries: Vec<Entry>,
    pub ended: Vec<Ended>,
}

impl Row {
    pub fn key(&self) -> RowKey {
        match self {
            Self::Reservation(id, _) => RowKey::Reservation(id.clone()),
            Self::Entry(id, _) => RowKey::Entry(id.clone()),
            Self::Ended(id, _) => RowKey::Ended(id.clone()),
        }
    }

    fn write(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let put = |sql: &str, values: &[&dyn ToSql]| tx.prepare_cached(sql)?.execute(values);
        match self {
            Self::Reservation(_, Some(held)) => put(
                "INSERT OR REPLACE INTO reservations (id, profile, owner, until, json)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    held.id.as_str(),
                    held.profile.as_str(),
                    held.owner,
                    held.until.to_string(),
                    to_json(held)?,
                ],
            ),
            Self::Reservation(id, None) => {
                put("DELETE FROM reservations WHERE id = ?1", params![id.as_str()])
            }
            Self::Entry(_, Some(entry)) => put(
                "INSERT OR REPLACE INTO queue (id, profile, owner, since, json)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    entry.id.as_str(),
                    entry.profile.as_str(),
                    entry.owner,
                    entry.since.to_string(),
                    to_json(entry)?,
                ],
            ),
            Self::Entry(id, None) => put("DELETE FROM queue WHERE id = ?1", params![id.as_str()]),
            Self::Ended(_, Some(ended)) => put(
                "INSERT OR REPLACE INTO ended_reservations (id, at, json) VALUES (?1, ?2, ?3)",
                params![ended.reservation.id.as_str(), ended.at.as_microsecond(), to_json(ended)?],
            ),
            Self::Ended(id, None) => {
                put("DELETE FROM ended_reservations WHERE id = ?1", params![id.as_str()])
            }
        }
        .map(drop)
    }
}

impl Store {
    /// What there is of reservations, of those that ended the newest.
    pub(crate) async fn promises(&self) -> Result<Promises> {
        self.write("read the reservations", |tx| {
            let mut held = tx.prepare("SELECT json FROM reservations ORDER BY id")?;
            let mut entries = tx.prepare("SELECT json FROM queue ORDER BY since, id")?;
            tx.execute(
                "DELETE FROM ended_reservations WHERE id NOT IN
                 (SELECT id FROM ended_reservations ORDER BY at DESC LIMIT ?1)",
                [ENDED_KEPT as u64],
            )?;
            let mut ended = tx.prepare("SELECT json FROM ended_reservations ORDER BY at")?;
            Ok(Promises {
                reservations: held.query_map([], json_column)?.collect::<rusqlite::Result<_>>()?,
                entries: entries.query_map([], json_column)?.collect::<rusqlite::Result<_>>()?,
                ended: ended.query_map([], json_column)?.collect::<rusqlite::Result<_>>()?,
            })
        })
        .await
    }

    /// Writes rows, all or none, durably.
    pub(crate) async fn write_rows(&self, rows: Vec<Row>) -> Result<()> {
        self.write_durably("write reservations", move |tx| {
            rows.iter().try_for_each(|row| row.write(tx))
        })
        .await
    }
}
