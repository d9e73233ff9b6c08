//! What there is of instances: found by their records and their domains, and told of in a list.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use machine_disks::Mark;
use runner_core::{
    Error, Resources, Result, WorkerName,
    error::chain,
    hypervisor::{ExitReason, Instance, InstanceState},
};
use tokio::time::timeout;

use crate::{
    connection::{Domain, Life},
    domain, error, exit,
    hypervisor::Inner,
    turn::Doing,
    watch::{Seen, Watched},
};

/// How long after a domain's end the event may come that says why.
const CONCLUDE: Duration = Duration::from_millis(500);

/// What there is of an instance: one or the other may be missing.
pub(crate) struct Found {
    pub(crate) mark: Mark,
    pub(crate) domain: Option<Domain>,
}

impl Inner {
    pub(crate) async fn list(&self) -> Result<Vec<Instance>> {
        let mut all = Vec::new();
        for found in self.found().await?.into_values() {
            all.extend(self.look(found).await?);
        }
        Ok(all)
    }

    /// Everything of ours, by name.
    async fn found(&self) -> Result<BTreeMap<WorkerName, Found>> {
        // Storage first: what is made meanwhile is then seen as a domain, and not as one that is missing.
        let entries = self.storage.entries().await?;
        let domains = self.connection.domains().await;
        let domains = domains.map_err(|failure| failure.doing("list the domains"))?;
        self.watch.keep(&domains.iter().map(|domain| domain.uuid).collect::<HashSet<_>>());
        let mut all: BTreeMap<_, _> = entries
            .into_iter()
            .map(|mark| (mark.name.clone(), Found { mark, domain: None }))
            .collect();
        for domain in domains {
            if let Some(mark) = self.ours(&domain).await? {
                all.insert(mark.name.clone(), Found { mark, domain: Some(domain) });
            }
        }
        Ok(all)
    }

    /// What there is of one name.
    pub(crate) async fn find(&self, name: &WorkerName) -> Result<Option<Found>> {
        let entry = self.storage.entry(name).await?;
        if let Some(domain) = self.domain(name).await?
            && let Some(mark) = self.ours(&domain).await?
        {
            return Ok(Some(Found { mark, domain: Some(domain) }));
        }
        Ok(entry.map(|mark| Found { mark, domain: None }))
    }

    /// The domain of this name, whoever's it is.
    pub(crate) async fn domain(&self, name: &WorkerName) -> Result<Option<Domain>> {
        let domain = self.connection.domain(name.as_str()).await;
        domain.map_err(|failure| failure.doing(format!("look for domain {name}")))
    }

    /// The mark of a domain, if it is ours.
    async fn ours(&self, domain: &Domain) -> Result<Option<Mark>> {
        match self.watch.seen(domain.uuid) {
            Some(Seen::Ours(watched)) if watched.mark.name.as_str() == domain.name => {
                return Ok(Some(watched.mark.clone()));
            }
            Some(Seen::Foreign) => return Ok(None),
            _ => {}
        }
        let document = self.connection.document(domain.uuid).await;
        let document =
            document.map_err(|failure| failure.doing(format!("look at domain {}", domain.name)))?;
        // It vanished meanwhile.
        let Some(document) = document else { return Ok(None) };
        let mark = self.mark(domain, &document)?;
        match &mark {
            Some(mark) => drop(self.watch.ours(domain.uuid, mark.clone())),
            None => self.watch.foreign(domain.uuid),
        }
        Ok(mark)
    }

    /// Reads the mark of a domain from its document, if it is ours.
    pub(crate) fn mark(&self, domain: &Domain, document: &str) -> Result<Option<Mark>> {
        let mark = domain::mark(document, &self.config.owner)?;
        // It may have been renamed since its document was asked for.
        Ok(mark.filter(|mark| mark.name.as_str() == domain.name))
    }

    /// What the list says of it; nothing if it is gone by now.
    async fn look(&self, found: Found) -> Result<Option<Instance>> {
        if let Some(Domain { life: Life::Active, .. }) = found.domain {
            return Ok(Some(found.mark.instance(InstanceState::Running)));
        }
        let name = &found.mark.name;
        if let Some(reason) = self.storage.exit(name).await? {
            return Ok(Some(found.mark.instance(InstanceState::Stopped(reason))));
        }
        // Nobody wrote down why it does not run: it may be just being made.
        let turn = self.turns.of(name);
        match turn.look().await {
            Ok(_taken) => match self.find(name).await? {
                Some(found) => self.settle(&found).await.map(Some),
                None => Ok(None),
            },
            Err(Doing::Creating) => Ok(Some(found.mark.instance(InstanceState::Running))),
            Err(_) => {
                let reason = InstanceState::Stopped(ExitReason::Unknown);
                Ok(Some(found.mark.instance(reason)))
            }
        }
    }

    /// What the list says of an instance, which nobody is at; and why it ended, if it did, is written down.
    pub(crate) async fn settle(&self, found: &Found) -> Result<Instance> {
        let mark = &found.mark;
        if let Some(reason) = self.storage.exit(&mark.name).await? {
            return Ok(mark.instance(InstanceState::Stopped(reason)));
        }
        let reason = match &found.domain {
            Some(Domain { life: Life::Active, .. }) => {
                return Ok(mark.instance(InstanceState::Running));
            }
            Some(Domain { life: Life::Ended(reason), uuid, .. }) => {
                let watched = self.watch.ours(*uuid, mark.clone());
                let heard = match exit::is_ambiguous(*reason) {
                    true => timeout(CONCLUDE, watched.exited()).await.ok(),
                    false => watched.exit(),
                };
                heard.unwrap_or_else(|| exit::of_state(*reason))
            }
            // Its domain is gone, and what was heard of it is all there is.
            None => {
                let heard = self.watch.named(&mark.name);
                heard.iter().find_map(|watched| watched.exit()).unwrap_or(ExitReason::Unknown)
            }
        };
        if reason != ExitReason::Unknown
            && let Err(error) = self.storage.set_exit(&mark.name, &reason).await
        {
            // A full disk must not hide what room can be made on it. The next list tries again.
            tracing::warn!(worker = %mark.name, %reason, error = chain(&error), "Could not remember why an instance ended.");
        }
        Ok(mark.instance(InstanceState::Stopped(reason)))
    }

    /// The domain of an instance that runs.
    pub(crate) async fn running(&self, name: &WorkerName) -> Result<Arc<Watched>> {
        match self.find(name).await? {
            Some(Found { mark, domain: Some(Domain { life: Life::Active, uuid, .. }) }) => {
                Ok(self.watch.ours(uuid, mark))
            }
            None => Err(error::no_instance(name)),
            // It may be between its making and its start.
            Some(_) => match self.turns.of(name).look().await {
                Err(Doing::Creating) => Err(Error::busy(format!("instance {name}"))),
                _ => Err(error::no_instance(name)),
            },
        }
    }

    /// What the listed instances hold.
    pub(crate) async fn used(&self) -> Result<Resources> {
        let mut used = Resources::default();
        for found in self.found().await?.values() {
            used.add(&found.mark.resources);
        }
        Ok(used)
    }
}
