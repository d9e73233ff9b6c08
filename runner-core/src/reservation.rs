//! A promise of idle workers to one owner until a time, with a purpose.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{ProfileName, ReservationId, WorkerName};

/// A promise of idle workers to one owner until a time, with a purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Its name: jobs that ask for it run on its workers, and no others do.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// Who asked.
    pub owner: String,
    /// What for.
    pub purpose: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when it holds.
    pub until: Timestamp,
    /// How many it is for. One that is lost before its job began is replaced.
    #[serde(default)]
    pub count: u32,
    /// The workers promised, those included that had their job.
    pub workers: BTreeSet<WorkerName>,
    /// Those of them that had a job of it.
    #[serde(default)]
    pub used: BTreeSet<WorkerName>,
    /// When the last of those was first seen with its job.
    #[serde(default)]
    pub used_at: Option<Timestamp>,
}

/// A reservation that ended. A job that asks for it later, such as one that is run again, gets a fresh worker
/// under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// As it was at its end.
    pub reservation: Reservation,
    /// When it ended.
    pub at: Timestamp,
    /// Why, in words.
    pub why: String,
}

/// How many ended reservations are remembered; the newest are.
pub const ENDED_KEPT: usize = 1_000;
/// For how long one is remembered: as long as GitHub lets jobs be run again.
pub const ENDED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// What to reserve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveRequest {
    /// Its name. Asking for one that exists returns it as it is.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// How many: all of them or none, unless fewer will do.
    pub count: u32,
    /// The fewest that will do; all of them, if none.
    #[serde(default)]
    pub at_least: Option<u32>,
    /// Who asks.
    pub owner: String,
    /// What for.
    pub purpose: String,
    /// Until when it is to hold.
    pub until: Timestamp,
}
