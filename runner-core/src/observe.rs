//! Looks at the world and joins what it sees by worker name.
//!
//! Every list is asked on its own and kept until the next answer, so that a slow forge holds back nobody.
//! Each list remembers the tick at which it was *begun*: about a worker on which an action of ours ended
//! later than that, it says nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    error::{Error, Result, chain},
    forge::{Forge, QueuedJob, Runner, RunnerStatus},
    hypervisor::{Hypervisor, Instance, InstanceState},
    image::{Image, ImageBuilder},
    name::{ForgeName, ReservationId, WorkerName},
    plan::{Sight, Subject},
    resources::Capacity,
    worker::{Flight, Look, Record, Worker},
};

/// Counts what happens in one pool, so that lists and actions can be put in order without a clock.
pub type Tick = u64;

/// How long an orphan's guest may take to say whether it works.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(2);

/// Which list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    Hypervisor,
    Forge(ForgeName),
    Builder,
}

/// What a list said.
pub(crate) enum Answer {
    Hypervisor(Result<HostAnswer>),
    Forge(Result<ForgeAnswer>),
    Builder(Result<Vec<Image>>),
}

#[derive(Default)]
pub(crate) struct HostAnswer {
    pub instances: Vec<Instance>,
    pub capacity: Capacity,
    /// Of the instances without a record: whether their guests work, where they say so.
    pub orphans: BTreeMap<WorkerName, Option<bool>>,
}

#[derive(Default)]
pub(crate) struct ForgeAnswer {
    pub runners: Vec<Runner>,
    pub queued: Vec<QueuedJob>,
}

/// Asks the hypervisor. `recorded` are the workers whose guests need not be asked.
pub(crate) async fn ask_hypervisor(
    hypervisor: &dyn Hypervisor,
    recorded: &BTreeSet<WorkerName>,
) -> Result<HostAnswer> {
    let (instances, capacity) =
        futures::future::try_join(hypervisor.instances(), hypervisor.capacity()).await?;
    let mut names = BTreeSet::new();
    if let Some(twice) = instances.iter().find(|instance| !names.insert(&instance.name)) {
        return Err(Error::invalid(
            "the list of instances",
            format!("{} is in it twice", twice.name),
        ));
    }
    let asks = instances
        .iter()
        .filter(|i| i.state == InstanceState::Running && !recorded.contains(&i.name))
        .map(async |i| (i.name.clone(), guest_is_busy(hypervisor, &i.name).await));
    let orphans = futures::future::join_all(asks).await.into_iter().collect();
    Ok(HostAnswer { instances, capacity, orphans })
}

