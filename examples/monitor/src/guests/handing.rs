//! A forge whose runners' machines are known here: whatever it gives for a machine is told together with where
//! to ask, and kept until it is asked for.

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use runner_core::{
    Changes, Error, Forge, Guest, ProfileName, ReservationId, Result, RunnerId,
    forge::{ForgeCapabilities, QueuedJob, Registration, Runner, RunnerSpec},
};

use super::Desk;
use crate::remote::Outside;

/// The largest boot script that is handed out, in bytes.
const MOST_SCRIPT_BYTES: u64 = 1 << 20;

/// A forge, with a desk for the machines of its runners.
pub struct Handing {
    inner: Arc<dyn Forge>,
    outside: Arc<dyn Outside>,
    desk: Desk,
}

impl Handing {
    /// `inner`, whose machines are told what `outside` says they are to be told.
    pub fn new(inner: Arc<dyn Forge>, outside: Arc<dyn Outside>, desk: Desk) -> Self {
        Self { inner, outside, desk }
    }

    async fn boot_script(&self, profile: &ProfileName) -> Result<Option<String>> {
        let Some(directory) = &self.desk.config().boot_scripts else { return Ok(None) };
        let file = directory.join(profile.as_str()).join("boot-script");
        let read = tokio::task::spawn_blocking(move || script(&file)).await;
        let doing = || format!("read the boot script of profile {profile}");
        read.map_err(|error| Error::backend("guests", doing(), error))?
            .map_err(|error| Error::backend("guests", doing(), error))
    }
}

fn script(file: &Path) -> std::io::Result<Option<String>> {
    let size = match std::fs::metadata(file) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > MOST_SCRIPT_BYTES {
        let most = MOST_SCRIPT_BYTES >> 20;
        let problem = format!("{} is larger than {most} MiB", file.display());
        return Err(std::io::Error::other(problem));
    }
    std::fs::read_to_string(file).map(Some)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Forge for Handing {
    fn capabilities(&self) -> ForgeCapabilities {
        self.inner.capabilities()
    }

    async fn register(&self, spec: &RunnerSpec) -> Result<Registration> {
        // What cannot be read keeps a machine from being made, and not only from starting.
        let boot_script = self.boot_script(&spec.profile).await?;
        let Registration { id, secret } = self.inner.register(spec).await?;
        let Some(secret) = secret else { return Ok(Registration { id, secret }) };
        // Before there is a machine that could ask.
        self.desk.0.kept.put(&spec.name, secret.clone(), boot_script).await?;
        let told = match self.desk.tells(&spec.profile) {
            true => {
                let contact = self.desk.contact(&spec.name);
                Some(self.outside.user_data(&spec.profile, &secret, &contact)?)
            }
            false => None,
        };
        Ok(Registration { id, secret: told })
    }

    async fn deregister(&self, id: &RunnerId) -> Result<()> {
        self.inner.deregister(id).await
    }

    async fn abandon(&self, id: &RunnerId) -> Result<()> {
        self.inner.abandon(id).await
    }

    async fn runners(&self) -> Result<Vec<Runner>> {
        self.inner.runners().await
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>> {
        self.inner.queued_jobs().await
    }

    fn changes(&self) -> Changes {
        self.inner.changes()
    }

    async fn drive(&self, id: &RunnerId, guest: Arc<dyn Guest>) -> Result<()> {
        self.inner.drive(id, guest).await
    }

    async fn reserve(&self, id: &RunnerId, reservation: &ReservationId) -> Result<()> {
        self.inner.reserve(id, reservation).await
    }

    async fn release(&self, id: &RunnerId) -> Result<()> {
        self.inner.release(id).await
    }
}
