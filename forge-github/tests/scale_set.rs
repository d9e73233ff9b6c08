//! Scale sets against the fake GitHub: jobs come and go, sessions end, listeners are killed, calls fail.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::{PATIENCE, assert_no_violations, rest};
use fake_github::{Conclusion, FakeGitHub, Fault, FaultRule, JobRequest, JobStatus};
use forge_github::{
    DemandSource, Freshness, Health, HttpTransport, Place, ScaleSetListener,
    scale_set::{
        ActionsService, ListenerConfig, Progress, ProgressFile, ProgressStore, ScaleSetSpec,
    },
};
use runner_core::{Clock, Error, ProfileName, Result, WorkerName};
use tempfile::TempDir;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

struct World {
    github: FakeGitHub,
    service: ActionsService,
    directory: TempDir,
}

/// A listener that runs until it is stopped, or killed.
struct Running {
    listener: Arc<ScaleSetListener>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(listener: ScaleSetListener) -> Self {
        listener.set_capacity(50);
        let (listener, cancel) = (Arc::new(listener), CancellationToken::new());
        let (its, until) = (listener.clone(), cancel.clone());
        let task = tokio::spawn(async move { its.run(&until).await });
        Self { listener, cancel, task }
    }

    async fn stop(self) {
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }

    /// As `kill -9` does: between two awaits, without a word to anybody.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    async fn queued(&self) -> Vec<String> {
        let all = self.listener.queued(Freshness::Usual).await.unwrap();
        all.into_iter().map(|waiting| waiting.job.id.to_string()).collect()
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Self) -> bool) {
        let mut changes = self.listener.changes();
        let all = async {
            while !holds(self).await {
                // Some of what is waited for is not hinted.
                let _ = tokio::time::timeout(Duration::from_millis(50), changes.next()).await;
            }
        };
        let held = tokio::time::timeout(PATIENCE, all).await;
        assert!(held.is_ok(), "in vain: {what}; {:?}", self.listener.health());
    }

    async fn until_queued(&self, count: usize) {
        self.until("jobs", async |running| running.queued().await.len() == count).await;
    }

    async fn until_well(&self) {
        self.until("health", async |running| running.listener.health().is_well()).await;
    }

    async fn until_ill(&self, words: &str) {
        self.until(words, async |running| {
            matches!(running.listener.health(), Health::Ill { reason, .. } if reason.contains(words))
        })
        .await;
    }
}

