//! Thousands of jobs through a whole pool, while GitHub, its deliveries and the machines fail at random: no
//! running job is harmed, nothing is left over, no limit is exceeded, and it costs few calls.
//!
//! Time is simulated, so HTTP goes through memory. `RUNNER_TEST_JOBS` says how many jobs; 500 if it is not set.

mod github;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fake_github::{Conclusion, FakeGitHub, Fault, FaultRule, JobRequest, JobView, Limits};
use forge_github::{
    Client, ClientConfig, Credentials, DemandSource, Freshness, GithubConfig, GithubForge,
    GithubProfile, Health, JobFact, JobStatus, Place, SecretFrom, SourceKind, Transport, Waiting,
    error::ApiError,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use runner_core::{
    Changes, Clock, EventLog, Forge, ForgeName, Hint, Hypervisor, OwnerId, Pace, Pool, PoolParts,
    Profile, ProfileName, Resources, Result, Store, WorkerName,
    fake::FakeWorld,
    forge::RunnerStatus,
    hypervisor::{ExitReason, HypervisorCapabilities, Instance, InstanceSpec, InstanceState},
    image::{Recipe, RecipeKind},
};
use tokio::task::AbortHandle;

/// HTTP through memory.
struct InMemory(Arc<FakeGitHub>);

#[async_trait]
impl Transport for InMemory {
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
        let broken = |error: hyper::Error| ApiError::Unanswered {
            how: "the connection broke".to_owned(),
            source: Some(Box::new(error)),
        };
        let (here, there) = tokio::io::duplex(1 << 20);
        let github = self.0.clone();
        let serving = tokio::spawn(async move { github.serve(there).await });
        let _end = scopeguard(serving.abort_handle());
        let (mut sender, connection) = handshake(TokioIo::new(here)).await.map_err(broken)?;
        let talking = tokio::spawn(connection);
        let _end = scopeguard(talking.abort_handle());
        let host = request.uri().authority().unwrap().as_str().parse().unwrap();
        request.headers_mut().insert("host", host);
        request.headers_mut().insert("user-agent", "simulation".parse().unwrap());
        *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
        let answer = sender.send_request(request.map(Full::new)).await.map_err(broken)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}

/// Ends a task with its caller.
fn scopeguard(task: AbortHandle) -> impl Drop {
    struct End(AbortHandle);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    End(task)
}

/// Chance that repeats itself.
#[derive(Clone)]
struct Luck(Arc<Mutex<StdRng>>);

impl Luck {
    fn strikes(&self, probability: f64) -> bool {
        self.0.lock().unwrap().random_bool(probability)
    }

    fn seconds(&self, from: u64, to: u64) -> Duration {
        Duration::from_secs(self.0.lock().unwrap().random_range(from..=to))
    }
}

/// Deliveries, of which one in fifty is lost.
struct Heard {
    jobs: Mutex<BTreeMap<u64, JobFact>>,
    hint: Hint,
    luck: Luck,
}

impl Heard {
    fn tell(&self, fact: JobFact) {
        if !self.luck.strikes(0.02) {
            self.learn(&fact);
        }
    }
}

#[async_trait]
impl DemandSource for Heard {
    fn kind(&self) -> SourceKind {
        SourceKind::Webhook
    }

    fn health(&self) -> Health {
        Health::Well
    }

    async fn queued(&self, _: Freshness) -> Result<Vec<Waiting>> {
        let jobs = self.jobs.lock().unwrap();
        let queued = jobs.values().filter(|fact| fact.status == JobStatus::Queued);
        Ok(queued.filter_map(JobFact::waiting).collect())
    }

    fn is_over(&self, runner: &str) -> bool {
        let jobs = self.jobs.lock().unwrap();
        jobs.values().rev().any(|fact| {
            fact.status == JobStatus::Completed && fact.runner.as_deref() == Some(runner)
        })
    }

    fn learn(&self, fact: &JobFact) {
        let mut jobs = self.jobs.lock().unwrap();
        if jobs.get(&fact.number).is_none_or(|known| known.status < fact.status) {
            jobs.insert(fact.number, fact.clone());
            self.hint.hint();
        }
        while jobs.len() > 1000 {
            jobs.pop_first();
        }
    }

    fn changes(&self) -> Changes {
        self.hint.changes()
    }
}

fn fact(job: &JobView, status: JobStatus, runner: Option<&str>, clock: &Clock) -> JobFact {
    JobFact {
        number: job.id.try_into().unwrap(),
        run: job.run.try_into().unwrap(),
        attempt: 1,
        repository: "acme/widgets".parse().unwrap(),
        title: "build".to_owned(),
        status,
        labels: vec![github::PROFILE.to_owned()],
        queued_at: clock.now(),
        runner: runner.map(str::to_owned),
    }
}

/// A host whose machines run the runner program.
struct Host(Arc<Inside>);

struct Inside {
    github: Arc<FakeGitHub>,
    heard: Arc<Heard>,
    luck: Luck,
    clock: Clock,
    hint: Hint,
    machines: Mutex<BTreeMap<WorkerName, (Instance, AbortHandle)>>,
    crimes: Mutex<Vec<String>>,
}

impl Inside {
    /// The life of a machine's inside. One in a hundred dies in its boot.
    async fn live(&self, name: WorkerName, secret: String) {
        tokio::time::sleep(self.luck.seconds(20, 30)).await;
        let session = match self.luck.strikes(0.01) {
            true => None,
            false => self.github.connect(&secret).ok(),
        };
        while let Some(session) = &session {
            let Ok(job) = self.github.next_job(session, Duration::from_secs(50)).await else {
                break;
            };
            let Some(job) = job else { continue };
            let marked = format!("{name}_{}", github::OWNER);
            let job = self.github.job(job.id).unwrap();
            self.heard.tell(fact(&job, JobStatus::InProgress, Some(&marked), &self.clock));
            tokio::time::sleep(self.luck.seconds(30, 120)).await;
            let ended = self.github.finish(session, Conclusion::Success);
            assert!(ended.is_ok(), "{name} lost its job: {ended:?}");
            self.heard.tell(fact(&job, JobStatus::Completed, Some(&marked), &self.clock));
            break;
        }
        if let Some((instance, _)) = self.machines.lock().unwrap().get_mut(&name) {
            instance.state = InstanceState::Stopped(ExitReason::GuestShutdown);
        }
        self.hint.hint();
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
        let task = tokio::spawn(async move { inside.live(name, secret).await }).abort_handle();
        let mut machines = self.0.machines.lock().unwrap();
        machines.insert(spec.name.clone(), (instance.clone(), task));
        Ok(instance)
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        let marked = format!("{name}_{}", github::OWNER);
        let runners = self.0.github.runners();
        if runners.iter().any(|runner| runner.name == marked && runner.job.is_some()) {
            self.0.crimes.lock().unwrap().push(format!("{name} was destroyed with its job"));
        }
        if let Some((_, task)) = self.0.machines.lock().unwrap().remove(name) {
            task.abort();
        }
        Ok(())
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        let machines = self.0.machines.lock().unwrap();
        Ok(machines.values().map(|(instance, _)| instance.clone()).collect())
    }

    fn changes(&self) -> Changes {
        self.0.hint.changes()
    }
}

/// What goes wrong at GitHub, and how often.
fn storm(github: &FakeGitHub) {
    github.seed_faults(7);
    let faults = [
        Fault::Status { status: 502, retry_after: None, message: None },
        Fault::Status { status: 404, retry_after: None, message: None },
        Fault::Html { status: 200 },
        Fault::Reset,
        Fault::LostReply,
        Fault::Truncated,
        Fault::Hang,
        Fault::ShortList,
    ];
    for fault in faults {
        github.fault(FaultRule::always(fault).probability(0.004));
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_of_jobs_in_bad_weather_cost_little_and_harm_nothing() {
    let jobs: usize =
        std::env::var("RUNNER_TEST_JOBS").map_or(500, |jobs| jobs.parse().expect("a number"));
    let start = jiff::Timestamp::now();
    let clock = Clock::following_tokio(start);
    let github = FakeGitHub::builder()
        .ghes()
        .limits(Limits::GITHUB)
        .clock(fake_github::Clock::starting_at(start))
        .start()
        .await
        .unwrap();
    let github = Arc::new(github);
    github.organisation("acme");
    github.repository("acme", "widgets");
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, github.classic_token("mona", &["repo", "admin:org"])).unwrap();
    let luck = Luck(Arc::new(Mutex::new(StdRng::seed_from_u64(7))));
    let heard =
        Arc::new(Heard { jobs: Mutex::default(), hint: Hint::default(), luck: luck.clone() });

    let place = Place::new(&format!("{}/acme", github.web_url())).unwrap();
    let config = ClientConfig::new(place, Credentials::Token(SecretFrom::File(token)));
    let client = Client::new(config, Arc::new(InMemory(github.clone())), clock).unwrap();
    let name = ProfileName::new(github::PROFILE).unwrap();
    let mut config = GithubConfig::new(OwnerId::new(github::OWNER).unwrap());
    config.repositories = vec!["acme/widgets".parse().unwrap()];
    let sources = vec![SourceKind::Webhook, SourceKind::Poll];
    config
        .profiles
        .insert(name.clone(), GithubProfile { sources, ..GithubProfile::new(BTreeSet::new()) });
    config.sources.push(heard.clone());
    let forge = Arc::new(GithubForge::start(client, config).unwrap());

    let inside = Arc::new(Inside {
        github: github.clone(),
        heard: heard.clone(),
        luck: luck.clone(),
        clock,
        hint: Hint::default(),
        machines: Mutex::default(),
        crimes: Mutex::default(),
    });
    let store = Store::in_memory().unwrap();
    let events = EventLog::open(store.clone()).await.unwrap();
    let forge_name = ForgeName::new("github").unwrap();
    let recipe = Recipe { profile: name, kind: RecipeKind::Micro {} };
    let mut profile = Profile::new(
        forge_name.clone(),
        recipe,
        Resources { vcpus: 1, memory_mib: 256, ..Resources::default() },
    );
    (profile.min_idle, profile.max) = (2, 40);
    let pool = Pool::start(PoolParts {
        hypervisor: Arc::new(Host(inside.clone())),
        forges: BTreeMap::from([(forge_name, forge.clone() as Arc<dyn Forge>)]),
        builder: Arc::new(FakeWorld::new(clock).builder()),
        store,
        events,
        owner: OwnerId::new(github::OWNER).unwrap(),
        profiles: vec![profile],
        pace: Pace::default(),
        clock,
    })
    .await
    .unwrap();

    storm(&github);
    let mut run = None;
    let mut numbers = Vec::new();
    for count in 0..jobs {
        let mut request = JobRequest::new("acme/widgets", [github::PROFILE]);
        request.run = run.filter(|_| count % 4 != 0);
        let job = github.enqueue(request).unwrap();
        run = Some(job.run);
        numbers.push(job.id);
        heard.tell(fact(&job, JobStatus::Queued, None, &clock));
        tokio::time::sleep(luck.seconds(1, 5)).await;
    }
    github
        .until(|github| {
            let done =
                |id: &i64| github.job(*id).unwrap().status == fake_github::JobStatus::Completed;
            numbers.iter().rev().all(done)
        })
        .await;
    let calls = github.calls();
    github.clear_faults();
    pool.drain().await.unwrap();

    let failed: Vec<JobView> = github
        .jobs()
        .into_iter()
        .filter(|job| job.conclusion != Some(Conclusion::Success))
        .collect();
    let charged = calls.iter().filter(|call| call.charged).count();
    let limited = calls.iter().filter(|call| matches!(call.status, Some(403 | 429))).count();
    let minutes = clock.now().duration_since(start).as_mins();
    let figures = forge.figures();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let each = |count: usize| count as f64 / jobs as f64;
    println!(
        "{jobs} jobs in {minutes} simulated minutes: {:.2} calls a job, of which {:.2} are charged; {} runners \
         registered; {limited} calls over a limit; {} calls waited too long",
        each(calls.len()),
        each(charged),
        figures.budget.mints,
        figures.budget.given_up,
    );
    assert_eq!(*inside.crimes.lock().unwrap(), [] as [&str; 0]);
    assert_eq!(failed, []);
    assert_eq!(limited, 0);
    assert!(inside.machines.lock().unwrap().is_empty(), "a machine is left over");
    assert_eq!(github.runners(), [], "a registration is left over");
    assert!(forge.runners().await.unwrap().iter().all(|r| r.status == RunnerStatus::Offline));
    assert!(each(charged) <= 2.0, "{:.2} calls a job", each(charged));
    github::assert_clean(&github);
}
