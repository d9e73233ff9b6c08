//! Worlds in a few words: what is, and what should be.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runner_core::{
    Capacity, ForgeName, Profile, Resources, WorkerName,
    forge::{QueuedJob, Runner, RunnerStatus},
    hypervisor::{ExitReason, Instance, InstanceState},
    image::{Boot, Image, Recipe, RecipeKind},
    plan::{Backoff, Desired, ForgeView, Observed, Plan, Sight, Subject, plan},
    policy::Override,
    profile::Timeouts,
    queue::{Entry, Need, Waiting},
    reservation::Reservation,
    wish::{Dismissal, Hold},
    worker::{Flight, Look, Record, Worker},
};

pub(crate) fn name<T: std::str::FromStr<Err = runner_core::Error>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

pub(crate) fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("a time")
}

pub(crate) fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

pub(crate) fn gib(count: u64) -> Resources {
    Resources { vcpus: 1, memory_mib: count * 1024, ..Resources::default() }
}

/// A worker of 1 GiB: recorded, running, online and idle, made ten minutes ago. Change what differs.
pub(crate) fn worker(text: &str, changes: &[&dyn Fn(&mut Worker)]) -> Worker {
    let worker: WorkerName = name(text);
    let profile = worker.parts().expect("profile and number").0;
    let image = name(&format!("{profile}.1"));
    let runner = Runner {
        id: name(text),
        name: worker.clone(),
        status: RunnerStatus::Idle,
        reserved_for: None,
    };
    let mut worker = Worker {
        name: worker.clone(),
        record: Some(Record {
            name: worker.clone(),
            profile: profile.clone(),
            forge: name("hub"),
            image: name(&format!("{profile}.1")),
            resources: gib(1),
            created_at: ago(600),
            runner: Some(runner.id.clone()),
        }),
        instance: Look::Seen(Instance {
            name: worker,
            profile,
            image,
            resources: gib(1),
            created_at: ago(600),
            state: InstanceState::Running,
        }),
        runner: Look::Seen(runner),
        seen_at: Some(name("hub")),
        guest_busy: None,
        in_flight: None,
        driven: false,
        last_online: Some(now()),
        reservation: None,
    };
    changes.iter().for_each(|change| change(&mut worker));
    worker
}

pub(crate) fn idle(text: &str) -> Worker {
    worker(text, &[])
}

pub(crate) fn status(worker: &mut Worker, status: RunnerStatus) {
    if let Look::Seen(runner) = &mut worker.runner {
        runner.status = status;
    }
}

pub(crate) fn busy(worker: &mut Worker) {
    status(worker, RunnerStatus::Busy(Some(name("job"))));
}

pub(crate) fn offline(worker: &mut Worker) {
    status(worker, RunnerStatus::Offline);
}

pub(crate) fn never_online(worker: &mut Worker) {
    offline(worker);
    worker.last_online = None;
}

pub(crate) fn stopped(worker: &mut Worker) {
    if let Look::Seen(instance) = &mut worker.instance {
        instance.state = InstanceState::Stopped(ExitReason::GuestShutdown);
    }
}

pub(crate) fn no_machine(worker: &mut Worker) {
    worker.instance = Look::Absent;
}

pub(crate) fn no_runner(worker: &mut Worker) {
    worker.runner = Look::Absent;
}

pub(crate) fn no_registration(worker: &mut Worker) {
    no_runner(worker);
    worker.record.as_mut().expect("a record").runner = None;
}

pub(crate) fn no_record(worker: &mut Worker) {
    worker.record = None;
}

pub(crate) fn quiet_guest(worker: &mut Worker) {
    worker.guest_busy = Some(false);
}

pub(crate) fn working_guest(worker: &mut Worker) {
    worker.guest_busy = Some(true);
}

pub(crate) fn known_for_long(worker: &mut Worker) {
    worker.last_online = Some(ago(600));
}

pub(crate) fn online_before(hours: i64) -> impl Fn(&mut Worker) {
    move |worker| worker.last_online = Some(ago(hours * 3600))
}

pub(crate) fn unmaking(worker: &mut Worker) {
    worker.in_flight = Some(Flight::Unmaking);
}

pub(crate) fn making(worker: &mut Worker) {
    worker.in_flight = Some(Flight::Making);
}

pub(crate) fn promised(worker: &mut Worker) {
    worker.reservation = Some(name("promise"));
}

pub(crate) fn marked(worker: &mut Worker) {
    if let Look::Seen(runner) = &mut worker.runner {
        runner.reserved_for = Some(name("promise"));
    }
}

