//! A world that exists in memory only: a hypervisor, forges, an image builder and guests that behave as
//! real ones do, pass the same conformance suites, and misbehave on demand.
//!
//! Everything happens by the [`Clock`]: with tokio's paused clock a storm of days takes a moment. The world
//! outlives the pools that act on it, and knows the truth that they only see parts of: tests compare with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    changes::Hint,
    clock::Clock,
    error::{Error, Result},
    hypervisor::{ExitReason, Instance, InstanceState},
    image::Image,
    name::{
        ForgeName, ImageId, JobId, Label, ProcessId, ProfileName, ReservationId, RunnerId,
        WorkerName,
    },
    resources::Capacity,
};

mod builder;
mod forge;
mod guest;
mod hypervisor;
mod session;

pub use builder::FakeBuilder;
pub use forge::FakeForge;
use guest::FakeProcess;
pub use hypervisor::FakeHypervisor;
use session::FakeSession;

/// A call that can be made to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `Hypervisor::create`.
    Create(WorkerName),
    /// `Hypervisor::destroy`.
    Destroy(WorkerName),
    /// `Hypervisor::instances`.
    Instances,
    /// Any call to a guest.
    Guest(WorkerName),
    /// `Forge::register`.
    Register(WorkerName),
    /// `Forge::deregister` and `abandon`.
    Deregister(RunnerId),
    /// `Forge::runners`.
    Runners(ForgeName),
    /// `Forge::queued_jobs`.
    Jobs(ForgeName),
    /// `Forge::reserve` and `release`.
    Mark(RunnerId),
    /// `ImageBuilder::build`.
    Build(ProfileName),
    /// `ImageBuilder::delete`.
    Delete(ImageId),
    /// `ImageBuilder::images`.
    Images,
}

/// How a call misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect.
    Before,
    /// It has its effect and fails all the same, as when an answer is lost.
    After,
    /// It never returns.
    Hang,
    /// It works after this long.
    Slow(Duration),
    /// A list lacks its last half and says nothing about it. Against every contract, and it happens.
    Short,
}

type Mischief = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

/// The world. Clones share it.
#[derive(Clone)]
pub struct FakeWorld(Arc<Shared>);

struct Shared {
    clock: Clock,
    state: Mutex<World>,
    /// Hints for the hypervisor and the forges.
    hint: Hint,
}

struct World {
    mischief: Mischief,
    capacity: Capacity,
    boot_time: Duration,
    machines: BTreeMap<WorkerName, Machine>,
    runners: BTreeMap<(ForgeName, RunnerId), FakeRunner>,
    jobs: Vec<FakeJob>,
    images: Vec<Image>,
    serial: u64,
    /// What should never have happened, in words.
    crimes: Vec<String>,
    /// Every process that was ever started.
    spawned: Vec<(WorkerName, ProcessId)>,
}

struct Machine {
    instance: Instance,
    boots_at: Timestamp,
    /// The registration it was given, if its forge lets guests pull.
    secret: Option<String>,
    processes: BTreeMap<ProcessId, FakeProcess>,
    sessions: BTreeMap<ProcessId, FakeSession>,
    files: BTreeMap<String, Vec<u8>>,
    screen: u8,
    addresses: Vec<IpAddr>,
}

struct FakeRunner {
    name: WorkerName,
    profile: ProfileName,
    labels: BTreeSet<Label>,
    job: Option<JobId>,
    online: bool,
    reserved_for: Option<ReservationId>,
}

/// A job of a fake forge whose guests pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeJob {
    /// Its id.
    pub id: JobId,
    /// Its forge.
    pub forge: ForgeName,
    /// The profile that it asks for by label.
    pub profile: ProfileName,
    /// The reservation that it asks for instead.
    pub reserved_for: Option<ReservationId>,
    /// Since when it waits.
    pub queued_at: Timestamp,
    /// How long it will run.
    pub takes: Duration,
    /// How often a runner has begun it.
    pub begun: u32,
    /// What became of it.
    pub state: FakeJobState,
}

/// What became of a fake job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FakeJobState {
    /// It waits.
    Queued,
    /// It runs there, until then.
    Running(WorkerName, Timestamp),
    /// It ran to its end.
    Done,
    /// Its machine died under it.
    Lost,
}

impl FakeWorld {
    /// An empty world that behaves, with room for 16 vCPUs and 16 GiB, where a machine boots in 2 s.
    pub fn new(clock: Clock) -> Self {
        let capacity =
            Capacity { vcpus: 16, memory_mib: 16 << 10, disk_mib: 1 << 20, ..Capacity::default() };
        let world = World {
            mischief: Box::new(|_| None),
            capacity,
            boot_time: Duration::from_secs(2),
            machines: BTreeMap::new(),
            runners: BTreeMap::new(),
            jobs: Vec::new(),
            images: Vec::new(),
            serial: 0,
            crimes: Vec::new(),
            spawned: Vec::new(),
        };
        Self(Arc::new(Shared { clock, state: Mutex::new(world), hint: Hint::default() }))
    }

