//! Whose turn it is, and who gets which worker: pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{ProfileName, ReservationId, WorkerName};

/// Of how many owners it is remembered what they asked for.
const OWNERS: usize = 10_000;

/// How many workers may go to whoever came later, for each worker that one's own owner asked for before and that
/// did not have its turn yet.
pub const OVERTAKEN: u64 = 16;

/// When somebody has its turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The round in which its owner is served.
    pub round: u64,
    /// How many workers had been asked for when it came.
    #[serde(default)]
    pub came: u64,
}

/// Whose turn it is among the owners that wait for one profile: start-time fair queueing, counted in workers.
///
/// What an owner asks for next has its round after what it asked for before; whoever asked for nothing lately
/// begins in the round that is served now. A round is worth [`OVERTAKEN`] workers, and no more: whoever came so
/// much earlier goes first even if its round is the later one, so that no stream of new owners, who all begin in
/// the round of now, keeps anybody waiting for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turns {
    now: u64,
    /// How many workers were asked for.
    came: u64,
    /// The round in which an owner's next request begins, where that is later than now.
    next: BTreeMap<String, u64>,
}

impl Turn {
    /// Who is served first: the one of whom this is the lowest.
    fn rank(self) -> u64 {
        self.round.saturating_mul(OVERTAKEN).saturating_add(self.came)
    }
}

impl Turns {
    /// The round that is served now.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// How many workers were asked for.
    pub fn came(&self) -> u64 {
        self.came
    }

    /// The turn of what `owner` asks for now.
    pub fn enter(&mut self, owner: &str, count: u32) -> Turn {
        let round = self.next.get(owner).map_or(self.now, |next| self.now.max(*next));
        let turn = Turn { round, came: self.came };
        self.entered(owner, turn, count);
        turn
    }

    /// Remembers a turn that was given before, such as by an earlier process.
    pub fn entered(&mut self, owner: &str, turn: Turn, count: u32) {
        if self.next.len() >= OWNERS {
            // Whoever waits keeps its round; what owners asked for before is forgotten.
            self.next.clear();
        }
        let next = self.next.entry(owner.to_owned()).or_default();
        *next = (*next).max(turn.round.saturating_add(count.into()));
        self.came = self.came.max(turn.came.saturating_add(count.into()));
    }

    /// Goes on to a round, as somebody in it is served.
    pub fn served(&mut self, round: u64) {
        self.now = self.now.max(round);
        self.next.retain(|_, next| *next > self.now);
    }
}

/// Somebody who waits for workers: an entry of the queue, or a reservation that lacks some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What the reservation is, or will be, called.
    pub id: ReservationId,
    /// Which kind of worker.
    pub profile: ProfileName,
    /// When it has its turn: see [`Turns`].
    pub turn: Turn,
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

/// Puts claims in the order in which they are served.
pub fn line(mut claims: Vec<Claim>) -> Vec<Claim> {
    claims.sort_by(|a, b| {
        // Whoever has begun goes on: two that each had a part of what both need would wait for ever.
        let turn = |claim: &Claim| {
            (Reverse(claim.begun || claim.kept > 0), claim.turn.rank(), claim.since)
        };
        (turn(a), &a.id).cmp(&(turn(b), &b.id))
    });
    claims
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