/// Whether something of ours runs in a guest, if that can be known.
async fn guest_is_busy(hypervisor: &dyn Hypervisor, name: &WorkerName) -> Option<bool> {
    if !hypervisor.capabilities().guest {
        return Some(false); // Only the forge can tell, and does.
    }
    let ask = async { hypervisor.guest(name).await?.running().await };
    match tokio::time::timeout(ORPHAN_PATIENCE, ask).await {
        Ok(Ok(running)) => Some(!running.is_empty()),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Asks a forge.
pub(crate) async fn ask_forge(forge: &dyn Forge) -> Result<ForgeAnswer> {
    let (runners, queued) = futures::future::try_join(forge.runners(), forge.queued_jobs()).await?;
    let mut names = BTreeSet::new();
    if let Some(twice) = runners.iter().find(|runner| !names.insert(&runner.name)) {
        return Err(Error::invalid(
            "the list of runners",
            format!("{} is in it twice", twice.name),
        ));
    }
    Ok(ForgeAnswer { runners, queued })
}

/// Asks the image builder.
pub(crate) async fn ask_builder(builder: &dyn ImageBuilder) -> Result<Vec<Image>> {
    builder.images().await
}

/// The last answer of one list.
pub(crate) struct View<T> {
    pub sight: Sight,
    /// Empty while blind.
    pub seen: T,
    pub began: Tick,
}

impl<T: Default> Default for View<T> {
    fn default() -> Self {
        Self { sight: Sight::Unasked, seen: T::default(), began: 0 }
    }
}

impl<T: Default> View<T> {
    /// Takes an answer in; returns the new sight if it differs from the old.
    pub fn take(&mut self, answer: Result<T>, began: Tick) -> Option<Sight> {
        let (sight, seen) = match answer {
            Ok(seen) => (Sight::Seen, seen),
            Err(error) => (Sight::Blind(chain(&error)), T::default()),
        };
        let changed = self.sight != sight;
        *self = Self { sight, seen, began };
        changed.then(|| self.sight.clone())
    }

    fn is_seen(&self) -> bool {
        self.sight == Sight::Seen
    }
}

/// All the lists, as last answered.
pub(crate) struct Views {
    pub host: View<HostAnswer>,
    pub forges: BTreeMap<ForgeName, (Arc<dyn Forge>, View<ForgeAnswer>)>,
    pub images: View<Vec<Image>>,
}

/// An action of ours whose effect lists may not show yet.
#[derive(Debug, Clone)]
pub(crate) struct Action {
    pub flight: Flight,
    /// The forge that must have answered since, beside the hypervisor.
    pub forge: Option<ForgeName>,
    /// When it ended, if it has.
    pub ended: Option<Tick>,
    /// The reservation that its forge has said it keeps the worker for.
    pub marked: Option<ReservationId>,
}

impl Action {
    /// One that begins now.
    pub fn begun(flight: Flight, forge: Option<ForgeName>) -> Self {
        Self { flight, forge, ended: None, marked: None }
    }
}

/// What the pool itself knows, to be joined with the lists.
pub(crate) struct Known<'a> {
    pub records: &'a BTreeMap<WorkerName, Record>,
    pub promised: Vec<(&'a WorkerName, &'a ReservationId)>,
    pub actions: &'a BTreeMap<Subject, Action>,
    pub driven: &'a BTreeSet<WorkerName>,
    pub last_online: &'a mut BTreeMap<WorkerName, Timestamp>,
}

impl Views {
    /// Whether the lists show what an action did: they were begun after it had ended. One that failed shows
    /// nothing, which nobody takes for an answer; but one that is still being asked, and was begun before,
    /// must not be believed when it comes, so failing is no excuse for its age.
    pub fn show(&self, subject: &Subject, action: &Action) -> bool {
        let Some(ended) = action.ended else {
            return false;
        };
        match subject {
            Subject::Build(_) | Subject::Image(_) => self.images.began > ended,
            _ => {
                let forge = action.forge.as_ref().and_then(|name| self.forges.get(name));
                self.host.began > ended && forge.is_none_or(|(_, view)| view.began > ended)
            }
        }
    }

    /// One worker for each name in any record or list.
    pub fn join(&self, known: Known<'_>, now: Timestamp) -> BTreeMap<WorkerName, Worker> {
        let mut workers: BTreeMap<WorkerName, Worker> = BTreeMap::new();
        for record in known.records.values() {
            let worker = self.blank(&record.name, Some(record));
            workers.insert(record.name.clone(), worker);
        }
        for instance in &self.host.seen.instances {
            let worker = workers
                .entry(instance.name.clone())
                .or_insert_with(|| self.blank(&instance.name, None));
            if worker.record.is_none() {
                known.last_online.entry(instance.name.clone()).or_insert(now);
            }
            worker.guest_busy = self.host.seen.orphans.get(&instance.name).copied().flatten();
            worker.instance = Look::Seen(instance.clone());
        }
        for (forge, (_, view)) in &self.forges {
            for runner in &view.seen.runners {
                let worker = workers
                    .entry(runner.name.clone())
                    .or_insert_with(|| self.blank(&runner.name, None));
                // A name that another forge happens to know too is not this worker's runner.
                if worker.record.as_ref().is_some_and(|record| record.forge != *forge) {
                    continue;
                }
                if runner.status != RunnerStatus::Offline {
                    known.last_online.insert(runner.name.clone(), now);
                }
                worker.seen_at = Some(forge.clone());
                worker.runner = Look::Seen(runner.clone());
            }
        }
        for (name, reservation) in known.promised {
            if let Some(worker) = workers.get_mut(name) {
                worker.reservation = Some(reservation.clone());
            }
        }
        for (name, worker) in &mut workers {
            worker.driven = known.driven.contains(name);
            worker.last_online = known.last_online.get(name).copied();
            let subject = Subject::Worker(name.clone());
            let action = known.actions.get(&subject).filter(|action| !self.show(&subject, action));
            worker.in_flight = action.map(|action| action.flight);
        }
        known.last_online.retain(|name, _| workers.contains_key(name));
        workers
    }

    /// A worker of which nothing is seen yet: absent where a list is whole, unknown where it is not.
    fn blank(&self, name: &WorkerName, record: Option<&Record>) -> Worker {
        let seen = match record {
            Some(record) => self.forges.get(&record.forge).is_some_and(|(_, view)| view.is_seen()),
            None => self.forges.values().all(|(_, view)| view.is_seen()),
        };
        Worker {
            name: name.clone(),
            record: record.cloned(),
            instance: if self.host.is_seen() { Look::Absent } else { Look::Unknown },
            runner: if seen { Look::Absent } else { Look::Unknown },
            seen_at: None,
            guest_busy: None,
            in_flight: None,
            driven: false,
            last_online: None,
            reservation: None,
        }
    }
}