impl World {
    async fn new() -> Self {
        let builder = FakeGitHub::builder().ghes().long_poll(Duration::from_millis(200));
        let github = builder.start().await.unwrap();
        github.set_must_acquire(false);
        github.organisation("octo");
        github.repository("octo", "hello");
        let place = Place::new(&format!("{}/octo", github.web_url())).unwrap();
        let transport = Arc::new(HttpTransport::new(b"").unwrap());
        let service = ActionsService::new(rest(&github), transport, place, Clock::system());
        Self { github, service, directory: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> ListenerConfig {
        let name = "linux-set".to_owned();
        let spec = ScaleSetSpec { name, labels: Vec::new(), group: None };
        let profile = ProfileName::new("linux").unwrap();
        let mut config = ListenerConfig::new(spec, profile, "this-host");
        config.first_wait = Duration::from_millis(10);
        config.longest_wait = Duration::from_millis(100);
        config.poll_timeout = Duration::from_secs(2);
        config
    }

    fn store(&self) -> Arc<ProgressFile> {
        Arc::new(ProgressFile::new(self.directory.path().join("progress.json")))
    }

    fn listener(&self, store: Arc<dyn ProgressStore>) -> ScaleSetListener {
        ScaleSetListener::new(self.config(), self.service.clone(), store)
    }

    async fn start(&self) -> Running {
        let running = Running::start(self.listener(self.store()));
        running.until_well().await;
        running
    }

    fn enqueue(&self) -> i64 {
        self.github.enqueue(JobRequest::new("octo/hello", ["linux-set"])).unwrap().id
    }

    /// Registers a runner of the scale set, and lets its program take a job.
    async fn run_job(&self, running: &Running, runner: &str) -> String {
        let set = running.listener.scale_set().unwrap();
        let name = WorkerName::new(runner).unwrap();
        let (_, secret) = self.service.register(set, &name, "_work").await.unwrap();
        let session = self.github.connect(secret.expose()).unwrap();
        self.github.next_job(&session, PATIENCE).await.unwrap().unwrap();
        session
    }

    async fn progress(&self) -> Progress {
        self.store().load().await.unwrap().unwrap()
    }

    fn calls(&self, operation: &str) -> usize {
        self.github.calls().iter().filter(|call| call.operation == operation).count()
    }
}

#[tokio::test]
async fn a_job_waits_runs_and_is_over() {
    let world = World::new().await;
    let running = world.start().await;
    let job = world.enqueue();
    running.until_queued(1).await;
    let waiting = running.listener.queued(Freshness::Now).await.unwrap().remove(0);
    assert_eq!(waiting.job.id.as_str(), format!("scale-set-linux-{job}"));
    assert_eq!(waiting.job.profile.unwrap().as_str(), "linux");
    assert_eq!(waiting.repository.unwrap().as_str(), "octo/hello");
    let session = world.run_job(&running, "linux-1").await;
    running.until_queued(0).await;
    running.until("its job", async |running| running.listener.job_of("linux-1").is_some()).await;
    world.github.finish(&session, Conclusion::Success).unwrap();
    running.until("its end", async |running| running.listener.job_of("linux-1").is_none()).await;
    assert!(world.github.runners().is_empty());
    running.stop().await;
    let progress = world.progress().await;
    assert_eq!((progress.session, progress.assigned.len()), (None, 0));
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn jobs_on_offer_are_acquired() {
    let world = World::new().await;
    world.github.set_must_acquire(true);
    let running = world.start().await;
    let jobs: Vec<String> =
        (0..3).map(|_| format!("scale-set-linux-{}", world.enqueue())).collect();
    running.until_queued(3).await;
    running.until("their names", async |running| running.queued().await == jobs).await;
    running.stop().await;
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn an_offer_that_is_refused_once_is_asked_for_again() {
    let world = World::new().await;
    world.github.set_must_acquire(true);
    let running = world.start().await;
    world.github.fault(FaultRule::once(refused()).operation("scale-set/acquire"));
    let job = format!("scale-set-linux-{}", world.enqueue());
    // What is not taken is never offered again.
    running.until("its job", async |running| running.queued().await == [job.clone()]).await;
    assert_eq!(world.calls("scale-set/acquire"), 2);
    running.stop().await;
}

#[tokio::test]
async fn an_offer_that_cannot_be_had_holds_nothing_up() {
    let world = World::new().await;
    world.github.set_must_acquire(true);
    let running = world.start().await;
    world.github.fault(FaultRule::once(refused()).operation("scale-set/acquire").times(5));
    world.enqueue();
    running.until("the fault", async |_| world.calls("scale-set/acknowledge") >= 1).await;
    let job = format!("scale-set-linux-{}", world.enqueue());
    running.until("the next job", async |running| running.queued().await == [job.clone()]).await;
    running.stop().await;
}

fn refused() -> Fault {
    Fault::Status { status: 400, retry_after: None, message: None }
}

#[tokio::test]
async fn no_more_jobs_are_taken_than_there_is_room_for() {
    let world = World::new().await;
    let running = world.start().await;
    running.listener.set_capacity(2);
    // The next call for messages says so.
    let polls = world.calls("scale-set/poll");
    running.until("a poll", async |_| world.calls("scale-set/poll") > polls + 1).await;
    for _ in 0..5 {
        world.enqueue();
    }
    running.until_queued(2).await;
    assert_eq!(running.listener.statistics().total_assigned_jobs, 2);
    running.stop().await;
}

#[tokio::test]
async fn a_second_listener_says_who_is_in_its_way_and_keeps_trying() {
    let world = World::new().await;
    let first = world.start().await;
    let other = Arc::new(ProgressFile::new(world.directory.path().join("other.json")));
    let second = Running::start(world.listener(other));
    second.until_ill("another session of scale set linux-set is open").await;
    first.until_well().await;
    let tries = world.calls("scale-set/create-session");
    second.until("tries", async |_| world.calls("scale-set/create-session") > tries + 2).await;
    first.stop().await;
    second.until_well().await;
    second.stop().await;
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn the_successor_of_a_killed_listener_need_not_wait() {
    let world = World::new().await;
    let first = world.start().await;
    world.enqueue();
    first.until_queued(1).await;
    let named = first.queued().await;
    first.until("its record", async |_| world.progress().await.assigned.len() == 1).await;
    first.kill().await;
    let tries = world.calls("scale-set/create-session");
    let second = world.start().await;
    assert_eq!(world.calls("scale-set/create-session"), tries + 1);
    assert_eq!(second.queued().await, named);
    second.stop().await;
    assert_no_violations(&world.github);
}

/// Lets a process be killed right before or right after a message was written down.
struct Brink {
    inner: Arc<ProgressFile>,
    armed: AtomicBool,
    before: bool,
    reached: Notify,
}

#[async_trait]
impl ProgressStore for Brink {
    async fn load(&self) -> Result<Option<Progress>> {
        self.inner.load().await
    }

    async fn save(&self, progress: &Progress) -> Result<()> {
        let armed = self.armed.load(Ordering::Relaxed);
        if !(armed && self.before) {
            self.inner.save(progress).await?;
        }
        if armed {
            self.reached.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[tokio::test]
async fn killed_before_or_after_a_message_is_written_down_no_job_is_lost_or_doubled() {
    for before in [true, false] {
        let world = World::new().await;
        let brink = Arc::new(Brink {
            inner: world.store(),
            armed: AtomicBool::new(false),
            before,
            reached: Notify::new(),
        });
        let first = Running::start(world.listener(brink.clone()));
        first.until_well().await;
        brink.armed.store(true, Ordering::Relaxed);
        let job = world.enqueue();
        tokio::time::timeout(PATIENCE, brink.reached.notified()).await.unwrap();
        first.kill().await;
        assert_eq!(world.calls("scale-set/acknowledge"), 0);
        assert_eq!(world.progress().await.assigned.len(), usize::from(!before));

        let second = world.start().await;
        let named = [format!("scale-set-linux-{job}")];
        second.until("the job", async |second| second.queued().await == named).await;
        // A further message, so that everything before it has been dealt with.
        world.enqueue();
        second.until_queued(2).await;
        second.until("its record", async |_| world.progress().await.assigned.len() == 2).await;
        world.github.complete(job, Conclusion::Cancelled).unwrap();
        second.until_queued(1).await;
        second.stop().await;
        assert_no_violations(&world.github);
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_written_down_is_not_acknowledged() {
    struct Full(AtomicBool, Arc<ProgressFile>);
    #[async_trait]
    impl ProgressStore for Full {
        async fn load(&self) -> Result<Option<Progress>> {
            self.1.load().await
        }
        async fn save(&self, progress: &Progress) -> Result<()> {
            if self.0.load(Ordering::Relaxed) {
                return Err(Error::backend("disk", "write", "it is full"));
            }
            self.1.save(progress).await
        }
    }
    let world = World::new().await;
    let store = Arc::new(Full(AtomicBool::new(false), world.store()));
    let running = Running::start(world.listener(store.clone()));
    running.until_well().await;
    store.0.store(true, Ordering::Relaxed);
    world.enqueue();
    running.until_ill("it is full").await;
    assert_eq!(world.calls("scale-set/acknowledge"), 0);
    assert_eq!(running.queued().await.len(), 1, "what is known counts all the same");
    store.0.store(false, Ordering::Relaxed);
    running.until("its record", async |_| world.progress().await.assigned.len() == 1).await;
    running.until("peace", async |_| world.calls("scale-set/acknowledge") == 1).await;
    assert_eq!(running.queued().await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_session_that_expires_is_opened_again() {
    let world = World::new().await;
    let running = world.start().await;
    world.enqueue();
    running.until_queued(1).await;
    world.github.expire_scale_set_sessions();
    running.until("a new one", async |_| world.calls("scale-set/create-session") >= 2).await;
    running.until_well().await;
    world.enqueue();
    running.until_queued(2).await;
    running.stop().await;
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn tokens_that_end_are_renewed() {
    let world = World::new().await;
    let running = world.start().await;
    world.github.expire_queue_tokens();
    world.enqueue();
    running.until_queued(1).await;
    assert_eq!(world.calls("scale-set/create-session"), 1);
    assert!(world.calls("scale-set/refresh-session") >= 1);
    // By GitHub's clock, both tokens: ours does not say so.
    world.github.advance(Duration::from_secs(3601));
    world.enqueue();
    running.until_queued(2).await;
    assert!(world.calls("scale-set/register") >= 2);
    running.stop().await;
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn whatever_fails_it_says_so_keeps_what_it_knows_and_recovers_by_itself() {
    let world = World::new().await;
    let running = world.start().await;
    world.enqueue();
    running.until_queued(1).await;
    let status = |status| Fault::Status { status, retry_after: None, message: None };
    let faults = [
        status(500),
        status(503),
        status(429),
        status(403),
        status(404),
        Fault::Html { status: 502 },
        Fault::Html { status: 200 },
        Fault::Reset,
        Fault::Hang,
        Fault::Truncated,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        world.github.fault(FaultRule::always(fault.clone()).path("*/queue/*"));
        world.enqueue();
        running.until_ill("linux-set").await;
        assert_eq!(running.queued().await.len(), n + 1, "{fault:?}");
        world.github.clear_faults();
        running.until_well().await;
        running.until_queued(n + 2).await;
    }
    running.stop().await;
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn a_github_that_is_down_at_the_start_is_waited_for() {
    let world = World::new().await;
    let faults = ["*/registration-token", "*/runner-registration", "*/runnerscalesets*"];
    let running = Running::start(world.listener(world.store()));
    for path in faults {
        let fault = Fault::Status { status: 403, retry_after: None, message: None };
        world.github.clear_faults();
        world.github.fault(FaultRule::always(fault).path(path));
        world.github.expire_scale_set_sessions();
        world.github.advance(Duration::from_secs(3601));
        running.until_ill("cannot be heard").await;
    }
    world.github.clear_faults();
    running.until_well().await;
    running.stop().await;
}

#[tokio::test]
async fn a_runner_whose_answer_got_lost_is_replaced_and_one_with_a_job_is_not() {
    let world = World::new().await;
    let running = world.start().await;
    let set = running.listener.scale_set().unwrap();
    let name = WorkerName::new("linux-7").unwrap();
    world.github.fault(FaultRule::once(Fault::LostReply).operation("scale-set/generate-jitconfig"));
    assert!(world.service.register(set, &name, "_work").await.is_err());
    assert_eq!(world.github.runners().len(), 1);
    let (runner, secret) = world.service.register(set, &name, "_work").await.unwrap();
    assert_eq!(world.github.runners().len(), 1);
    assert_eq!(world.service.runner(&name).await.unwrap(), Some(runner.clone()));

    world.enqueue();
    running.until_queued(1).await;
    let session = world.github.connect(secret.expose()).unwrap();
    world.github.next_job(&session, PATIENCE).await.unwrap().unwrap();
    let again = world.service.register(set, &name, "_work").await;
    assert!(again.is_err_and(|error| error.is_busy()));
    assert!(world.service.remove(&runner).await.unwrap_err().is_busy());
    assert_eq!(world.github.jobs()[0].status, JobStatus::InProgress);
    world.github.finish(&session, Conclusion::Success).unwrap();
    world.service.remove(&runner).await.unwrap();
    world.service.remove(&runner).await.unwrap();
    running.stop().await;
    assert_no_violations(&world.github);
}

#[tokio::test]
async fn a_scale_set_is_made_found_changed_and_removed() {
    let world = World::new().await;
    let mut spec = world.config().scale_set;
    let made = world.service.ensure(&spec).await.unwrap();
    assert_eq!(world.service.ensure(&spec).await.unwrap().id, made.id);
    assert_eq!((world.calls("scale-set/create"), world.calls("scale-set/update")), (1, 0));
    spec.labels = vec!["gpu".to_owned()];
    let changed = world.service.ensure(&spec).await.unwrap();
    assert_eq!((changed.id, changed.labels.len()), (made.id, 2));
    world.service.ensure(&spec).await.unwrap();
    assert_eq!(world.calls("scale-set/update"), 1);
    spec.group = Some("no such group".to_owned());
    assert!(world.service.ensure(&spec).await.unwrap_err().is_not_found());
    assert!(world.service.group("Default").await.unwrap().is_default_group);
    world.service.delete(made.id).await.unwrap();
    world.service.delete(made.id).await.unwrap();
    assert_eq!(world.service.find("linux-set", 1).await.unwrap(), None);
    assert_no_violations(&world.github);
}
