//! What outlives a call: for each job, a directory with its machine and a record of whose it is.
//!
//! ```text
//! STATE/lock             held while it is decided what there is
//! STATE/jobs/NAME/record which image the machine boots, and when it is nobody's any more
//! STATE/jobs/NAME/root   the machine
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use runner_core::{ImageId, WorkerName};
use serde::{Deserialize, Serialize};

use crate::owner::Process;

pub struct State(PathBuf);

/// What is known of a job.
#[derive(Serialize, Deserialize)]
pub struct Record {
    pub image: ImageId,
    pub owner: Option<Process>,
    /// Long after GitLab has ended it.
    pub until: Timestamp,
}

impl Record {
    /// Whether the job is over for certain, whoever failed to clean up after it.
    pub fn is_dead(&self, now: Timestamp) -> bool {
        match &self.owner {
            Some(owner) => !owner.may_live(),
            None => now > self.until,
        }
    }
}

impl State {
    pub fn open(dir: &Path) -> Result<Self> {
        let state = Self(dir.to_owned());
        make_private(dir)?;
        make_private(&state.0.join("jobs"))?;
        Ok(state)
    }

    /// Keeps other calls from deciding anything until the file is closed.
    pub fn lock(&self) -> Result<File> {
        let path = self.0.join("lock");
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        file.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(file)
    }

    fn job(&self, name: &WorkerName) -> PathBuf {
        self.0.join("jobs").join(name.as_str())
    }

    pub fn has(&self, name: &WorkerName) -> bool {
        self.job(name).exists()
    }

    /// A place for the job's machine.
    pub fn root(&self, name: &WorkerName) -> PathBuf {
        self.job(name).join("root")
    }

    /// Notes a job, before anything is made for it. Needs the lock.
    pub fn begin(&self, name: &WorkerName, record: &Record) -> Result<()> {
        let (draft, job) = (self.0.join("draft"), self.job(name));
        remove(&draft)?;
        make_private(&draft)?;
        let noted = fs::write(draft.join("record"), serde_json::to_vec(record)?)
            .and_then(|()| fs::rename(&draft, &job));
        noted.with_context(|| format!("noting the job in {}", job.display()))
    }

    /// Every job that was begun and not ended.
    pub fn jobs(&self) -> Result<Vec<(WorkerName, Record)>> {
        let dir = self.0.join("jobs");
        let doing = || format!("looking for jobs in {}", dir.display());
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&dir).with_context(doing)? {
            let name = entry.with_context(doing)?.file_name();
            // Others are not of our making.
            let Ok(name) = WorkerName::new(name.to_string_lossy()) else { continue };
            let record = match fs::read(self.job(&name).join("record")) {
                // It ended in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                record => record.with_context(doing)?,
            };
            jobs.push((name, serde_json::from_slice(&record).with_context(doing)?));
        }
        Ok(jobs)
    }

    /// Forgets a job whose machine is gone from `root`.
    pub fn end(&self, name: &WorkerName, root: &Path) -> Result<()> {
        // First the rest: as long as there is a record, somebody will come back for it.
        remove(root)?;
        remove(&self.job(name))
    }
}

fn make_private(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("making {}", dir.display()))
}

/// Fine if there is none.
fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}
