//! Serves the queue: keeps promises whole, gives idle workers to those who wait, answers who asks.

use std::mem::take;

use super::*;
use crate::{
    queue::{
        self, Claim, Claims, ENTRIES, EnqueueRequest, Entry, Fate, Need, Place, Stand, Take, Turns,
        Waiting, check_ever, fewest,
    },
    reservation::{ENDED_FOR, ENDED_KEPT, Ended},
    store::{Promises, Row},
};

/// How long a reservation holds that a job brought back: until the job has its worker. Should it still wait then,
/// it asks again.
const AGAIN_FOR: SignedDuration = SignedDuration::from_mins(5);

/// Promises and those who wait for them, in memory. The ledger makes them durable.
#[derive(Default)]
pub(super) struct Queue {
    pub reservations: BTreeMap<ReservationId, Reservation>,
    pub entries: BTreeMap<ReservationId, Waiting>,
    pub ended: BTreeMap<ReservationId, Ended>,
    /// Reservations whose workers are all marked at their forge.
    marked: BTreeSet<ReservationId>,
    /// Those who wait, in the order in which they are served, as of the last look.
    line: Vec<Claim>,
    /// Whose turn it is, for each profile.
    turns: BTreeMap<ProfileName, Turns>,
    /// The one that several workers are collected for.
    collects: Option<ReservationId>,
    /// Idle workers that nobody in line needs.
    free: BTreeMap<ProfileName, Vec<WorkerName>>,
    /// Who wants to know when a reservation is marked.
    asking: Vec<(ReservationId, oneshot::Sender<Result<Reservation>>)>,
}

