//! Answers who asks for workers, who waits for them and who gives them back. Decided from memory, answered when it
//! is durable.

use std::mem::take;

use super::{serve::Promise, *};
use crate::{
    queue::{
        self, ENTRIES, EnqueueRequest, Entry, Place, Stand, Take, Waiting, check_ever, fewest,
    },
    reservation::{ENDED_FOR, ENDED_KEPT, Ended},
    store::Row,
};

impl Engine {
    pub(super) fn no_reservation(&self, id: &ReservationId) -> Error {
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
        self.answer_durably([self.queue.row(&held.id)], held, answer);
    }

    /// Answers once what it says is durable, and shown to whoever reads the status.
    fn answer_durably<T: Send + 'static, const N: usize>(
        &mut self,
        rows: [Row; N],
        told: T,
        answer: oneshot::Sender<Result<T>>,
    ) {
        let written = self.hands.ledger.write(rows);
        self.promised = true;
        let (mut shown, turn) = (self.shown.subscribe(), *self.shown.borrow() + 1);
        tokio::spawn(async move {
            let written = written.await;
            // When the pool has ended, nobody shows it any more.
            let _ = shown.wait_for(|shown| *shown >= turn).await;
            let _ = answer.send(written.map(|()| told));
        });
    }

    /// Shows what was promised since the last time, before the plan that shows the rest of it.
    pub(super) fn show_promises(&mut self) {
        if take(&mut self.promised) {
            let reservations = self.queue.reservations.values().cloned().collect();
            let queue = self.queue.places();
            self.publish.send_modify(|status| {
                let status = Arc::make_mut(status);
                (status.reservations, status.queue) = (reservations, queue);
            });
            self.shown.send_modify(|shown| *shown += 1);
        }
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
        self.answer_durably([self.queue.entry_row(&id)], place, answer);
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
        let here = fewest(request.count, request.at_least)?.saturating_sub(request.beyond);
        self.check_ever(&request.profile, here)?;
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
        let claim = entry.claim(false, true);
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
            let until = after(now, place.entry.duration);
            match self.queue.reservations.get_mut(&id) {
                Some(held) => held.until = until,
                // All of it is elsewhere: there is nothing to be held here.
                None => {
                    let turns = self.queue.turns.entry(place.entry.profile.clone()).or_default();
                    turns.served(place.entry.turn.round);
                    let held = place.entry.taken_elsewhere(now, until);
                    let row = self.queue.entry_row(&id);
                    return self.answer_durably([row], Take::Taken(held), answer);
                }
            }
        }
        let held = self.queue.reservations[&id].clone();
        let rows = [self.queue.row(&id), self.queue.entry_row(&id)];
        self.answer_durably(rows, Take::Taken(held), answer);
    }

    pub(super) fn release(
        &mut self,
        id: &ReservationId,
        why: String,
        answer: oneshot::Sender<Result<()>>,
    ) {
        self.queue.entries.remove(id);
        if self.queue.reservations.contains_key(id) {
            self.say(
                Subject::Reservation(id.clone()),
                What::Note { text: format!("it ends: {why}") },
            );
        }
        self.end_reservation(id, why);
        self.answer_durably([self.queue.row(id), self.queue.entry_row(id)], (), answer);
    }

    /// Has a reservation hold until `until` at least.
    pub(super) fn prolong(
        &mut self,
        id: &ReservationId,
        until: Timestamp,
        answer: oneshot::Sender<Result<Reservation>>,
    ) {
        let Some(held) = self.queue.reservations.get_mut(id) else {
            return drop(answer.send(Err(self.no_reservation(id))));
        };
        held.until = held.until.max(until);
        let held = held.clone();
        self.answer_durably([self.queue.row(id)], held, answer);
    }

    /// Takes in how many of an entry's workers others have promised.
    pub(super) fn count_elsewhere(
        &mut self,
        id: &ReservationId,
        workers: u32,
        answer: oneshot::Sender<Result<Place>>,
    ) {
        let before = self.queue.entries.get(id).map(|waiting| waiting.entry.elsewhere);
        if let Err(error) = self.set_elsewhere(id, workers) {
            return drop(answer.send(Err(error)));
        }
        let place = self.queue.place(id).ok_or_else(|| self.no_reservation(id));
        if before == Some(workers) {
            return drop(answer.send(place));
        }
        match place {
            Ok(place) => self.answer_durably([self.queue.entry_row(id)], place, answer),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn set_elsewhere(&mut self, id: &ReservationId, workers: u32) -> Result<()> {
        let is_held = self.queue.reservations.contains_key(id);
        let Some(waiting) = self.queue.entries.get_mut(id) else {
            return Err(self.no_reservation(id));
        };
        let entry = &mut waiting.entry;
        if entry.elsewhere == workers {
            return Ok(());
        }
        if workers > entry.count {
            let reason = format!("{} are all that it asked for", entry.count);
            return Err(Error::invalid(format!("{workers} workers elsewhere"), reason));
        }
        if is_held && workers > entry.elsewhere {
            return Err(Error::busy(format!("reservation {id}, which has its workers here,")));
        }
        entry.elsewhere = workers;
        if let Some(held) = self.queue.reservations.remove(id) {
            // It needs more of them now, and keeps those that it has.
            entry.kept.extend(held.workers);
            self.hands.ledger.post([self.queue.row(id)]);
        }
        let entry = &mut self.queue.entries.get_mut(id).expect("it was there").entry;
        let here = entry.needs_here() as usize;
        while entry.kept.len() > here {
            entry.kept.pop_last();
        }
        let entry = entry.clone();
        // Until the next look, which tells whether it is blocked.
        let line = take(&mut self.queue.line).into_iter().filter(|claim| claim.id != *id);
        let claim = (here > 0).then(|| entry.claim(false, true));
        self.queue.line = queue::line(line.chain(claim).collect());
        let text = format!("{workers} of its {} workers are promised elsewhere", entry.count);
        self.say(Subject::Reservation(id.clone()), What::Note { text });
        Ok(())
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

    /// Forgets what ended too long ago for its jobs to be run again.
    pub(super) fn forget_old(&mut self, now: Timestamp) {
        let oldest = now.saturating_sub(ENDED_FOR).unwrap_or(Timestamp::MIN);
        let too_old = self.queue.ended.iter().filter(|(_, ended)| ended.at < oldest);
        let too_old: Vec<ReservationId> = too_old.map(|(id, _)| id.clone()).collect();
        too_old.into_iter().for_each(|id| self.forget_ended(&id));
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

pub(super) fn after(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}
