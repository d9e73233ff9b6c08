//! How many workers there should be: the surplus is retired, the missing provisioned.

use super::{
    planner::{Planner, Tally},
    *,
};

impl<'a> Planner<'a> {
    /// How many unreserved workers a profile should have ready or on their way.
    pub(super) fn wanted(&self, profile: &Profile) -> u32 {
        if self.desired.draining || self.desired.paused.contains_key(&profile.name) {
            return 0;
        }
        let queued = self.demand.get(&profile.name).map_or(0, Vec::len) as u32;
        profile.min_idle.max(queued).min(profile.max)
    }

    pub(super) fn retire_the_surplus(&mut self) {
        let desired = self.desired;
        let tallies = std::mem::take(&mut self.tallies);
        for (name, tally) in &tallies {
            let profile = desired.profiles.iter().find(|profile| profile.name == *name);
            let (wanted, max, why) = match profile {
                None => (0, 0, Why::ProfileRemoved),
                Some(_) if desired.draining => (0, 0, Why::Draining),
                Some(_) if desired.paused.contains_key(name) => (0, 0, Why::Paused),
                Some(profile) => {
                    let wanted = self.wanted(profile);
                    (wanted, profile.max, Why::Surplus { idle: tally.free(), wanted })
                }
            };
            let over_max = tally.alive().saturating_sub(max);
            let surplus = tally.free().saturating_sub(wanted).max(over_max) as usize;
            for worker in tally.idle.iter().take(surplus) {
                self.retire(worker, why.clone());
            }
        }
        self.tallies = tallies;
    }

    /// Makes workers: first for jobs that wait, then for those that will come.
    pub(super) fn provision(&mut self) {
        let desired = self.desired;
        if desired.draining {
            return;
        }
        let mut serial = self.observed.next_serial;
        let mut planned: BTreeMap<&ProfileName, u32> = BTreeMap::new();
        for for_jobs in [true, false] {
            for profile in &desired.profiles {
                let queued = self.demand.get(&profile.name).map_or(0, Vec::len) as u32;
                if let Some(by) = desired.paused.get(&profile.name) {
                    if queued > 0 && for_jobs {
                        let why_not = WhyNot::Paused { by: by.clone() };
                        self.hold(Subject::Profile(profile.name.clone()), why_not);
                    }
                    continue;
                }
                let goal = if for_jobs { queued.min(profile.max) } else { self.wanted(profile) };
                let none = Tally::default();
                let tally = self.tallies.get(&profile.name).unwrap_or(&none);
                let planned = planned.entry(&profile.name).or_default();
                let (free, alive) = (tally.free() + *planned, tally.alive() + *planned);
                let missing = goal.saturating_sub(free);
                if missing == 0 {
                    continue;
                }
                let why = if for_jobs {
                    Why::JobsWait { queued, free }
                } else {
                    Why::BelowMinIdle { free, min_idle: profile.min_idle }
                };
                let possible = missing.min(profile.max.saturating_sub(alive));
                if possible < missing && for_jobs {
                    let why_not = WhyNot::AtMax { max: profile.max };
                    self.hold(Subject::Profile(profile.name.clone()), why_not);
                }
                *planned += self.provision_some(profile, possible, &mut serial, why, for_jobs);
            }
        }
    }

    /// Makes up to `count` workers of `profile`; returns how many.
    pub(super) fn provision_some(
        &mut self,
        profile: &'a Profile,
        count: u32,
        serial: &mut u64,
        why: Why,
        for_jobs: bool,
    ) -> u32 {
        if count == 0 {
            return 0;
        }
        let subject = Subject::Profile(profile.name.clone());
        let forge = self.observed.forges.get(&profile.forge);
        let blind = match (self.observed.hypervisor.blind(), forge) {
            (Some(reason), _) => Some(format!("the hypervisor cannot be seen: {reason}")),
            (None, None) => Some(format!("there is no forge {}", profile.forge)),
            (None, Some(forge)) => forge
                .sight
                .blind()
                .map(|reason| format!("forge {} cannot be seen: {reason}", profile.forge)),
        };
        if let Some(reason) = blind {
            self.hold(subject, WhyNot::Unseen { reason });
            return 0;
        }
        let Some(image) = self.image_of(profile) else {
            self.hold(subject, WhyNot::NoImage);
            return 0;
        };
        if self.is_backing_off(&subject) {
            return 0;
        }
        let Some(capacity) = &self.observed.capacity else {
            return 0;
        };
        for made in 0..count {
            let mut used = self.used.clone();
            if !for_jobs {
                used.add(&self.set_aside);
            }
            if let Some(shortage) = capacity.shortage(&used, &profile.resources) {
                let ever = profile.never_fits(capacity).is_none();
                self.hold(subject, WhyNot::NoRoom { shortage, ever });
                if for_jobs && ever {
                    self.set_aside.add(&profile.resources);
                    self.make_room(profile, capacity);
                }
                return made;
            }
            self.used.add(&profile.resources);
            let step = Step::Provision {
                worker: WorkerName::of(&profile.name, *serial),
                profile: Box::new(profile.clone()),
                image: Box::new(image.clone()),
            };
            *serial += 1;
            self.act(step, why.clone());
        }
        count
    }

    /// Retires idle workers of other profiles, oldest first, when that alone lets a waiting job start.
    pub(super) fn make_room(&mut self, profile: &Profile, capacity: &Capacity) {
        let mut used = self.used.clone();
        used.take_away(&self.ending);
        if capacity.shortage(&used, &profile.resources).is_none() {
            return; // What is ending will do.
        }
        let retiring: BTreeSet<WorkerName> = self
            .plan
            .actions
            .iter()
            .filter_map(|action| match &action.step {
                Step::Retire { worker, .. } => Some(worker.clone()),
                _ => None,
            })
            .collect();
        for worker in &retiring {
            let worker = &self.observed.workers[worker];
            if let (Some(resources), Some(Phase::Idle)) =
                (worker.holds(), self.phase_of(&worker.name))
            {
                used.take_away(resources);
            }
        }
        let mut spare: Vec<&Worker> = Vec::new();
        for (name, tally) in self.tallies.iter().filter(|(name, _)| **name != profile.name) {
            let queued = self.demand.get(name).map_or(0, Vec::len);
            let spared = tally.free() as usize - queued.min(tally.free() as usize);
            let idle = tally.idle.iter().filter(|worker| !retiring.contains(&worker.name));
            spare.extend(idle.take(spared));
        }
        spare.sort_by_key(|worker| worker.created_at());
        let mut chosen = Vec::new();
        for worker in spare {
            if capacity.shortage(&used, &profile.resources).is_none() {
                break;
            }
            if let Some(resources) = worker.holds() {
                used.take_away(resources);
                chosen.push(worker);
            }
        }
        if capacity.shortage(&used, &profile.resources).is_some() {
            return;
        }
        for worker in chosen {
            if let Some(resources) = worker.holds() {
                self.ending.add(resources);
            }
            self.retire(worker, Why::MakesRoom { for_profile: profile.name.clone() });
        }
    }
}
