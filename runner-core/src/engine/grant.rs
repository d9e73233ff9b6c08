//! Does what people ask of the running pool: adjusts, holds, dismisses. Decided from memory, answered when it
//! is durable.

use super::*;

impl Engine {
    /// Makes the offer what is configured, as adjusted.
    pub(super) fn apply_adjustments(&mut self) {
        let adjusted = |profile: &Profile| match self.adjustments.get(&profile.name) {
            Some(adjustment) => adjustment.apply(profile),
            None => profile.clone(),
        };
        self.desired.profiles = self.configured.iter().map(adjusted).collect();
        self.offered = self.desired.profiles.clone().into();
        let paused = self.adjustments.values().filter(|adjustment| adjustment.paused);
        self.desired.paused =
            paused.map(|asked| (asked.profile.clone(), asked.by.clone())).collect();
    }

    pub(super) fn adjust(
        &mut self,
        name: ProfileName,
        adjust: &Adjust,
        by: String,
        answer: oneshot::Sender<Result<ProfileStatus>>,
    ) {
        let Some(profile) = self.configured.iter().find(|profile| profile.name == name) else {
            let gone = Error::not_found(format!("profile {name}"));
            return drop(answer.send(Err(gone)));
        };
        let old = self.adjustments.get(&name).cloned();
        let old = old.unwrap_or_else(|| Adjustment::none(name.clone(), by.clone(), self.now()));
        let mut new = match old.clone().adjusted(adjust, profile) {
            Ok(new) => new,
            Err(error) => return drop(answer.send(Err(error))),
        };
        if new != old {
            (new.by, new.since) = (by.clone(), self.now());
            let text = new.difference(&old, profile);
            self.say(Subject::Profile(name.clone()), What::Asked { by, text });
        }
        if new.is_none() {
            self.adjustments.remove(&name);
        } else {
            self.adjustments.insert(name.clone(), new.clone());
        }
        self.apply_adjustments();
        let published = self.publish.borrow().profiles.get(&name).cloned().unwrap_or_default();
        let adjusted = self.desired.profiles.iter().find(|profile| profile.name == name);
        let status = ProfileStatus {
            min_idle: adjusted.map_or(published.min_idle, |profile| profile.min_idle),
            max: adjusted.map_or(published.max, |profile| profile.max),
            adjustment: self.adjustments.get(&name).cloned(),
            ..published
        };
        let store = self.hands.store.clone();
        tokio::spawn(async move {
            let _ = answer.send(store.put_adjustment(new).await.map(|()| status));
        });
    }

    pub(super) fn grant_hold(
        &mut self,
        request: HoldRequest,
        answer: oneshot::Sender<Result<Hold>>,
    ) {
        let HoldRequest { worker, until, by, purpose } = request;
        let now = self.now();
        let refusal = if until <= now {
            Some(Error::invalid("the end of the hold", "it is in the past"))
        } else if self.desired.draining {
            Some(Error::Busy { what: "the pool, which is being emptied,".to_owned() })
        } else {
            self.refuse_hold(&worker)
        };
        if let Some(refusal) = refusal {
            return drop(answer.send(Err(refusal)));
        }
        let text = format!("to keep its machine until {until:.0}: {purpose}");
        self.say(Subject::Worker(worker.clone()), What::Asked { by: by.clone(), text });
        let hold = Hold { worker: worker.clone(), by, purpose, since: now, until };
        self.desired.holds.insert(worker, hold.clone());
        let store = self.hands.store.clone();
        tokio::spawn(async move {
            let _ = answer.send(store.put_hold(hold.clone()).await.map(|()| hold));
        });
    }

    /// Why a machine cannot be kept.
    fn refuse_hold(&self, worker: &WorkerName) -> Option<Error> {
        let has_machine = self.views.host.seen.instances.iter().any(|seen| seen.name == *worker);
        if !has_machine {
            return Some(Error::not_found(format!("a machine of worker {worker}")));
        }
        let action = self.actions.get(&Subject::Worker(worker.clone()));
        let is_going = action
            .is_some_and(|action| action.flight == Flight::Unmaking && action.ended.is_none());
        is_going.then(|| Error::Busy { what: format!("worker {worker}, which is being retired,") })
    }

