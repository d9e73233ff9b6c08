//! Jobs come and go, the manager is killed and starts again, until all jobs are over and nothing may be left.

use std::{mem::take, time::Duration};

use fake_github::{Call, Conclusion, FakeGitHub, JobRequest, JobStatus};
use forge_github::forge::GithubFigures;
use runner_core::{Clock, ProfileName, ReservationId, reservation::ReserveRequest};
use tokio::time::Instant;

use super::{
    PROFILE, SECRETS_BEGIN,
    figures::Figures,
    life::{Life, Outside},
    storm::{Demand, Luck, Storm},
};

/// How jobs find their runners.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Queue {
    /// By the profile's label.
    Open,
    /// Each by a reservation of its own, which ends with it.
    Reserved,
}

impl Queue {
    /// How many runners are kept ready: who reserves takes only what is.
    fn min_idle(self) -> u32 {
        match self {
            Self::Open => 2,
            Self::Reserved => 15,
        }
    }
}

/// A job on its way.
struct Job {
    /// The reservation that it has, if any.
    reservation: Option<ReservationId>,
    /// Its number, once it is queued.
    number: Option<i64>,
    /// When it was queued, as long as no runner has it.
    waits_since: Option<Instant>,
}

pub struct Simulation {
    title: String,
    queue: Queue,
    outside: Outside,
    luck: Luck,
    storm: Storm,
    life: Option<Life>,
    jobs: usize,
    /// The jobs that are not over.
    open: Vec<Job>,
    /// The last run, and how many jobs it has.
    run: Option<(i64, usize)>,
    /// How long each job waited for its runner.
    waits: Vec<Duration>,
    spent: Spent,
    /// How many calls there were when the steady state began: after a fifth of the jobs.
    warm: usize,
}

/// What the lives so far did.
#[derive(Default)]
struct Spent {
    deaths: usize,
    mints: u64,
    given_up: u64,
    /// Calls that were counted by whoever made them.
    counted: u64,
}

impl Spent {
    fn add(&mut self, figures: &GithubFigures) {
        self.mints += figures.budget.mints;
        self.given_up += figures.budget.given_up;
        self.counted += figures.budget.calls.values().sum::<u64>();
    }
}

impl Simulation {
    pub async fn new(jobs: usize, seed: u64, demand: Demand, queue: Queue) -> Self {
        let start = jiff::Timestamp::now();
        let clock = Clock::following_tokio(start);
        let github = FakeGitHub::builder()
            .ghes()
            .limits(fake_github::Limits::GITHUB)
            .clock(fake_github::Clock::starting_at(start))
            .start();
        let github = std::sync::Arc::new(github.await.unwrap());
        let luck = Luck::new(seed);
        let outside = Outside::new(github, luck.clone(), clock, demand, queue.min_idle());
        let storm = Storm::new(demand, seed, luck.clone());
        Self {
            title: format!("{demand:?}, {queue:?}, seed {seed}"),
            queue,
            outside,
            luck,
            storm,
            life: None,
            jobs,
            open: Vec::new(),
            run: None,
            waits: Vec::new(),
            spent: Spent::default(),
            warm: 0,
        }
    }

    pub async fn run(mut self) -> Figures {
        let (began, real) = (self.outside.clock.now(), std::time::Instant::now());
        self.life = Some(self.outside.live().await);
        self.storm.begin(&self.outside.github);
        let mut asked = 0;
        while asked < self.jobs || !self.open.is_empty() {
            if asked < self.jobs {
                if asked == self.jobs / 5 {
                    self.warm = self.outside.github.calls().len();
                }
                asked += 1;
                match self.queue {
                    Queue::Open => self.enqueue(None),
                    Queue::Reserved => self.reserve(asked).await,
                }
            }
            self.go_on().await;
            let hours = self.outside.clock.now().duration_since(began).as_hours();
            let days = self.jobs / 10_000 + 1;
            assert!(hours < 24 * days as i64, "{} jobs wait for ever", self.open.len());
        }
        let calls = self.outside.github.calls();
        self.storm.end(&self.outside.github);
        let life = self.life.take().unwrap();
        life.pool.drain().await.unwrap();
        self.spent.add(&life.forge.figures());
        let minutes = self.outside.clock.now().duration_since(began).as_mins();
        let figures = self.figures(&calls, minutes, real.elapsed());
        self.assert_nothing_is_left_over(&life).await;
        self.assert_every_call_was_counted();
        figures
    }

    /// Lets some seconds pass, with whatever they bring.
    async fn go_on(&mut self) {
        tokio::time::sleep(self.luck.seconds(1, 5)).await;
        self.tend().await;
        self.storm.rage(&self.outside.github);
        if self.luck.strikes(0.0025) {
            self.die().await;
        }
    }

    /// Queues a job. Four are of one run.
    fn enqueue(&mut self, reservation: Option<ReservationId>) {
        let label = match &reservation {
            Some(id) => format!("reserved-for:{id}"),
            None => PROFILE.to_owned(),
        };
        let run = self.run.filter(|(_, jobs)| *jobs < 4);
        let request =
            JobRequest { run: run.map(|(run, _)| run), ..JobRequest::new("acme/widgets", [label]) };
        let job = self.outside.github.enqueue(request).unwrap();
        self.run = Some((job.run, run.map_or(0, |(_, jobs)| jobs) + 1));
        let waits_since = Some(Instant::now());
        self.open.push(Job { reservation, number: Some(job.id), waits_since });
    }

