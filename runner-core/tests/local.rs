//! The local queue on a fake host, by a paused clock: order, wishes to cancel, limits, secrets, and what a
//! new process finds.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::TryStreamExt;
use runner_core::{
    Capacity, Clock, Error, EventLog, Forge, ForgeName, OwnerId, Pace, Pool, PoolParts, Profile,
    ReservationId, Resources, Store,
    fake::{Call, FakeWorld, Fault},
    image::{Recipe, RecipeKind},
    local::{InputFile, Job, JobSpec, JobState, LocalLimits, LocalQueue, Run},
    reservation::ReserveRequest,
};

fn name<T: std::str::FromStr<Err = runner_core::Error>>(text: &str) -> T {
    text.parse().expect("a valid name")
}

fn script(text: &str) -> JobSpec {
    JobSpec {
        profile: Some(name("small")),
        run: Run::Script(text.to_owned()),
        ..JobSpec::default()
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// What outlives a process: the world and the store.
struct Site {
    clock: Clock,
    world: FakeWorld,
    store: Store,
    limits: LocalLimits,
    max: u32,
}

/// One process.
struct Life {
    queue: LocalQueue,
    pool: Pool,
}

impl Site {
    fn new() -> Self {
        Self::on(Store::in_memory().expect("a store"))
    }

    /// A host on which one machine at a time boots in 2 s.
    fn on(store: Store) -> Self {
        let clock = Clock::following_tokio("2026-01-01T00:00:00Z".parse().expect("a time"));
        let world = FakeWorld::new(clock);
        world.set_capacity(Capacity { vcpus: 8, memory_mib: 8 << 10, ..Capacity::default() });
        Self { clock, world, store, limits: LocalLimits::default(), max: 1 }
    }

    async fn queue(&self) -> LocalQueue {
        let events = EventLog::open(self.store.clone()).await.expect("events");
        LocalQueue::open(self.store.clone(), events, self.clock, self.limits).await.expect("queue")
    }

    async fn live(&self) -> Life {
        let queue = self.queue().await;
        let profiles = [("small", &["linux", "x64"][..]), ("gpu", &["linux", "cuda"][..])];
        let profiles = profiles.map(|(text, labels)| {
            let recipe = Recipe { profile: name(text), kind: RecipeKind::Micro {} };
            let resources = Resources { vcpus: 1, memory_mib: 1024, ..Resources::default() };
            let mut profile = Profile::new(name("local"), recipe, resources);
            (profile.min_idle, profile.max) = (u32::from(text == "small"), self.max);
            profile.labels = labels.iter().map(|label| name(label)).collect();
            profile
        });
        let forges: BTreeMap<ForgeName, Arc<dyn Forge>> =
            [(name("local"), Arc::new(queue.clone()) as Arc<dyn Forge>)].into();
        let pool = Pool::start(PoolParts {
            hypervisor: Arc::new(self.world.hypervisor()),
            forges,
            builder: Arc::new(self.world.builder()),
            store: self.store.clone(),
            events: EventLog::open(self.store.clone()).await.expect("events"),
            owner: self.store.owner(OwnerId::new("site").expect("a name")).await.expect("owner"),
            profiles: profiles.into(),
            pace: Pace::default(),
            clock: self.clock,
        })
        .await
        .expect("a pool");
        Life { queue, pool }
    }
}

impl Life {
    async fn submit(&self, spec: JobSpec) -> Job {
        self.queue.submit(spec, vec![]).await.expect("submit")
    }

    async fn end(&self, job: &Job) -> Job {
        let wait = tokio::time::timeout(seconds(100_000), self.queue.wait(&job.id));
        wait.await.expect("it ends").expect("a job")
    }

    async fn run(&self, spec: JobSpec) -> (Job, String) {
        let job = self.submit(spec).await;
        (self.end(&job).await, self.log(&job).await)
    }

    async fn log(&self, job: &Job) -> String {
        let parts = self.queue.log(&job.id, 0).await.expect("a log");
        let parts: Vec<bytes::Bytes> = parts.try_collect().await.expect("a whole log");
        String::from_utf8(parts.concat()).expect("text")
    }

    /// Waits until the job's command runs.
    async fn begun(&self, job: &Job) -> Job {
        loop {
            let job = self.queue.job(&job.id).await.expect("a job");
            if job.started_at.is_some() {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The jobs that ended, in the order in which they ran.
    async fn order_of(&self, jobs: &[Job]) -> Vec<String> {
        let mut ended = Vec::new();
        for job in jobs {
            ended.push(self.end(job).await);
        }
        ended.sort_by_key(|job| job.started_at);
        ended.into_iter().map(|job| job.spec.title).collect()
    }

    fn crash(self) {}
}

fn titled(title: &str, priority: i32) -> JobSpec {
    JobSpec { title: title.to_owned(), priority, ..script("sleep 5") }
}

#[tokio::test(start_paused = true)]
async fn jobs_run_in_the_order_of_submission() {
    let life = Site::new().live().await;
    let mut jobs = Vec::new();
    for title in ["a", "b", "c", "d"] {
        jobs.push(life.submit(titled(title, 0)).await);
    }
    assert_eq!(life.order_of(&jobs).await, ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first_and_waits_for_nobody_else() {
    let life = Site::new().live().await;
    let mut jobs = Vec::new();
    for (title, priority) in [("a", 0), ("low", -1), ("b", 0), ("high", 9), ("high2", 9)] {
        jobs.push(life.submit(titled(title, priority)).await);
    }
    assert_eq!(life.order_of(&jobs).await, ["high", "high2", "a", "b", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_process_keeps_the_order() {
    let site = Site::new();
    let queue = site.queue().await;
    let mut jobs = Vec::new();
    for (title, priority) in [("a", 0), ("b", 0), ("high", 1), ("c", 0)] {
        jobs.push(queue.submit(titled(title, priority), vec![]).await.unwrap());
    }
    drop(queue);
    let life = site.live().await;
    jobs.push(life.submit(titled("d", 0)).await);
    assert_eq!(life.order_of(&jobs).await, ["high", "a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn labels_and_profile_say_where_a_job_runs() {
    let life = Site::new().live().await;
    let labels = |labels: &[&str]| JobSpec {
        profile: None,
        labels: labels.iter().map(|label| name(label)).collect(),
        ..script("true")
    };
    let profile_of = async |spec| {
        let worker = life.run(spec).await.0.worker.expect("it ran");
        worker.parts().expect("profile and number").0.to_string()
    };
    assert_eq!(profile_of(labels(&["CUDA"])).await, "gpu");
    assert_eq!(profile_of(labels(&["linux", "x64"])).await, "small");
    assert_eq!(profile_of(labels(&["gpu"])).await, "gpu");
    assert_eq!(profile_of(JobSpec { profile: Some(name("gpu")), ..script("true") }).await, "gpu");
    let nowhere = life.submit(labels(&["cuda", "x64"])).await;
    tokio::time::sleep(seconds(3600)).await;
    assert_eq!(life.queue.job(&nowhere.id).await.unwrap().state, JobState::Queued);
    let held = life.pool.status().held.clone();
    let text = held.iter().map(|held| held.why_not.to_string()).collect::<String>();
    assert!(text.contains("no profile offers all of: cuda, x64"), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_job_is_cancelled_at_once() {
    let queue = Site::new().queue().await;
    let job = queue.submit(script("true"), vec![]).await.unwrap();
    let cancelled = queue.cancel(&job.id).await.unwrap();
    assert_eq!((cancelled.state, cancelled.started_at), (JobState::Cancelled, None));
    assert_eq!(queue.cancel(&job.id).await.unwrap().state, JobState::Cancelled);
    assert_eq!(queue.queued_jobs().await.unwrap(), []);
    assert!(queue.cancel(&name("no-such-job")).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn a_running_job_is_cancelled_by_ending_its_command() {
    let site = Site::new();
    let life = site.live().await;
    let job = life.submit(script("echo begun\nsleep 1000\necho never")).await;
    life.begun(&job).await;
    tokio::time::sleep(seconds(10)).await;
    let asked = site.clock.now();
    life.queue.cancel(&job.id).await.unwrap();
    let job = life.end(&job).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!(job.state.exit_code(), Some(130));
    assert!(job.ended_at.unwrap().duration_since(asked).as_secs() < 2, "{job:?}");
    assert_eq!(life.log(&job).await, "begun\n");
    assert_eq!(life.queue.cancel(&job.id).await.unwrap().state, JobState::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_done_before_it_could_be_cancelled_keeps_its_end() {
    let life = Site::new().live().await;
    let (job, _) = life.run(script("exit 4")).await;
    let after = life.queue.cancel(&job.id).await.unwrap();
    assert_eq!(after.state.exit_code(), Some(4));
    assert_eq!(after, job);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_too_long_is_timed_out() {
    let life = Site::new().live().await;
    let spec = JobSpec { timeout: Some(seconds(30)), ..script("echo begun\nsleep 1000") };
    let (job, log) = life.run(spec).await;
    assert_eq!((&job.state, log.as_str()), (&JobState::TimedOut, "begun\n"));
    assert_eq!(job.state.exit_code(), Some(124));
    let ran = job.ended_at.unwrap().duration_since(job.started_at.unwrap());
    assert!((30..33).contains(&ran.as_secs()), "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_heeds_no_request_is_forced_to_end_after_its_grace() {
    let mut site = Site::new();
    site.limits.kill_grace = seconds(7);
    let life = site.live().await;
    let spec = JobSpec {
        timeout: Some(seconds(30)),
        ..script("trap TERM\necho begun\nsleep 1000\necho never")
    };
    let (job, log) = life.run(spec).await;
    assert_eq!((&job.state, log.as_str()), (&JobState::TimedOut, "begun\n"));
    let ran = job.ended_at.unwrap().duration_since(job.started_at.unwrap());
    assert!((37..41).contains(&ran.as_secs()), "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn a_log_beyond_its_limit_is_cut_once_and_the_job_runs_on() {
    let mut site = Site::new();
    site.limits.log_bytes = 25;
    let life = site.live().await;
    let text: String = (0..9).map(|line| format!("echo line {line}\nsleep 3\n")).collect();
    let (job, log) = life.run(script(&(text + "exit 5"))).await;
    let mark = "[the log is cut here: it is longer than 25 bytes]";
    assert_eq!(log, format!("line 0\nline 1\nline 2\nline\n{mark}\n"));
    assert_eq!(job.state.exit_code(), Some(5));
    assert!(job.log_cut);
    assert_eq!((job.log_bytes, job.read_bytes), (log.len() as u64, 9 * 7));
}

#[tokio::test(start_paused = true)]
async fn a_log_of_exactly_its_limit_is_whole() {
    let mut site = Site::new();
    site.limits.log_bytes = 14;
    let life = site.live().await;
    let (job, log) = life.run(script("echo line 0\nsleep 2\necho line 1")).await;
    assert_eq!((log.as_str(), job.log_cut), ("line 0\nline 1\n", false));
}

#[tokio::test(start_paused = true)]
async fn input_files_and_environment_are_there_when_the_job_begins() {
    let life = Site::new().live().await;
    let mut spec = script("cat a/b.txt\npwd\necho \"$WORD\"");
    spec.working_dir = Some("/build".to_owned());
    spec.env.insert("WORD".to_owned(), "from the environment".to_owned());
    let file =
        InputFile { path: "a/b.txt".to_owned(), mode: 0o644, content: b"from a file\n".to_vec() };
    let job = life.queue.submit(spec, vec![file]).await.unwrap();
    life.end(&job).await;
    assert_eq!(life.log(&job).await, "from a file\n/build\nfrom the environment\n");
}

#[tokio::test(start_paused = true)]
async fn outputs_that_cannot_be_collected_are_remarked_on_and_change_no_end() {
    let life = Site::new().live().await;
    let spec = JobSpec { outputs: vec!["out".to_owned()], ..script("echo done") };
    let (job, log) = life.run(spec).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert!(log.starts_with("done\n[the outputs could not be collected:"), "{log}");
    assert!(!job.has_outputs);
    assert!(life.queue.outputs(&job.id).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn too_many_jobs_and_too_large_inputs_are_refused_with_the_limit() {
    let mut site = Site::new();
    (site.limits.queued_jobs, site.limits.input_bytes) = (2, 10);
    let queue = site.queue().await;
    let file = |size| vec![InputFile { path: "a".to_owned(), mode: 0o600, content: vec![0; size] }];
    let error = queue.submit(script("true"), file(11)).await.unwrap_err().to_string();
    assert_eq!(error, "not enough room for input files: 11 bytes needed, 10 bytes available");
    let first = queue.submit(script("true"), file(10)).await.unwrap();
    queue.submit(script("true"), vec![]).await.unwrap();
    let error = queue.submit(script("true"), vec![]).await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
    assert_eq!(error.to_string(), "not enough room for waiting jobs: 3 needed, 2 available");
    queue.cancel(&first.id).await.unwrap();
    queue.submit(script("true"), vec![]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_machine_dies_is_interrupted_and_not_run_again() {
    let site = Site::new();
    let life = site.live().await;
    let job = life.submit(script("echo begun\nsleep 1000")).await;
    let worker = life.begun(&job).await.worker.unwrap();
    tokio::time::sleep(seconds(5)).await;
    site.world.crash(&worker);
    let job = life.end(&job).await;
    assert_eq!(job.state, JobState::Interrupted { reason: "its machine died".to_owned() });
    assert_eq!(job.state.exit_code(), Some(125));
    assert_eq!(life.log(&job).await, "begun\n");
    let (next, _) = life.run(script("true")).await;
    assert_ne!(next.worker, Some(worker));
    assert_eq!(site.world.spawned().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_ended_while_nobody_watched_keeps_its_own_end_although_its_time_is_over() {
    let site = Site::new();
    let life = site.live().await;
    let spec =
        JobSpec { timeout: Some(seconds(60)), ..script("echo one\nsleep 30\necho two\nexit 7") };
    let job = life.submit(spec).await;
    life.begun(&job).await;
    life.crash();
    tokio::time::sleep(seconds(100_000)).await;
    let life = site.live().await;
    let job = life.end(&job).await;
    assert_eq!(job.state.exit_code(), Some(7), "{job:?}");
    assert_eq!(life.log(&job).await, "one\ntwo\n");
    assert_eq!(site.world.crimes(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_outlives_its_process_is_followed_on_by_the_next() {
    let site = Site::new();
    let life = site.live().await;
    let job = life.submit(script("echo one\nsleep 60\necho two\nsleep 60\necho three")).await;
    life.begun(&job).await;
    life.crash();
    tokio::time::sleep(seconds(70)).await;
    let life = site.live().await;
    assert_eq!(life.end(&job).await.state, JobState::Succeeded);
    assert_eq!(life.log(&job).await, "one\ntwo\nthree\n");
    assert_eq!(site.world.spawned().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_out_of_reach_for_a_while_loses_nothing() {
    let site = Site::new();
    let life = site.live().await;
    let job = life.submit(script("echo one\nsleep 60\necho two")).await;
    life.begun(&job).await;
    let deaf = Arc::new(AtomicBool::new(true));
    let hears = deaf.clone();
    site.world.misbehave(move |call| {
        let guest = matches!(call, Call::Guest(_)) && hears.load(Ordering::Relaxed);
        guest.then_some(Fault::Before)
    });
    tokio::time::sleep(seconds(600)).await;
    deaf.store(false, Ordering::Relaxed);
    assert_eq!(life.end(&job).await.state, JobState::Succeeded);
    assert_eq!(life.log(&job).await, "one\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn a_job_for_a_reservation_runs_on_its_workers_only_and_no_other_does() {
    let site = Site { max: 2, ..Site::new() };
    let life = site.live().await;
    let id: ReservationId = name("promise");
    let request = ReserveRequest {
        id: id.clone(),
        profile: name("small"),
        count: 1,
        at_least: None,
        owner: "me".to_owned(),
        purpose: "a test".to_owned(),
        until: site.clock.now() + seconds(1000),
    };
    tokio::time::sleep(seconds(10)).await;
    let early = JobSpec { profile: None, reserved_for: Some(id.clone()), ..script("echo mine") };
    let mine = life.submit(early).await;
    tokio::time::sleep(seconds(100)).await;
    assert_eq!(life.queue.job(&mine.id).await.unwrap().state, JobState::Queued);
    let reservation = life.pool.reserve(request).await.unwrap();
    let other = life.submit(script("echo other")).await;
    let (mine, other) = (life.end(&mine).await, life.end(&other).await);
    assert!(reservation.workers.contains(mine.worker.as_ref().unwrap()));
    assert!(!reservation.workers.contains(other.worker.as_ref().unwrap()));
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(life.pool.status().reservations, [], "its only worker is spent");
}

/// Every byte of the store's file and its side files.
fn bytes_of(path: &Path) -> Vec<u8> {
    let sides = ["", "-wal"].map(|suffix| {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        std::fs::read(side).unwrap_or_default()
    });
    sides.concat()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test]
async fn a_secret_is_gone_from_the_file_when_its_job_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let store = Store::open(&path).await.unwrap();
    let site = Site { clock: Clock::system(), ..Site::on(store.clone()) };
    let site = Site { world: FakeWorld::new(site.clock), ..site };
    site.world.set_boot_time(Duration::from_millis(10));
    let life = site.live().await;
    let mut spec = script("echo \"$NAME\"");
    spec.env.insert("NAME".to_owned(), "shown".to_owned());
    spec.env.insert("TOKEN".to_owned(), "hunter2-environment".to_owned());
    let file = InputFile {
        path: "key".to_owned(),
        mode: 0o600,
        content: "hunter2-file".repeat(2000).into_bytes(),
    };
    let job = life.queue.submit(spec, vec![file]).await.unwrap();
    assert!(holds(&bytes_of(&path), "hunter2-environment"), "else this test shows nothing");
    let job = life.queue.wait(&job.id).await.unwrap();
    assert_eq!(job.state, JobState::Succeeded);
    life.pool.stop().await;
    drop((life, site));
    // The last one to close the file writes its log into it and removes the log.
    drop(store);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let store = Store::open(&path).await.unwrap();
    drop(store);
    let bytes = bytes_of(&path);
    assert!(holds(&bytes, "TOKEN"), "the name stays, to be shown");
    assert!(!holds(&bytes, "hunter2-environment"), "a secret of the environment is left");
    assert!(!holds(&bytes, "hunter2-file"), "an input file is left");
}
