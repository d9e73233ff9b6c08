//! Sends a job's trace to GitLab, piece by piece, hears what GitLab wants of the job, and reports its end.
//!
//! One task for each job, from when it was received until GitLab knows how it ended. GitLab's word on how
//! much it has is the last: a piece that it refuses is sent again from there.
//!
//! Source: `PATCH /jobs/:id/trace` in GitLab's `lib/api/ci/runner.rb`, and `network/trace.go` of
//! gitlab-runner.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use runner_core::{Result, error::chain};
use tokio::time::{Instant, sleep_until};

use crate::{
    client::{Client, pause, send},
    job::{LiveJob, Progress, Wish},
    update::{self, Updated, Verdict},
};

/// What one call carries, in bytes.
const PIECE: usize = 1 << 20;
/// How often to send, until GitLab says.
const INTERVAL: Duration = Duration::from_secs(3);
/// How often a trace is sent again that GitLab finds damaged.
const RESENDS: u32 = 3;
/// How long an end is reported that GitLab does not answer. GitLab itself gives a silent job up much earlier.
const REPORT_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What became of a piece.
enum Patched {
    /// GitLab has the trace up to here.
    Upto(u64),
    /// For now it has no answer.
    Later(String),
    /// The job is none of its any more.
    Gone,
}

/// Attends to a job until GitLab knows its end, or does not want to know.
pub(crate) async fn attend(client: &Client, job: &Arc<LiveJob>, keep_alive: Duration) {
    let mut attendant = Attendant {
        client,
        job,
        interval: INTERVAL,
        last_sent: None,
        last_heard: Instant::now(),
        failures: 0,
        resends: 0,
        unheard_since: None,
    };
    let mut news = job.news();
    loop {
        // Before the step: what changes while it is taken is news.
        news.borrow_and_update();
        let verdict = job.progress().verdict;
        let step = attendant.step(keep_alive).await;
        let mut until = match step {
            Step::Over => return,
            Step::At(at) => at,
        };
        // Output alone waits for its turn; an end does not.
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => break,
                changed = news.changed() => {
                    if changed.is_err() || job.progress().verdict != verdict {
                        break;
                    }
                    until = until.min(attendant.turn().unwrap_or(until));
                }
            }
        }
    }
}

enum Step {
    Over,
    /// The next one is due then, or at news.
    At(Instant),
}

struct Attendant<'a> {
    client: &'a Client,
    job: &'a LiveJob,
    interval: Duration,
    last_sent: Option<Instant>,
    last_heard: Instant,
    /// In a row.
    failures: u32,
    resends: u32,
    unheard_since: Option<Instant>,
}

