//! What a simulation took, as a table.

use std::{collections::BTreeMap, time::Duration};

use fake_github::Call;

/// How many calls are under way at one time at most.
const UNDER_WAY: usize = 20;

/// From how many jobs on luck evens out.
const LONG: usize = 10_000;
/// How many calls a job may cost more than that in a shorter run.
const LUCK: f64 = 0.4;

/// What it took.
pub struct Figures {
    pub title: String,
    pub jobs: usize,
    /// Each count, in the words of the table.
    pub rows: Vec<(&'static str, usize)>,
    /// How many seconds half of the jobs waited at most, 99 of 100, and the one that waited longest.
    pub waits: [usize; 3],
    /// Calls that GitHub refused for a limit, and not on our order.
    pub over_limit: Vec<String>,
    /// How often a source of demand was down.
    pub outages: usize,
    /// How many jobs the steady state had.
    pub steady_jobs: usize,
    /// Charged calls of the steady state, by operation.
    pub operations: BTreeMap<String, usize>,
    pub minutes: i64,
    pub real: Duration,
}

impl Figures {
    /// How many calls were of this kind.
    pub fn count(calls: &[Call], is: impl Fn(&Call) -> bool) -> usize {
        calls.iter().filter(|call| is(call)).count()
    }

    /// Charged calls by operation.
    pub fn charged(calls: &[Call]) -> BTreeMap<String, usize> {
        let mut operations = BTreeMap::new();
        for call in calls.iter().filter(|call| call.charged) {
            *operations.entry(call.operation.clone()).or_default() += 1;
        }
        operations
    }

    /// Calls that GitHub refused for a limit, but for those that it was not to be told before: the ones under way
    /// when a limit was used up on order, and the first of a life that began after that.
    pub fn over_limit(calls: &[Call], lives: &[usize]) -> Vec<String> {
        let is_refusal = |call: &Call| matches!(call.status, Some(403 | 429));
        let mut excused = 0;
        let mut over = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            if lives.contains(&at) || (call.fault && is_refusal(call)) {
                excused = at + UNDER_WAY;
            } else if is_refusal(call) && at >= excused {
                over.push(format!("{} {} {:?}", call.method, call.path, call.status));
            }
        }
        over
    }

    /// Charged calls for each job in the steady state.
    fn steady(&self) -> f64 {
        each(self.operations.values().sum(), self.steady_jobs)
    }

    /// Fails if a job cost more calls than this, or waited for longer than so many minutes. In a short run a single
    /// death or outage weighs more: it may cost [`LUCK`] more.
    pub fn assert_at_most(&self, calls: f64, minutes: usize) {
        let [.., longest] = self.waits;
        assert!(longest <= minutes * 60, "a job waited for {longest} s");
        assert_eq!(self.over_limit, [] as [&str; 0], "calls over a limit");
        let steady = self.steady();
        let calls = if self.jobs < LONG { calls + LUCK } else { calls };
        assert!(steady <= calls, "{steady:.2} charged calls a job");
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn each(count: usize, jobs: usize) -> f64 {
    count as f64 / jobs as f64
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hours, minutes) = (self.minutes / 60, self.minutes % 60);
        let (title, jobs, real) = (&self.title, self.jobs, self.real.as_secs());
        writeln!(f, "{title}: {jobs} jobs in {hours} h {minutes} min, simulated in {real} s")?;
        writeln!(f, "\n| | all | for each job |\n|---|---|---|")?;
        for (what, count) in &self.rows {
            writeln!(f, "| {what} | {count} | {:.3} |", each(*count, jobs))?;
        }
        let charged: usize = self.operations.values().sum();
        writeln!(f, "| charged in the steady state | {charged} | {:.3} |", self.steady())?;
        for (operation, count) in &self.operations {
            writeln!(
                f,
                "| of them {operation} | {count} | {:.3} |",
                each(*count, self.steady_jobs)
            )?;
        }
        let [half, most, longest] = self.waits;
        writeln!(
            f,
            "\nHalf of the jobs waited {half} s for a runner at most, 99 of 100 {most} s, and one {longest} s."
        )
    }
}
