//! The queue of reservations that wait for workers.
//!
//! Whoever finds too few idle workers [enqueues](crate::Pool::enqueue) what they want, asks after it now and
//! then, and [takes](crate::Pool::take) it when it is ready. The rules, which [`line()`] and [`serve`] decide
//! from facts alone:
//!
//! * **First come, first served**, for each profile, and by turns between owners: see [`Turns`]. An owner's
//!   requests are served in their order, and another owner goes before one of them no more often than its
//!   owner asked for something before it. However many other owners come, no more than [`OVERTAKEN`] workers
//!   go to later ones for each that its own owner asked for before it.
//! * **Nobody is overtaken for being large.** What the first in line of a profile cannot have yet, nobody
//!   behind it gets. If it wants several workers, each that gets idle is kept for it, up to as many as it
//!   wants; one request in the whole pool is so collected for at a time, so that no two wait for each other's.
//! * **Nobody is held up by what cannot go on.** A request whose profile is paused, or has a lower `max` now,
//!   keeps its place and nothing else, until that ends.
//! * **Nothing is forgotten before it is had.** An entry leaves when it was taken, which is possible once its
//!   workers are promised and marked at their forge; or when nobody asked after it for as long as it said.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    name::{ProfileName, ReservationId, WorkerName},
    plan::Backoff,
    profile::Profile,
    reservation::Reservation,
    resources::{Capacity, Resources},
};

mod claims;
mod order;
mod outlook;

pub use claims::Need;
pub(crate) use claims::{Claims, Fate};
pub use order::{Claim, OVERTAKEN, Served, Turn, Turns, line, serve};
pub use outlook::{Decision, Outlook, decide, outlook};

/// How many entries may wait.
pub const ENTRIES: usize = 1_000;

/// What to reserve as soon as it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnqueueRequest {
    /// What the reservation will be called. Asking for one that waits returns it as it stands.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// How many: all of them together, unless fewer will do.
    pub count: u32,
    /// The fewest that will do; all of them, if none.
    #[serde(default)]
    pub at_least: Option<u32>,
    /// Who asks, such as a repository: the queue is fair between owners.
    pub owner: String,
    /// What for.
    pub purpose: String,
    /// How long the reservation is to hold from the moment it is taken.
    pub duration: Duration,
    /// After how long without being asked after it is given up.
    pub patience: Duration,
    /// How many of them may come from elsewhere: so many more may be asked for than can ever be here.
    #[serde(default)]
    pub beyond: u32,
}

/// A reservation that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the reservation will be called.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// How many.
    pub count: u32,
    /// The fewest that will do.
    pub at_least: u32,
    /// Who asked.
    pub owner: String,
    /// What for.
    pub purpose: String,
    /// How long the reservation is to hold from the moment it is taken.
    pub duration: Duration,
    /// After how long without being asked after it is given up.
    pub patience: Duration,
    /// Since when it waits.
    pub since: Timestamp,
    /// When it has its turn.
    #[serde(flatten)]
    pub turn: Turn,
    /// The workers kept for it while it waits for the rest.
    pub kept: BTreeSet<WorkerName>,
    /// How many of its workers others have promised.
    #[serde(default)]
    pub elsewhere: u32,
    /// How many of them may come from elsewhere.
    #[serde(default)]
    pub beyond: u32,
}

/// An entry, and what only this process knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The entry.
    pub entry: Entry,
    /// When it was last asked after.
    pub asked_at: Timestamp,
    /// Why it is not served for a while: its workers could not be marked.
    pub backoff: Option<Backoff>,
}

/// How far an entry has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stand {
    /// It waits for workers.
    Waiting,
    /// Its workers are promised, and being marked at their forge.
    Marking,
    /// It can be taken.
    Ready,
}

/// An entry and its place in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The entry.
    pub entry: Entry,
    /// How far it has come.
    pub stand: Stand,
    /// How many are served before it, of the same profile. Its position is one more.
    pub ahead: u32,
    /// How many workers those still need.
    pub ahead_workers: u32,
    /// How many workers it still needs itself.
    pub missing: u32,
    /// Why it is passed over for a while: its workers could not be marked.
    pub backoff: Option<Backoff>,
    /// When it is given up, unless it is asked after before.
    pub until: Timestamp,
}

