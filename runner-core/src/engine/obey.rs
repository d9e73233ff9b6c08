//! Does what the pool is asked to: reserves, releases, offers other profiles.

use super::*;

impl Engine {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Reserve(request, answer) => self.reserve(request, answer),
            Command::Release(id, answer) => {
                self.reservations.remove(&id);
                let store = self.hands.store.clone();
                tokio::spawn(async move {
                    let _ = answer.send(store.remove_reservation(id).await);
                });
            }
            Command::Offer(profiles, answer) => {
                let check = check_profiles(&profiles, &self.hands.forges, &*self.hands.hypervisor);
                if check.is_ok() {
                    self.configured = profiles;
                    self.apply_adjustments();
                }
                let _ = answer.send(check);
            }
            Command::Adjust(profile, adjust, by, answer) => {
                self.adjust(profile, &adjust, by, answer);
            }
            Command::Hold(request, answer) => self.grant_hold(request, answer),
            Command::Unhold(worker, by, answer) => self.end_hold(worker, by, answer),
            Command::Dismiss(worker, by, afterwards, answer) => {
                self.dismiss(worker, by, afterwards, answer);
            }
            Command::Override(request, answer) => self.override_policy(request, answer),
            Command::PreviewOverride(request, answer) => {
                let _ = answer.send(self.preview_override(request));
            }
            Command::EndOverride(by, answer) => self.end_override(by, answer),
            Command::Drain(answer) => {
                self.desired.draining = true;
                self.drained.push(answer);
            }
        }
    }

    /// Decides from memory; answers when it is durable.
    pub(super) fn reserve(
        &mut self,
        request: ReserveRequest,
        answer: oneshot::Sender<Result<Reservation>>,
    ) {
        let decided = match self.reservations.get(&request.id) {
            Some(held) => Ok(held.clone()),
            None => self.choose(&request),
        };
        let reservation = match decided {
            Ok(reservation) => reservation,
            Err(error) => return drop(answer.send(Err(error))),
        };
        self.reservations.insert(reservation.id.clone(), reservation.clone());
        let what = What::Reserved {
            owner: reservation.owner.clone(),
            purpose: reservation.purpose.clone(),
            workers: reservation.workers.len() as u32,
        };
        self.say(Subject::Reservation(reservation.id.clone()), what);
        let store = self.hands.store.clone();
        tokio::spawn(async move {
            // If it cannot be made durable it holds in memory until its time is over, and its asker,
            // who was told of the failure, may ask again.
            let written = store.put_reservation(reservation.clone()).await;
            let _ = answer.send(written.map(|()| reservation));
        });
    }

    pub(super) fn choose(&self, request: &ReserveRequest) -> Result<Reservation> {
        if !self.desired.profiles.iter().any(|profile| profile.name == request.profile) {
            return Err(Error::not_found(format!("profile {}", request.profile)));
        }
        if request.count == 0 {
            return Err(Error::invalid("count", "reserve at least one worker"));
        }
        let promised: BTreeSet<&WorkerName> =
            self.reservations.values().flat_map(|held| &held.workers).collect();
        let is_free = |name: &WorkerName, phase: &Phase| {
            *phase == Phase::Idle
                && !promised.contains(name)
                && !self.actions.contains_key(&Subject::Worker(name.clone()))
                && self.records.get(name).is_some_and(|record| record.profile == request.profile)
        };
        let mut free: Vec<(&Timestamp, &WorkerName)> = self
            .workers
            .iter()
            .filter(|(name, (phase, _))| is_free(name, phase))
            .map(|(name, (_, since))| (since, name))
            .collect();
        free.sort();
        if free.len() < request.count as usize {
            return Err(Error::Exhausted {
                resource: format!("idle workers of profile {}", request.profile),
                needed: request.count.to_string(),
                available: free.len().to_string(),
            });
        }
        let chosen = free.into_iter().take(request.count as usize);
        Ok(Reservation {
            id: request.id.clone(),
            profile: request.profile.clone(),
            owner: request.owner.clone(),
            purpose: request.purpose.clone(),
            since: self.now(),
            until: request.until,
            workers: chosen.map(|(_, name)| name.clone()).collect(),
        })
    }
}