    /// Asks `mischief` before every call what is to go wrong.
    pub fn misbehave(&self, mischief: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.state().mischief = Box::new(mischief);
    }

    /// Ends all mischief.
    pub fn behave(&self) {
        self.misbehave(|_| None);
    }

    /// What the host has.
    pub fn set_capacity(&self, capacity: Capacity) {
        self.state().capacity = capacity;
    }

    /// How long a machine takes until its guest answers.
    pub fn set_boot_time(&self, boot_time: Duration) {
        self.state().boot_time = boot_time;
    }

    /// The hypervisor of this world.
    pub fn hypervisor(&self) -> FakeHypervisor {
        FakeHypervisor(self.clone())
    }

    /// A forge of this world whose guests pull their jobs.
    pub fn forge(&self, name: ForgeName) -> FakeForge {
        FakeForge { world: self.clone(), name }
    }

    /// The image builder of this world.
    pub fn builder(&self) -> FakeBuilder {
        FakeBuilder(self.clone())
    }

    /// Submits a job that takes so long to a forge.
    pub fn submit(&self, forge: &ForgeName, profile: &ProfileName, takes: Duration) -> JobId {
        self.submit_for(forge, profile, None, takes)
    }

    /// Submits a job that runs on workers of a reservation only, if it names one.
    pub fn submit_for(
        &self,
        forge: &ForgeName,
        profile: &ProfileName,
        reservation: Option<&ReservationId>,
        takes: Duration,
    ) -> JobId {
        let now = self.0.clock.now();
        let mut world = self.state();
        let id = JobId::new(format!("job-{}", world.jobs.len() + 1)).expect("letters and digits");
        world.jobs.push(FakeJob {
            id: id.clone(),
            forge: forge.clone(),
            profile: profile.clone(),
            reserved_for: reservation.cloned(),
            queued_at: now,
            takes,
            begun: 0,
            state: FakeJobState::Queued,
        });
        drop(world);
        self.0.hint.hint();
        id
    }

    /// The jobs of all forges, as they are now.
    pub fn jobs(&self) -> Vec<FakeJob> {
        self.settled().jobs.clone()
    }

    /// The machines that exist now, and whether each runs.
    pub fn machines(&self) -> BTreeMap<WorkerName, bool> {
        let world = self.settled();
        let runs = |machine: &Machine| machine.instance.state == InstanceState::Running;
        world.machines.iter().map(|(name, machine)| (name.clone(), runs(machine))).collect()
    }

    /// The runners that exist at all forges now.
    pub fn runners(&self) -> Vec<WorkerName> {
        self.settled().runners.values().map(|runner| runner.name.clone()).collect()
    }

    /// What should never have happened: jobs that were killed, machines destroyed twice over.
    pub fn crimes(&self) -> Vec<String> {
        self.settled().crimes.clone()
    }

    /// Every process that was ever started, in order: one that was started twice is in it twice.
    pub fn spawned(&self) -> Vec<(WorkerName, ProcessId)> {
        self.state().spawned.clone()
    }

    /// What the network has given to a machine.
    pub fn set_addresses(&self, name: &WorkerName, addresses: Vec<IpAddr>) {
        if let Some(machine) = self.state().machines.get_mut(name) {
            machine.addresses = addresses;
        }
    }

    /// A machine learns the secret of its registration, as when it asks for it after its start.
    pub fn tell(&self, name: &WorkerName, secret: &str) {
        if let Some(machine) = self.state().machines.get_mut(name) {
            machine.secret = Some(secret.to_owned());
        }
        self.0.hint.hint();
    }

    /// What a machine was told at its start, or since.
    pub fn told(&self, name: &WorkerName) -> Option<String> {
        self.state().machines.get(name)?.secret.clone()
    }

    /// A machine dies by itself, as when the host kills its process.
    pub fn crash(&self, name: &WorkerName) {
        let mut world = self.settled();
        if let Some(machine) = world.machines.get_mut(name) {
            machine.instance.state =
                InstanceState::Stopped(ExitReason::Crashed("killed".to_owned()));
        }
        world.lose_job_of(name);
        drop(world);
        self.0.hint.hint();
    }

    /// A machine vanishes without a trace, as when someone removes it by hand.
    pub fn vanish(&self, name: &WorkerName) {
        self.crash(name);
        self.state().machines.remove(name);
        self.0.hint.hint();
    }

    /// A runner is removed at its forge by someone else.
    pub fn remove_runner(&self, name: &WorkerName) {
        self.settled().runners.retain(|_, runner| runner.name != *name || runner.job.is_some());
        self.0.hint.hint();
    }

