//! Says what changed: events and the published status.

use super::*;

impl Engine {
    pub(super) fn say_renewed(&mut self, renewal: &Renewal) {
        if renewal.count > 0 {
            self.say(Subject::Store, What::Note { text: renewal.reason.clone() });
        }
    }

    /// Writes what is in memory into a store that was begun anew.
    pub(super) fn write_again(&mut self) {
        let (store, serial) = (self.hands.store.clone(), self.serial);
        let records: Vec<Record> = self.records.values().cloned().collect();
        self.hands.ledger.post(self.queue.rows());
        let holds: Vec<Hold> = self.desired.holds.values().cloned().collect();
        let dismissals: Vec<Dismissal> = self.desired.dismissals.values().cloned().collect();
        let adjustments: Vec<Adjustment> = self.adjustments.values().cloned().collect();
        self.write_override();
        let owner = self.hands.owner.clone();
        tokio::spawn(async move {
            let write = async {
                store.owner(owner).await?;
                for record in records {
                    store.put_record(record, serial).await?;
                }
                for hold in holds {
                    store.put_hold(hold).await?;
                }
                for dismissal in dismissals {
                    store.put_dismissal(dismissal).await?;
                }
                for adjustment in adjustments {
                    store.put_adjustment(adjustment).await?;
                }
                Ok::<(), Error>(())
            };
            if let Err(error) = write.await {
                let error = chain(&error);
                tracing::error!(
                    error,
                    "The new store could not be filled; the next write retries."
                );
            }
        });
    }

    pub(super) fn say_phases(&mut self, observed: &Observed, now: Timestamp) {
        let mut workers = BTreeMap::new();
        self.jobs.retain(|worker, _| observed.workers.contains_key(worker));
        for worker in observed.workers.values() {
            if let Some(job) = worker.job() {
                self.jobs.insert(worker.name.clone(), job.clone());
            }
            let phase = worker.phase(&self.timeouts_of(worker), now);
            let before = self.workers.get(&worker.name).cloned();
            let since = match &before {
                Some((old, since)) if *old == phase => *since,
                _ => {
                    let subject = Subject::Worker(worker.name.clone());
                    self.say(subject, What::Phase { phase: phase.clone() });
                    now
                }
            };
            let was_online =
                matches!(before, Some((Phase::Idle | Phase::Reserved | Phase::Busy, _)));
            if let (Phase::Idle | Phase::Busy, false, Some(profile)) =
                (&phase, was_online, worker.profile())
            {
                // The profile's machines work: try it at full speed again.
                self.backoff.remove(&Subject::Profile(profile));
            }
            workers.insert(worker.name.clone(), (phase, since));
        }
        self.workers = workers;
    }

    pub(super) fn timeouts_of(&self, worker: &Worker) -> crate::profile::Timeouts {
        let name = worker.profile();
        let profile =
            self.desired.profiles.iter().find(|profile| Some(&profile.name) == name.as_ref());
        profile.map(|profile| profile.timeouts).unwrap_or_default()
    }

    /// Says what is held anew, by kind: numbers that change in it are not news.
    pub(super) fn say_held(&mut self, held: &[Held]) {
        let kinds = |held: &[Held]| -> BTreeMap<Subject, _> {
            held.iter().map(|held| (held.subject.clone(), discriminant(&held.why_not))).collect()
        };
        let (before, after) = (kinds(&self.held), kinds(held));
        for new in held {
            if before.get(&new.subject) != Some(&discriminant(&new.why_not)) {
                self.say(new.subject.clone(), What::Held(new.why_not.clone()));
            }
        }
        let freed = self.held.iter().filter(|old| !after.contains_key(&old.subject));
        let freed: Vec<Subject> = freed.map(|old| old.subject.clone()).collect();
        for subject in freed {
            self.say(subject, What::Freed);
        }
    }

    fn build_state(&self, profile: &ProfileName) -> BuildState {
        let subject = Subject::Build(profile.clone());
        if self.actions.get(&subject).is_some_and(|action| action.ended.is_none()) {
            return BuildState::Building;
        }
        match self.backoff.get(&subject) {
            Some(Backoff { not_before, error, .. }) => {
                BuildState::Failed { error: error.clone(), retry_at: *not_before }
            }
            None => BuildState::Resting,
        }
    }

    pub(super) fn publish_status(&self, observed: &Observed, now: Timestamp) {
        let (demand, _) = plan::demand(observed, &self.desired);
        let images = plan::newest_images(observed, &self.desired);
        let mut profiles: BTreeMap<ProfileName, ProfileStatus> = BTreeMap::new();
        for profile in &self.desired.profiles {
            let status = ProfileStatus {
                min_idle: profile.min_idle,
                max: profile.max,
                queued: demand.get(&profile.name).map_or(0, Vec::len) as u32,
                offered: true,
                adjustment: self.adjustments.get(&profile.name).cloned(),
                usual: self.history.usual(&profile.name),
                image_built_at: images.get(&profile.name).map(|image| image.built_at),
                build: self.build_state(&profile.name),
                ..ProfileStatus::default()
            };
            profiles.insert(profile.name.clone(), status);
        }
        let mut used = Resources::default();
        let mut workers = Vec::with_capacity(observed.workers.len());
        for worker in observed.workers.values() {
            if let Some(resources) = worker.holds() {
                used.add(resources);
            }
            let (phase, since) = self.workers[&worker.name].clone();
            if let Some(profile) = worker.profile() {
                profiles.entry(profile).or_default().count(&phase);
            }
            let recorded = worker.record.as_ref().map(|record| record.image.clone());
            workers.push(WorkerStatus {
                name: worker.name.clone(),
                profile: worker.profile(),
                forge: worker.forge().cloned(),
                runner: worker.runner_id(),
                image: recorded.or_else(|| Some(worker.instance.seen()?.image.clone())),
                phase,
                since,
                created_at: worker.created_at(),
                job: worker.job().or_else(|| self.jobs.get(&worker.name)).cloned(),
                reservation: worker.reservation.clone(),
                marked: worker.runner.seen().and_then(|runner| runner.reserved_for.clone()),
                instance: worker.instance.seen().cloned(),
                hold: self.desired.holds.get(&worker.name).cloned(),
                dismissal: self.desired.dismissals.get(&worker.name).cloned(),
            });
        }
        let forges = observed.forges.iter();
        self.publish.send_replace(Arc::new(Status {
            at: Some(now),
            profiles,
            offered: self.offered.clone(),
            workers,
            forges: forges.clone().map(|(name, view)| (name.clone(), view.sight.clone())).collect(),
            hypervisor: observed.hypervisor.clone(),
            builder: observed.builder.clone(),
            capacity: observed.capacity.clone(),
            used,
            queued: forges.map(|(name, view)| (name.clone(), view.queued.clone())).collect(),
            images: observed.images.clone(),
            reservations: self.queue.reservations.values().cloned().collect(),
            queue: self.queue.places(),
            ended: self.queue.asked_again(observed),
            policy: self
                .desired
                .policy
                .clone()
                .map(|policy| OverrideStatus { policy, allotted: self.allotted.clone() }),
            held: self.held.clone(),
            backoff: self.backoff.iter().map(|(s, b)| (s.clone(), b.clone())).collect(),
            draining: self.desired.draining,
            in_flight: self.tasks.len() as u32,
        }));
    }
}
