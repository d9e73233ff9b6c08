//! Whose turn it is, and who gets which worker: pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::name::{ProfileName, ReservationId, WorkerName};

/// By how much a worker that its owner holds, or has asked for before, puts a claim back.
pub const STEP: Duration = Duration::from_secs(5 * 60);
/// By how much a claim is put back at most: it is never overtaken by one that comes later than this.
pub const MOST: Duration = Duration::from_secs(3600);

/// Somebody who waits for workers: an entry of the queue, or a reservation that lacks some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What the reservation is, or will be, called.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// Whose share it counts for.
    pub owner: String,
    /// Since when it waits.
    pub since: Timestamp,
    /// How many are kept for it already.
    pub kept: u32,
    /// How many more it takes.
    pub missing: u32,
    /// How many more will do.
    pub at_least: u32,
    /// Whether it had its turn before: a reservation that holds is made whole before others begin.
    pub begun: bool,
    /// Whether it is passed over for now.
    pub blocked: bool,
    /// Whether workers can be made for it now. If not, it takes what is there and holds nobody up.
    pub can_grow: bool,
}

/// Puts claims in the order in which they are served. `held` says how many workers of a profile each owner
/// has already.
pub fn line(
    mut claims: Vec<Claim>,
    held: &BTreeMap<(ProfileName, String), u32>,
) -> Vec<Claim> {
    claims.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
    let mut before = held.clone();
    let mut turns: Vec<(bool, Timestamp, Claim)> = Vec::with_capacity(claims.len());
    for claim in claims {
        let before = before.entry((claim.profile.clone(), claim.owner.clone())).or_default();
        let back = if claim.begun { Duration::ZERO } else { STEP.saturating_mul(*before).min(MOST) };
        let back = SignedDuration::try_from(back).unwrap_or(SignedDuration::MAX);
        let turn = claim.since.saturating_add(back).unwrap_or(Timestamp::MAX);
        *before = before.saturating_add(claim.kept).saturating_add(claim.missing);
        turns.push((claim.kept > 0 || claim.begun, turn, claim));
    }
    // Whoever has begun goes on: two that each had a part of what both need would wait for ever.
    turns.sort_by_key(|(goes_on, turn, _)| (Reverse(*goes_on), *turn));
    turns.into_iter().map(|(_, _, claim)| claim).collect()
}

/// Who gets what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// The workers that each gets now.
    pub given: BTreeMap<ReservationId, Vec<WorkerName>>,
    /// Those that now have enough.
    pub enough: BTreeSet<ReservationId>,
    /// Those that give back what was kept for them.
    pub give_back: BTreeSet<ReservationId>,
    /// The one that workers are collected for, as it needs several.
    pub collects: Option<ReservationId>,
}

/// Gives idle workers to claims, which stand in line.
pub fn serve(line: &[Claim], idle: &BTreeMap<ProfileName, Vec<WorkerName>>) -> Served {
    let mut served = Served::default();
    let mut idle: BTreeMap<&ProfileName, &[WorkerName]> =
        idle.iter().map(|(profile, workers)| (profile, workers.as_slice())).collect();
    let mut closed: BTreeSet<&ProfileName> = BTreeSet::new();
    for claim in line {
        let open = !claim.blocked && !closed.contains(&claim.profile);
        let free = idle.entry(&claim.profile).or_default();
        let fitting = (claim.missing as usize).min(free.len());
        let enough = open && claim.missing > 0 && fitting >= claim.at_least as usize;
        // One worker is there or not; several come one by one.
        let goes_on = open && !enough && (claim.can_grow || claim.kept > 0);
        let collects = goes_on && served.collects.is_none() && claim.kept + claim.at_least > 1;
        if collects {
            served.collects = Some(claim.id.clone());
        }
        if goes_on {
            closed.insert(&claim.profile);
        }
        if enough || collects {
            let (given, left) = free.split_at(fitting);
            *free = left;
            if !given.is_empty() {
                served.given.insert(claim.id.clone(), given.to_vec());
            }
        } else if claim.kept > 0 {
            served.give_back.insert(claim.id.clone());
        }
        if enough {
            served.enough.insert(claim.id.clone());
        }
    }
    served
}
