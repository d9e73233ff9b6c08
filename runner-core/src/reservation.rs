//! A promise of idle workers to one owner until a time, with a purpose.

use std::collections::BTreeSet;

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
    /// The workers promised.
    pub workers: BTreeSet<WorkerName>,
}

/// What to reserve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveRequest {
    /// Its name. Asking for one that exists returns it as it is.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// How many: all of them or none.
    pub count: u32,
    /// Who asks.
    pub owner: String,
    /// What for.
    pub purpose: String,
    /// Until when it is to hold.
    pub until: Timestamp,
}
