//! How many workers each profile gets: with a policy override, and where not all that are wanted fit.
//!
//! What is wanted is shrunk, one worker at a time, until it fits: of the profile that would have the most, so
//! that rare ones are not starved, of those that an override names last, and never below what is busy or
//! reserved. Without an override only the workers are shared that nobody waits for.

use std::fmt;

use super::{planner::Planner, *};

/// How many workers a profile gets of those it would have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// Whether a policy override names the profile.
    pub requested: bool,
    /// How many it would have if there were room: what the override asks for, or else its usual number.
    pub wanted: u32,
    /// How many it gets.
    pub granted: u32,
    /// Of a requested profile, the workers that are busy or reserved since before the override, for someone
    /// else: they count neither as wanted nor as granted.
    pub beside: u32,
    /// Why it gets no more.
    pub short: Option<WhyNot>,
}

impl Allotment {
    /// How many workers there may be in all.
    pub fn limit(&self) -> u32 {
        self.granted.saturating_add(self.beside)
    }
}

impl fmt::Display for Allotment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wanted {}, got {}", self.wanted, self.granted)?;
        match &self.short {
            Some(short) => write!(f, ": {}", short.in_short()),
            None => Ok(()),
        }
    }
}

/// One profile while it is shrunk.
struct Row<'a> {
    profile: &'a Profile,
    requested: bool,
    beside: u32,
    /// How many it would have if there were room and an image.
    wanted: u32,
    /// How many of its workers are taken; their room is not given away.
    taken: u32,
    /// How many more it would have now.
    wish: u32,
    /// How many more it gets at least.
    least: u32,
    /// How many more it gets.
    more: u32,
    can_be_made: bool,
}

impl Row<'_> {
    fn count(&self) -> u32 {
        self.taken.saturating_add(self.more)
    }
}

impl<'a> Planner<'a> {
    pub(super) fn allot(&mut self) {
        let desired = self.desired;
        if desired.draining {
            return;
        }
        let (beside, candidates) = self.candidates();
        let offered = desired.profiles.iter().filter(|p| !desired.paused.contains_key(&p.name));
        let mut rows: Vec<Row<'_>> = offered.map(|profile| self.row(profile, &beside)).collect();
        let mut total = self.kept();
        if let Some(capacity) = &self.observed.capacity {
            for row in &mut rows {
                let fits = capacity.room_for(&row.profile.resources);
                row.more = row.wish.min(fits).max(row.least);
                total.add(&row.profile.resources.times(row.more));
            }
            shrink(&mut rows, &mut total, capacity);
            grow(&mut rows, &mut total, capacity);
        }
        for row in rows {
            let granted = row.count().saturating_sub(row.beside);
            let short = (granted < row.wanted).then(|| self.short_of(&row, &total)).flatten();
            let Row { requested, wanted, beside, .. } = row;
            let allotment = Allotment { requested, wanted, granted, beside, short };
            self.more.insert(&row.profile.name, row.more);
            self.plan.allotted.insert(row.profile.name.clone(), allotment);
        }
        self.claim(candidates);
    }

