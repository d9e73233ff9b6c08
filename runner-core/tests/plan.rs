//! The plan as a table: a world, what is done about it, what is held, and why. Each row is named for the
//! promise that it shows, and there is a row for every reason that the planner can give.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use runner_core::{
    Capacity, ForgeName, Profile, Resources, WorkerName,
    forge::{QueuedJob, Runner, RunnerStatus},
    hypervisor::{ExitReason, Instance, InstanceState},
    image::{Boot, Image, Recipe, RecipeKind},
    plan::{Action, Backoff, Desired, ForgeView, Held, Observed, Sight, Step, Subject, Unmake},
    plan::{Plan, Why, WhyNot, plan},
    policy::Override,
    queue::{Entry, Need, Waiting},
    reservation::Reservation,
    wish::{Dismissal, Hold},
    worker::{Ending, Flight, Look, Phase, Record, Worker},
};

fn name<T: std::str::FromStr<Err = runner_core::Error>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().expect("a time")
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn gib(count: u64) -> Resources {
    Resources { vcpus: 1, memory_mib: count * 1024, ..Resources::default() }
}

/// A worker of 1 GiB: recorded, running, online and idle, made ten minutes ago. Change what differs.
fn worker(text: &str, changes: &[&dyn Fn(&mut Worker)]) -> Worker {
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

fn idle(text: &str) -> Worker {
    worker(text, &[])
}

fn status(worker: &mut Worker, status: RunnerStatus) {
    if let Look::Seen(runner) = &mut worker.runner {
        runner.status = status;
    }
}

fn busy(worker: &mut Worker) {
    status(worker, RunnerStatus::Busy(Some(name("job"))));
}

fn offline(worker: &mut Worker) {
    status(worker, RunnerStatus::Offline);
}

fn never_online(worker: &mut Worker) {
    offline(worker);
    worker.last_online = None;
}

fn stopped(worker: &mut Worker) {
    if let Look::Seen(instance) = &mut worker.instance {
        instance.state = InstanceState::Stopped(ExitReason::GuestShutdown);
    }
}

fn no_machine(worker: &mut Worker) {
    worker.instance = Look::Absent;
}

fn no_runner(worker: &mut Worker) {
    worker.runner = Look::Absent;
}

fn no_registration(worker: &mut Worker) {
    no_runner(worker);
    worker.record.as_mut().expect("a record").runner = None;
}

fn no_record(worker: &mut Worker) {
    worker.record = None;
}

fn quiet_guest(worker: &mut Worker) {
    worker.guest_busy = Some(false);
}

fn working_guest(worker: &mut Worker) {
    worker.guest_busy = Some(true);
}

fn known_for_long(worker: &mut Worker) {
    worker.last_online = Some(ago(600));
}

fn unmaking(worker: &mut Worker) {
    worker.in_flight = Some(Flight::Unmaking);
}

fn making(worker: &mut Worker) {
    worker.in_flight = Some(Flight::Making);
}

fn promised(worker: &mut Worker) {
    worker.reservation = Some(name("promise"));
}

fn marked(worker: &mut Worker) {
    if let Look::Seen(runner) = &mut worker.runner {
        runner.reserved_for = Some(name("promise"));
    }
}

fn pushed(worker: &mut Worker) {
    worker.seen_at = Some(name("local"));
    if let Some(record) = &mut worker.record {
        record.forge = name("local");
    }
}

fn older(by: i64) -> impl Fn(&mut Worker) {
    move |worker| {
        if let Some(record) = &mut worker.record {
            record.created_at = ago(600 + by);
        }
        if let Look::Seen(instance) = &mut worker.instance {
            instance.created_at = ago(600 + by);
        }
    }
}

fn large(count: u64) -> impl Fn(&mut Worker) {
    move |worker| {
        if let Some(record) = &mut worker.record {
            record.resources = gib(count);
        }
        if let Look::Seen(instance) = &mut worker.instance {
            instance.resources = gib(count);
        }
    }
}

fn image(profile: &str, build: u32, age: i64) -> Image {
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

fn serves_linux(profile: &mut Profile) {
    profile.labels.insert(name("linux"));
}

/// What is and what should be.
#[derive(Clone)]
struct World {
    observed: Observed,
    desired: Desired,
}

/// A host of 8 GiB, a forge `hub` and a local one, all seen; no profiles.
fn world() -> World {
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
    fn profile(self, text: &str, min_idle: u32, max: u32) -> Self {
        self.profile_with(text, min_idle, max, |_| ())
    }

    fn profile_with(
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

    fn workers(mut self, workers: impl IntoIterator<Item = Worker>) -> Self {
        self.observed.workers.extend(workers.into_iter().map(|w| (w.name.clone(), w)));
        self
    }

    /// Jobs that ask the hub for these labels.
    fn jobs(mut self, count: u32, labels: &[&str]) -> Self {
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

    fn reserve(mut self, until: Timestamp, workers: &[&str]) -> Self {
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
        };
        self.observed.reservations.insert(reservation.id.clone(), reservation);
        self
    }

    /// Somebody in line who needs so many workers of a profile more.
    fn needs(mut self, profile: &str, workers: u32, first: bool) -> Self {
        let id = name("promise");
        self.observed.needs.push(Need { id, profile: name(profile), workers, first });
        self
    }

    /// An entry of the queue that was last asked after so long ago.
    fn waiting(mut self, asked: i64, kept: &[&str]) -> Self {
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
    fn reserved_jobs(self, count: u32) -> Self {
        self.jobs(count, &[]).but(|w| {
            let hub = w.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub");
            hub.queued.iter_mut().for_each(|job| job.reserved_for = Some(name("promise")));
        })
    }

    fn refused(mut self, worker: &str, failures: u32, seconds: i64) -> Self {
        let not_before = now() + SignedDuration::from_secs(seconds);
        let backoff = Backoff { not_before, failures, error: "422".to_owned() };
        self.observed.backoff.insert(Subject::Worker(name(worker)), backoff);
        self
    }

    fn but(mut self, change: impl Fn(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn hold(&mut self, workers: &[&str], until: Timestamp) {
        for worker in workers {
            let worker: WorkerName = name(worker);
            let (by, purpose) = ("ann".to_owned(), "to look at it".to_owned());
            let hold = Hold { worker: worker.clone(), by, purpose, since: ago(10), until };
            self.desired.holds.insert(worker, hold);
        }
    }

    fn dismiss(&mut self, workers: &[&str], after_reservation: bool) {
        for worker in workers {
            let (worker, by): (WorkerName, _) = (name(worker), "ann".to_owned());
            let asked = Dismissal { worker: worker.clone(), by, since: ago(10), after_reservation };
            self.desired.dismissals.insert(worker, asked);
        }
    }

    fn blind_hub(self) -> Self {
        self.but(|w| {
            w.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub").sight =
                Sight::Blind("502 Bad Gateway".to_owned());
            for worker in w.observed.workers.values_mut() {
                worker.runner = Look::Unknown;
            }
        })
    }

    fn blind_host(self) -> Self {
        self.but(|w| {
            w.observed.hypervisor = Sight::Blind("no answer".to_owned());
            w.observed.capacity = None;
            for worker in w.observed.workers.values_mut() {
                worker.instance = Look::Unknown;
            }
        })
    }

    /// A policy override that ann began five minutes ago.
    fn overridden(self, counts: &[(&str, u32)], claimed: &[&str]) -> Self {
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

    fn backing_off(mut self, subject: Subject) -> Self {
        let not_before = now() + SignedDuration::from_secs(30);
        let backoff = Backoff { not_before, failures: 1, error: "it broke".to_owned() };
        self.observed.backoff.insert(subject, backoff);
        self
    }

    fn plan(&self) -> Plan {
        plan(&self.observed, &self.desired, now())
    }
}

struct Row {
    promise: &'static str,
    world: World,
    does: &'static [&'static str],
    holds: &'static [&'static str],
}

fn row(
    promise: &'static str,
    world: World,
    does: &'static [&'static str],
    holds: &'static [&'static str],
) -> Row {
    Row { promise, world, does, holds }
}

fn say_action(action: &Action) -> String {
    let step = match &action.step {
        Step::Provision { worker, image, .. } => format!("provision {worker} from {}", image.id),
        Step::Retire { worker, order, .. } => {
            let words = order.iter().map(|part| match part {
                Unmake::Deregister(_) => "deregister",
                Unmake::Abandon(_) => "abandon",
                Unmake::Destroy => "destroy",
                Unmake::Forget => "forget",
            });
            format!("retire {worker} ({})", words.collect::<Vec<_>>().join(", "))
        }
        Step::Attach { worker, .. } => format!("attach {worker}"),
        Step::Mark { worker, .. } => format!("mark {worker}"),
        Step::Unmark { worker, .. } => format!("unmark {worker}"),
        Step::Release { reservation } => format!("release {reservation}"),
        Step::EndOverride => "end override".to_owned(),
        Step::Dequeue { reservation } => format!("dequeue {reservation}"),
        Step::Build { recipe } => format!("build {}", recipe.profile),
        Step::DeleteImage { image } => format!("delete {image}"),
    };
    format!("{step}: {}", action.why)
}

fn say_held(held: &Held) -> String {
    format!("{}: {}", held.subject, held.why_not)
}

fn numbers() -> Vec<Row> {
    vec![
        row(
            "a waiting job gets a worker although none is kept ready",
            world().profile("a", 0, 2).jobs(1, &["a"]),
            &["provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "ready workers are kept although no job waits",
            world().profile("a", 1, 2),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &[],
        ),
        row(
            "what is starting counts as ready",
            world().profile("a", 1, 2).workers([worker("a-1", &[&offline])]),
            &[],
            &[],
        ),
        row(
            "what is being made counts as ready before any list shows it",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&making, &no_machine, &no_runner])]),
            &[],
            &[],
        ),
        row(
            "what works is not ready: the next job gets the next worker",
            world().profile("a", 0, 2).workers([worker("a-1", &[&busy])]).jobs(1, &["a"]),
            &["provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "max is respected, busy ones included, and it is said when a job waits for it",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&busy]), idle("a-2")])
                .jobs(2, &["a"]),
            &[],
            &["profile a: the profile has all of its 2 workers"],
        ),
        row(
            "what its forge cannot be asked about counts against max",
            world().profile("a", 2, 2).workers([idle("a-1"), idle("a-2")]).blind_hub(),
            &[],
            &[
                "worker a-1: its forge cannot be seen: 502 Bad Gateway",
                "worker a-2: its forge cannot be seen: 502 Bad Gateway",
            ],
        ),
        row(
            "a job that two profiles serve is counted once, for the first of them",
            world()
                .profile_with("a", 0, 2, serves_linux)
                .profile_with("b", 0, 2, serves_linux)
                .jobs(1, &["linux"]),
            &["provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "jobs beyond the max of the first profile that serves them go to the second",
            world()
                .profile_with("a", 0, 1, serves_linux)
                .profile_with("b", 0, 2, serves_linux)
                .jobs(2, &["linux"]),
            &[
                "provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0",
                "provision b-101 from b.1: jobs waiting: 1, workers ready or on their way: 0",
            ],
            &[],
        ),
        row(
            "a job that no profile serves is told what is missing",
            world().profile("a", 0, 1).jobs(1, &["a", "gpu"]),
            &[],
            &["job job-1: no profile offers all of: a, gpu"],
        ),
        row(
            "reservations that wait get workers, beside those of jobs and before those to keep ready",
            world().profile("a", 1, 9).jobs(1, &["a"]).needs("a", 2, true).needs("a", 1, false),
            &[
                "provision a-100 from a.1: waited for by reservations: 2, workers ready or on their way: 0",
                "provision a-101 from a.1: waited for by reservations: 2, workers ready or on their way: 0",
                "provision a-102 from a.1: waited for by reservations: 3, workers ready or on their way: 2",
                "provision a-103 from a.1: waited for by reservations: 3, workers ready or on their way: 2",
            ],
            &[],
        ),
        row(
            "idle workers that reservations wait for are no surplus",
            world().profile("a", 0, 3).workers([idle("a-1"), idle("a-2")]).needs("a", 2, true),
            &[],
            &[],
        ),
        row(
            "reservations beyond max wait, and it is said",
            world().profile("a", 0, 1).workers([worker("a-1", &[&busy])]).needs("a", 1, false),
            &[],
            &["profile a: the profile has all of its 1 workers"],
        ),
        row(
            "a job of a reservation that is remembered or waits is no job for any other worker",
            world()
                .profile("a", 0, 2)
                .reserved_jobs(1)
                .but(|w| w.observed.ended.extend([name("promise")])),
            &[],
            &[],
        ),
        row(
            "a job of a reservation that nobody knows of is told so",
            world().profile("a", 0, 2).reserved_jobs(1),
            &[],
            &[
                "job job-1: it asks for reservation promise, which is not there: make it, or cancel the job",
            ],
        ),
        row(
            "a job that waits for a reservation waits for its workers, not for new ones",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised, &marked])])
                .reserve(now() + SignedDuration::from_secs(60), &["a-1"])
                .jobs(1, &["a"])
                .but(|w| {
                    let hub =
                        w.observed.forges.get_mut(&name::<ForgeName>("hub")).expect("the hub");
                    hub.queued[0].reserved_for = Some(name("promise"));
                }),
            &[],
            &[],
        ),
        row(
            "surplus retires the oldest idle workers first, and only as many as there are too many",
            world().profile("a", 1, 3).workers([
                idle("a-1"),
                worker("a-2", &[&older(60)]),
                worker("a-3", &[&older(90)]),
            ]),
            &[
                "retire a-3 (deregister, destroy, forget): workers ready or on their way: 3, wanted: 1",
                "retire a-2 (deregister, destroy, forget): workers ready or on their way: 3, wanted: 1",
            ],
            &[],
        ),
        row(
            "a max that was lowered retires idle workers, never busy ones",
            world().profile("a", 1, 1).workers([worker("a-1", &[&busy]), idle("a-2")]),
            &[
                "retire a-2 (deregister, destroy, forget): workers ready or on their way: 1, wanted: 1",
            ],
            &[],
        ),
        row(
            "a reserved worker is not surplus, and another is made ready in its place",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&promised, &marked])])
                .reserve(now() + SignedDuration::from_secs(60), &["a-1"]),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &[],
        ),
        row(
            "a profile that is not offered any more loses its idle workers and keeps its busy ones",
            world().workers([idle("old-1"), worker("old-2", &[&busy])]),
            &["retire old-1 (deregister, destroy, forget): its profile is not offered any more"],
            &[],
        ),
        row(
            "a draining pool retires what is idle, makes nothing, builds nothing, and lets jobs finish",
            world()
                .profile("a", 2, 4)
                .workers([idle("a-1"), worker("a-2", &[&busy])])
                .jobs(1, &["a"])
                .but(|w| w.desired.draining = true)
                .but(|w| w.observed.images.clear()),
            &["retire a-1 (deregister, destroy, forget): the pool is being emptied"],
            &[],
        ),
        row(
            "a paused profile makes nothing, retires what is idle, lets jobs finish, and says who paused it",
            world()
                .profile("a", 2, 4)
                .workers([idle("a-1"), worker("a-2", &[&busy])])
                .jobs(1, &["a"])
                .but(|w| drop(w.desired.paused.insert(name("a"), "ann".to_owned()))),
            &["retire a-1 (deregister, destroy, forget): its profile is paused"],
            &["profile a: the profile is paused by ann"],
        ),
        row(
            "a job that a paused and another profile serve goes to the other",
            world()
                .profile_with("a", 0, 2, serves_linux)
                .profile_with("b", 0, 2, serves_linux)
                .jobs(1, &["linux"])
                .but(|w| drop(w.desired.paused.insert(name("a"), "ann".to_owned()))),
            &["provision b-100 from b.1: jobs waiting: 1, workers ready or on their way: 0"],
            &[],
        ),
        row(
            "a worker that someone asked to go is replaced at once, and goes unless it has a job",
            world()
                .profile("a", 1, 4)
                .workers([idle("a-1"), worker("a-2", &[&busy])])
                .but(|w| w.dismiss(&["a-1", "a-2"], false)),
            &[
                "retire a-1 (deregister, destroy, forget): ann asked for it",
                "provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
    ]
}

