//! Calls to backends, counted with how they ended and how long they took.

use std::{net::IpAddr, sync::Arc, time::Instant};

use async_trait::async_trait;
use prometheus::{HistogramVec, IntCounterVec, Registry};
use runner_core::{
    Capacity, Changes, Forge, ForgeName, Guest, Hypervisor, ReservationId, Result, RunnerId,
    WorkerName,
    forge::{ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec},
    hypervisor::{Console, HypervisorCapabilities, Instance, InstanceSpec, Png},
    image::Image,
};

use super::{catalogue::Metric, register};

/// The counts of one kind of backend.
pub struct Calls {
    ended: IntCounterVec,
    took: HistogramVec,
}

impl Calls {
    pub fn new(ended: Metric, took: Metric) -> Self {
        Self { ended: ended.counter(), took: took.histogram() }
    }

    pub fn register(&self, registry: &Registry) {
        register(registry, &self.ended);
        register(registry, &self.took);
    }
}

/// A backend, with every call to it counted.
pub struct Counted<T: ?Sized> {
    inner: Arc<T>,
    calls: Arc<Calls>,
    /// Which one, where there are several.
    name: Option<ForgeName>,
}

impl<T: ?Sized> Counted<T> {
    /// Waits for a call and counts it. One that is dropped is not counted.
    async fn count<R>(&self, call: &str, work: impl Future<Output = Result<R>>) -> Result<R> {
        let began = Instant::now();
        let result = work.await;
        self.took(call, began);
        self.ended(call, &result);
        result
    }

    fn took(&self, call: &str, began: Instant) {
        let labels: Vec<&str> = self.name.iter().map(ForgeName::as_str).chain([call]).collect();
        self.calls.took.with_label_values(&labels).observe(began.elapsed().as_secs_f64());
    }

    fn ended<R>(&self, call: &str, result: &Result<R>) {
        let result = result.as_ref().map_or_else(|error| error.kind(), |_| "ok");
        let labels: Vec<&str> =
            self.name.iter().map(ForgeName::as_str).chain([call, result]).collect();
        self.calls.ended.with_label_values(&labels).inc();
    }
}

impl Counted<dyn Hypervisor> {
    pub(super) fn hypervisor(inner: Arc<dyn Hypervisor>, calls: Arc<Calls>) -> Self {
        Self { inner, calls, name: None }
    }
}

impl Counted<dyn Forge> {
    pub(super) fn forge(name: &ForgeName, inner: Arc<dyn Forge>, calls: Arc<Calls>) -> Self {
        Self { inner, calls, name: Some(name.clone()) }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Hypervisor for Counted<dyn Hypervisor> {
    fn capabilities(&self) -> HypervisorCapabilities {
        self.inner.capabilities()
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.count("capacity", self.inner.capacity()).await
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        self.count("create", self.inner.create(spec)).await
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        self.count("destroy", self.inner.destroy(name)).await
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.count("instances", self.inner.instances()).await
    }

    fn changes(&self) -> Changes {
        self.inner.changes()
    }

    async fn prepare(&self, image: &Image) -> Result<()> {
        self.count("prepare", self.inner.prepare(image)).await
    }

    async fn screenshot(&self, name: &WorkerName) -> Result<Png> {
        self.count("screenshot", self.inner.screenshot(name)).await
    }

    async fn console(&self, name: &WorkerName, follow: bool) -> Result<Console> {
        self.count("console", self.inner.console(name, follow)).await
    }

    async fn given_addresses(&self, name: &WorkerName) -> Result<Vec<IpAddr>> {
        self.count("given_addresses", self.inner.given_addresses(name)).await
    }

    async fn guest(&self, name: &WorkerName) -> Result<Arc<dyn Guest>> {
        self.count("guest", self.inner.guest(name)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Forge for Counted<dyn Forge> {
    fn capabilities(&self) -> ForgeCapabilities {
        self.inner.capabilities()
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        self.count("register", self.inner.register(spec)).await
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        self.count("deregister", self.inner.deregister(id)).await
    }

    async fn abandon(&self, id: &RunnerId) -> Result<()> {
        self.count("abandon", self.inner.abandon(id)).await
    }

    async fn runners(&self) -> Result<Vec<Runner>> {
        self.count("runners", self.inner.runners()).await
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        self.count("queued_jobs", self.inner.queued_jobs()).await
    }

    fn changes(&self) -> Changes {
        self.inner.changes()
    }

    async fn drive(&self, id: &RunnerId, guest: Arc<dyn Guest>) -> Result<()> {
        let result = self.inner.drive(id, guest).await;
        self.ended("drive", &result);
        result
    }

    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        self.count("reserve", self.inner.reserve(id, reservation)).await
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        self.count("release", self.inner.release(id)).await
    }
}