    fn row(&self, profile: &'a Profile, beside: &BTreeMap<ProfileName, u32>) -> Row<'a> {
        let tally = self.tallies.get(&profile.name);
        let (taken, free) = tally.map_or((0, 0), |tally| (tally.taken, tally.free()));
        let policy = self.desired.policy.as_ref();
        let asked = policy.and_then(|policy| policy.counts.get(&profile.name));
        let beside = beside.get(&profile.name).copied().unwrap_or(0);
        // Without an override, workers that are missing for jobs are no matter of sharing: they come first.
        let least = if policy.is_some() { 0 } else { self.waited_for(profile).min(free) };
        let usual =
            if policy.is_some() { self.usual(profile) } else { profile.min_idle.max(least) };
        let usual = usual.min(profile.max.saturating_sub(taken));
        let wish = match asked {
            Some(asked) => asked.saturating_add(beside).saturating_sub(taken),
            None => usual,
        };
        let can_be_made = self.image_of(profile).is_some();
        // Nobody gives way for what cannot be made yet.
        let wish = if can_be_made { wish } else { wish.min(free) };
        let least = least.min(wish);
        let requested = asked.is_some();
        let wanted = asked.copied().unwrap_or(taken.saturating_add(usual));
        Row { profile, requested, beside, wanted, taken, wish, least, more: wish, can_be_made }
    }

    /// What is in use and stays so, whoever gives way.
    fn kept(&self) -> Resources {
        let mut kept = self.used.clone();
        kept.take_away(&self.ending);
        for (worker, (_, phase)) in self.observed.workers.values().zip(&self.phases) {
            let is_free = matches!(phase, Phase::Starting | Phase::Idle)
                && (*phase == Phase::Starting || self.hold_of(worker).is_none())
                && !self.desired.dismissals.contains_key(&worker.name);
            if let (true, Some(resources)) = (is_free, worker.holds()) {
                kept.take_away(resources);
            }
        }
        kept
    }

    /// By profile: how many workers work for someone else since before the override, and which others it might
    /// have.
    fn candidates(&self) -> (BTreeMap<ProfileName, u32>, BTreeMap<ProfileName, Vec<&'a Worker>>) {
        let (mut beside, mut candidates) = (BTreeMap::new(), BTreeMap::<_, Vec<_>>::new());
        let Some(policy) = &self.desired.policy else { return (beside, candidates) };
        for (worker, (_, phase)) in self.observed.workers.values().zip(&self.phases) {
            let Some(profile) = worker.profile().filter(|name| policy.counts.contains_key(name))
            else {
                continue;
            };
            if policy.has(worker) {
                continue;
            }
            let is_earlier = worker.created_at().is_some_and(|at| at < policy.since);
            match phase {
                Phase::Reserved | Phase::Busy | Phase::Unseen if is_earlier => {
                    *beside.entry(profile).or_default() += 1;
                }
                Phase::Idle | Phase::Reserved | Phase::Busy => {
                    candidates.entry(profile).or_default().push(worker);
                }
                Phase::Starting | Phase::Unseen | Phase::Over(_) => (),
            }
        }
        (beside, candidates)
    }

    /// Notes which workers the override has now: never more than it gets, oldest first.
    fn claim(&mut self, candidates: BTreeMap<ProfileName, Vec<&'a Worker>>) {
        let Some(policy) = &self.desired.policy else { return };
        for (profile, mut workers) in candidates {
            let gets =
                self.plan.allotted.get(&profile).map_or(0, |got| got.granted.min(got.wanted));
            let had = policy.claimed.get(&profile).map_or(0, BTreeSet::len);
            workers.sort_by_key(|worker| (worker.created_at(), &worker.name));
            let workers = workers.into_iter().take((gets as usize).saturating_sub(had));
            let claims: BTreeSet<_> = workers.map(|worker| worker.name.clone()).collect();
            if !claims.is_empty() {
                self.plan.claims.insert(profile, claims);
            }
        }
    }

    fn short_of(&self, row: &Row<'_>, total: &Resources) -> Option<WhyNot> {
        if !row.can_be_made {
            return Some(WhyNot::NoImage);
        }
        let capacity = self.observed.capacity.as_ref()?;
        let shortage = capacity.shortage(total, &row.profile.resources)?;
        Some(WhyNot::NoRoom { shortage, ever: row.profile.never_fits(capacity).is_none() })
    }

    /// Ends an override whose time is over, or of which nothing is left to come.
    pub(super) fn keep_the_override(&mut self) {
        let Some(policy) = &self.desired.policy else { return };
        let is_offered = |name: &ProfileName| self.desired.profiles.iter().any(|p| p.name == *name);
        let lives = |name: &WorkerName| match self.phase_of(name) {
            None | Some(Phase::Over(_)) => false,
            Some(_) => true,
        };
        let claimed = |name: &ProfileName| policy.claimed.get(name).map_or(0, BTreeSet::len) as u32;
        let is_delivered = |name: &ProfileName| match self.plan.allotted.get(name) {
            Some(Allotment { short: Some(WhyNot::NoImage), .. }) => false,
            Some(allotment) => claimed(name) >= allotment.granted.min(allotment.wanted),
            // It is paused, or not offered any more.
            None => true,
        };
        let why = if policy.until <= self.now {
            Why::Expired
        } else if !policy.counts.keys().any(is_offered) {
            Why::ProfileRemoved
        } else if policy.claimed.values().any(|had| !had.is_empty())
            && self.plan.claims.is_empty()
            && !policy.claimed.values().flatten().any(lives)
            && policy.counts.keys().all(is_delivered)
        {
            Why::Spent
        } else {
            return;
        };
        let is_ending = self.observed.in_flight.contains(&Subject::Override);
        if !is_ending && !self.is_backing_off(&Subject::Override) {
            self.act(Step::EndOverride, why);
        }
    }
}

/// Takes away, one by one, what does not fit.
fn shrink(rows: &mut [Row<'_>], total: &mut Resources, capacity: &Capacity) {
    let nothing = Resources::default();
    loop {
        let victim = capacity.shortages(&nothing, total).find_map(|(kind, _)| {
            let spares = |row: &Row<'_>| row.more > row.least && row.profile.resources.of(kind) > 0;
            let spare = rows.iter().enumerate().filter(|(_, row)| spares(row));
            // Of those that have the most, the one that is served last.
            spare.max_by_key(|(_, row)| (!row.requested, row.count())).map(|(at, _)| at)
        });
        let Some(at) = victim else { return };
        rows[at].more -= 1;
        total.take_away(&rows[at].profile.resources);
    }
}

/// Gives back, one by one, what fits after all: a large worker that gave way may have made room for small ones.
fn grow(rows: &mut [Row<'_>], total: &mut Resources, capacity: &Capacity) {
    loop {
        let fits = |row: &Row<'_>| {
            row.more < row.wish && capacity.shortage(total, &row.profile.resources).is_none()
        };
        let smaller = rows.iter_mut().filter(|row| fits(row));
        let Some(row) = smaller.min_by_key(|row| (!row.requested, row.count())) else { return };
        row.more += 1;
        total.add(&row.profile.resources);
    }
}