/// Made after the override of [`World::overridden`] began.
fn late(worker: &mut Worker) {
    older(-500)(worker);
}

fn sharing() -> Vec<Row> {
    vec![
        row(
            "where not all fit that are to be kept ready, the profile with the most gives up first",
            world()
                .profile("a", 8, 8)
                .profile("b", 1, 1)
                .workers((1..=8).map(|n| idle(&format!("a-{n}")))),
            &[
                "retire a-1 (deregister, destroy, forget): workers ready or on their way: 8, wanted: 7",
            ],
            &[
                "profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free",
                "profile b: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free",
            ],
        ),
        row(
            "nothing that works is given up for a worker that nobody waits for",
            world()
                .profile("a", 0, 8)
                .profile("b", 1, 1)
                .workers((1..=8).map(|n| worker(&format!("a-{n}"), &[&busy]))),
            &[],
            &["profile b: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "no room is kept for a profile whose image is not built yet",
            world()
                .profile("a", 8, 8)
                .profile("b", 1, 1)
                .workers((1..=8).map(|n| idle(&format!("a-{n}"))))
                .but(|w| w.observed.images.retain(|image| image.recipe.profile == name("a")))
                .but(|w| w.observed.in_flight.extend([Subject::Build(name("b"))])),
            &[],
            &["profile b: its image is not built yet"],
        ),
        row(
            "only a profile that takes what is scarce gives it up",
            world()
                .profile("a", 4, 4)
                .profile_with("b", 2, 2, |p| {
                    p.resources = Resources { vcpus: 1, huge_memory_mib: 1024, ..gib(0) };
                })
                .workers((1..=4).map(|n| idle(&format!("a-{n}"))))
                .but(|w| w.observed.capacity.as_mut().expect("known").huge_memory_mib = 1024),
            &["provision b-100 from b.1: workers ready or on their way: 0, to keep ready: 2"],
            &["profile b: no room: huge pages: 1024 MiB needed, 0 MiB of 1024 MiB free"],
        ),
    ]
}

fn overrides() -> Vec<Row> {
    let full = || world().profile("a", 4, 4).profile("b", 4, 4);
    let idle_b = || (1..=4).map(|n| idle(&format!("b-{n}")));
    vec![
        row(
            "a policy override makes more workers than the profile's max, and none beyond what it asks",
            world().profile("a", 1, 2).overridden(&[("a", 3)], &["a-1"]).workers([idle("a-1")]),
            &[
                "provision a-100 from a.1: the policy override of ann asks for 3 and gets 3",
                "provision a-101 from a.1: the policy override of ann asks for 3 and gets 3",
            ],
            &[],
        ),
        row(
            "other profiles give way to an override, with what is idle",
            full()
                .workers(idle_b())
                .workers([worker("a-1", &[&late])])
                .overridden(&[("a", 6)], &["a-1"]),
            &[
                "retire b-1 (deregister, destroy, forget): \
                 its profile gives way to the policy override of ann",
                "retire b-2 (deregister, destroy, forget): \
                 its profile gives way to the policy override of ann",
                "provision a-100 from a.1: the policy override of ann asks for 6 and gets 6",
                "provision a-101 from a.1: the policy override of ann asks for 6 and gets 6",
                "provision a-102 from a.1: the policy override of ann asks for 6 and gets 6",
            ],
            &[
                "profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free",
                "profile b: the profile gives way to the policy override of ann until \
                 2026-01-01T12:01:00Z, which leaves it 2",
            ],
        ),
        row(
            "what is busy or reserved gives way to nothing, and the override is told what it gets",
            full()
                .workers([1, 2].map(|n| worker(&format!("b-{n}"), &[&busy])))
                .workers([3, 4].map(|n| worker(&format!("b-{n}"), &[&promised, &marked])))
                .reserve(now() + SignedDuration::from_secs(60), &["b-3", "b-4"])
                .workers((1..=4).map(|n| worker(&format!("a-{n}"), &[&late])))
                .overridden(&[("a", 8)], &["a-1", "a-2", "a-3", "a-4"]),
            &[],
            &["profile a: wanted 8, got 4: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "who worked for someone else before the override does not count as its own",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&busy]), worker("a-2", &[&late])])
                .overridden(&[("a", 2)], &["a-2"]),
            &["provision a-100 from a.1: the policy override of ann asks for 2 and gets 2"],
            &[],
        ),
        row(
            "a job of a profile that gives way waits for the override to end, and is told so",
            world()
                .profile("a", 0, 8)
                .profile("b", 0, 4)
                .workers((1..=8).map(|n| worker(&format!("a-{n}"), &[&late])))
                .overridden(&[("a", 8)], &["a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7", "a-8"])
                .jobs(1, &["b"]),
            &[],
            &["profile b: the profile gives way to the policy override of ann until \
               2026-01-01T12:01:00Z, which leaves it 0"],
        ),
        row(
            "nobody gives way for a profile whose image is not built yet",
            full()
                .workers(idle_b())
                .overridden(&[("a", 8)], &[])
                .but(|w| w.observed.images.retain(|image| image.recipe.profile == name("b")))
                .but(|w| w.observed.in_flight.extend([Subject::Build(name("a"))])),
            &[],
            &["profile a: wanted 8, got 0: its image is not built yet"],
        ),
        row(
            "an override that asks for less than there is retires what is idle, its own last",
            world()
                .profile("a", 3, 3)
                .workers((1..=3).map(|n| idle(&format!("a-{n}"))))
                .overridden(&[("a", 2)], &["a-1", "a-2"]),
            &[
                "retire a-3 (deregister, destroy, forget): workers ready or on their way: 3, wanted: 2",
            ],
            &[],
        ),
        row(
            "an override ends with its time",
            world()
                .profile("a", 1, 1)
                .workers([idle("a-1")])
                .overridden(&[("a", 1)], &["a-1"])
                .but(|w| w.desired.policy.as_mut().expect("one").until = now()),
            &["end override: its time is over"],
            &[],
        ),
        row(
            "an override ends when all of its workers were there and are gone",
            world()
                .profile("a", 2, 2)
                .workers([worker("a-8", &[&late]), worker("a-9", &[&late])])
                .overridden(&[("a", 2)], &["a-1", "a-2"]),
            &["end override: none of its workers is left"],
            &[],
        ),
        row(
            "an override whose workers have not all been there yet goes on",
            world().profile("a", 0, 2).overridden(&[("a", 2)], &["a-1"]),
            &[
                "provision a-100 from a.1: the policy override of ann asks for 2 and gets 2",
                "provision a-101 from a.1: the policy override of ann asks for 2 and gets 2",
            ],
            &[],
        ),
        row(
            "an override whose workers cannot be seen goes on",
            world()
                .profile("a", 1, 1)
                .workers([idle("a-1")])
                .overridden(&[("a", 1)], &["a-1"])
                .blind_hub(),
            &[],
            &["worker a-1: its forge cannot be seen: 502 Bad Gateway"],
        ),
        row(
            "an override ends with the last of its profiles",
            world().profile("b", 0, 1).overridden(&[("a", 1)], &[]),
            &["end override: its profile is not offered any more"],
            &[],
        ),
    ]
}

fn guests() -> Vec<Row> {
    let reserved = || {
        let until = now() + SignedDuration::from_secs(60);
        let there = world().profile("a", 0, 2).workers([worker("a-1", &[&promised, &marked])]);
        there.reserve(until, &["a-1"])
    };
    vec![
        row(
            "a reserved worker that someone asked to go goes",
            reserved().but(|w| w.dismiss(&["a-1"], false)),
            &["retire a-1 (deregister, destroy, forget): ann asked for it"],
            &[],
        ),
        row(
            "a reserved worker that someone was in stays as long as it is reserved",
            reserved().but(|w| w.dismiss(&["a-1"], true)),
            &[],
            &[],
        ),
        row(
            "a worker that someone was in goes when its reservation is over, before a job gets it",
            world()
                .profile("a", 0, 2)
                .workers([idle("a-1")])
                .jobs(1, &["a"])
                .but(|w| w.dismiss(&["a-1"], true)),
            &[
                "retire a-1 (deregister, destroy, forget): ann asked for it",
                "provision a-100 from a.1: jobs waiting: 1, workers ready or on their way: 0",
            ],
            &[],
        ),
    ]
}

fn holds() -> Vec<Row> {
    let later = now() + SignedDuration::from_secs(60);
    vec![
        row(
            "a machine that is kept stays when its job is over, and says for whom",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_runner])])
                .but(|w| w.hold(&["a-1"], later)),
            &[],
            &["worker a-1: it is kept for ann until 2026-01-01T12:01:00Z: to look at it"],
        ),
        row(
            "an idle machine that is kept is neither surplus nor ready for the next job",
            world().profile("a", 1, 2).workers([idle("a-1")]).but(|w| w.hold(&["a-1"], later)),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &[],
        ),
        row(
            "a machine whose time is over goes",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_runner])])
                .but(|w| w.hold(&["a-1"], now())),
            &[
                "retire a-1 (deregister, destroy, forget): its runner is gone from the forge: the job is over",
            ],
            &[],
        ),
        row(
            "emptying the pool ends what is kept",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_runner])])
                .but(|w| w.hold(&["a-1"], later))
                .but(|w| w.desired.draining = true),
            &[
                "retire a-1 (deregister, destroy, forget): its runner is gone from the forge: the job is over",
            ],
            &[],
        ),
    ]
}

