//! Runners that were registered for another source of demand than the one that tells their profile's jobs now.
//!
//! The jobs of a scale set run on runners that the scale set registered and on no others, and these run no other
//! jobs. So when one source takes over from another, runners that are idle would count as ready for jobs that
//! they never get, and the jobs would wait for ever. They are removed after a while; GitHub refuses to remove one
//! that has a job.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use runner_core::{ProfileName, error::chain};
use tokio::time::Instant;

use super::Inner;
use crate::{config::Registrar, labels, runners::GithubRunner};

/// How long a source must have taken over: one that is away for a moment replaces nobody.
const GRACE: Duration = Duration::from_secs(60);

/// Who registered each runner.
#[derive(Default)]
pub(super) struct Strays(Mutex<BTreeMap<u64, Made>>);

#[derive(Clone, Copy)]
struct Made {
    by_registrar: bool,
    /// Since when its profile's jobs are not for it.
    astray: Option<Instant>,
}

impl Strays {
    /// A runner was registered, by the profile's [`Registrar`] or in the usual way.
    pub fn made(&self, id: u64, by_registrar: bool) {
        self.lock().insert(id, Made { by_registrar, astray: None });
    }

    fn made_by_registrar(&self, id: u64) -> Option<bool> {
        self.lock().get(&id).map(|made| made.by_registrar)
    }

    /// Notes whether a runner is astray now. Returns since when it is.
    fn note(&self, id: u64, is_astray: bool, now: Instant) -> Option<Instant> {
        let mut all = self.lock();
        let made = all.get_mut(&id)?;
        made.astray = is_astray.then(|| made.astray.unwrap_or(now));
        made.astray
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Made>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Removes the idle runners that have been astray for long enough.
    pub(super) async fn remove_strays(&self, now: Instant) {
        if self.config.registrars.is_empty() {
            return;
        }
        let ours = self.view().ours(now);
        self.strays.lock().retain(|id, _| self.view().get(*id).is_some());
        for (worker, runner) in ours {
            let Some((profile, _)) = worker.parts() else { continue };
            let registrar = self.config.registrars.iter().find(|its| *its.profile() == profile);
            let Some(registrar) = registrar else { continue };
            let by_registrar = self.made_by_registrar(&**registrar, &runner).await;
            let wanted = self.registrar(&profile).is_some();
            let is_astray = by_registrar.is_some_and(|by_registrar| by_registrar != wanted);
            let since = self.strays.note(runner.id, is_astray && is_idle(&runner), now);
            if since.is_some_and(|since| since + GRACE <= now) {
                self.remove_stray(&profile, &runner).await;
            }
        }
    }

    /// As it was registered by this process, or as the registrar says. None while that is not known.
    async fn made_by_registrar(&self, its: &dyn Registrar, runner: &GithubRunner) -> Option<bool> {
        if let Some(known) = self.strays.made_by_registrar(runner.id) {
            return Some(known);
        }
        let told = its.registered(&runner.name).await.unwrap_or_else(|error| {
            let (runner, error) = (&runner.name, chain(&error));
            tracing::debug!(runner, error, "Nobody tells who registered it.");
            None
        })?;
        self.strays.made(runner.id, told);
        Some(told)
    }

    async fn remove_stray(&self, profile: &ProfileName, runner: &GithubRunner) {
        let name = &runner.name;
        match self.remove(runner.id).await {
            Ok(()) => {
                tracing::info!(%profile, name, "Removed a runner that its profile's jobs are not for.");
            }
            Err(error) => {
                let error = chain(&error);
                tracing::debug!(%profile, name, error, "A runner that jobs are not for stays.");
            }
        }
    }
}

/// Whether a runner waits for whatever job there is.
fn is_idle(runner: &GithubRunner) -> bool {
    let labels = runner.labels.iter().map(|label| &*label.name);
    runner.is_online() && !runner.busy && labels::reserved_for(labels).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_runner_is_astray_since_its_source_was_replaced_last() {
        let (strays, start) = (Strays::default(), Instant::now());
        assert_eq!(strays.note(1, true, start), None, "nobody knows who registered it");
        strays.made(1, true);
        assert_eq!(strays.made_by_registrar(1), Some(true));
        assert_eq!(strays.note(1, true, start), Some(start));
        assert_eq!(strays.note(1, true, start + GRACE), Some(start));
        assert_eq!(strays.note(1, false, start + GRACE), None);
        assert_eq!(strays.note(1, true, start + 2 * GRACE), Some(start + 2 * GRACE));
    }
}
