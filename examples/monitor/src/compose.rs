//! Puts the backends together. The only file that names one.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use runner_core::{
    Error, Hypervisor, ImageBuilder, ImageId, OwnerId, Result,
    hypervisor::HypervisorCapabilities,
    image::{BuildLog, Image, Recipe},
};

use crate::{config::Config, opening::Opening};

/// What makes machines and images.
pub struct Backends {
    /// Makes the machines.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Makes the images.
    pub builder: Arc<dyn ImageBuilder>,
}

/// The backends that a configuration asks for. What they make is `owner`'s, and kept below `data_dir`.
///
/// # Errors
/// When a backend cannot even be set up. One that cannot work (yet) is fine: the pool says so.
pub async fn backends(
    _config: &Config,
    _data_dir: &Path,
    _owner: &OwnerId,
) -> anyhow::Result<Backends> {
    let capabilities = HypervisorCapabilities { guest: true, ..HypervisorCapabilities::default() };
    let hypervisor = Opening::new(capabilities, || async { refuse("open a hypervisor") });
    Ok(Backends { hypervisor: Arc::new(hypervisor), builder: Arc::new(Absent) })
}

/// Stands where a builder is missing, and says so to whoever asks.
struct Absent;

fn refuse<T>(doing: &str) -> Result<T> {
    let reason = std::io::Error::other("this build has no backend");
    Err(Error::backend("monitor", doing, reason))
}

#[async_trait]
impl ImageBuilder for Absent {
    async fn build(&self, recipe: &Recipe, _log: BuildLog) -> Result<Image> {
        refuse(&format!("build the image of {}", recipe.profile))
    }

    async fn delete(&self, id: &ImageId) -> Result<()> {
        refuse(&format!("delete image {id}"))
    }

    async fn images(&self) -> Result<Vec<Image>> {
        refuse("list images")
    }
}
