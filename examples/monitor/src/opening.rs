//! A hypervisor that may not be there yet: opened at first use, and again at every use until that works.
//!
//! A service whose hypervisor is missing at its start stays up, says why at every look, and goes to work
//! as soon as it is there.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use futures::future::BoxFuture;
use runner_core::{
    Capacity, Changes, Guest, Hint, Hypervisor, Result, WorkerName,
    hypervisor::{Console, HypervisorCapabilities, Instance, InstanceSpec, Png},
    image::Image,
};
use tokio::sync::OnceCell;

/// Opens the hypervisor, or says why not.
type Open = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Hypervisor>>> + Send + Sync>;

/// A hypervisor that may not be there yet.
pub struct Opening {
    capabilities: HypervisorCapabilities,
    open: Open,
    inner: OnceCell<Arc<dyn Hypervisor>>,
    hint: Hint,
}

impl Opening {
    /// What `open` gives, once it gives something. That is able to do what `capabilities` say.
    pub fn new<F>(
        capabilities: HypervisorCapabilities,
        open: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Arc<dyn Hypervisor>>> + Send + 'static,
    {
        Self {
            capabilities,
            open: Box::new(move || Box::pin(open())),
            inner: OnceCell::new(),
            hint: Hint::default(),
        }
    }

    async fn inner(&self) -> Result<&Arc<dyn Hypervisor>> {
        self.inner
            .get_or_try_init(|| async {
                let inner = (self.open)().await?;
                let (mut changes, hint) = (inner.changes(), self.hint.clone());
                tokio::spawn(async move {
                    loop {
                        changes.next().await;
                        hint.hint();
                    }
                });
                Ok(inner)
            })
            .await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Hypervisor for Opening {
    fn capabilities(&self) -> HypervisorCapabilities {
        self.capabilities
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.inner().await?.capacity().await
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        self.inner().await?.create(spec).await
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        self.inner().await?.destroy(name).await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.inner().await?.instances().await
    }

    fn changes(&self) -> Changes {
        self.hint.changes()
    }

    async fn prepare(&self, image: &Image) -> Result<()> {
        self.inner().await?.prepare(image).await
    }

    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        self.inner().await?.screenshot(name).await
    }

    async fn console(&self, name: &WorkerName, follow: bool) -> Result<Console> {
        self.inner().await?.console(name, follow).await
    }

    async fn given_addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        self.inner().await?.given_addresses(name).await
    }

    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        self.inner().await?.guest(name).await
    }
}