fn room() -> Vec<Row> {
    vec![
        row(
            "the room that a reservation lacks which is collected for is kept from jobs",
            world()
                .profile_with("b", 0, 2, |p| p.resources = gib(2))
                .profile_with("a", 0, 2, |p| p.resources = gib(4))
                .workers([worker("a-1", &[&busy, &large(5)])])
                .jobs(1, &["b"])
                .needs("a", 1, true),
            &[],
            &[
                "profile a: no room: memory: 4096 MiB needed, 3072 MiB of 8192 MiB free",
                "profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free",
            ],
        ),
        row(
            "a full host is said with numbers",
            world()
                .profile("a", 0, 9)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&busy, &large(7)])])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 2048 MiB needed, 1024 MiB of 8192 MiB free"],
        ),
        row(
            "what can never fit is said to be so, and nothing is retired for it",
            world()
                .profile("a", 2, 2)
                .workers([idle("a-1"), idle("a-2")])
                .profile_with("b", 0, 1, |p| p.resources = gib(9))
                .jobs(1, &["b"]),
            &[],
            &["profile b: it can never fit on this host: \
                 memory: 9216 MiB needed, 6144 MiB of 8192 MiB free"],
        ),
        row(
            "what is being destroyed still holds its room",
            world().profile("a", 1, 2).workers([worker("a-1", &[&large(8), &unmaking])]),
            &[],
            &["profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "a machine that has stopped holds its room until it is destroyed",
            world().profile("a", 1, 2).workers([worker("a-1", &[&large(8), &stopped])]),
            &["retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down"],
            &["profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "what is being made holds its room before any list shows it",
            world()
                .profile("a", 2, 2)
                .workers([worker("a-1", &[&large(8), &making, &no_machine, &no_runner])]),
            &[],
            &["profile a: no room: memory: 1024 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "an idle worker of another profile makes room for a job that waits, the oldest first",
            world()
                .profile("a", 2, 2)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&large(4)]), worker("a-2", &[&large(4), &older(60)])])
                .jobs(1, &["b"]),
            &[
                "retire a-2 (deregister, destroy, forget): a waiting job of profile b needs its room",
            ],
            &["profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "room is made only when that suffices",
            world()
                .profile("a", 1, 2)
                .profile_with("b", 0, 1, |p| p.resources = gib(4))
                .workers([worker("a-1", &[&large(2)]), worker("a-2", &[&large(6), &busy])])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 4096 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "no room is made when what is ending will do",
            world()
                .profile("a", 1, 2)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&large(4)]), worker("a-2", &[&large(4), &unmaking])])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "a worker that a job of its own profile waits for makes no room",
            world()
                .profile("a", 0, 1)
                .profile_with("b", 0, 1, |p| p.resources = gib(2))
                .workers([worker("a-1", &[&large(8)])])
                .jobs(1, &["a"])
                .jobs(1, &["b"]),
            &[],
            &["profile b: no room: memory: 2048 MiB needed, 0 MiB of 8192 MiB free"],
        ),
        row(
            "room that a waiting job needs is not taken by workers to keep ready: no ping-pong",
            world()
                .profile_with("a", 2, 2, |p| p.resources = gib(4))
                .profile_with("b", 0, 1, |p| p.resources = gib(6))
                .workers([worker("a-1", &[&large(4), &unmaking])])
                .jobs(1, &["b"]),
            &[],
            &[
                "profile b: no room: memory: 6144 MiB needed, 4096 MiB of 8192 MiB free",
                "profile a: no room: memory: 4096 MiB needed, 0 MiB of 8192 MiB free",
            ],
        ),
    ]
}

