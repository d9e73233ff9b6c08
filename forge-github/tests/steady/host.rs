//! A host whose machines run the runner program, and sometimes fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use fake_github::{Conclusion, FakeGitHub};
use runner_core::{
    Changes, Clock, Error, Hint, Hypervisor, Resources, Result, WorkerName,
    hypervisor::{ExitReason, HypervisorCapabilities, Instance, InstanceSpec, InstanceState},
};
use tokio::task::AbortHandle;

use super::{OWNER, SECRETS_BEGIN, storm::Luck};

/// How long GitHub keeps a request for work.
const LONG_POLL: Duration = Duration::from_secs(50);

/// The host. It outlives the manager.
#[derive(Clone)]
pub struct Host(Arc<Inside>);

struct Inside {
    github: Arc<FakeGitHub>,
    luck: Luck,
    clock: Clock,
    hint: Hint,
    machines: Mutex<BTreeMap<WorkerName, Machine>>,
    crimes: Mutex<Vec<String>>,
}

/// A machine with all that is its own on the host: disk and secret go with it.
struct Machine {
    instance: Instance,
    inside: AbortHandle,
}

impl Host {
    pub fn new(github: Arc<FakeGitHub>, luck: Luck, clock: Clock) -> Self {
        Self(Arc::new(Inside {
            github,
            luck,
            clock,
            hint: Hint::default(),
            machines: Mutex::default(),
            crimes: Mutex::default(),
        }))
    }

    /// What should never have happened.
    pub fn crimes(&self) -> Vec<String> {
        self.0.crimes.lock().unwrap().clone()
    }

    pub fn machines(&self) -> Vec<WorkerName> {
        self.0.machines().keys().cloned().collect()
    }
}

impl Inside {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<WorkerName, Machine>> {
        self.machines.lock().unwrap()
    }

    fn fails(&self, doing: &str, probability: f64) -> Result<()> {
        match self.luck.strikes(probability) {
            true => Err(Error::backend("host", doing, std::io::Error::other("bad luck"))),
            false => Ok(()),
        }
    }

    /// The life of a machine's inside. One in a hundred dies in its boot.
    async fn live(&self, name: WorkerName, secret: String) {
        tokio::time::sleep(self.luck.seconds(20, 30)).await;
        if !self.luck.strikes(0.01)
            && let Ok(session) = self.github.connect(&secret)
        {
            self.work(&name, &session).await;
            // It takes a while to shut down, in which GitHub has forgotten the runner already.
            tokio::time::sleep(self.luck.seconds(1, 8)).await;
        }
        if let Some(machine) = self.machines().get_mut(&name) {
            machine.instance.state = InstanceState::Stopped(ExitReason::GuestShutdown);
        }
        self.hint.hint();
    }

    async fn work(&self, name: &WorkerName, session: &str) {
        // An error: somebody removed the registration while it had no job.
        while let Ok(job) = self.github.next_job(session, LONG_POLL).await {
            if job.is_some() {
                tokio::time::sleep(self.luck.seconds(30, 120)).await;
                if let Err(error) = self.github.finish(session, Conclusion::Success) {
                    self.crimes.lock().unwrap().push(format!("{name} lost its job: {error}"));
                }
                return;
            }
        }
    }
}

#[async_trait]
impl Hypervisor for Host {
    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities { changes: true, ..HypervisorCapabilities::default() }
    }

    async fn capacity(&self) -> Result<Resources> {
        Ok(Resources { vcpus: 1000, memory_mib: 1 << 20, ..Resources::default() })
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        self.0.fails("create a machine", 0.005)?;
        if let Some(machine) = self.0.machines().get(&spec.name) {
            return Ok(machine.instance.clone());
        }
        let instance = Instance {
            name: spec.name.clone(),
            profile: spec.profile.clone(),
            image: spec.image.id.clone(),
            resources: spec.resources.clone(),
            created_at: self.0.clock.now(),
            state: InstanceState::Running,
        };
        let (inside, name) = (self.0.clone(), spec.name.clone());
        let secret = spec.user_data.as_ref().unwrap().expose().clone();
        assert!(secret.starts_with(SECRETS_BEGIN), "else nobody would find where it leaks to");
        let inside = tokio::spawn(async move { inside.live(name, secret).await }).abort_handle();
        let machine = Machine { instance: instance.clone(), inside };
        self.0.machines().insert(spec.name.clone(), machine);
        self.0.fails("tell of a machine that it made", 0.005)?;
        Ok(instance)
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        self.0.fails("destroy a machine", 0.005)?;
        let marked = format!("{name}_{OWNER}");
        let runners = self.0.github.runners().into_iter();
        let mut busy = runners.filter(|runner| runner.name == marked && runner.job.is_some());
        if let Some(runner) = busy.next() {
            let calls = self.0.github.calls().into_iter();
            let about = format!("/runners/{}", runner.id);
            let calls: Vec<_> = calls.filter(|call| call.path.ends_with(&about)).collect();
            let crime = format!("{name} was destroyed with its job, after {calls:?}");
            self.0.crimes.lock().unwrap().push(crime);
        }
        if let Some(machine) = self.0.machines().remove(name) {
            machine.inside.abort();
        }
        Ok(())
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.0.fails("list machines", 0.002)?;
        Ok(self.0.machines().values().map(|machine| machine.instance.clone()).collect())
    }

    fn changes(&self) -> Changes {
        self.0.hint.changes()
    }
}