    fn state(&self) -> MutexGuard<'_, World> {
        // No code under this lock leaves the world half-changed when it panics.
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The world with everything done that was due by now.
    fn settled(&self) -> MutexGuard<'_, World> {
        let now = self.0.clock.now();
        let mut world = self.state();
        world.settle(now);
        world
    }

    /// Misbehaves as it was told to, then does `work` and hints that lists changed.
    async fn call<T>(
        &self,
        call: Call,
        work: impl FnOnce(&mut World, Timestamp) -> Result<T>,
    ) -> Result<T> {
        let result = self.quiet_call(call, work).await;
        self.0.hint.hint();
        result
    }

    /// Misbehaves as it was told to, then does `work`.
    async fn quiet_call<T>(
        &self,
        call: Call,
        work: impl FnOnce(&mut World, Timestamp) -> Result<T>,
    ) -> Result<T> {
        let fault = (self.state().mischief)(&call);
        let failed = || {
            let reason = std::io::Error::other("the fake was told to fail");
            Err(Error::backend("fake", format!("{call:?}"), reason))
        };
        match fault {
            Some(Fault::Before) => return failed(),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            // A call always takes a moment: whoever is dropped here has done nothing yet.
            _ => tokio::task::yield_now().await,
        }
        let result = work(&mut self.settled(), self.0.clock.now());
        // And here it has.
        tokio::task::yield_now().await;
        if fault == Some(Fault::After) { failed() } else { result }
    }

    /// As [`call`](Self::call), for lists, which change nothing.
    async fn list<T>(
        &self,
        call: Call,
        list: impl FnOnce(&World, Timestamp) -> Vec<T>,
    ) -> Result<Vec<T>> {
        let fault = (self.state().mischief)(&call);
        match fault {
            Some(Fault::Before | Fault::After) => {
                let reason = std::io::Error::other("the fake was told to fail");
                return Err(Error::backend("fake", format!("{call:?}"), reason));
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Short) | None => tokio::task::yield_now().await,
        }
        let mut list = list(&self.settled(), self.0.clock.now());
        if fault == Some(Fault::Short) {
            list.truncate(list.len() / 2);
        }
        Ok(list)
    }
}

impl World {
    /// Lets everything happen that is due: runners come online, take jobs and finish them.
    fn settle(&mut self, now: Timestamp) {
        self.end_jobs(now);
        for ((_, id), runner) in &mut self.runners {
            let machine = self.machines.get(&runner.name);
            runner.online = machine.is_some_and(|machine| {
                machine.instance.state == InstanceState::Running
                    && machine.boots_at <= now
                    && machine.secret.as_deref().is_some_and(|told| names(told, id))
            });
        }
        self.begin_jobs(now);
    }

    fn end_jobs(&mut self, now: Timestamp) {
        for job in &mut self.jobs {
            let FakeJobState::Running(worker, until) = &job.state else {
                continue;
            };
            if *until > now {
                continue;
            }
            // A single-use runner leaves the forge after its job and its machine shuts down.
            self.runners.retain(|_, runner| runner.name != *worker);
            if let Some(machine) = self.machines.get_mut(worker) {
                machine.instance.state = InstanceState::Stopped(ExitReason::GuestShutdown);
            }
            job.state = FakeJobState::Done;
        }
    }

    fn begin_jobs(&mut self, now: Timestamp) {
        for job in &mut self.jobs {
            if job.state != FakeJobState::Queued {
                continue;
            }
            let fits = |forge: &ForgeName, runner: &FakeRunner| {
                let name = job.profile.as_str();
                *forge == job.forge
                    && runner.online
                    && runner.job.is_none()
                    && runner.reserved_for == job.reserved_for
                    && (job.reserved_for.is_some()
                        || runner.profile == job.profile
                        || runner.labels.iter().any(|label| label.as_str() == name))
            };
            let found = self.runners.iter_mut().find(|((forge, _), runner)| fits(forge, runner));
            if let Some((_, runner)) = found {
                runner.job = Some(job.id.clone());
                job.begun += 1;
                job.state = FakeJobState::Running(runner.name.clone(), after(now, job.takes));
            }
        }
    }

    /// Whatever job a machine had is lost with it.
    fn lose_job_of(&mut self, name: &WorkerName) {
        for job in &mut self.jobs {
            if matches!(&job.state, FakeJobState::Running(worker, _) if worker == name) {
                job.state = FakeJobState::Lost;
                let id = &job.id;
                for runner in self.runners.values_mut().filter(|r| r.job.as_ref() == Some(id)) {
                    // The forge finds out: the runner is not busy any more.
                    runner.job = None;
                }
            }
        }
    }

    /// The job that runs on a machine, pulled or pushed, if any.
    fn job_on(&self, name: &WorkerName, now: Timestamp) -> Option<String> {
        let pulled = self.jobs.iter().find_map(|job| match &job.state {
            FakeJobState::Running(worker, _) if worker == name => Some(job.id.to_string()),
            _ => None,
        });
        let machine = self.machines.get(name)?;
        if machine.instance.state != InstanceState::Running {
            return None;
        }
        let mut running = machine.processes.iter().filter(|(_, process)| process.runs(now));
        pulled.or_else(|| running.next().map(|(id, _)| id.to_string()))
    }
}

/// Whether a machine that was told this is to become that runner: by the secret alone, or by a line that has it.
fn names(told: &str, id: &RunnerId) -> bool {
    let mut secrets = told.lines().filter_map(|line| line.strip_prefix("jit-config="));
    told == id.as_str() || secrets.any(|secret| secret == id.as_str())
}

fn after(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}