/// What asking for one's entry gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// The reservation: its workers are promised and marked. The entry is gone.
    Taken(Reservation),
    /// It waits still.
    Waits(Box<Place>),
}

impl Waiting {
    pub(crate) fn new(entry: Entry, now: Timestamp) -> Self {
        Self { entry, asked_at: now, backoff: None }
    }

    /// When it is given up, unless it is asked after before.
    pub fn until(&self) -> Timestamp {
        let patience = jiff::SignedDuration::try_from(self.entry.patience);
        let patience = patience.unwrap_or(jiff::SignedDuration::MAX);
        self.asked_at.saturating_add(patience).unwrap_or(Timestamp::MAX)
    }
}

impl Entry {
    /// How many workers it wants here. None once others have promised enough.
    pub fn needs_here(&self) -> u32 {
        if self.elsewhere >= self.at_least { 0 } else { self.count.saturating_sub(self.elsewhere) }
    }

    /// The fewest that will do here.
    pub fn fewest_here(&self) -> u32 {
        self.at_least.saturating_sub(self.elsewhere)
    }

    /// What it still claims here.
    pub(crate) fn claim(&self, blocked: bool, can_grow: bool) -> Claim {
        let kept = self.kept.len() as u32;
        Claim {
            id: self.id.clone(),
            profile: self.profile.clone(),
            turn: self.turn,
            since: self.since,
            kept,
            missing: self.needs_here().saturating_sub(kept),
            at_least: self.fewest_here().saturating_sub(kept),
            begun: false,
            blocked,
            can_grow,
        }
    }

    /// What it is taken as when all of it is elsewhere.
    pub(crate) fn taken_elsewhere(&self, since: Timestamp, until: Timestamp) -> Reservation {
        Reservation {
            id: self.id.clone(),
            profile: self.profile.clone(),
            owner: self.owner.clone(),
            purpose: self.purpose.clone(),
            since,
            until,
            count: 0,
            workers: BTreeSet::new(),
            used: BTreeSet::new(),
            used_at: None,
        }
    }
}

impl EnqueueRequest {
    /// The entry it becomes.
    ///
    /// # Errors
    /// `Invalid` for numbers that cannot be.
    pub(crate) fn entry(self, now: Timestamp, turns: &mut Turns) -> Result<Entry> {
        let at_least = fewest(self.count, self.at_least)?;
        let Self { id, profile, count, owner, purpose, duration, patience, beyond, .. } = self;
        if duration.is_zero() || patience.is_zero() {
            return Err(Error::invalid("a time of a queue entry", "it must be above zero"));
        }
        let (since, kept) = (now, BTreeSet::new());
        let turn = turns.enter(&owner, count);
        Ok(Entry {
            id,
            profile,
            count,
            at_least,
            owner,
            purpose,
            duration,
            patience,
            since,
            turn,
            kept,
            elsewhere: 0,
            beyond,
        })
    }
}

/// The fewest workers that will do.
///
/// # Errors
/// `Invalid` for none at all, and for more than all.
pub(crate) fn fewest(count: u32, at_least: Option<u32>) -> Result<u32> {
    let at_least = at_least.unwrap_or(count);
    if count == 0 || at_least == 0 {
        return Err(Error::invalid("count", "reserve at least one worker"));
    }
    if at_least > count {
        let reason = format!("at least {at_least} are asked for, and {count} at most");
        return Err(Error::invalid("count", reason));
    }
    Ok(at_least)
}

/// Refuses what can never be: more workers than the profile may have, by its configuration or as adjusted,
/// or than fit on the empty host.
///
/// # Errors
/// `Invalid` with the arithmetic.
pub(crate) fn check_ever(
    profile: &Profile,
    max: u32,
    at_least: u32,
    capacity: Option<&Capacity>,
) -> Result<()> {
    let what = || format!("{at_least} workers of profile {} at once", profile.name);
    if at_least > max {
        let reason = format!("it may have {max}; ask for at most {max}, or raise its max");
        return Err(Error::invalid(what(), reason));
    }
    let Some(capacity) = capacity else { return Ok(()) };
    let mut all = Resources::default();
    (0..at_least).for_each(|_| all.add(&profile.resources));
    match capacity.shortage(&Resources::default(), &all) {
        Some(shortage) => {
            Err(Error::invalid(what(), format!("they never fit on this host: {shortage}")))
        }
        None => Ok(()),
    }
}
