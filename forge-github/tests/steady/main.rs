//! Thousands of jobs through a whole pool, while GitHub, its deliveries, the machines and the manager itself fail
//! at random: no running job is harmed, nothing is left over, no limit is exceeded, and it costs few calls.
//!
//! Time is simulated, so HTTP and deliveries go through memory. `RUNNER_TEST_JOBS` says how many jobs; the tables of
//! ten thousand:
//!
//! ```text
//! RUNNER_TEST_JOBS=10000 cargo test -p forge-github --test steady -- --nocapture
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fake_github::{Call, Conclusion, FakeGitHub, JobRequest, JobStatus, Limits};
use forge_github::forge::GithubFigures;
use runner_core::{Clock, ProfileName, ReservationId, reservation::ReserveRequest};

mod host;
mod life;
mod memory;
mod storm;

use host::Host;
use life::{Life, Outside};
use storm::Luck;

const OWNER: &str = "simulation";
const PROFILE: &str = "a";

/// How many jobs, where nobody says.
const JOBS: usize = 2_000;

/// What every JIT configuration begins with, as it is base64 of JSON whose first key is `.credentials`.
const SECRETS_BEGIN: &str = "eyIuY3JlZGVudGlhbHMi";

fn jobs() -> usize {
    std::env::var("RUNNER_TEST_JOBS").map_or(JOBS, |jobs| jobs.parse().expect("a number"))
}

#[tokio::test(start_paused = true)]
async fn thousands_of_jobs_in_bad_weather_cost_little_and_harm_nothing() {
    let figures = Simulation::new(jobs(), 2).await.run(Queue::Open).await;
    println!("{figures}");
    figures.assert_at_most(2.0);
}

/// A quarter as many: each takes a runner for itself first, and gives it back when the job is over.
#[tokio::test(start_paused = true)]
async fn jobs_with_a_reservation_cost_one_call_more() {
    let figures = Simulation::new(jobs().div_ceil(4), 15).await.run(Queue::Reserved).await;
    println!("{figures}");
    // Three are what it takes. A word of GitHub's that is lost or late has a job that is over asked for again, for
    // which another runner is registered, marked and removed in vain.
    figures.assert_at_most(3.5);
}

/// How jobs find their runners.
#[derive(Clone, Copy, PartialEq)]
enum Queue {
    Open,
    Reserved,
}

/// A job on its way.
struct Job {
    /// The reservation that it has, if any.
    reservation: Option<ReservationId>,
    /// Its number, once it is queued.
    number: Option<i64>,
}

struct Simulation {
    outside: Outside,
    luck: Luck,
    life: Option<Life>,
    jobs: usize,
    /// The jobs that are not over.
    open: Vec<Job>,
    /// The last run, and how many jobs it has.
    run: Option<(i64, usize)>,
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
}

impl Spent {
    fn add(&mut self, figures: &GithubFigures) {
        self.mints += figures.budget.mints;
        self.given_up += figures.budget.given_up;
    }
}

impl Simulation {
    async fn new(jobs: usize, min_idle: u32) -> Self {
        let start = jiff::Timestamp::now();
        let clock = Clock::following_tokio(start);
        let github = FakeGitHub::builder()
            .ghes()
            .limits(Limits::GITHUB)
            .clock(fake_github::Clock::starting_at(start))
            .start();
        let github = Arc::new(github.await.unwrap());
        let luck = Luck::new(7);
        let host = Host::new(github.clone(), luck.clone(), clock);
        let outside = Outside::new(github, host, clock, min_idle);
        let (life, open, run) = (None, Vec::new(), None);
        Self { outside, luck, life, jobs, open, run, spent: Spent::default(), warm: 0 }
    }

    async fn run(mut self, queue: Queue) -> Figures {
        let (began, real) = (self.outside.clock.now(), std::time::Instant::now());
        self.life = Some(self.outside.live().await);
        storm::begin(&self.outside.github);
        let mut asked = 0;
        let warm = self.jobs / 5;
        while asked < self.jobs || !self.open.is_empty() {
            if asked < self.jobs {
                if asked == warm {
                    self.warm = self.outside.github.calls().len();
                }
                asked += 1;
                match queue {
                    Queue::Open => self.enqueue(None),
                    Queue::Reserved => self.reserve(asked).await,
                }
            }
            tokio::time::sleep(self.luck.seconds(1, 5)).await;
            self.go_on().await;
            if self.luck.strikes(0.0025) {
                self.die().await;
            }
            let hours = self.outside.clock.now().duration_since(began).as_hours();
            assert!(hours < 24, "{} jobs wait for ever", self.open.len());
        }
        let calls = self.outside.github.calls();
        self.outside.github.clear_faults();
        let life = self.life.take().unwrap();
        life.pool.drain().await.unwrap();
        self.spent.add(&life.forge.figures());
        let minutes = self.outside.clock.now().duration_since(began).as_mins();
        let figures = Figures::new(&self, calls, minutes, real.elapsed());
        self.assert_nothing_is_left_over(&life).await;
        figures
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
        self.open.push(Job { reservation, number: Some(job.id) });
    }