impl Attendant<'_> {
    /// Does what is due.
    async fn step(&mut self, keep_alive: Duration) -> Step {
        let progress = self.job.progress();
        let aborted = matches!(self.job.wish(), Wish::Abort(_));
        let outcome = match &progress.verdict {
            // GitLab takes nothing more of its trace; the end is said once, for the record.
            Some(verdict) if aborted => {
                let _ = update::conclude(self.client, self.job, verdict).await;
                return Step::Over;
            }
            None if aborted => return Step::At(Instant::now() + Duration::from_secs(3600)),
            _ if self.is_due(&progress) => self.send_piece(progress.sent).await,
            Some(verdict) => return self.conclude(verdict).await,
            None if self.last_heard.elapsed() >= keep_alive => self.say_alive().await,
            None => Ok(()),
        };
        match outcome {
            Ok(()) => self.failures = 0,
            Err(error) => return self.failed(&error),
        }
        if self.job.progress().verdict.is_some() {
            return Step::At(Instant::now());
        }
        let alive = self.last_heard + keep_alive;
        Step::At(self.turn().map_or(alive, |turn| turn.min(alive)))
    }

    fn is_due(&self, progress: &Progress) -> bool {
        // What failed is tried again whenever this is asked.
        let turn = self.turn().is_some_and(|turn| turn <= Instant::now());
        progress.sent < progress.trace && (turn || self.failures > 0)
    }

    /// When output may be sent, if there is any and the last call did not fail.
    fn turn(&self) -> Option<Instant> {
        let progress = self.job.progress();
        let waits = progress.trace.saturating_sub(progress.sent);
        if waits == 0 || self.failures > 0 {
            return None;
        }
        let is_much = waits >= PIECE as u64 || progress.verdict.is_some();
        let turn = self.last_sent.filter(|_| !is_much).map(|at| at + self.interval);
        Some(turn.unwrap_or_else(Instant::now))
    }

    async fn send_piece(&mut self, from: u64) -> Result<(), String> {
        match self.patch(from).await.map_err(|error| chain(&error))? {
            Patched::Upto(end) => {
                let note = self.job.change(|progress, _| progress.sent = end.min(progress.trace));
                self.last_sent = Some(Instant::now());
                note.map_err(|error| chain(&error))
            }
            Patched::Later(why) => Err(why),
            Patched::Gone => Ok(()),
        }
    }

    async fn patch(&mut self, from: u64) -> Result<Patched> {
        let piece = self.job.read_trace(from, PIECE)?;
        let end = from + piece.len() as u64;
        let request = self
            .client
            .request(Method::PATCH, &format!("jobs/{}/trace?debug_trace=false", self.job.id()))
            .header("JOB-TOKEN", self.job.payload.token.expose())
            .header("Content-Type", "text/plain")
            .header("Content-Range", format!("{from}-{}", end.saturating_sub(1)))
            .body(piece);
        let reply = send("send a trace", request).await?;
        self.last_heard = Instant::now();
        if let Some(interval) = update::interval(&reply) {
            self.interval = interval;
        }
        // `0-LENGTH`, of what the server has.
        let has = reply.header("range").and_then(|range| range.rsplit('-').next()?.parse().ok());
        let status = reply.status.as_u16();
        // A job that is missing is a 403; a 404 comes from what stands between.
        if let Some(wish) = update::wish(&reply).filter(|_| status != 404) {
            self.job.wants(wish);
        }
        Ok(match status {
            202 => Patched::Upto(has.filter(|has| *has <= end).unwrap_or(end)),
            416 => match has {
                Some(has) if has <= self.job.progress().trace && has != from => Patched::Upto(has),
                // It has more than we ever wrote, or contradicts itself: there is nothing to add.
                _ => {
                    tracing::warn!(job = self.job.id(), "GitLab has another trace of the job.");
                    Patched::Upto(self.job.progress().trace)
                }
            },
            403 => Patched::Gone,
            _ => Patched::Later(reply.complaint()),
        })
    }

    async fn say_alive(&mut self) -> Result<(), String> {
        let outcome = update::keep_alive(self.client, self.job).await;
        self.last_heard = Instant::now();
        match outcome {
            Ok(Updated::Later(why)) => Err(why),
            Ok(_) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn conclude(&mut self, verdict: &Verdict) -> Step {
        let why = match update::conclude(self.client, self.job, verdict).await {
            Ok(Updated::Done) => return Step::Over,
            Ok(Updated::Again(wait)) => {
                self.failures = 0;
                return Step::At(Instant::now() + wait);
            }
            Ok(Updated::Refused(why)) => {
                tracing::warn!(
                    job = self.job.id(),
                    why,
                    "GitLab does not take the end of the job."
                );
                return Step::Over;
            }
            Ok(Updated::Resend) if self.resends < RESENDS => {
                self.resends += 1;
                // From the start: it says itself where it wants to go on from.
                match self.job.change(|progress, _| progress.sent = 0) {
                    Ok(()) => return Step::At(Instant::now()),
                    Err(error) => chain(&error),
                }
            }
            Ok(Updated::Resend) => {
                tracing::warn!(
                    job = self.job.id(),
                    "GitLab finds the trace damaged, again and again."
                );
                return Step::Over;
            }
            Ok(Updated::Later(why)) => why,
            Err(error) => chain(&error),
        };
        let since = *self.unheard_since.get_or_insert_with(Instant::now);
        if since.elapsed() > REPORT_LIMIT {
            tracing::error!(job = self.job.id(), why, "GitLab never heard how the job ended.");
            return Step::Over;
        }
        self.failed(&why)
    }

    fn failed(&mut self, why: &str) -> Step {
        self.failures += 1;
        let wait = pause(self.failures + 3);
        tracing::warn!(
            job = self.job.id(),
            why,
            ?wait,
            "GitLab was not told of the job; trying again."
        );
        Step::At(Instant::now() + wait)
    }
}