fn blindness() -> Vec<Row> {
    vec![
        row(
            "a forge that cannot be seen destroys nothing and makes nothing",
            world()
                .profile("a", 1, 9)
                .workers([idle("a-1"), worker("a-2", &[&never_online]), worker("gone-3", &[])])
                .blind_hub()
                .but(|w| w.desired.profiles[0].min_idle = 9),
            &[],
            &[
                "worker a-1: its forge cannot be seen: 502 Bad Gateway",
                "worker a-2: its forge cannot be seen: 502 Bad Gateway",
                "worker gone-3: its forge cannot be seen: 502 Bad Gateway",
                "profile a: forge hub cannot be seen: 502 Bad Gateway",
            ],
        ),
        row(
            "a host that cannot be seen destroys nothing, makes nothing and deletes no image",
            world()
                .profile("a", 1, 9)
                .workers([idle("a-1"), worker("a-2", &[&busy]), worker("a-3", &[&no_runner])])
                .blind_host()
                .but(|w| w.observed.images.push(image("gone", 1, 10)))
                .but(|w| w.desired.profiles[0].min_idle = 9),
            &[],
            &[
                "worker a-1: the hypervisor cannot be seen: no answer",
                "worker a-3: the hypervisor cannot be seen: no answer",
                "profile a: the hypervisor cannot be seen: no answer",
            ],
        ),
        row(
            "a builder that cannot be seen builds and deletes nothing",
            world()
                .profile("a", 0, 1)
                .but(|w| w.observed.images.clear())
                .but(|w| w.observed.builder = Sight::Unasked),
            &[],
            &["image builder: it has not answered yet"],
        ),
        row(
            "a dead machine is cleared away although its forge cannot be seen",
            world().profile("a", 0, 1).workers([worker("a-1", &[&stopped])]).blind_hub(),
            &["retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down"],
            &[],
        ),
        row(
            "a record is not forgotten while its forge may hold a registration nobody told us of",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&no_registration, &no_machine])])
                .blind_hub(),
            &[],
            &["worker a-1: its forge cannot be seen: 502 Bad Gateway"],
        ),
        row(
            "a busy worker is never retired, whatever else the lists say",
            world()
                .workers([
                    worker("a-1", &[&busy]),
                    worker("a-2", &[&busy, &older(100_000)]),
                    worker("a-3", &[&busy, &no_record]),
                    worker("a-4", &[&busy, &no_record, &quiet_guest]),
                    worker("a-5", &[&busy, &promised]),
                    worker("a-6", &[&no_record, &no_runner, &working_guest, &older(100_000)]),
                    worker("a-7", &[&busy, &unmaking]),
                    worker("a-8", &[&busy, &making, &no_machine]),
                ])
                .but(|w| w.desired.draining = true)
                .but(|w| w.observed.images.clear()),
            &[],
            &[],
        ),
    ]
}

