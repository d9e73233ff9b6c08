//! The promises of `Forge`.

use std::{any::Any, collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    error::Error,
    forge::{Forge, Runner, RunnerSpec, RunnerStatus},
    name::{OwnerId, ProfileName, ReservationId, RunnerId, WorkerName},
};

/// The profile that every runner of the suite has.
pub const PROFILE: &str = "a";

/// What can be done to a forge from the side of its users and its runners' guests.
pub trait World: Send + Sync {
    /// Submits a job for [`PROFILE`].
    fn submit(&self) -> BoxFuture<'_, ()>;
    /// Lets the runner of this name come online and take jobs, as its guest would.
    fn bring_online(&self, name: WorkerName) -> BoxFuture<'_, ()>;
    /// Lets the job of this runner end.
    fn finish(&self, name: WorkerName) -> BoxFuture<'_, ()>;
}

/// A forge to be tested, without any runner or job.
pub struct ForgeFixture {
    /// The forge.
    pub forge: Arc<dyn Forge>,
    /// Its other side.
    pub world: Box<dyn World>,
    /// Dropped last.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs one test.
pub async fn run<F>(fixture: ForgeFixture, test: impl FnOnce(Arc<ForgeFixture>) -> F)
where
    F: Future<Output = ()>,
{
    let fixture = Arc::new(fixture);
    tokio::time::timeout(LIMIT, test(fixture)).await.expect("the test took too long");
}

impl ForgeFixture {
    async fn register(&self, name: &str) -> RunnerId {
        self.forge.register(&spec(name)).await.expect("register").id
    }

    async fn runner(&self, name: &str) -> Option<Runner> {
        let runners = self.forge.runners().await.expect("list");
        runners.into_iter().find(|runner| runner.name.as_str() == name)
    }

    async fn queued(&self) -> usize {
        self.forge.queued_jobs().await.expect("list").len()
    }

