//! Serves the queue: keeps promises whole, and gives idle workers to those who wait.

use std::mem::take;

use super::{reserve::after, *};
use crate::{
    queue::{self, Claims, Entry, Fate},
    store::Row,
};

/// How long a reservation holds that a job brought back: until the job has its worker. Should it still wait then,
/// it asks again.
const AGAIN_FOR: SignedDuration = SignedDuration::from_mins(5);

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
                fate != Fate::Ready || self.is_marked(observed, name, &held.id)
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

    /// Whether a worker's forge keeps it for a reservation, as far as it can: it has said so, or lists it so.
    fn is_marked(&self, observed: &Observed, worker: &WorkerName, id: &ReservationId) -> bool {
        let action = self.actions.get(&Subject::Worker(worker.clone()));
        if action.is_some_and(|action| action.marked.as_ref() == Some(id)) {
            return true;
        }
        let Some(worker) = observed.workers.get(worker) else { return false };
        let forge = worker.forge().and_then(|forge| observed.forges.get(forge));
        let mark = worker.runner.seen().and_then(|runner| runner.reserved_for.as_ref());
        mark == Some(id) || forge.is_some_and(|forge| !forge.reserves)
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
            self.queue.turns.entry(entry.profile.clone()).or_default().served(entry.turn.round);
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

    pub(super) fn promise(&mut self, of: Promise, until: Timestamp, now: Timestamp) -> Reservation {
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
        self.forget_old(now);
    }
}

/// Workers for somebody.
pub(super) struct Promise {
    pub id: ReservationId,
    pub profile: ProfileName,
    pub owner: String,
    pub purpose: String,
    pub workers: BTreeSet<WorkerName>,
}