impl Queue {
    pub fn new(past: Promises, now: Timestamp) -> Self {
        let mut turns: BTreeMap<ProfileName, Turns> = BTreeMap::new();
        for entry in &past.entries {
            let turns = turns.entry(entry.profile.clone()).or_default();
            turns.entered(&entry.owner, entry.round, entry.count);
        }
        for (profile, turns) in &mut turns {
            let waiting = past.entries.iter().filter(|entry| entry.profile == *profile);
            turns.served(waiting.map(|entry| entry.round).min().unwrap_or_default());
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

    fn row(&self, id: &ReservationId) -> Row {
        Row::Reservation(id.clone(), self.reservations.get(id).cloned())
    }

    fn entry_row(&self, id: &ReservationId) -> Row {
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
    fn place(&self, id: &ReservationId) -> Option<Place> {
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
            false => Stand::Waiting,
            true if self.marked.contains(&entry.id) => Stand::Ready,
            true => Stand::Marking,
        };
        let waits = stand == Stand::Waiting;
        let before = if waits { before } else { Before::default() };
        let missing = entry.at_least.saturating_sub(entry.kept.len() as u32);
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

impl Engine {
    /// Gives idle workers to those who wait. Returns whether anything changed.
    pub(super) fn serve_queue(&mut self, observed: &Observed, now: Timestamp) -> bool {
        let mut changed = self.mend(observed, now);
        let claims = self.claims(observed, now);
        let line = queue::line(claims.all());
        let served = queue::serve(&line, &self.idle(observed, now));
        self.queue.line = line;
        self.queue.collects = served.collects;
        for id in served.give_back {
            if let Some(waiting) = self.queue.entries.get_mut(&id) {
                changed |= !take(&mut waiting.entry.kept).is_empty();
                let text = "what was kept for it goes to others: it cannot go on for now";
                self.say(Subject::Reservation(id.clone()), What::Note { text: text.to_owned() });
                self.post_entry(&id);
            }
        }
        for (id, workers) in served.given {
            changed = true;
            self.give(&id, workers, served.enough.contains(&id), now);
        }
        changed
    }

    /// Finds what became of promised workers: those that are lost are promised no more.
    fn mend(&mut self, observed: &Observed, now: Timestamp) -> bool {
        let claims = self.claims(observed, now);
        let mut fates: Vec<(ReservationId, WorkerName, Fate)> = Vec::new();
        for held in self.queue.reservations.values() {
            for worker in &held.workers {
                let fate = claims.fate(&held.id, worker, held.used.contains(worker));
                fates.push((held.id.clone(), worker.clone(), fate));
            }
        }
        for waiting in self.queue.entries.values() {
            let Entry { id, kept, .. } = &waiting.entry;
            let fates_of = kept.iter().map(|worker| (worker, claims.fate(id, worker, false)));
            fates.extend(fates_of.map(|(worker, fate)| (id.clone(), worker.clone(), fate)));
        }
        let mut changed = false;
        for (id, worker, fate) in fates {
            let news = match self.queue.reservations.get_mut(&id) {
                Some(held) => match fate {
                    Fate::Ready | Fate::Spent => false,
                    Fate::Used => {
                        let first = held.used.insert(worker.clone());
                        held.used_at = if first { Some(now) } else { held.used_at };
                        first
                    }
                    Fate::Lost | Fate::Taken => held.workers.remove(&worker),
                },
                None => {
                    let kept = self.queue.entries.get_mut(&id).map(|e| &mut e.entry.kept);
                    fate != Fate::Ready && kept.is_some_and(|kept| kept.remove(&worker))
                }
            };
            changed |= news;
            let what = match fate {
                Fate::Taken => "another job took it first",
                Fate::Lost | Fate::Spent => "it had no job of it",
                Fate::Ready | Fate::Used => "",
            };
            if news && !what.is_empty() {
                let text = format!("worker {worker} is lost to it ({what}) and will be replaced");
                self.say(Subject::Reservation(id.clone()), What::Note { text });
            }
            if news {
                self.hands.ledger.post([self.queue.row(&id), self.queue.entry_row(&id)]);
            }
        }
        let claims = self.claims(observed, now);
        let is_marked = |held: &&Reservation| {
            let enough = !held.workers.is_empty() && held.workers.len() >= held.count as usize;
            let is_marked = |name: &WorkerName| {
                let fate = claims.fate(&held.id, name, held.used.contains(name));
                fate != Fate::Ready || is_marked(observed, name, &held.id)
            };
            enough && held.workers.iter().all(is_marked)
        };
        let marked = self.queue.reservations.values().filter(is_marked);
        self.queue.marked = marked.map(|held| held.id.clone()).collect();
        changed
    }

    fn claims<'a>(&'a self, observed: &'a Observed, now: Timestamp) -> Claims<'a> {
        Claims {
            observed,
            phases: &self.workers,
            jobs: &self.jobs,
            profiles: &self.desired.profiles,
            paused: &self.desired.paused,
            held: &self.held,
            draining: self.desired.draining,
            reservations: &self.queue.reservations,
            entries: &self.queue.entries,
            ended: &self.queue.ended,
            turns: &self.queue.turns,
            now,
        }
    }

    /// The workers that may be promised, of each profile those first that are idle for longest.
    fn idle(&self, observed: &Observed, now: Timestamp) -> BTreeMap<ProfileName, Vec<WorkerName>> {
        let is_free = |worker: &&Worker| {
            let subject = Subject::Worker(worker.name.clone());
            let backs_off = self.backoff.get(&subject).is_some_and(|b| b.not_before > now);
            let runner = worker.runner.seen();
            matches!(self.workers.get(&worker.name), Some((Phase::Idle, _)))
                && worker.reservation.is_none()
                && runner.is_some_and(|runner| runner.reserved_for.is_none())
                && !self.actions.contains_key(&subject)
                && !self.desired.dismissals.contains_key(&worker.name)
                && !self.desired.holds.contains_key(&worker.name)
                && !backs_off
        };
        let mut idle: BTreeMap<ProfileName, Vec<WorkerName>> = BTreeMap::new();
        for worker in observed.workers.values().filter(is_free) {
            if let Some(record) = &worker.record {
                idle.entry(record.profile.clone()).or_default().push(worker.name.clone());
            }
        }
        for workers in idle.values_mut() {
            workers.sort_by_key(|name| self.workers.get(name).map(|(_, since)| *since));
        }
        idle
    }

    /// Adds workers to what someone waits for.
    fn give(&mut self, id: &ReservationId, workers: Vec<WorkerName>, enough: bool, now: Timestamp) {
        if let Some(held) = self.queue.reservations.get_mut(id) {
            let names = workers.iter().map(WorkerName::as_str).collect::<Vec<_>>().join(", ");
            held.workers.extend(workers);
            let text = format!("it gets {names}, for one that was lost or a job that asks for it");
            self.say(Subject::Reservation(id.clone()), What::Note { text });
            return self.hands.ledger.post([self.queue.row(id)]);
        }
        let (of, until) = if let Some(waiting) = self.queue.entries.get_mut(id) {
            waiting.entry.kept.extend(workers);
            if !enough {
                return self.post_entry(id);
            }
            let workers = take(&mut waiting.entry.kept);
            let entry = waiting.entry.clone();
            self.queue.turns.entry(entry.profile.clone()).or_default().served(entry.round);
            // Until it is taken; then its time begins.
            let until = after(after(now, entry.patience), entry.duration);
            let Entry { id, profile, owner, purpose, .. } = entry;
            (Promise { id, profile, owner, purpose, workers }, until)
        } else if let Some(ended) = self.queue.ended.remove(id) {
            self.hands.ledger.post([Row::Ended(id.clone(), None)]);
            let text = format!("a waiting job asks for it again, after {}", ended.why);
            self.say(Subject::Reservation(id.clone()), What::Note { text });
            let Reservation { id, profile, owner, purpose, .. } = ended.reservation;
            let until = now.saturating_add(AGAIN_FOR).unwrap_or(Timestamp::MAX);
            let workers = workers.into_iter().collect();
            (Promise { id, profile, owner, purpose, workers }, until)
        } else {
            return;
        };
        self.promise(of, until, now);
        self.hands.ledger.post([self.queue.row(id), self.queue.entry_row(id)]);
    }

    fn promise(&mut self, of: Promise, until: Timestamp, now: Timestamp) -> Reservation {
        let Promise { id, profile, owner, purpose, workers } = of;
        let (count, since) = (workers.len() as u32, now);
        let (used, used_at) = (BTreeSet::new(), None);
        let held = Reservation {
            id,
            profile,
            owner,
            purpose,
            since,
            until,
            count,
            workers,
            used,
            used_at,
        };
        self.queue.reservations.insert(held.id.clone(), held.clone());
        let what = What::Reserved {
            owner: held.owner.clone(),
            purpose: held.purpose.clone(),
            workers: count,
        };
        self.say(Subject::Reservation(held.id.clone()), what);
        held
    }

    fn post_entry(&self, id: &ReservationId) {
        self.hands.ledger.post([self.queue.entry_row(id)]);
    }

    /// What is left for those who do not stand in line, and who wants to know of a mark.
    pub(super) fn after_plan(&mut self, observed: &Observed, now: Timestamp) {
        let mut free = self.idle(observed, now);
        for claim in self.queue.line.iter().filter(|claim| !claim.blocked) {
            if let Some(workers) = free.get_mut(&claim.profile) {
                let left = workers.len().saturating_sub(claim.missing as usize);
                workers.truncate(left);
            }
        }
        self.queue.free = free;
        for (id, answer) in take(&mut self.queue.asking) {
            match self.queue.reservations.get(&id) {
                Some(held) if self.queue.marked.contains(&id) => {
                    drop(answer.send(Ok(held.clone())))
                }
                Some(_) if answer.is_closed() => (),
                Some(_) => self.queue.asking.push((id, answer)),
                None => drop(answer.send(Err(self.no_reservation(&id)))),
            }
        }
        let oldest = now.saturating_sub(ENDED_FOR).unwrap_or(Timestamp::MIN);
        let too_old = self.queue.ended.iter().filter(|(_, ended)| ended.at < oldest);
        let too_old: Vec<ReservationId> = too_old.map(|(id, _)| id.clone()).collect();
        too_old.into_iter().for_each(|id| self.forget_ended(&id));
    }

    fn no_reservation(&self, id: &ReservationId) -> Error {
        let why = self.queue.ended.get(id).map(|ended| format!(", which ended: {},", ended.why));
        Error::not_found(format!("reservation {id}{}", why.unwrap_or_default()))
    }

    fn forget_ended(&mut self, id: &ReservationId) {
        if self.queue.ended.remove(id).is_some() {
            self.hands.ledger.post([Row::Ended(id.clone(), None)]);
        }
    }

    /// Decides from memory; answers when it is durable.
    pub(super) fn reserve(
        &mut self,
        request: ReserveRequest,
        answer: oneshot::Sender<Result<Reservation>>,
    ) {
        let held = match self.queue.reservations.get(&request.id) {
            Some(held) => held.clone(),
            None => match self.choose(&request) {
                Ok(promise) => {
                    self.forget_ended(&request.id);
                    self.promise(promise, request.until, self.now())
                }
                Err(error) => return drop(answer.send(Err(error))),
            },
        };
        // If it cannot be made durable at once it holds all the same, until its time is over or its asker,
        // who was told of the failure, releases it.
        let written = self.hands.ledger.write([self.queue.row(&held.id)]);
        tokio::spawn(async move {
            let _ = answer.send(written.await.map(|()| held));
        });
    }

    fn choose(&mut self, request: &ReserveRequest) -> Result<Promise> {
        let ReserveRequest { id, profile, count, at_least, owner, purpose, .. } = request;
        if self.queue.entries.contains_key(id) {
            return Err(Error::busy(format!("reservation {id}, which waits in the queue,")));
        }
        let at_least = fewest(*count, *at_least)?;
        self.check_ever(profile, at_least)?;
        let none = &mut Vec::new();
        let free = self.queue.free.get_mut(profile).unwrap_or(none);
        if free.len() < at_least as usize {
            return Err(Error::Exhausted {
                resource: format!("idle workers of profile {profile}"),
                needed: at_least.to_string(),
                available: free.len().to_string(),
            });
        }
        let workers = free.drain(..free.len().min(*count as usize)).collect();
        let (id, profile) = (id.clone(), profile.clone());
        Ok(Promise { id, profile, owner: owner.clone(), purpose: purpose.clone(), workers })
    }

    /// Refuses what can never be.
    fn check_ever(&self, name: &ProfileName, at_least: u32) -> Result<()> {
        let of_name = |profiles: &[Profile]| profiles.iter().find(|p| p.name == *name).cloned();
        let Some(profile) = of_name(&self.desired.profiles) else {
            return Err(Error::not_found(format!("profile {name}")));
        };
        let configured = of_name(&self.configured).map_or(0, |profile| profile.max);
        let host = &self.views.host;
        let capacity = (host.sight == plan::Sight::Seen).then_some(&host.seen.capacity);
        check_ever(&profile, profile.max.max(configured), at_least, capacity)
    }

    pub(super) fn enqueue(
        &mut self,
        request: EnqueueRequest,
        answer: oneshot::Sender<Result<Place>>,
    ) {
        let id = request.id.clone();
        let now = self.now();
        if let Err(error) = self.admit(request, now) {
            return drop(answer.send(Err(error)));
        }
        let place = match self.ask_after(&id) {
            Ok(place) => place,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let written = self.hands.ledger.write([self.queue.entry_row(&id)]);
        tokio::spawn(async move {
            let _ = answer.send(written.await.map(|()| place));
        });
    }

    /// Puts a request into the queue, unless it is there.
    fn admit(&mut self, request: EnqueueRequest, now: Timestamp) -> Result<()> {
        let id = request.id.clone();
        if self.queue.entries.contains_key(&id) {
            return Ok(());
        }
        if self.queue.reservations.contains_key(&id) {
            return Err(Error::busy(format!("reservation {id}, which was taken,")));
        }
        if self.desired.draining {
            return Err(Error::busy("the pool, which is being emptied,"));
        }
        self.check_ever(&request.profile, fewest(request.count, request.at_least)?)?;
        if self.queue.entries.len() >= ENTRIES {
            return Err(Error::Exhausted {
                resource: "places in the queue".to_owned(),
                needed: "1".to_owned(),
                available: format!("0 of {ENTRIES}"),
            });
        }
        let turns = self.queue.turns.entry(request.profile.clone()).or_default();
        let entry = request.entry(now, turns)?;
        let Entry { count, profile, owner, purpose, .. } = &entry;
        let text =
            format!("to reserve {count} of profile {profile} when they are there: {purpose}");
        self.say(Subject::Reservation(id.clone()), What::Asked { by: owner.clone(), text });
        self.forget_ended(&id);
        let claim = Claim {
            id: id.clone(),
            profile: entry.profile.clone(),
            round: entry.round,
            since: now,
            kept: 0,
            missing: entry.count,
            at_least: entry.at_least,
            begun: false,
            blocked: false,
            can_grow: true,
        };
        let line = take(&mut self.queue.line).into_iter().chain([claim]).collect();
        self.queue.line = queue::line(line);
        self.queue.entries.insert(id, Waiting::new(entry, now));
        Ok(())
    }

    pub(super) fn ask_after(&mut self, id: &ReservationId) -> Result<Place> {
        let now = self.now();
        if let Some(waiting) = self.queue.entries.get_mut(id) {
            waiting.asked_at = now;
        }
        self.queue.place(id).ok_or_else(|| self.no_reservation(id))
    }

    pub(super) fn take(&mut self, id: ReservationId, answer: oneshot::Sender<Result<Take>>) {
        let now = self.now();
        let place = match self.ask_after(&id) {
            Ok(place) => Some(place),
            // It was taken before, and the answer may have been lost.
            Err(_) if self.queue.reservations.contains_key(&id) => None,
            Err(error) => return drop(answer.send(Err(error))),
        };
        if let Some(place) = place {
            if place.stand != Stand::Ready {
                return drop(answer.send(Ok(Take::Waits(Box::new(place)))));
            }
            self.queue.entries.remove(&id);
            if let Some(held) = self.queue.reservations.get_mut(&id) {
                held.until = after(now, place.entry.duration);
            }
        }
        let held = self.queue.reservations[&id].clone();
        let rows = [self.queue.row(&id), self.queue.entry_row(&id)];
        let written = self.hands.ledger.write(rows);
        tokio::spawn(async move {
            let _ = answer.send(written.await.map(|()| Take::Taken(held)));
        });
    }

    pub(super) fn release(&mut self, id: &ReservationId, answer: oneshot::Sender<Result<()>>) {
        self.queue.entries.remove(id);
        self.end_reservation(id, "it was released".to_owned());
        let written = self.hands.ledger.write([self.queue.row(id), self.queue.entry_row(id)]);
        tokio::spawn(async move {
            let _ = answer.send(written.await);
        });
    }

    pub(super) fn await_mark(
        &mut self,
        id: ReservationId,
        answer: oneshot::Sender<Result<Reservation>>,
    ) {
        // The plan that follows answers.
        self.queue.asking.push((id, answer));
    }

    /// Ends a reservation that holds, and remembers it.
    fn end_reservation(&mut self, id: &ReservationId, why: String) {
        let Some(reservation) = self.queue.reservations.remove(id) else { return };
        let ended = Ended { reservation, at: self.now(), why };
        self.queue.ended.insert(id.clone(), ended.clone());
        self.hands.ledger.post([self.queue.row(id), Row::Ended(id.clone(), Some(ended))]);
        if self.queue.ended.len() > ENDED_KEPT {
            let oldest = self.queue.ended.values().min_by_key(|ended| ended.at);
            if let Some(oldest) = oldest.map(|ended| ended.reservation.id.clone()) {
                self.forget_ended(&oldest);
            }
        }
    }

    /// Does in memory what was planned: ends a reservation, or gives back what is kept for an entry.
    pub(super) fn begin_release(&mut self, id: &ReservationId, why: &Why) {
        let now = self.now();
        let Some(waiting) = self.queue.entries.get_mut(id) else {
            return self.end_reservation(id, why.to_string());
        };
        // It keeps its place, and tries again after a while.
        waiting.entry.kept.clear();
        let failures = waiting.backoff.as_ref().map_or(0, |backoff| backoff.failures);
        let wait = self.pace.retry_first.saturating_mul(1 << failures.min(20));
        let not_before = after(now, wait.min(self.pace.retry_most));
        let (failures, error) = (failures + 1, why.to_string());
        waiting.backoff = Some(Backoff { not_before, failures, error });
        self.queue.reservations.remove(id);
        self.hands.ledger.post([self.queue.row(id), self.queue.entry_row(id)]);
    }

    /// Gives up an entry, and what was promised to it.
    pub(super) fn begin_dequeue(&mut self, id: &ReservationId) {
        self.queue.entries.remove(id);
        self.queue.reservations.remove(id);
        self.hands.ledger.post([self.queue.row(id), self.queue.entry_row(id)]);
    }
}

/// Workers for somebody.
struct Promise {
    id: ReservationId,
    profile: ProfileName,
    owner: String,
    purpose: String,
    workers: BTreeSet<WorkerName>,
}

/// Whether a worker's forge keeps it for a reservation, as far as it can.
fn is_marked(observed: &Observed, worker: &WorkerName, id: &ReservationId) -> bool {
    let Some(worker) = observed.workers.get(worker) else { return false };
    let forge = worker.forge().and_then(|forge| observed.forges.get(forge));
    let mark = worker.runner.seen().and_then(|runner| runner.reserved_for.as_ref());
    mark == Some(id) || forge.is_some_and(|forge| !forge.reserves)
}

fn after(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}
