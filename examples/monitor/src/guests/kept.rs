//! What waits on disk for machines: for its owner only, and no longer than its worker lives.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use runner_core::{Error, Result, Secret, WorkerName};

/// What the files' names end with.
const SECRET: &str = "secret";
const BOOT_SCRIPT: &str = "boot-script";

/// Files for machines.
#[derive(Clone)]
pub(super) struct Kept(Arc<Path>);

impl Kept {
    /// Files in `path`, which is made when missing.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self(path.into()))
    }

    /// Keeps these for a worker, instead of what was kept for it.
    pub async fn put(
        &self,
        worker: &WorkerName,
        secret: Secret<String>,
        boot_script: Option<String>,
    ) -> Result<()> {
        let (secret_file, script_file) = (self.secret(worker), self.script(worker));
        self.blocking("keep what machines are handed", move |directory| {
            if let Some(script) = &boot_script {
                write(&script_file, script)?;
            }
            write(&secret_file, secret.expose())?;
            File::open(directory)?.sync_all()
        })
        .await
    }

    /// The secret, once: of any number of calls at once, one gets it.
    pub async fn take_secret(&self, worker: &WorkerName) -> Result<Option<Secret<String>>> {
        let file = self.secret(worker);
        self.blocking("hand out a runner's secret", move |directory| {
            let Some(secret) = read(&file)? else { return Ok(None) };
            match fs::remove_file(&file) {
                Ok(()) => {
                    // Before it is handed out: no crash brings it back.
                    File::open(directory)?.sync_all()?;
                    Ok(Some(Secret::new(secret)))
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The boot script, as often as it is asked for.
    pub async fn boot_script(&self, worker: &WorkerName) -> Result<Option<String>> {
        let file = self.script(worker);
        self.blocking("hand out a boot script", move |_| read(&file)).await
    }

    /// For whom something is kept.
    pub async fn workers(&self) -> Result<Vec<WorkerName>> {
        self.blocking("see what is kept for machines", |directory| {
            let mut workers = Vec::new();
            for file in fs::read_dir(directory)? {
                let name = file?.file_name();
                let worker = name.to_str().and_then(|name| name.split_once('.'));
                workers.extend(worker.and_then(|(worker, _)| WorkerName::new(worker).ok()));
            }
            workers.sort();
            workers.dedup();
            Ok(workers)
        })
        .await
    }

    /// Removes everything that is kept for a worker.
    pub async fn remove(&self, worker: &WorkerName) -> Result<()> {
        let files = [self.secret(worker), self.script(worker)];
        self.blocking("remove what a machine was not handed", move |_| {
            let partial = files.iter().map(|file| partial(file));
            for file in files.iter().cloned().chain(partial) {
                match fs::remove_file(file) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => (),
                }
            }
            Ok(())
        })
        .await
    }

    fn secret(&self, worker: &WorkerName) -> PathBuf {
        self.0.join(format!("{worker}.{SECRET}"))
    }

    fn script(&self, worker: &WorkerName) -> PathBuf {
        self.0.join(format!("{worker}.{BOOT_SCRIPT}"))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let directory = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&directory)).await {
            Ok(done) => done.map_err(|error| Error::backend("guests", doing, error)),
            Err(error) => Err(Error::backend("guests", doing, error)),
        }
    }
}

/// Whole under its name, or not there.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let partial = partial(file);
    let _ = fs::remove_file(&partial);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(partial, file)
}

fn partial(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn read(file: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_handed_out_once_whoever_asks_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path().join("guests")).unwrap();
        let worker = WorkerName::new("linux-1").unwrap();
        let secret = || Secret::new("jit".to_owned());
        kept.put(&worker, secret(), Some("#!/bin/sh\n".to_owned())).await.unwrap();
        let modes: Vec<u32> = fs::read_dir(dir.path().join("guests"))
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().mode() & 0o777)
            .collect();
        assert_eq!(modes, [0o600, 0o600]);
        let asked = futures::future::join_all((0..20).map(|_| kept.take_secret(&worker))).await;
        let handed: Vec<_> = asked.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(handed.len(), 1);
        assert_eq!(handed[0].expose(), "jit");
        let again = Kept::open(dir.path().join("guests")).unwrap();
        assert!(again.take_secret(&worker).await.unwrap().is_none());
        let script = || async { again.boot_script(&worker).await.unwrap() };
        assert_eq!(script().await.as_deref(), Some("#!/bin/sh\n"));
        assert_eq!(script().await.as_deref(), Some("#!/bin/sh\n"));
        assert_eq!(again.workers().await.unwrap(), std::slice::from_ref(&worker));
        again.remove(&worker).await.unwrap();
        assert_eq!(fs::read_dir(dir.path().join("guests")).unwrap().count(), 0);
        again.remove(&worker).await.unwrap();
    }
}
