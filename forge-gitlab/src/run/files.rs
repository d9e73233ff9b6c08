//! Moves a job's caches and artifacts between its guest, this host and GitLab.

use std::time::Duration;

use runner_core::{Error, Result};

use super::{LOOK, Outcome, Run};
use crate::{
    artifacts, cache,
    error::BACKEND,
    job::Wish,
    luggage::Luggage,
    payload::When,
    stages::{SoFar, Stage},
    update::Reason,
};

impl Run<'_> {
    /// Moves caches and artifacts, unless the job has to end meanwhile.
    pub(super) async fn carry_luggage(&self, stage: Stage) -> Result<Outcome> {
        let left =
            Duration::try_from(self.deadline().duration_since(self.now())).unwrap_or_default();
        let mut wishes = self.job.wishes();
        let aborted = wishes.wait_for(|wish| matches!(wish, Wish::Abort(_)));
        let moved = tokio::select! {
            moved = tokio::time::timeout(left, self.luggage(stage)) => moved,
            _ = aborted => return Ok(Outcome::Over(Reason::UnknownFailure, "canceled".to_owned())),
        };
        let error = match moved {
            Ok(Ok(())) => return Ok(Outcome::Done),
            Ok(Err(error)) => error,
            Err(_) => return Ok(Outcome::Over(Reason::JobExecutionTimeout, self.took_too_long())),
        };
        let ours = match &error {
            Error::Backend { backend, .. } => *backend == BACKEND,
            Error::NotFound { .. } => {
                // Artifacts, or the machine?
                let ready = tokio::time::timeout(LOOK, self.guest.ready()).await;
                !matches!(ready, Ok(Err(gone)) if gone.is_not_found())
            }
            _ => true,
        };
        if !ours {
            return Err(error);
        }
        let why = runner_core::error::chain(&error);
        if matches!(stage, Stage::RestoreCache | Stage::StoreCache) {
            // A job must not depend on a cache.
            self.job.say(format!("WARNING: {why}"))?;
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Failed(Reason::RunnerSystemFailure, None, Some(why)))
    }

    async fn luggage(&self, stage: Stage) -> Result<()> {
        let (payload, job, variables) = (&self.job.payload, self.job, &self.variables);
        let (config, client) = (&self.inner.config, &self.inner.client);
        let root = config.state_dir.join("cache");
        let success = self.so_far() == SoFar::Well;
        let (artifact_limit, cache_limit) =
            (config.limits.artifact_bytes, config.limits.cache_bytes);
        let luggage = |n: usize| -> Result<Luggage<'_>> {
            let process = self.process(&n.to_string(), 0)?.to_string();
            Ok(Luggage { guest: self.guest, process, dir: &self.dir, tmp: &self.tmp })
        };
        let is_due = |when: When| when.holds(success);
        match stage {
            Stage::RestoreCache => {
                for (n, cache) in payload.cache.iter().enumerate() {
                    job.say(cache::restore(&root, job, cache, variables, &luggage(n)?).await?)?;
                }
            }
            Stage::StoreCache => {
                let due = payload.cache.iter().enumerate().filter(|(_, cache)| is_due(cache.when));
                for (n, cache) in due {
                    let notes =
                        cache::store(&root, job, cache, variables, &luggage(n)?, cache_limit)
                            .await?;
                    notes.iter().try_for_each(|note| job.say(note))?;
                }
            }
            Stage::Dependencies => {
                for (n, from) in payload.dependencies.iter().enumerate() {
                    let Some(file) = &from.artifacts_file else { continue };
                    job.say(format!("Downloading artifacts for {} ({})...", from.name, from.id))?;
                    let luggage = luggage(n)?;
                    let count =
                        artifacts::download(client, job, from, &luggage, artifact_limit).await?;
                    job.say(format!("Unpacked {count} files of {}", file.filename))?;
                }
            }
            Stage::Upload => {
                let due = payload.artifacts.iter().enumerate().filter(|(_, a)| is_due(a.when));
                for (n, artifact) in due {
                    let kind = artifact.artifact_type.as_deref().unwrap_or("archive");
                    job.say(format!("Uploading artifacts ({kind})..."))?;
                    let luggage = luggage(n)?;
                    let sent = artifacts::upload(
                        client,
                        job,
                        artifact,
                        variables,
                        &luggage,
                        artifact_limit,
                    )
                    .await?;
                    sent.notes.iter().try_for_each(|note| job.say(note))?;
                    job.say(format!("{} files uploaded", sent.files))?;
                }
            }
            Stage::Prepare | Stage::Hook(_) | Stage::Sources | Stage::Step(_) => (),
        }
        Ok(())
    }
}
