//! How many workers there should be: the surplus is retired, the missing provisioned.

use super::{
    planner::{Planner, Tally},
    *,
};

/// What workers are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// The reservation that several workers are collected for: the room that it needs is kept free.
    Collected,
    /// Jobs and reservations that wait.
    Waiting,
    /// Jobs that will come.
    Coming,
}

impl<'a> Planner<'a> {
    /// How many workers of a profile are waited for, by jobs and by reservations.
    pub(super) fn waited_for(&self, profile: &Profile) -> u32 {
        self.queued(&profile.name).saturating_add(self.needed(&profile.name))
    }

    /// How many unreserved workers a profile should have, if there were room for all profiles.
    pub(super) fn usual(&self, profile: &Profile) -> u32 {
        profile.min_idle.max(self.waited_for(profile)).min(profile.max)
    }

    /// How many unreserved workers a profile should have ready or on their way.
    pub(super) fn wanted(&self, profile: &Profile) -> u32 {
        if self.desired.draining || self.desired.paused.contains_key(&profile.name) {
            return 0;
        }
        let usual = self.usual(profile);
        let allotment = self.plan.allotted.get(&profile.name);
        match (allotment, self.more.get(&profile.name)) {
            (Some(Allotment { requested: true, .. }), Some(more)) => *more,
            (Some(Allotment { wanted, granted, .. }), Some(more)) if granted < wanted => {
                match self.desired.policy {
                    Some(_) => usual.min(*more),
                    None => usual.min(*more.max(&self.waited_for(profile))),
                }
            }
            _ => usual,
        }
    }

    /// How many workers of a profile there may be at once.
    pub(super) fn max(&self, profile: &Profile) -> u32 {
        let is_overridden = self.desired.policy.is_some();
        match self.plan.allotted.get(&profile.name).filter(|_| is_overridden) {
            Some(allotment) if allotment.requested => allotment.limit(),
            Some(allotment) => profile.max.min(allotment.limit()),
            None => profile.max,
        }
    }

    /// Whom a profile gives way to, if it does.
    fn gives_way(&self, profile: &Profile) -> Option<(&'a Override, u32)> {
        let policy = self.desired.policy.as_ref()?;
        let allotment = self.plan.allotted.get(&profile.name)?;
        let gives_way = !allotment.requested && allotment.granted < allotment.wanted;
        gives_way.then_some((policy, allotment.granted))
    }

    /// Why a profile gets fewer workers than it would have, if it does.
    fn shrunk(&self, profile: &Profile) -> Option<WhyNot> {
        if let Some((policy, granted)) = self.gives_way(profile) {
            return Some(WhyNot::GivesWay { to: policy.by.clone(), until: policy.until, granted });
        }
        let allotment = self.plan.allotted.get(&profile.name)?;
        let Allotment { requested, wanted, granted, short, .. } = allotment.clone();
        match short? {
            short if requested => Some(WhyNot::Allotted { wanted, granted, short: short.into() }),
            short => Some(short),
        }
    }

    /// How many jobs wait for a profile.
    fn queued(&self, profile: &ProfileName) -> u32 {
        self.demand.get(profile).map_or(0, Vec::len) as u32
    }

    /// How many workers of a profile reservations wait for.
    fn needed(&self, profile: &ProfileName) -> u32 {
        let needs = self.observed.needs.iter().filter(|need| need.profile == *profile);
        needs.map(|need| need.workers).sum()
    }