    /// Reserves a worker, when there is one.
    async fn reserve(&mut self, number: usize) {
        let id = ReservationId::new(format!("r-{number}")).unwrap();
        while !self.has(&id).await {
            self.go_on().await;
        }
        self.open.push(Job { reservation: Some(id), number: None, waits_since: None });
    }

    /// Whether a worker is reserved, which it is from now on if one is idle.
    async fn has(&self, id: &ReservationId) -> bool {
        let request = ReserveRequest {
            id: id.clone(),
            profile: ProfileName::new(PROFILE).unwrap(),
            count: 1,
            at_least: None,
            owner: "mona".to_owned(),
            purpose: "a simulation".to_owned(),
            until: self.outside.clock.now() + Duration::from_secs(12 * 3600),
        };
        self.life().pool.reserve(request).await.is_ok()
    }

    /// Queues the jobs whose runner is marked, and lets go of those that are over.
    async fn tend(&mut self) {
        let github = self.outside.github.clone();
        for mut job in take(&mut self.open) {
            match (job.number, &job.reservation) {
                (None, Some(id)) if is_marked(&github, id) => self.enqueue(Some(id.clone())),
                (None, reservation) => {
                    // One that GitHub does not mark, tried several times, is taken back.
                    if let Some(id) = reservation {
                        self.has(id).await;
                    }
                    self.open.push(job);
                }
                (Some(number), reservation) => {
                    let status = github.job(number).unwrap().status;
                    if status != JobStatus::Queued
                        && let Some(since) = job.waits_since.take()
                    {
                        self.waits.push(since.elapsed());
                    }
                    match (status, reservation) {
                        (JobStatus::Completed, Some(id)) => {
                            self.life().pool.release(id).await.unwrap();
                        }
                        (JobStatus::Completed, None) => {}
                        _ => self.open.push(job),
                    }
                }
            }
        }
    }

    /// The manager is killed wherever it is, and starts again some time later.
    async fn die(&mut self) {
        for _ in 0..self.luck.between(0, 200) {
            tokio::task::yield_now().await;
        }
        let life = self.life.take().unwrap();
        self.spent.deaths += 1;
        self.spent.add(&life.forge.figures());
        drop(life);
        if self.luck.strikes(0.1) {
            self.outside.notebook.lose();
        }
        tokio::time::sleep(self.luck.seconds(1, 60)).await;
        self.life = Some(self.outside.live().await);
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("it lives")
    }

    fn figures(&mut self, calls: &[Call], minutes: i64, real: Duration) -> Figures {
        let count = |is: fn(&Call) -> bool| Figures::count(calls, is);
        let over_limit = calls.iter().filter(|call| Figures::is_over_limit(call));
        let over_limit: Vec<String> = over_limit
            .map(|call| format!("{} {} {:?}", call.method, call.path, call.status))
            .collect();
        self.waits.sort_unstable();
        let seconds = |part: usize| {
            let at = (self.waits.len() * part / 100).min(self.waits.len().saturating_sub(1));
            usize::try_from(self.waits.get(at).map_or(0, Duration::as_secs)).unwrap()
        };
        let spent = &self.spent;
        Figures {
            title: self.title.clone(),
            jobs: self.jobs,
            rows: vec![
                ("runners registered", usize::try_from(spent.mints).unwrap()),
                ("deaths of the manager", spent.deaths),
                ("outages of a source of demand", self.storm.outages()),
                ("calls", calls.len()),
                ("calls of the Actions service", count(|c| c.operation.starts_with("scale-set/"))),
                ("calls that went wrong on order", count(|call| call.fault)),
                ("calls that were charged", count(|call| call.charged)),
                ("calls over a limit", over_limit.len()),
                ("calls given up for a limit", usize::try_from(spent.given_up).unwrap()),
            ],
            waits: [seconds(50), seconds(99), seconds(100)],
            over_limit,
            outages: self.storm.outages(),
            steady_jobs: self.jobs - self.jobs / 5,
            operations: Figures::charged(&calls[self.warm..]),
            minutes,
            real,
        }
    }

    async fn assert_nothing_is_left_over(&self, life: &Life) {
        let Outside { github, host, wire, .. } = &self.outside;
        assert_eq!(host.crimes(), [] as [&str; 0]);
        assert_eq!(wire.crimes(), [] as [&str; 0]);
        let jobs = github.jobs().into_iter();
        let failed: Vec<_> =
            jobs.filter(|job| job.conclusion != Some(Conclusion::Success)).collect();
        assert_eq!(failed, []);
        assert_eq!(host.machines(), [], "a machine is left over, with its disk and its secret");
        assert_eq!(github.runners(), [], "a registration is left over");
        assert_eq!(life.pool.status().workers, [], "a worker is left over");
        let events = format!("{:?}", life.pool.events().latest(100_000).await.unwrap());
        assert!(!events.contains(SECRETS_BEGIN), "a secret is in the events");
        let violations: Vec<String> = github.violations().iter().map(ToString::to_string).collect();
        assert_eq!(violations, [] as [&str; 0]);
    }

    /// Whoever registers by a scale set takes its turn in the budget, and calls the Actions service.
    fn assert_every_call_was_counted(&self) {
        let (made, counted) = (self.outside.wire.rest_calls(), self.spent.counted);
        let turns = if self.outside.demand.has_scale_set() { self.spent.mints } else { 0 };
        let fits = (made..=made + turns).contains(&counted);
        assert!(fits, "{made} calls were made, and {counted} counted");
    }
}

fn is_marked(github: &FakeGitHub, id: &ReservationId) -> bool {
    let mark = format!("reserved-for:{id}");
    github.runners().iter().any(|runner| runner.labels.contains(&mark))
}