pub(crate) fn pushed(worker: &mut Worker) {
    worker.seen_at = Some(name("local"));
    if let Some(record) = &mut worker.record {
        record.forge = name("local");
    }
}

pub(crate) fn older(by: i64) -> impl Fn(&mut Worker) {
    move |worker| {
        if let Some(record) = &mut worker.record {
            record.created_at = ago(600 + by);
        }
        if let Look::Seen(instance) = &mut worker.instance {
            instance.created_at = ago(600 + by);
        }
    }
}

pub(crate) fn large(count: u64) -> impl Fn(&mut Worker) {
    move |worker| {
        if let Some(record) = &mut worker.record {
            record.resources = gib(count);
        }
        if let Look::Seen(instance) = &mut worker.instance {
            instance.resources = gib(count);
        }
    }
}

pub(crate) fn image(profile: &str, build: u32, age: i64) -> Image {
    Image {
        id: name(&format!("{profile}.{build}")),
        recipe: Recipe { profile: name(profile), kind: RecipeKind::Micro {} },
        built_at: ago(age),
        digest: "0".repeat(64),
        size_bytes: 1,
        boot: Boot::Kernel {
            kernel: "/k".into(),
            initrd: "/i".into(),
            command_line: String::new(),
        },
    }
}

pub(crate) fn patient(profile: &mut Profile) {
    let days = Duration::from_secs(2 * 24 * 3600);
    profile.timeouts = Timeouts { start: days, offline: days };
}

pub(crate) fn serves_linux(profile: &mut Profile) {
    profile.labels.insert(name("linux"));
}

/// What is and what should be.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) observed: Observed,
    pub(crate) desired: Desired,
}

/// A host of 8 GiB, a forge `hub` and a local one, all seen; no profiles.
pub(crate) fn world() -> World {
    let hub = ForgeView { sight: Sight::Seen, reserves: true, ..ForgeView::default() };
    let local = ForgeView { drives: true, ..hub.clone() };
    let capacity = Capacity { vcpus: 64, memory_mib: 8 * 1024, ..Capacity::default() };
    World {
        observed: Observed {
            hypervisor: Sight::Seen,
            builder: Sight::Seen,
            capacity: Some(capacity),
            forges: [(name("hub"), hub), (name("local"), local)].into(),
            next_serial: 100,
            ..Observed::default()
        },
        desired: Desired { orphan_limit: Duration::from_secs(3600), ..Desired::default() },
    }
}

impl World {
    /// A profile of 1 GiB on the hub, with its image.
    pub(crate) fn profile(self, text: &str, min_idle: u32, max: u32) -> Self {
        self.profile_with(text, min_idle, max, |_| ())
    }

    pub(crate) fn profile_with(
        mut self,
        text: &str,
        min_idle: u32,
        max: u32,
        change: impl Fn(&mut Profile),
    ) -> Self {
        let image = image(text, 1, 1000);
        let mut profile = Profile::new(name("hub"), image.recipe.clone(), gib(1));
        (profile.min_idle, profile.max) = (min_idle, max);
        change(&mut profile);
        self.desired.profiles.push(profile);
        self.observed.images.push(image);
        self
    }

    /// The hub removes what was offline for a day.
    pub(crate) fn forgetful(mut self) -> Self {
        let hub = self.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub");
        hub.forgets_after = Some(Duration::from_secs(24 * 3600));
        self
    }

    pub(crate) fn workers(mut self, workers: impl IntoIterator<Item = Worker>) -> Self {
        self.observed.workers.extend(workers.into_iter().map(|w| (w.name.clone(), w)));
        self
    }

    /// Jobs that ask the hub for these labels.
    pub(crate) fn jobs(mut self, count: u32, labels: &[&str]) -> Self {
        let queued =
            &mut self.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub").queued;
        for _ in 0..count {
            queued.push(QueuedJob {
                id: name(&format!("job-{}", queued.len() + 1)),
                profile: None,
                labels: labels.iter().map(|label| name(label)).collect(),
                reserved_for: None,
                queued_at: ago(5),
            });
        }
        self
    }

    pub(crate) fn reserve(mut self, until: Timestamp, workers: &[&str]) -> Self {
        let reservation = Reservation {
            id: name("promise"),
            profile: name("a"),
            owner: "me".to_owned(),
            purpose: "a test".to_owned(),
            since: ago(60),
            until,
            count: workers.len() as u32,
            workers: workers.iter().map(|worker| name(worker)).collect(),
            used: BTreeSet::new(),
            used_at: None,
        };
        self.observed.reservations.insert(reservation.id.clone(), reservation);
        self
    }

