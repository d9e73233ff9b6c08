//! Throw-away: replaced by the other half of this crate.
use std::{fs, path::PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use runner_core::{
    Result, WorkerName,
    hypervisor::{ExitReason, InstanceSpec},
};

use crate::{domain::Mark, error};

pub(crate) struct Furnished {
    pub(crate) console_log: Option<PathBuf>,
}

#[async_trait]
pub(crate) trait Storage: Send + Sync {
    async fn begin(&self, mark: &Mark) -> Result<()>;
    async fn furnish(&self, spec: &InstanceSpec) -> Result<Furnished>;
    async fn entries(&self) -> Result<Vec<Mark>>;
    async fn remove(&self, name: &WorkerName) -> Result<()>;
    async fn set_exit(&self, name: &WorkerName, reason: &ExitReason) -> Result<()>;
    async fn exit(&self, name: &WorkerName) -> Result<Option<ExitReason>>;
    async fn console_size(&self, name: &WorkerName) -> Result<u64>;
    async fn read_console(&self, name: &WorkerName, offset: u64, limit: usize) -> Result<Bytes>;
}

pub(crate) struct Local(pub(crate) PathBuf);

#[async_trait]
impl Storage for Local {
    async fn begin(&self, mark: &Mark) -> Result<()> {
        let path = self.0.join(mark.name.as_str());
        fs::create_dir_all(&path)
            .and_then(|()| fs::write(path.join("mark.json"), serde_json::to_vec(mark)?))
            .map_err(|e| error::io("begin", e))
    }
    async fn furnish(&self, spec: &InstanceSpec) -> Result<Furnished> {
        Ok(Furnished { console_log: Some(self.0.join(spec.name.as_str()).join("console.log")) })
    }
    async fn entries(&self) -> Result<Vec<Mark>> {
        let mut all = Vec::new();
        for e in fs::read_dir(&self.0).map_err(|e| error::io("list", e))?.flatten() {
            if let Ok(text) = fs::read(e.path().join("mark.json")) {
                all.extend(serde_json::from_slice(&text));
            }
        }
        Ok(all)
    }
    async fn remove(&self, name: &WorkerName) -> Result<()> {
        match fs::remove_dir_all(self.0.join(name.as_str())) {
            Err(e) if !error::is_missing(&e) => Err(error::io("remove", e)),
            _ => Ok(()),
        }
    }
    async fn set_exit(&self, name: &WorkerName, reason: &ExitReason) -> Result<()> {
        let path = self.0.join(name.as_str()).join("exit.json");
        if !path.exists() {
            let _ = fs::write(path, serde_json::to_vec(reason).unwrap_or_default());
        }
        Ok(())
    }
    async fn exit(&self, name: &WorkerName) -> Result<Option<ExitReason>> {
        Ok(fs::read(self.0.join(name.as_str()).join("exit.json"))
            .ok()
            .and_then(|t| serde_json::from_slice(&t).ok()))
    }
    async fn console_size(&self, name: &WorkerName) -> Result<u64> {
        Ok(fs::metadata(self.0.join(name.as_str()).join("console.log")).map_or(0, |m| m.len()))
    }
    async fn read_console(&self, name: &WorkerName, offset: u64, limit: usize) -> Result<Bytes> {
        let all = fs::read(self.0.join(name.as_str()).join("console.log")).unwrap_or_default();
        let from = (offset as usize).min(all.len());
        let to = (from + limit).min(all.len());
        Ok(Bytes::copy_from_slice(&all[from..to]))
    }
}
