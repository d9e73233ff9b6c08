//! Follows a process of a job to its end: its output goes into the trace, and it is ended when it must be.

use std::time::Duration;

use jiff::Timestamp;
use runner_core::{
    ProcessId, Result,
    guest::{Cursor, ExitStatus, Progress as News, Signal},
};

use super::{LOOK, Run, later};
use crate::{job::Wish, mask::Masker};

/// How a process ended.
pub(super) enum Ran {
    Ended(ExitStatus),
    Stopped(Stop),
}

/// Why a process was made to end.
#[derive(Clone)]
pub(super) enum Stop {
    TimedOut,
    Cancelled,
    Aborted(String),
}

impl Run<'_> {
    /// Follows a process to its end, its output going into the trace.
    pub(super) async fn follow(
        &self,
        id: &ProcessId,
        until: Timestamp,
        heeds_cancel: bool,
    ) -> Result<Ran> {
        let (job, grace) = (self.job, self.inner.config.limits.kill_grace);
        let at = job.progress().at;
        let (mut read, in_token) = at.map_or((0, false), |at| (at.cursor, at.in_token));
        let prefixes = &job.payload.features.token_mask_prefixes;
        let mut masker = Masker::new(self.variables.secrets(), prefixes, in_token);
        let mut wishes = job.wishes();
        let mut asked: Option<(Timestamp, Stop)> = None;
        let mut forced = false;
        // The first look does not wait: what ended while nobody watched has ended in time.
        let mut wait = Duration::ZERO;
        loop {
            let cursor = Cursor { stdout: read, stderr: 0 };
            let news = tokio::select! {
                biased;
                news = self.guest.follow(id, cursor, wait) => news?,
                _ = wishes.changed() => News::default(),
            };
            read += news.stdout.len() as u64;
            if !news.stdout.is_empty() || news.exit.is_some() {
                let mut clear = masker.push(&news.stdout);
                if news.exit.is_some() {
                    clear.extend(masker.finish());
                }
                job.change(|progress, text| {
                    job.add_output(progress, text, &clear);
                    if let Some(at) = &mut progress.at {
                        at.cursor = read - masker.held() as u64;
                        at.in_token = masker.in_token();
                    }
                })?;
            }
            match (news.exit, &asked) {
                (Some(exit), Some((_, stop))) if !exit.success() => {
                    return Ok(Ran::Stopped(stop.clone()));
                }
                (Some(exit), _) => return Ok(Ran::Ended(exit)),
                (None, _) => (),
            }
            let (now, wish) = (self.now(), job.wish());
            let stop = match wish {
                // The machine goes with all that runs in it.
                Wish::Abort(why) => return Ok(Ran::Stopped(Stop::Aborted(why))),
                Wish::Cancel if heeds_cancel => Some(Stop::Cancelled),
                _ if now >= until => Some(Stop::TimedOut),
                _ => None,
            };
            match (&asked, stop) {
                (None, Some(stop)) => {
                    self.guest.kill(id, Signal::Terminate).await?;
                    asked = Some((now, stop));
                }
                (Some((at, _)), _) if !forced && now >= later(*at, grace) => {
                    self.guest.kill(id, Signal::Kill).await?;
                    forced = true;
                }
                // It does not even heed SIGKILL; its machine's end will end it.
                (Some((at, stop)), _) if now >= later(*at, grace * 3) => {
                    return Ok(Ran::Stopped(stop.clone()));
                }
                _ => (),
            }
            let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
            let look = if asked.is_some() { LOOK.min(grace / 4) } else { LOOK.min(left) };
            wait = look.max(Duration::from_millis(10));
        }
    }
}