    /// Reserves a worker, when there is one.
    async fn reserve(&mut self, number: usize) {
        let id = ReservationId::new(format!("r-{number}")).unwrap();
        while !self.has(&id).await {
            tokio::time::sleep(self.luck.seconds(1, 5)).await;
            self.go_on().await;
        }
        self.open.push(Job { reservation: Some(id), number: None });
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
    async fn go_on(&mut self) {
        let github = self.outside.github.clone();
        for Job { reservation, number } in std::mem::take(&mut self.open) {
            match (number, reservation) {
                (None, Some(id)) if is_marked(&github, &id) => self.enqueue(Some(id)),
                (Some(number), reservation) if is_over(&github, number) => {
                    if let Some(id) = reservation {
                        self.life().pool.release(&id).await.unwrap();
                    }
                }
                (number, reservation) => {
                    // One that GitHub does not mark, tried several times, is taken back.
                    if let (None, Some(id)) = (number, &reservation) {
                        self.has(id).await;
                    }
                    self.open.push(Job { reservation, number });
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
        tokio::time::sleep(self.luck.seconds(1, 60)).await;
        self.life = Some(self.outside.live().await);
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("it lives")
    }

    async fn assert_nothing_is_left_over(&self, life: &Life) {
        let Outside { github, host, .. } = &self.outside;
        assert_eq!(host.crimes(), [] as [&str; 0]);
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
}

fn is_marked(github: &FakeGitHub, id: &ReservationId) -> bool {
    let mark = format!("reserved-for:{id}");
    github.runners().iter().any(|runner| runner.labels.contains(&mark))
}

fn is_over(github: &FakeGitHub, job: i64) -> bool {
    github.job(job).unwrap().status == JobStatus::Completed
}

/// What it took.
struct Figures {
    jobs: usize,
    /// Each count, in the words of the table.
    rows: Vec<(&'static str, usize)>,
    over_limit: usize,
    /// Charged calls for each job in the steady state.
    steady: f64,
    minutes: i64,
    real: Duration,
    /// Charged calls by operation.
    operations: BTreeMap<String, usize>,
}

impl Figures {
    fn new(run: &Simulation, calls: Vec<Call>, minutes: i64, real: Duration) -> Self {
        let count = |is: fn(&Call) -> bool| calls.iter().filter(|call| is(call)).count();
        let is_limit = |call: &Call| matches!(call.status, Some(403 | 429)) && !call.fault;
        let over_limit = count(is_limit);
        let mut operations = BTreeMap::new();
        for call in calls.iter().filter(|call| call.charged) {
            *operations.entry(call.operation.clone()).or_default() += 1;
        }
        let rows = vec![
            ("runners registered", usize::try_from(run.spent.mints).unwrap()),
            ("deaths of the manager", run.spent.deaths),
            ("calls", calls.len()),
            ("calls that went wrong on order", count(|call| call.fault)),
            ("calls that were charged", count(|call| call.charged)),
            ("calls over a limit", over_limit),
            ("calls given up for a limit", usize::try_from(run.spent.given_up).unwrap()),
        ];
        let charged = calls[run.warm..].iter().filter(|call| call.charged).count();
        let steady = each(charged, run.jobs - run.jobs / 5);
        Self { jobs: run.jobs, rows, over_limit, steady, minutes, real, operations }
    }

    fn assert_at_most(&self, calls: f64) {
        assert_eq!(self.over_limit, 0);
        assert!(self.steady <= calls, "{:.2} charged calls a job", self.steady);
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn each(count: usize, jobs: usize) -> f64 {
    count as f64 / jobs as f64
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hours, minutes) = (self.minutes / 60, self.minutes % 60);
        let real = self.real.as_secs();
        writeln!(f, "{} jobs in {hours} h {minutes} min, simulated in {real} s", self.jobs)?;
        writeln!(f, "\n| | all | for each job |\n|---|---|---|")?;
        for (what, count) in &self.rows {
            writeln!(f, "| {what} | {count} | {:.3} |", each(*count, self.jobs))?;
        }
        writeln!(f, "| charged calls in the steady state | | {:.3} |", self.steady)?;
        let operations = self.operations.iter();
        operations.map(|(name, count)| (name.as_str(), *count)).try_for_each(|(name, count)| {
            writeln!(f, "| charged: {name} | {count} | {:.3} |", each(count, self.jobs))
        })
    }
}