    pub(super) fn end_hold(
        &mut self,
        worker: WorkerName,
        by: String,
        answer: oneshot::Sender<Result<()>>,
    ) {
        if self.desired.holds.remove(&worker).is_some() {
            let text = "not to keep its machine any longer".to_owned();
            self.say(Subject::Worker(worker.clone()), What::Asked { by, text });
        }
        let store = self.hands.store.clone();
        tokio::spawn(async move {
            let _ = answer.send(store.remove_hold(worker).await);
        });
    }

    pub(super) fn dismiss(
        &mut self,
        worker: WorkerName,
        by: String,
        after_reservation: bool,
        answer: oneshot::Sender<Result<()>>,
    ) {
        let refusal = match self.workers.get(&worker) {
            None => Some(Error::not_found(format!("worker {worker}"))),
            Some((Phase::Busy, _)) if !after_reservation => {
                let job =
                    self.jobs.get(&worker).map_or("a job".to_owned(), |id| format!("job {id}"));
                Some(Error::Busy { what: format!("worker {worker}, which runs {job},") })
            }
            Some(_) => None,
        };
        if let Some(refusal) = refusal {
            return drop(answer.send(Err(refusal)));
        }
        let is_reserved = self.queue.promised().any(|(name, _)| *name == worker);
        if after_reservation && (!is_reserved || self.desired.dismissals.contains_key(&worker)) {
            return drop(answer.send(Ok(())));
        }
        let text = match after_reservation {
            false => "to retire it",
            true => "to retire it when its reservation ends, as someone was in it",
        };
        let (subject, text) = (Subject::Worker(worker.clone()), text.to_owned());
        self.say(subject, What::Asked { by: by.clone(), text });
        let was_held = !after_reservation && self.desired.holds.remove(&worker).is_some();
        let since = self.now();
        let dismissal = Dismissal { worker: worker.clone(), by, since, after_reservation };
        self.desired.dismissals.insert(worker.clone(), dismissal.clone());
        let store = self.hands.store.clone();
        tokio::spawn(async move {
            let write = async {
                if was_held {
                    store.remove_hold(worker).await?;
                }
                store.put_dismissal(dismissal).await
            };
            let _ = answer.send(write.await);
        });
    }

    /// Ends holds whose time is over, and forgets wishes about workers that are gone.
    pub(super) fn end_wishes(&mut self, observed: &Observed, now: Timestamp) {
        let is_gone = |worker: &WorkerName| {
            // What one short list lacks is not gone: its record is still there.
            !observed.workers.contains_key(worker)
                && observed.hypervisor.blind().is_none()
                && !self.records.contains_key(worker)
        };
        let holds = self.desired.holds.values();
        let over: Vec<(WorkerName, bool)> = holds
            .filter(|hold| hold.until <= now || is_gone(&hold.worker))
            .map(|hold| (hold.worker.clone(), is_gone(&hold.worker)))
            .collect();
        let gone: Vec<WorkerName> =
            self.desired.dismissals.keys().filter(|worker| is_gone(worker)).cloned().collect();
        for (worker, is_gone) in over {
            self.desired.holds.remove(&worker);
            if !is_gone {
                let text = "its machine is not kept any longer: the time is over".to_owned();
                self.say(Subject::Worker(worker.clone()), What::Note { text });
            }
            let store = self.hands.store.clone();
            // One that stays in the store ends again at the next start.
            tokio::spawn(async move { store.remove_hold(worker).await });
        }
        for worker in gone {
            self.desired.dismissals.remove(&worker);
            let store = self.hands.store.clone();
            tokio::spawn(async move { store.remove_dismissal(worker).await });
        }
    }
}
