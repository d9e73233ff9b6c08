//! Registering: a name is written down before this begins, so whatever happens here can be found by it.
//!
//! When GitHub's answer is lost, or says that the name is taken, nobody knows the configuration of the runner
//! that may exist now. So it is looked up by its name, removed, and registered anew: no registration stays
//! behind that nothing can become.

use runner_core::{
    Error, ProfileName, Result,
    forge::{Registration, RunnerSpec},
};
use tokio::time::Instant;

use super::{Inner, runner_id};
use crate::{
    budget::{Call, Cost, Priority},
    config::{GithubProfile, Registrar},
    demand::SourceKind,
    error::{ApiError, Explain, backend},
    groups::Group,
    mark,
    runners::{GithubRunner, Minted, Removal},
};

/// How often a name is cleared and tried again. The pool then goes on with another name.
const ATTEMPTS: usize = 3;

/// How an attempt to register went.
enum Attempt {
    Done(Minted),
    /// Somebody has the name.
    Taken,
    /// The answer was lost.
    Lost(Error),
}

impl Inner {
    pub(super) async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        if spec.owner != self.config.owner {
            let reason = format!("this forge's runners belong to {}", self.config.owner);
            return Err(Error::invalid(format!("owner {}", spec.owner), reason));
        }
        let name = mark::name(&spec.name, &spec.owner)?;
        let doing = format!("register runner {name}");
        self.breaker.admits(&spec.profile, Instant::now()).map_err(|(failures, wait)| {
            let profile = &spec.profile;
            let seconds = wait.as_secs();
            let why = format!(
                "{failures} runners of {profile} in a row never came online; the next is tried in {seconds} s"
            );
            backend(&doing, why)
        })?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match self.attempt(spec, &name, &doing).await? {
                Attempt::Done(minted) => return Ok(self.registered(spec, &name, minted)),
                Attempt::Taken => self.clear(&name, &doing).await?,
                Attempt::Lost(error) => {
                    // While GitHub cannot be asked either, this is how it stays: a later list finds it.
                    if let Err(again) = self.clear(&name, &doing).await {
                        return Err(if again.is_busy() { again } else { error });
                    }
                    last = Some(error);
                }
            }
        }
        let taken = || backend(&doing, "its name stays taken although no runner has it");
        Err(last.unwrap_or_else(taken))
    }

    async fn attempt(&self, spec: &RunnerSpec, name: &str, doing: &str) -> Result<Attempt> {
        let registrar = self.registrar(&spec.profile);
        let attempt = match registrar {
            Some(registrar) => {
                let call = Call { priority: Priority::Provision, cost: Cost::Mint };
                let _turn = self.client.turn(call).await.explain(doing, &self.client)?;
                match registrar.mint(name).await {
                    Ok(Some(minted)) => Ok(Attempt::Done(minted)),
                    Ok(None) => Ok(Attempt::Taken),
                    Err(error @ Error::Backend { .. }) => Ok(Attempt::Lost(error)),
                    Err(error) => Err(error),
                }
            }
            None => self.mint(spec, name, doing).await,
        };
        if let Ok(Attempt::Done(minted)) = &attempt {
            self.strays.made(minted.id, registrar.is_some());
        }
        attempt
    }

    /// Who registers in place of the usual way, unless its profile's jobs come from elsewhere.
    pub(super) fn registrar(&self, profile: &ProfileName) -> Option<&dyn Registrar> {
        let its = self.config.registrars.iter().find(|its| its.profile() == profile)?;
        match self.demand.active().get(profile).copied().flatten() {
            // While nothing tells what waits, what waited last is what there is to do.
            Some(SourceKind::ScaleSet) | None => Some(&**its),
            Some(_) => None,
        }
    }

    async fn mint(&self, spec: &RunnerSpec, name: &str, doing: &str) -> Result<Attempt> {
        let usual = Group::default();
        let group = self.profile(&spec.profile).map_or(&usual, |GithubProfile { group, .. }| group);
        let labels = self.labels(&spec.profile, &spec.labels);
        loop {
            let id = self.groups.number(&self.client, group).await.explain(doing, &self.client)?;
            return match self.client.mint(name, id, &labels).await {
                Ok(Some(minted)) => Ok(Attempt::Done(minted)),
                Ok(None) => Ok(Attempt::Taken),
                Err(error) if error.may_have_happened() => {
                    let place = self.client.place();
                    Ok(Attempt::Lost(error.explain(doing, place.host(), "")))
                }
                // The group may have been made anew since its number was asked for.
                Err(ApiError::Status(said))
                    if said.status.is_client_error() && self.groups.forget(group) =>
                {
                    tracing::debug!(%said, ?group, "Asking for the group's number again.");
                    continue;
                }
                Err(error) => Err(error).explain(doing, &self.client),
            };
        }
    }

    /// Removes whatever has this name, so that it is free.
    async fn clear(&self, name: &str, doing: &str) -> Result<()> {
        let found = self.client.runners_named(name).await.explain(doing, &self.client)?;
        for runner in found {
            let busy = || Err(Error::busy(format!("runner {name}")));
            if runner.busy {
                return busy();
            }
            let removal =
                self.client.remove_runner(runner.id).await.explain(doing, &self.client)?;
            if removal == Removal::Busy {
                return busy();
            }
            tracing::info!(name, id = runner.id, "Removed a registration nobody could use.");
            self.breaker.came_online(runner.id); // It says nothing about its machine.
            self.view().removed(runner.id, Instant::now());
        }
        Ok(())
    }

    fn registered(&self, spec: &RunnerSpec, name: &str, minted: Minted) -> Registration {
        let id = minted.id;
        let now = Instant::now();
        self.breaker.made(&spec.profile, id, now);
        let runner = minted.runner.unwrap_or_else(|| GithubRunner {
            id,
            name: name.to_owned(),
            status: "offline".to_owned(),
            busy: false,
            labels: Vec::new(),
            version: None,
        });
        self.view().registered(runner, now);
        Registration { id: runner_id(id), secret: Some(minted.jit_config) }
    }
}