    /// Waits until the runner is as it should be.
    async fn until(&self, name: &str, check: impl Fn(Option<Runner>) -> bool) {
        while !check(self.runner(name).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A runner with a job.
    async fn busy(&self, name: &str) -> RunnerId {
        let id = self.register(name).await;
        self.world.submit().await;
        self.world.bring_online(worker(name)).await;
        self.until(name, |runner| is_busy(runner.as_ref())).await;
        id
    }
}

fn is_busy(runner: Option<&Runner>) -> bool {
    runner.is_some_and(|runner| matches!(runner.status, RunnerStatus::Busy(_)))
}

fn worker(name: &str) -> WorkerName {
    WorkerName::new(name).expect("a valid name")
}

fn spec(name: &str) -> RunnerSpec {
    RunnerSpec {
        name: worker(name),
        owner: OwnerId::new("conformance").expect("a valid name"),
        profile: ProfileName::new(PROFILE).expect("a valid name"),
        labels: BTreeSet::new(),
    }
}

type Fixture = Arc<ForgeFixture>;

/// Under its name, and not online before its guest is.
pub async fn what_is_registered_is_listed(fixture: Fixture) {
    let id = fixture.register("a-1").await;
    let listed = fixture.forge.runners().await.expect("list");
    let names: Vec<&str> = listed.iter().map(|runner| runner.name.as_str()).collect();
    assert_eq!(names, ["a-1"]);
    assert_eq!((&listed[0].id, &listed[0].status), (&id, &RunnerStatus::Offline));
}

/// For which the last answer holds.
pub async fn register_twice_is_one_runner(fixture: Fixture) {
    fixture.register("a-1").await;
    let id = fixture.register("a-1").await;
    let listed = fixture.forge.runners().await.expect("list");
    assert_eq!(listed.iter().map(|runner| &runner.id).collect::<Vec<_>>(), [&id]);
}

/// When it returns.
pub async fn deregister_removes_it_from_the_list(fixture: Fixture) {
    let id = fixture.register("a-1").await;
    fixture.register("a-2").await;
    fixture.forge.deregister(&id).await.expect("deregister");
    assert!(fixture.runner("a-1").await.is_none() && fixture.runner("a-2").await.is_some());
}

/// Unmaking is idempotent.
pub async fn deregister_twice_is_fine(fixture: Fixture) {
    let id = fixture.register("a-1").await;
    fixture.forge.deregister(&id).await.expect("once");
    fixture.forge.deregister(&id).await.expect("twice");
}

/// It is gone already.
pub async fn deregister_of_what_never_was_is_fine(fixture: Fixture) {
    let id = RunnerId::new("4711").expect("a valid id");
    fixture.forge.deregister(&id).await.expect("deregister");
    fixture.forge.abandon(&id).await.expect("abandon");
}

/// Whatever a dropped register made is listed by its name, and can be made again.
pub async fn a_dropped_register_leaves_nothing_hidden(fixture: Fixture) {
    for wait in [0, 1, 5] {
        let spec = spec("a-1");
        let register = fixture.forge.register(&spec);
        drop(tokio::time::timeout(Duration::from_millis(wait), register).await);
        let id = fixture.register("a-1").await;
        assert_eq!(fixture.forge.runners().await.expect("list").len(), 1);
        fixture.forge.deregister(&id).await.expect("deregister");
        assert_eq!(fixture.forge.runners().await.expect("list").len(), 0);
    }
}

/// Where the capability says so.
pub async fn changes_are_hinted(fixture: Fixture) {
    if !fixture.forge.capabilities().changes {
        return println!("skipped: no changes");
    }
    let mut changes = fixture.forge.changes();
    fixture.world.submit().await;
    changes.next().await;
}

/// And not while it runs.
pub async fn a_waiting_job_is_listed_until_it_runs(fixture: Fixture) {
    assert_eq!(fixture.queued().await, 0);
    fixture.world.submit().await;
    assert_eq!(fixture.queued().await, 1);
    fixture.register("a-1").await;
    assert_eq!(fixture.queued().await, 1, "a runner that is offline takes nothing");
    fixture.world.bring_online(worker("a-1")).await;
    fixture.until("a-1", |runner| is_busy(runner.as_ref())).await;
    assert_eq!(fixture.queued().await, 0);
    fixture.world.finish(worker("a-1")).await;
    fixture.until("a-1", |runner| !is_busy(runner.as_ref())).await;
    assert_eq!(fixture.queued().await, 0, "a job that ran does not wait again");
}

/// A running job is sacred.
pub async fn a_busy_runner_is_not_deregistered(fixture: Fixture) {
    let id = fixture.busy("a-1").await;
    let error = fixture.forge.deregister(&id).await.expect_err("it has a job");
    assert!(error.is_busy(), "{error:?}");
    assert!(is_busy(fixture.runner("a-1").await.as_ref()), "the job goes on");
    fixture.world.finish(worker("a-1")).await;
    fixture.until("a-1", |runner| !is_busy(runner.as_ref())).await;
    fixture.forge.deregister(&id).await.expect("its job is over");
    assert!(fixture.runner("a-1").await.is_none());
}

/// The name is taken.
pub async fn a_busy_runner_is_not_registered_again(fixture: Fixture) {
    fixture.busy("a-1").await;
    let error = fixture.forge.register(&spec("a-1")).await.err().expect("it has a job");
    assert!(error.is_busy(), "{error:?}");
    assert!(is_busy(fixture.runner("a-1").await.as_ref()), "the job goes on");
}

/// Another job waits for another runner.
pub async fn a_runner_takes_one_job_only(fixture: Fixture) {
    fixture.busy("a-1").await;
    fixture.world.submit().await;
    fixture.world.finish(worker("a-1")).await;
    fixture.until("a-1", |runner| !is_busy(runner.as_ref())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fixture.queued().await, 1);
    let idle = |runner: Runner| runner.status == RunnerStatus::Idle;
    assert!(!fixture.runner("a-1").await.is_some_and(idle), "it is never idle again");
}

/// A runner without a job, whose machine died.
pub async fn an_abandoned_runner_is_gone(fixture: Fixture) {
    let id = fixture.register("a-1").await;
    fixture.forge.abandon(&id).await.expect("abandon");
    fixture.forge.abandon(&id).await.expect("twice");
    assert!(fixture.runner("a-1").await.is_none());
}

/// Where the capability says so.
pub async fn a_mark_is_listed_and_taken_away(fixture: Fixture) {
    if !fixture.forge.capabilities().reserves {
        return println!("skipped: no reservations");
    }
    let reservation = ReservationId::new("mine").expect("a valid id");
    let id = fixture.register("a-1").await;
    fixture.world.bring_online(worker("a-1")).await;
    fixture.until("a-1", |r| r.is_some_and(|r| r.status == RunnerStatus::Idle)).await;
    for _ in 0..2 {
        fixture.forge.reserve(&id, &reservation).await.expect("reserve");
        let listed = fixture.runner("a-1").await.expect("listed");
        assert_eq!(listed.reserved_for.as_ref(), Some(&reservation));
    }
    fixture.world.submit().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fixture.queued().await, 1, "a reserved runner takes no other job");
    for _ in 0..2 {
        fixture.forge.release(&id).await.expect("release");
    }
    fixture.until("a-1", |runner| is_busy(runner.as_ref())).await;
    assert!(fixture.runner("a-1").await.is_some_and(|runner| runner.reserved_for.is_none()));
}

/// Until the first mark is taken away.
pub async fn a_marked_runner_is_not_marked_for_another(fixture: Fixture) {
    if !fixture.forge.capabilities().reserves {
        return println!("skipped: no reservations");
    }
    let [mine, yours] = ["mine", "yours"].map(|id| ReservationId::new(id).expect("a valid id"));
    let id = fixture.register("a-1").await;
    fixture.forge.reserve(&id, &mine).await.expect("reserve");
    let error = fixture.forge.reserve(&id, &yours).await.expect_err("it is marked");
    assert!(error.is_busy(), "{error:?}");
    let unknown = RunnerId::new("4711").expect("a valid id");
    let error = fixture.forge.reserve(&unknown, &mine).await.expect_err("it does not exist");
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}
