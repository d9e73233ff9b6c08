//! The fake hypervisor with screens and consoles worth looking at.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use monitor::compose::Backends;
use runner_core::{
    Capacity, Changes, Guest, Hypervisor, Result, WorkerName,
    fake::{FakeHypervisor, FakeWorld},
    hypervisor::{Console, HypervisorCapabilities, Instance, InstanceSpec, Png},
    image::Image,
};

use crate::{console, elsewhere};

/// The hypervisor and the image builder of a world.
pub fn backends(world: &FakeWorld) -> Backends {
    Backends {
        hypervisor: Arc::new(CrowdHost(world.hypervisor())),
        builder: Arc::new(world.builder()),
        forges: elsewhere::forges(world),
    }
}

struct CrowdHost(FakeHypervisor);

impl CrowdHost {
    async fn instance(&self, name: &WorkerName) -> Result<Option<Instance>> {
        let instances = self.0.instances().await?;
        Ok(instances.into_iter().find(|instance| instance.name == *name))
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Hypervisor for CrowdHost {
    fn capabilities(&self) -> HypervisorCapabilities {
        self.0.capabilities()
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.0.capacity().await
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        self.0.create(spec).await
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        self.0.destroy(name).await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.0.instances().await
    }

    fn changes(&self) -> Changes {
        self.0.changes()
    }

    async fn prepare(&self, image: &Image) -> Result<()> {
        self.0.prepare(image).await
    }

    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        let none = self.0.screenshot(name).await?;
        let Some(instance) = self.instance(name).await? else { return Ok(none) };
        let busy = !self.0.guest(name).await?.running().await?.is_empty();
        Ok(Png(Bytes::from(console::picture(&instance, busy))))
    }

    async fn console(&self, name: &WorkerName, follow: bool) -> Result<Console> {
        match self.instance(name).await? {
            Some(instance) => Ok(console::stream(instance, self.0.clone(), follow)),
            None => self.0.console(name, follow).await,
        }
    }

    async fn given_addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        self.0.given_addresses(name).await
    }

    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        self.0.guest(name).await
    }
}
