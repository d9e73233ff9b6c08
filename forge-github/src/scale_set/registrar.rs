//! Only runners that the scale set itself registers take the jobs that are assigned to it.

use async_trait::async_trait;
use runner_core::{ProfileName, Result};

use super::ScaleSetListener;
use crate::{config::Registrar, error::backend, runners::Minted};

#[async_trait]
impl Registrar for ScaleSetListener {
    fn profile(&self) -> &ProfileName {
        &self.config.profile
    }

    /// What has the name is removed first; so it is never taken.
    async fn mint(&self, name: &str) -> Result<Option<Minted>> {
        let doing = || format!("register runner {name}");
        let set = self.scale_set().ok_or_else(|| {
            backend(doing(), "the scale set has not been found or made yet: see its health")
        })?;
        let (runner, jit_config) = self.service.register(set, name, "_work").await?;
        let id = u64::try_from(runner.id).map_err(|error| backend(doing(), error))?;
        Ok(Some(Minted { id, runner: None, jit_config }))
    }

    async fn registered(&self, name: &str) -> Result<Option<bool>> {
        let Some(set) = self.scale_set() else { return Ok(None) };
        let found = self.service.runner(name).await?;
        Ok(found.map(|runner| runner.runner_scale_set_id == Some(set)))
    }
}
