//! What the pool promised, and who waits for what, in memory: read by whoever serves, tells or plans. The ledger makes
//! it durable.

use super::*;
use crate::{
    queue::{Claim, Need, Place, Stand, Turns, Waiting},
    reservation::Ended,
    store::{Promises, Row},
};

/// Promises and those who wait for them, in memory. The ledger makes them durable.
#[derive(Default)]
pub(super) struct Queue {
    pub reservations: BTreeMap<ReservationId, Reservation>,
    pub entries: BTreeMap<ReservationId, Waiting>,
    pub ended: BTreeMap<ReservationId, Ended>,
    /// Reservations whose workers are all marked at their forge.
    pub marked: BTreeSet<ReservationId>,
    /// Those who wait, in the order in which they are served, as of the last look.
    pub line: Vec<Claim>,
    /// Whose turn it is, for each profile.
    pub turns: BTreeMap<ProfileName, Turns>,
    /// The one that several workers are collected for.
    pub collects: Option<ReservationId>,
    /// Idle workers that nobody in line needs.
    pub free: BTreeMap<ProfileName, Vec<WorkerName>>,
    /// Who wants to know when a reservation is marked.
    pub asking: Vec<(ReservationId, oneshot::Sender<Result<Reservation>>)>,
}

impl Queue {
    pub fn new(past: Promises, now: Timestamp) -> Self {
        let mut turns: BTreeMap<ProfileName, Turns> = BTreeMap::new();
        for entry in &past.entries {
            let turns = turns.entry(entry.profile.clone()).or_default();
            turns.entered(&entry.owner, entry.turn, entry.count);
        }
        for (profile, turns) in &mut turns {
            let waiting = past.entries.iter().filter(|entry| entry.profile == *profile);
            turns.served(waiting.map(|entry| entry.turn.round).min().unwrap_or_default());
        }
        let entries = past.entries.into_iter();
        Self {
            turns,
            reservations: past.reservations.into_iter().map(|r| (r.id.clone(), r)).collect(),
            // Whoever waits could not ask while nobody was there to answer.
            entries: entries.map(|entry| (entry.id.clone(), Waiting::new(entry, now))).collect(),
            ended: past.ended.into_iter().map(|e| (e.reservation.id.clone(), e)).collect(),
            ..Self::default()
        }
    }

    /// Which reservation or entry each promised worker belongs to.
    pub fn promised(&self) -> impl Iterator<Item = (&WorkerName, &ReservationId)> {
        let held = self.reservations.values().map(|held| (&held.workers, &held.id));
        let kept = self.entries.values().map(|waiting| (&waiting.entry.kept, &waiting.entry.id));
        held.chain(kept).flat_map(|(workers, id)| workers.iter().map(move |worker| (worker, id)))
    }

    /// What those in line need for which workers must be made.
    pub fn needs(&self) -> Vec<Need> {
        let open = self.line.iter().filter(|claim| !claim.blocked);
        open.map(|claim| Need {
            id: claim.id.clone(),
            profile: claim.profile.clone(),
            workers: claim.at_least,
            first: self.collects.as_ref() == Some(&claim.id),
        })
        .collect()
    }

    pub fn rows(&self) -> Vec<Row> {
        let held = self.reservations.values().cloned();
        let entries = self.entries.values().map(|waiting| waiting.entry.clone());
        let held = held.map(|held| Row::Reservation(held.id.clone(), Some(held)));
        let entries = entries.map(|entry| Row::Entry(entry.id.clone(), Some(entry)));
        let ended = self.ended.iter().map(|(id, e)| Row::Ended(id.clone(), Some(e.clone())));
        held.chain(entries).chain(ended).collect()
    }

    pub fn row(&self, id: &ReservationId) -> Row {
        Row::Reservation(id.clone(), self.reservations.get(id).cloned())
    }

    pub fn entry_row(&self, id: &ReservationId) -> Row {
        Row::Entry(id.clone(), self.entries.get(id).map(|waiting| waiting.entry.clone()))
    }

    /// When something about it may change by itself.
    pub fn wakes(&self) -> impl Iterator<Item = Timestamp> {
        let held = self.reservations.values().map(|held| held.until);
        let entries = self.entries.values().flat_map(|waiting| {
            let backoff = waiting.backoff.as_ref().map(|backoff| backoff.not_before);
            [Some(waiting.until()), backoff].into_iter().flatten()
        });
        held.chain(entries)
    }

    /// Where an entry stands.
    pub fn place(&self, id: &ReservationId) -> Option<Place> {
        let entry = &self.entries.get(id)?.entry;
        let line = self.line.iter().filter(|claim| claim.profile == entry.profile);
        let mut before = Before::default();
        line.take_while(|claim| claim.id != *id).for_each(|claim| before.count(claim));
        Some(self.place_behind(&self.entries[id], before))
    }

    /// Every entry, in the order in which they are served.
    pub fn places(&self) -> Vec<Place> {
        let mut before: BTreeMap<&ProfileName, Before> = BTreeMap::new();
        let mut places = Vec::with_capacity(self.entries.len());
        let served = self.entries.values().filter(|w| self.reservations.contains_key(&w.entry.id));
        places.extend(served.map(|waiting| self.place_behind(waiting, Before::default())));
        for claim in &self.line {
            let before = before.entry(&claim.profile).or_default();
            let waiting = self.entries.get(&claim.id);
            let waiting = waiting.filter(|w| !self.reservations.contains_key(&w.entry.id));
            places.extend(waiting.map(|waiting| self.place_behind(waiting, *before)));
            before.count(claim);
        }
        // What was rolled back just now stands in line again from the next look on.
        let told: BTreeSet<ReservationId> = places.iter().map(|p| p.entry.id.clone()).collect();
        let rest = self.entries.values().filter(|waiting| !told.contains(&waiting.entry.id));
        places.extend(rest.map(|waiting| self.place_behind(waiting, Before::default())));
        places
    }

    fn place_behind(&self, waiting: &Waiting, before: Before) -> Place {
        let entry = &waiting.entry;
        let stand = match self.reservations.contains_key(&entry.id) {
            // Others have promised all that it needs.
            false if entry.needs_here() == 0 => Stand::Ready,
            false => Stand::Waiting,
            true if self.marked.contains(&entry.id) => Stand::Ready,
            true => Stand::Marking,
        };
        let waits = stand == Stand::Waiting;
        let before = if waits { before } else { Before::default() };
        let missing = entry.fewest_here().saturating_sub(entry.kept.len() as u32);
        Place {
            entry: entry.clone(),
            stand,
            ahead: before.claims,
            ahead_workers: before.workers,
            missing: if waits { missing } else { 0 },
            backoff: waiting.backoff.clone(),
            until: waiting.until(),
        }
    }

    /// The ended reservations that waiting jobs ask for.
    pub fn asked_again(&self, observed: &Observed) -> Vec<Ended> {
        let jobs = observed.forges.values().flat_map(|forge| &forge.queued);
        let ids: BTreeSet<&ReservationId> =
            jobs.filter_map(|job| job.reserved_for.as_ref()).collect();
        ids.into_iter().filter_map(|id| self.ended.get(id)).cloned().collect()
    }
}

/// What is served before somebody.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    claims: u32,
    workers: u32,
}

impl Before {
    fn count(&mut self, claim: &Claim) {
        self.claims += 1;
        self.workers = self.workers.saturating_add(claim.at_least);
    }
}