fn endings() -> Vec<Row> {
    vec![
        row(
            "after its job a worker is retired, its machine included",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_runner])]),
            &["retire a-1 (deregister, destroy, forget): \
               its runner is gone from the forge: the job is over"],
            &[],
        ),
        row(
            "a dead machine is destroyed before its forge is told",
            world().profile("a", 0, 1).workers([worker("a-1", &[&stopped, &busy])]),
            &["retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down"],
            &[],
        ),
        row(
            "a machine that is merely not listed is destroyed only when its forge agrees",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_machine])]),
            &["retire a-1 (deregister, destroy, forget): its machine is not there"],
            &[],
        ),
        row(
            "a pushed job on a machine that is not listed is asked after, by name, by its driver",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_machine, &busy, &pushed])]),
            &["attach a-1: no driver attends to it"],
            &[],
        ),
        row(
            "what was never registered is forgotten",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_registration, &no_machine])]),
            &["retire a-1 (destroy, forget): it was never registered: its maker died"],
            &[],
        ),
        row(
            "a runner that does not come online in time is retired",
            world().profile("a", 1, 1).workers([worker("a-1", &[&never_online])]),
            &[
                "retire a-1 (deregister, destroy, forget): \
                 its runner did not come online within 120 s",
                "provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
        row(
            "a runner that was online is given its time, and then retired",
            world().profile("a", 0, 2).workers([
                worker("a-1", &[&offline, &known_for_long]),
                worker("a-2", &[&offline, &|w| w.last_online = Some(ago(60))]),
            ]),
            &["retire a-1 (deregister, destroy, forget): \
               its runner was offline for more than 120 s"],
            &[],
        ),
        row(
            "a machine without a record is retired when forge and guest say that it is idle",
            world().profile("a", 0, 2).workers([
                worker("a-1", &[&no_record, &quiet_guest]),
                worker("a-2", &[&no_record, &no_runner, &quiet_guest, &known_for_long]),
            ]),
            &[
                "retire a-1 (deregister, destroy): \
                 no record explains this machine, and nothing runs in it",
                "retire a-2 (destroy): no record explains this machine, and nothing runs in it",
            ],
            &[],
        ),
        row(
            "a machine without a record is watched for a while when its forge lists no runner for it",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&no_record, &no_runner, &quiet_guest])]),
            &[],
            &["worker a-1: no record explains it and its forge lists no runner for it: \
               it is watched"],
        ),
        row(
            "a silent machine without a record is kept until the orphan limit, and not longer",
            world().profile("a", 0, 2).workers([
                worker("a-1", &[&no_record, &no_runner]),
                worker("a-2", &[&no_record, &no_runner, &older(3000)]),
            ]),
            &["retire a-2 (destroy): \
               no record explains this machine and its guest has been silent too long"],
            &["worker a-1: no record explains it and its guest does not say whether it works"],
        ),
        row(
            "a registration without record and machine is removed",
            world().profile("a", 0, 1).workers([worker("a-1", &[&no_record, &no_machine])]),
            &["retire a-1 (deregister, destroy): \
               no record or machine belongs to this registration"],
            &[],
        ),
        row(
            "a retirement that failed waits its time",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&no_runner])])
                .backing_off(Subject::Worker(name("a-1"))),
            &[],
            &[
                "worker a-1: the last try failed (it broke), the next one is at 2026-01-01T12:00:30Z",
            ],
        ),
        row(
            "a profile that failed waits its time, and others do not wait for it",
            world().profile("a", 1, 1).profile("b", 1, 1).backing_off(Subject::Profile(name("a"))),
            &["provision b-100 from b.1: workers ready or on their way: 0, to keep ready: 1"],
            &["profile a: the last try failed (it broke), the next one is at 2026-01-01T12:00:30Z"],
        ),
        row(
            "a worker that something is done to is left alone",
            world().profile("a", 0, 1).workers([
                worker("a-1", &[&unmaking]),
                worker("a-2", &[&no_machine, &|w| w.in_flight = Some(Flight::Touching)]),
            ]),
            &[],
            &[],
        ),
    ]
}