    /// Somebody in line who needs so many workers of a profile more.
    pub(crate) fn needs(mut self, profile: &str, workers: u32, first: bool) -> Self {
        let id = name("promise");
        self.observed.needs.push(Need { id, profile: name(profile), workers, first });
        self
    }

    /// An entry of the queue that was last asked after so long ago.
    pub(crate) fn waiting(mut self, asked: i64, kept: &[&str]) -> Self {
        let entry = Entry {
            id: name("promise"),
            profile: name("a"),
            count: 3,
            at_least: 3,
            owner: "me".to_owned(),
            purpose: "a test".to_owned(),
            duration: Duration::from_secs(600),
            patience: Duration::from_secs(60),
            since: ago(900),
            turn: Default::default(),
            elsewhere: 0,
            beyond: 0,
            kept: kept.iter().map(|worker| name(worker)).collect(),
        };
        let waiting = Waiting { entry, asked_at: ago(asked), backoff: None };
        self.observed.waiting.insert(name("promise"), waiting);
        self
    }

    /// Jobs of the hub that run on workers of the reservation only.
    pub(crate) fn reserved_jobs(self, count: u32) -> Self {
        self.jobs(count, &[]).but(|w| {
            let hub = w.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub");
            hub.queued.iter_mut().for_each(|job| job.reserved_for = Some(name("promise")));
        })
    }

    pub(crate) fn refused(mut self, worker: &str, failures: u32, seconds: i64) -> Self {
        let not_before = now() + SignedDuration::from_secs(seconds);
        let backoff = Backoff { not_before, failures, error: "422".to_owned() };
        self.observed.backoff.insert(Subject::Worker(name(worker)), backoff);
        self
    }

    pub(crate) fn but(mut self, change: impl Fn(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn hold(&mut self, workers: &[&str], until: Timestamp) {
        for worker in workers {
            let worker: WorkerName = name(worker);
            let (by, purpose) = ("ann".to_owned(), "to look at it".to_owned());
            let hold = Hold { worker: worker.clone(), by, purpose, since: ago(10), until };
            self.desired.holds.insert(worker, hold);
        }
    }

    pub(crate) fn dismiss(&mut self, workers: &[&str], after_reservation: bool) {
        for worker in workers {
            let (worker, by): (WorkerName, _) = (name(worker), "ann".to_owned());
            let asked = Dismissal { worker: worker.clone(), by, since: ago(10), after_reservation };
            self.desired.dismissals.insert(worker, asked);
        }
    }

    pub(crate) fn blind_hub(self) -> Self {
        self.but(|w| {
            w.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub").sight =
                Sight::Blind("502 Bad Gateway".to_owned());
            for worker in w.observed.workers.values_mut() {
                worker.runner = Look::Unknown;
            }
        })
    }

    pub(crate) fn blind_host(self) -> Self {
        self.but(|w| {
            w.observed.hypervisor = Sight::Blind("no answer".to_owned());
            w.observed.capacity = None;
            for worker in w.observed.workers.values_mut() {
                worker.instance = Look::Unknown;
            }
        })
    }

    /// A policy override that ann began five minutes ago.
    pub(crate) fn overridden(self, counts: &[(&str, u32)], claimed: &[&str]) -> Self {
        self.but(|w| {
            let counts = counts.iter().map(|(profile, count)| (name(profile), *count)).collect();
            let mut policy = Override {
                counts,
                by: "ann".to_owned(),
                purpose: "a release".to_owned(),
                since: ago(300),
                until: now() + SignedDuration::from_secs(60),
                claimed: Default::default(),
            };
            for worker in claimed {
                let worker: WorkerName = name(worker);
                let profile = worker.parts().expect("profile and number").0;
                policy.claimed.entry(profile).or_default().insert(worker);
            }
            w.desired.policy = Some(policy);
        })
    }

    pub(crate) fn backing_off(mut self, subject: Subject) -> Self {
        let not_before = now() + SignedDuration::from_secs(30);
        let backoff = Backoff { not_before, failures: 1, error: "it broke".to_owned() };
        self.observed.backoff.insert(subject, backoff);
        self
    }

    pub(crate) fn plan(&self) -> Plan {
        plan(&self.observed, &self.desired, now())
    }
}
