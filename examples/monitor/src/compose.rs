//! Puts the backends together. The only file that names one.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use runner_core::{
    Capacity, Error, Hypervisor, ImageBuilder, ImageId, Result, WorkerName,
    hypervisor::{HypervisorCapabilities, Instance, InstanceSpec},
    image::{BuildLog, Image, Recipe},
};

use crate::config::Config;

/// What makes machines and images.
pub struct Backends {
    /// Makes the machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Makes the images.
    pub builder: Arc<dyn ImageBuilder>,
}

/// The backends that a configuration asks for. What they make is kept below `data_dir`.
///
/// # Errors
/// When a backend cannot even be set up. One that cannot work (yet) is fine: the pool says so.
pub async fn backends(_config: &Config, _data_dir: &Path) -> anyhow::Result<Backends> {
    Ok(Backends {
        hypervisor: Arc::new(Absent),
        builder: Arc::new(Absent),
    })
}

/// Stands where a backend is missing, and says so to whoever asks.
struct Absent;

impl Absent {
    fn refuse<T>(&self, doing: &str) -> Result<T> {
        let reason = std::io::Error::other("this build has no hypervisor");
        Err(Error::backend("monitor", doing, reason))
    }
}

#[async_trait]
impl Hypervisor for Absent {
    fn capabilities(&self) -> HypervisorCapabilities {
        HypervisorCapabilities {
            guest: true,
            ..HypervisorCapabilities::default()
        }
    }

    async fn capacity(&self) -> Result<Capacity> {
        self.refuse("tell the host's capacity")
    }

    async fn create(&self, spec: &InstanceSpec) -> Result<Instance> {
        self.refuse(&format!("create {}", spec.name))
    }

    async fn destroy(&self, name: &WorkerName) -> Result<()> {
        self.refuse(&format!("destroy {name}"))
    }

    async fn instances(&self) -> Result<Vec<Instance>> {
        self.refuse("list instances")
    }
}

#[async_trait]
impl ImageBuilder for Absent {
    async fn build(&self, recipe: &Recipe, _log: BuildLog) -> Result<Image> {
        self.refuse(&format!("build the image of {}", recipe.profile))
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        self.refuse(&format!("delete image {id}"))
    }

    async fn images(&self) -> Result<Vec<Image>> {
        self.refuse("list images")
    }
}
