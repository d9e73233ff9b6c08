//! Thousands of jobs through a whole pool, while GitHub, its deliveries, the machines and the manager itself fail
//! at random: no running job is harmed, nothing is left over, no limit is exceeded, and it costs few calls.
//!
//! Time is simulated, so HTTP and deliveries go through memory. Read `simulation.rs` for what happens, `life.rs`
//! for what is under test, `storm.rs` for what goes wrong. `RUNNER_TEST_JOBS` says how many jobs each test is to
//! have, `RUNNER_TEST_SEED` what the weather is; the tables of ten thousand:
//!
//! ```text
//! RUNNER_TEST_JOBS=10000 cargo test -p forge-github --test steady -- --nocapture
//! ```

mod figures;
mod host;
mod life;
mod memory;
mod notebook;
mod simulation;
mod storm;

use figures::Figures;
use simulation::{Queue, Simulation};
use storm::Demand;

const OWNER: &str = "simulation";
const PROFILE: &str = "a";

/// What every JIT configuration begins with, as it is base64 of JSON whose first key is `.credentials`.
const SECRETS_BEGIN: &str = "eyIuY3JlZGVudGlhbHMi";

fn number<T: std::str::FromStr>(variable: &str, usual: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a number")),
        Err(_) => usual,
    }
}

async fn simulate(jobs: usize, seed: u64, demand: Demand, queue: Queue) -> Figures {
    let (jobs, seed) = (number("RUNNER_TEST_JOBS", jobs), number("RUNNER_TEST_SEED", seed));
    let figures = Simulation::new(jobs, seed, demand, queue).await.run().await;
    println!("{figures}");
    figures
}

#[tokio::test(start_paused = true)]
async fn thousands_of_jobs_in_bad_weather_cost_little_and_harm_nothing() {
    let figures = simulate(1_000, 7, Demand::Webhooks, Queue::Open).await;
    figures.assert_at_most(2.0, 15);
}

/// Each takes a runner for itself first, and gives it back when the job is over.
#[tokio::test(start_paused = true)]
async fn jobs_with_a_reservation_cost_one_call_more() {
    simulate(800, 7, Demand::Webhooks, Queue::Reserved).await.assert_at_most(3.0, 15);
}

#[tokio::test(start_paused = true)]
async fn reservations_cost_no_more_in_other_weather() {
    simulate(800, 8, Demand::Webhooks, Queue::Reserved).await.assert_at_most(3.0, 15);
}

/// Sessions end and are taken over, messages are lost before and after they were heard, tokens grow old.
#[tokio::test(start_paused = true)]
async fn jobs_of_a_scale_set_cost_little_and_harm_nothing() {
    let figures = simulate(1_000, 7, Demand::ScaleSet, Queue::Open).await;
    figures.assert_at_most(2.0, 15);
}

/// The Actions service and the deliveries are down for minutes, at times both: then asking what waits costs more.
#[tokio::test(start_paused = true)]
async fn jobs_go_on_while_one_source_of_demand_after_the_other_fails() {
    let figures = simulate(1_500, 7, Demand::Failover, Queue::Open).await;
    // What the scale set had got waits for it, at times through several outages of twenty minutes.
    figures.assert_at_most(3.0, 120);
    assert!(figures.outages > 0, "it is about them");
}