fn reservations() -> Vec<Row> {
    let later = now() + SignedDuration::from_secs(60);
    vec![
        row(
            "a driven forge's runner gets its driver, once",
            world().profile("a", 2, 2).workers([
                worker("a-1", &[&pushed, &offline]),
                worker("a-2", &[&pushed, &|w| w.driven = true]),
            ]),
            &["attach a-1: no driver attends to it"],
            &[],
        ),
        row(
            "a promised worker is marked at its forge, once",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised]), worker("a-2", &[&promised, &marked])])
                .reserve(later, &["a-1", "a-2"]),
            &["mark a-1: it is reserved and the forge does not know yet"],
            &[],
        ),
        row(
            "a mark whose promise is over is taken away, but not under a job",
            world()
                .profile("a", 1, 2)
                .workers([worker("a-1", &[&marked]), worker("a-2", &[&marked, &busy])]),
            &["unmark a-1: its reservation does not hold any more"],
            &[],
        ),
        row(
            "a reservation ends with its time",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&promised, &marked])])
                .reserve(now(), &["a-1"]),
            &["release promise: its time is over"],
            &[],
        ),
        row(
            "a reservation ends with the last of its workers",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised, &stopped])])
                .reserve(later, &["a-1", "a-2"]),
            &[
                "retire a-1 (destroy, abandon, forget): its machine stopped: the guest shut down",
                "release promise: none of its workers is left",
            ],
            &[],
        ),
        row(
            "a reservation whose lost workers are to be replaced goes on without any",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&busy])])
                .reserve(later, &[])
                .needs("a", 1, false),
            &[
                "provision a-100 from a.1: waited for by reservations: 1, workers ready or on their way: 0",
            ],
            &[],
        ),
        row(
            "a mark that its forge refuses again and again ends the reservation",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised]), worker("a-2", &[&promised, &marked])])
                .reserve(later, &["a-1", "a-2"])
                .refused("a-1", 5, 1),
            &["release promise: its forge did not mark worker a-1, tried 5 times: 422"],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:00:01Z"],
        ),
        row(
            "so does one that is not to be tried again for long",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised])])
                .reserve(later, &["a-1"])
                .refused("a-1", 1, 61),
            &["release promise: its forge did not mark worker a-1, tried 1 times: 422"],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:01:01Z"],
        ),
        row(
            "a few refusals do not",
            world()
                .profile("a", 0, 2)
                .workers([worker("a-1", &[&promised])])
                .reserve(later, &["a-1"])
                .refused("a-1", 4, 16),
            &[],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:00:16Z"],
        ),
        row(
            "what is kept for one that waits is given back if it cannot be marked",
            world()
                .profile("a", 0, 3)
                .workers([worker("a-1", &[&promised])])
                .waiting(10, &["a-1"])
                .refused("a-1", 5, 1),
            &["release promise: its forge did not mark worker a-1, tried 5 times: 422"],
            &["worker a-1: the last try failed (422), the next one is at 2026-01-01T12:00:01Z"],
        ),
        row(
            "whoever is not asked after any more gives up its place",
            world().profile("a", 0, 3).waiting(60, &[]),
            &["dequeue promise: nobody asked after it for 60 s"],
            &[],
        ),
        row(
            "and what was promised to it, once",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&promised, &marked])])
                .waiting(60, &[])
                .reserve(now(), &["a-1"]),
            &["dequeue promise: nobody asked after it for 60 s"],
            &[],
        ),
        row(
            "whoever is asked after keeps its place",
            world().profile("a", 0, 3).waiting(59, &[]),
            &[],
            &[],
        ),
        row(
            "a worker that is promised and has another's mark loses that first",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&marked, &|w| w.reservation = Some(name("other"))])]),
            &["unmark a-1: its reservation does not hold any more"],
            &[],
        ),
        row(
            "a reservation outlives what cannot be seen",
            world()
                .profile("a", 0, 1)
                .workers([worker("a-1", &[&promised])])
                .reserve(later, &["a-1"])
                .blind_hub(),
            &[],
            &["worker a-1: its forge cannot be seen: 502 Bad Gateway"],
        ),
    ]
}

