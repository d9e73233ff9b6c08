//! Carries actions out, one function each. Nothing is decided here: a choice belongs into the plan.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    clock::Clock,
    engine::Ledger,
    error::{Error, Result, chain},
    event::{EventLog, What},
    forge::{Forge, RunnerSpec},
    hypervisor::{Hypervisor, InstanceSpec},
    image::{BuildLog, Image, ImageBuilder, Recipe},
    name::{ForgeName, ImageId, OwnerId, ReservationId, RunnerId, WorkerName},
    plan::{Subject, Unmake},
    profile::Profile,
    recorder::{self, Case, Samples},
    store::{RowKey, Store},
    worker::Record,
};

/// What actions act on.
#[derive(Clone)]
pub(crate) struct Hands {
    pub hypervisor: Arc<dyn Hypervisor>,
    pub forges: Arc<BTreeMap<ForgeName, Arc<dyn Forge>>>,
    pub builder: Arc<dyn ImageBuilder>,
    pub store: Store,
    pub ledger: Ledger,
    pub events: EventLog,
    pub owner: OwnerId,
    pub clock: Clock,
    pub samples: Samples,
}

impl Hands {
    fn forge(&self, name: &ForgeName) -> Result<&dyn Forge> {
        let forge =
            self.forges.get(name).ok_or_else(|| Error::not_found(format!("forge {name}")))?;
        Ok(&**forge)
    }

    /// Write the record, register, create: in this order, so that whatever exists can be found. The
    /// registration is in `record` from the moment it is known, also when the rest fails.
    pub async fn provision(
        &self,
        record: &mut Record,
        serial: u64,
        profile: &Profile,
        image: Image,
    ) -> Result<()> {
        self.store.put_record(record.clone(), serial).await?;
        let spec = RunnerSpec {
            name: record.name.clone(),
            owner: self.owner.clone(),
            profile: profile.name.clone(),
            labels: profile.labels.clone(),
        };
        let registration = self.forge(&profile.forge)?.register(&spec).await?;
        record.runner = Some(registration.id);
        self.store.put_record(record.clone(), serial).await?;
        let spec = InstanceSpec {
            name: record.name.clone(),
            profile: profile.name.clone(),
            image,
            resources: profile.resources.clone(),
            network: profile.network,
            user_data: registration.secret,
        };
        self.hypervisor.create(&spec).await.map(|_| ())
    }

    pub async fn retire(
        &self,
        worker: &WorkerName,
        forge: Option<&ForgeName>,
        order: &[Unmake],
        mut case: Option<Case>,
    ) -> Result<()> {
        for step in order {
            match (step, forge) {
                (Unmake::Deregister(id), Some(forge)) => self.forge(forge)?.deregister(id).await?,
                (Unmake::Abandon(id), Some(forge)) => self.forge(forge)?.abandon(id).await?,
                (Unmake::Deregister(_) | Unmake::Abandon(_), None) => (),
                (Unmake::Destroy, _) => {
                    if let Some(case) = case.take() {
                        self.remember(case).await;
                    }
                    self.hypervisor.destroy(worker).await?;
                }
                (Unmake::Forget, _) => self.store.remove_record(worker.clone()).await?,
            }
        }
        Ok(())
    }

    /// Keeps what can still be seen of a machine. Whatever fails here, the machine goes.
    async fn remember(&self, case: Case) {
        let (record, screenshot) =
            recorder::record(case, &*self.hypervisor, &self.samples, self.clock).await;
        let worker = record.worker.clone();
        if let Err(error) = self.store.put_flight(record, screenshot).await {
            let error = chain(&error);
            tracing::warn!(%worker, error, "What was seen of a machine at its end could not be kept.");
        }
    }

    /// Runs the driver beside a worker. A machine that does not exist, asked for by its name, has taken
    /// its job with it.
    pub async fn drive(&self, worker: &WorkerName, forge: &ForgeName, id: &RunnerId) -> Result<()> {
        match self.hypervisor.guest(worker).await {
            Ok(guest) => self.forge(forge)?.drive(id, guest).await,
            Err(error) if error.is_not_found() => self.forge(forge)?.abandon(id).await,
            Err(error) => Err(error),
        }
    }

    /// Marks a runner once its promise is durable: one that nobody remembers would keep it from others.
    pub async fn mark(&self, forge: &ForgeName, id: &RunnerId, for_: &ReservationId) -> Result<()> {
        self.ledger.settled(&RowKey::Reservation(for_.clone())).await?;
        self.forge(forge)?.reserve(id, for_).await
    }

    pub async fn unmark(&self, forge: &ForgeName, id: &RunnerId) -> Result<()> {
        self.forge(forge)?.release(id).await
    }

    /// Waits until what was decided so far is durable.
    pub async fn written(&self) -> Result<()> {
        self.ledger.write([]).await
    }

    pub async fn build(&self, recipe: &Recipe) -> Result<()> {
        let (events, clock) = (self.events.clone(), self.clock);
        let subject = Subject::Build(recipe.profile.clone());
        let log = BuildLog::new(move |line| {
            let what = What::Note { text: line.to_owned() };
            events.record(clock.now(), subject.clone(), what);
        });
        let image = self.builder.build(recipe, log).await?;
        self.hypervisor.prepare(&image).await
    }

    pub async fn delete_image(&self, image: &ImageId) -> Result<()> {
        self.builder.delete(image).await
    }
}