    /// How many of them are for the one reservation that is collected for.
    fn needed_first(&self, profile: &ProfileName) -> u32 {
        let needs = self.observed.needs.iter();
        needs.filter(|need| need.first && need.profile == *profile).map(|need| need.workers).sum()
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
                    let why = match self.gives_way(profile) {
                        Some((policy, _)) => Why::GivesWay { to: policy.by.clone() },
                        None => Why::Surplus { idle: tally.free(), wanted },
                    };
                    (wanted, self.max(profile), why)
                }
            };
            let over_max = tally.alive().saturating_sub(max);
            let surplus = tally.free().saturating_sub(wanted).max(over_max) as usize;
            let mut idle = tally.idle.clone();
            if let Some(policy) = &desired.policy {
                idle.sort_by_key(|worker| policy.has(worker));
            }
            for worker in idle.into_iter().take(surplus) {
                self.retire(worker, why.clone());
            }
        }
        self.tallies = tallies;
    }

    /// Makes workers: first for the reservation that several are collected for, then for what waits, then for
    /// what will come.
    pub(super) fn provision(&mut self) {
        let desired = self.desired;
        if desired.draining {
            return;
        }
        let mut serial = self.observed.next_serial;
        let mut planned: BTreeMap<&ProfileName, u32> = BTreeMap::new();
        for aim in [Aim::Collected, Aim::Waiting, Aim::Coming] {
            for profile in &desired.profiles {
                if let Some(by) = desired.paused.get(&profile.name) {
                    if self.queued(&profile.name) > 0 && aim == Aim::Waiting {
                        let why_not = WhyNot::Paused { by: by.clone() };
                        self.hold(Subject::Profile(profile.name.clone()), why_not);
                    }
                    continue;
                }
                let max = self.max(profile);
                let none = Tally::default();
                let tally = self.tallies.get(&profile.name).unwrap_or(&none);
                let planned = planned.entry(&profile.name).or_default();
                let (free, alive) = (tally.free() + *planned, tally.alive() + *planned);
                let (goal, why) = self.goal(profile, aim, free);
                let missing = goal.saturating_sub(free);
                let possible = missing.min(max.saturating_sub(alive));
                let waited_for = match aim {
                    Aim::Collected => self.needed_first(&profile.name),
                    Aim::Waiting => self.waited_for(profile),
                    Aim::Coming => 0,
                };
                if waited_for.min(profile.max) > free + possible {
                    let shrunk = desired.policy.as_ref().and_then(|_| self.shrunk(profile));
                    let why_not = shrunk.unwrap_or(WhyNot::AtMax { max });
                    self.hold(Subject::Profile(profile.name.clone()), why_not);
                }
                *planned += self.provision_some(profile, possible, &mut serial, why, aim);
                if let Some(why_not) = self.shrunk(profile).filter(|_| aim == Aim::Coming) {
                    self.hold(Subject::Profile(profile.name.clone()), why_not);
                }
            }
        }
    }

    /// How many workers of a profile should be ready or on their way, and why if they are not.
    fn goal(&self, profile: &Profile, aim: Aim, free: u32) -> (u32, Why) {
        let (queued, needed) = (self.queued(&profile.name), self.needed(&profile.name));
        let max = self.max(profile);
        match aim {
            Aim::Collected => {
                let needed = self.needed_first(&profile.name);
                (needed.min(max), Why::ReservationsWait { needed, free })
            }
            Aim::Waiting => {
                let why = match needed {
                    0 => Why::JobsWait { queued, free },
                    _ if queued == 0 || needed > free => Why::ReservationsWait { needed, free },
                    _ => Why::JobsWait { queued, free: free - needed },
                };
                (queued.saturating_add(needed).min(max), why)
            }
            Aim::Coming => {
                let why = match self.plan.allotted.get(&profile.name) {
                    Some(Allotment { requested: true, wanted, granted, .. }) => {
                        let policy = self.desired.policy.as_ref();
                        let by = policy.map_or("", |policy| &policy.by).to_owned();
                        Why::Overridden { by, wanted: *wanted, granted: *granted }
                    }
                    _ => Why::BelowMinIdle { free, min_idle: profile.min_idle },
                };
                (self.wanted(profile), why)
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
        aim: Aim,
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
            if aim != Aim::Collected {
                used.add(&self.kept_free);
            }
            if aim == Aim::Coming {
                used.add(&self.set_aside);
            }
            if let Some(shortage) = capacity.shortage(&used, &profile.resources) {
                let ever = profile.never_fits(capacity).is_none();
                self.hold(subject, WhyNot::NoRoom { shortage, ever });
                if aim != Aim::Coming && ever {
                    match aim {
                        Aim::Collected => self.kept_free.add(&profile.resources),
                        _ => self.set_aside.add(&profile.resources),
                    }
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
        let policy = self.desired.policy.as_ref();
        let others = self.tallies.iter().filter(|(name, _)| {
            **name != profile.name && policy.is_none_or(|p| !p.counts.contains_key(*name))
        });
        for (name, tally) in others {
            let waited_for = self.queued(name).saturating_add(self.needed(name));
            let spared = tally.free().saturating_sub(waited_for) as usize;
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