fn images() -> Vec<Row> {
    let aged = |p: &mut Profile| p.image_max_age = Some(Duration::from_secs(900));
    vec![
        row(
            "an image that is missing is built, and a worker waits for it",
            world().profile("a", 1, 1).but(|w| w.observed.images.clear()),
            &["build a: there is no image of the profile's recipe"],
            &["profile a: its image is not built yet"],
        ),
        row(
            "an image is built once at a time",
            world()
                .profile("a", 0, 1)
                .but(|w| w.observed.images.clear())
                .but(|w| w.observed.in_flight.extend([Subject::Build(name("a"))])),
            &[],
            &[],
        ),
        row(
            "an image that is too old is built anew while it serves on",
            world().profile_with("a", 1, 1, aged),
            &[
                "build a: the image is older than 900 s",
                "provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
        row(
            "a newer image serves as soon as it is there, and the old one is deleted",
            world().profile("a", 1, 1).but(|w| w.observed.images.push(image("a", 2, 10))),
            &[
                "delete a.1: there is a newer image and no worker uses this one",
                "provision a-100 from a.2: workers ready or on their way: 0, to keep ready: 1",
            ],
            &[],
        ),
        row(
            "a build that failed waits its time, and the old image serves on",
            world().profile_with("a", 1, 1, aged).backing_off(Subject::Build(name("a"))),
            &["provision a-100 from a.1: workers ready or on their way: 0, to keep ready: 1"],
            &["image of profile a: the last try failed (it broke), \
                 the next one is at 2026-01-01T12:00:30Z"],
        ),
        row(
            "a rebuild retires no worker of the old image: each goes after its job",
            world()
                .profile("a", 2, 4)
                .workers([idle("a-1"), idle("a-2"), worker("a-3", &[&busy])])
                .but(|w| w.observed.images.push(image("a", 2, 10))),
            &[],
            &[],
        ),
        row(
            "as many of the newest images are kept as the profile says",
            world().profile_with("a", 0, 1, |p| p.images_kept = 3).but(|w| {
                w.observed.images.extend([4, 2, 3].map(|n| image("a", n, 1000 - i64::from(n))));
            }),
            &["delete a.1: there is a newer image and no worker uses this one"],
            &[],
        ),
        row(
            "an image that a machine or a record names is never deleted",
            world()
                .profile("a", 2, 2)
                .workers([
                    worker("a-1", &[&no_record, &busy]),
                    worker(
                        "a-2",
                        &[&making, &no_machine, &no_runner, &|w| {
                            w.record.as_mut().expect("a record").image = name("a.2");
                        }],
                    ),
                ])
                .but(|w| w.observed.images.push(image("a", 2, 10)))
                .but(|w| w.observed.images.push(image("a", 3, 5)))
                .but(|w| w.desired.profiles[0].min_idle = 1),
            &[],
            &[],
        ),
        row(
            "an image of no profile is deleted",
            world().but(|w| w.observed.images.push(image("gone", 1, 10))),
            &["delete gone.1: no profile boots it and no worker uses it"],
            &[],
        ),
    ]
}

fn rows() -> Vec<Row> {
    let all = [
        numbers(),
        sharing(),
        overrides(),
        holds(),
        guests(),
        room(),
        blindness(),
        endings(),
        reservations(),
        images(),
    ];
    all.into_iter().flatten().collect()
}

#[test]
fn every_world_gives_its_plan() {
    let mut broken = String::new();
    for Row { promise, world, does, holds } in rows() {
        let plan = world.plan();
        let did: Vec<String> = plan.actions.iter().map(say_action).collect();
        let held: Vec<String> = plan.held.iter().map(say_held).collect();
        if did != does || held != holds {
            broken += &format!("{promise}:\n  does {did:#?}\n  not {does:#?}\n");
            broken += &format!("  holds {held:#?}\n  not {holds:#?}\n");
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// The names of all variants of an enum, which the compiler checks, and the name of a value's.
macro_rules! variants {
    ($all:ident, $of:ident, $type:ident: $($variant:ident)*) => {
        const $all: &[&str] = &[$(stringify!($variant)),*];

        fn $of(value: &$type) -> &'static str {
            match value {
                $($type::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants!(WHYS, why_word, Why:
    JobsWait ReservationsWait NotMarked NobodyAsks BelowMinIdle Overridden GivesWay Over SilentOrphan Surplus ProfileRemoved Draining MakesRoom Paused Asked Unattended Promised
    NotPromised Expired Spent NoImage ImageTooOld Superseded ImageOfNoProfile);
variants!(WHY_NOTS, why_not_word, WhyNot:
    Unseen NoRoom AtMax Allotted GivesWay NoImage Paused KeptFor BackingOff NoReservation NoProfileServes);
variants!(ENDINGS, ending_word, Ending:
    RunnerGone Stopped Vanished NeverRegistered StartTimedOut LostContact Orphan Ghost Retiring);
variants!(STEPS, step_word, Step:
    Provision Retire Attach Mark Unmark Release Dequeue EndOverride Build DeleteImage);

fn missing<'a>(all: &[&'a str], seen: &BTreeSet<&str>) -> Vec<&'a str> {
    all.iter().filter(|word| !seen.contains(**word)).copied().collect()
}

#[test]
fn every_reason_step_and_ending_has_a_row() {
    let (mut whys, mut why_nots) = (BTreeSet::new(), BTreeSet::new());
    let (mut endings, mut steps) = (BTreeSet::new(), BTreeSet::new());
    for row in rows() {
        let plan = row.world.plan();
        whys.extend(plan.actions.iter().map(|action| why_word(&action.why)));
        steps.extend(plan.actions.iter().map(|action| step_word(&action.step)));
        why_nots.extend(plan.held.iter().map(|held| why_not_word(&held.why_not)));
        for worker in row.world.observed.workers.values() {
            let profile = worker.profile();
            let profiles = &row.world.desired.profiles;
            let profile = profiles.iter().find(|p| Some(&p.name) == profile.as_ref());
            let timeouts = profile.map(|profile| profile.timeouts).unwrap_or_default();
            if let Phase::Over(ending) = worker.phase(&timeouts, now()) {
                endings.insert(ending_word(&ending));
            }
        }
    }
    assert_eq!(missing(WHYS, &whys), [""; 0], "Why without a row");
    assert_eq!(missing(WHY_NOTS, &why_nots), [""; 0], "WhyNot without a row");
    assert_eq!(missing(ENDINGS, &endings), [""; 0], "Ending without a row");
    assert_eq!(missing(STEPS, &steps), [""; 0], "Step without a row");
}

#[test]
fn only_a_worker_that_was_never_of_use_slows_its_profile_down() {
    let fails = |worker: &Worker| {
        let Phase::Over(ending) = worker.phase(&Default::default(), now()) else {
            panic!("{worker:?} is not over");
        };
        Why::Over(ending).is_start_failure(worker)
    };
    let unused: &dyn Fn(&mut Worker) = &|worker| worker.last_online = None;
    assert!(fails(&worker("a-1", &[&never_online])));
    assert!(fails(&worker("a-1", &[&stopped, unused])));
    assert!(fails(&worker("a-1", &[&no_machine, unused])));
    assert!(!fails(&worker("a-1", &[&stopped])));
    assert!(!fails(&worker("a-1", &[&no_runner])));
    assert!(!fails(&worker("a-1", &[&no_record, &no_machine])));
    assert!(!Why::Draining.is_start_failure(&idle("a-1")));
}

/// Carries a plan out as if everything succeeded at once, and looks again.
fn carry_out(world: &mut World) -> usize {
    let plan = world.plan();
    for action in &plan.actions {
        match &action.step {
            Step::Provision { worker: made, profile, .. } => {
                let size = large(profile.resources.memory_mib / 1024);
                let made = worker(made.as_str(), &[&size, &offline]);
                world.observed.next_serial += 1;
                world.observed.workers.insert(made.name.clone(), made);
            }
            Step::Retire { worker, .. } => drop(world.observed.workers.remove(worker)),
            Step::Release { reservation } | Step::Dequeue { reservation } => {
                drop(world.observed.reservations.remove(reservation));
                drop(world.observed.waiting.remove(reservation));
            }
            Step::EndOverride => world.desired.policy = None,
            _ => (),
        }
    }
    plan.actions.len()
}

#[test]
fn a_plan_that_was_carried_out_leaves_nothing_to_plan() {
    let full = world()
        .profile("a", 4, 8)
        .profile_with("b", 1, 2, |p| p.resources = gib(3))
        .profile_with("c", 1, 2, |p| p.resources = gib(6))
        .workers((1..=6).map(|n| idle(&format!("a-{n}"))))
        .jobs(2, &["c"])
        .jobs(3, &["b"]);
    let empty = world().profile("a", 9, 9).profile_with("b", 9, 9, |p| p.resources = gib(3));
    for mut world in [full, empty] {
        let mut rounds = 0;
        while carry_out(&mut world) > 0 {
            rounds += 1;
            assert!(rounds < 5, "still at it: {:#?}", world.plan().actions);
        }
        let mut used = Resources::default();
        world.observed.workers.values().filter_map(Worker::holds).for_each(|r| used.add(r));
        assert!(used.memory_mib <= 8 * 1024, "{used:?}");
    }
}

/// One profile of a random world, and its workers.
#[derive(Debug, Clone)]
struct Kind {
    gib: u64,
    min_idle: u32,
    max: u32,
    idle: u32,
    busy: u32,
    reserved: u32,
    starting: u32,
    jobs: u32,
    asked: Option<u32>,
}

impl Kind {
    fn any() -> impl Strategy<Value = Self> {
        let numbers = (1..=3_u64, 0..=5_u32, 1..=6_u32, 0..=3_u32);
        let workers = (0..=3_u32, 0..=2_u32, 0..=2_u32, 0..=2_u32);
        let asked = proptest::option::of(prop_oneof![0..=12_u32, Just(u32::MAX)]);
        (numbers, workers, asked).prop_map(|(numbers, workers, asked)| {
            let (gib, min_idle, max, jobs) = numbers;
            let (idle, busy, reserved, starting) = workers;
            let min_idle = min_idle.min(max);
            Self { gib, min_idle, max, idle, busy, reserved, starting, jobs, asked }
        })
    }

    fn taken(&self) -> u32 {
        self.busy + self.reserved
    }
}

type Change<'a> = &'a dyn Fn(&mut Worker);

/// A host of so many GiB with these kinds, under an override of those that ask for something.
fn world_of(capacity: u64, kinds: &[Kind]) -> World {
    let mut world =
        world().but(|w| w.observed.capacity.as_mut().expect("known").memory_mib = capacity * 1024);
    for (kind, profile) in kinds.iter().zip(["a", "b", "c", "d"]) {
        let phases: [(u32, Change); 4] = [
            (kind.idle, &|_| ()),
            (kind.busy, &busy),
            (kind.reserved, &|w| {
                promised(w);
                marked(w);
            }),
            (kind.starting, &offline),
        ];
        let phases = phases.iter().flat_map(|(count, phase)| (0..*count).map(move |_| *phase));
        let workers: Vec<Worker> = phases
            .enumerate()
            .map(|(n, phase)| worker(&format!("{profile}-{n}"), &[&large(kind.gib), &phase]))
            .collect();
        let reserved = workers.iter().filter(|w| w.reservation.is_some());
        let reserved: Vec<WorkerName> = reserved.map(|worker| worker.name.clone()).collect();
        world = world
            .profile_with(profile, kind.min_idle, kind.max, |p| p.resources = gib(kind.gib))
            .workers(workers)
            .jobs(kind.jobs, &[profile])
            .but(|w| {
                let promise = Reservation {
                    id: name("promise"),
                    profile: name("a"),
                    owner: "me".to_owned(),
                    purpose: "a test".to_owned(),
                    since: ago(60),
                    until: now() + SignedDuration::from_secs(60),
                    count: 1,
                    used: BTreeSet::new(),
                    workers: BTreeSet::new(),
                };
                let promise = w.observed.reservations.entry(name("promise")).or_insert(promise);
                promise.workers.extend(reserved.iter().cloned());
            });
    }
    let asked = kinds.iter().zip(["a", "b", "c", "d"]);
    let asked: Vec<_> = asked.filter_map(|(kind, profile)| Some((profile, kind.asked?))).collect();
    if asked.is_empty() { world } else { world.overridden(&asked, &[]) }
}

fn used(world: &World) -> u64 {
    let mut used = Resources::default();
    world.observed.workers.values().filter_map(Worker::holds).for_each(|r| used.add(r));
    used.memory_mib / 1024
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn what_is_allotted_fits_and_is_never_below_what_works(
        capacity in 1..=16_u64,
        kinds in proptest::collection::vec(Kind::any(), 1..=4),
    ) {
        let plan = world_of(capacity, &kinds).plan();
        let limits = || kinds.iter().zip(plan.allotted.values());
        let needed: u64 = limits().map(|(k, got)| k.gib * u64::from(got.limit())).sum();
        let taken: u64 = kinds.iter().map(|k| k.gib * u64::from(k.taken())).sum();
        // What jobs wait for on workers that are there is not shared out again.
        let is_overridden = kinds.iter().any(|kind| kind.asked.is_some());
        let there = |k: &Kind| k.gib * u64::from(k.jobs.min(k.idle + k.starting));
        let kept: u64 = taken + if is_overridden { 0 } else { kinds.iter().map(there).sum() };
        prop_assert!(needed <= capacity.max(kept), "{needed} of {capacity}: {:?}", plan.allotted);
        for (kind, allotment) in limits() {
            prop_assert!(allotment.limit() >= kind.taken(), "below critical: {allotment}");
            prop_assert!(allotment.granted <= allotment.wanted.max(kind.taken()), "{allotment}");
            let is_short = allotment.granted < allotment.wanted;
            prop_assert_eq!(is_short, allotment.short.is_some(), "unexplained: {}", allotment);
        }
        // Whoever was not asked for gives way first: what is left to them would help nobody who is short.
        let short = limits().filter(|(k, got)| k.asked.is_some() && got.granted < got.wanted);
        if let Some(smallest) = short.map(|(kind, _)| kind.gib).min() {
            for (kind, allotment) in limits().filter(|(kind, _)| kind.asked.is_none()) {
                let spare = u64::from(allotment.limit() - kind.taken()) * kind.gib;
                prop_assert!(spare < smallest, "{allotment} did not give way");
            }
        }
    }

    #[test]
    fn a_shared_host_comes_to_rest_within_its_room_and_no_work_is_lost(
        capacity in 1..=16_u64,
        kinds in proptest::collection::vec(Kind::any(), 1..=4),
    ) {
        let mut world = world_of(capacity, &kinds);
        let at_most = used(&world).max(capacity);
        let works = |worker: &Worker| {
            worker.reservation.is_some()
                || matches!(&worker.runner, Look::Seen(r) if matches!(r.status, RunnerStatus::Busy(_)))
        };
        let working: BTreeSet<WorkerName> =
            world.observed.workers.values().filter(|w| works(w)).map(|w| w.name.clone()).collect();
        for round in 0.. {
            let plan = world.plan();
            if let Some(policy) = &mut world.desired.policy {
                for (profile, workers) in plan.claims {
                    policy.claimed.entry(profile).or_default().extend(workers);
                }
                for (profile, claimed) in &policy.claimed {
                    prop_assert!(claimed.len() <= policy.counts[profile] as usize);
                }
            }
            let done = carry_out(&mut world);
            prop_assert!(used(&world) <= at_most, "{} GiB of {capacity} in use", used(&world));
            let left = |worker: &WorkerName| world.observed.workers.contains_key(worker);
            prop_assert!(working.iter().all(left), "work was lost: {working:?}");
            // What was made comes online.
            let mut online = 0;
            for worker in world.observed.workers.values_mut() {
                if matches!(&worker.runner, Look::Seen(r) if r.status == RunnerStatus::Offline) {
                    status(worker, RunnerStatus::Idle);
                    online += 1;
                }
            }
            if done + online == 0 {
                break;
            }
            prop_assert!(round < 30, "it does not come to rest: {:#?}", world.plan().actions);
        }
    }
}
