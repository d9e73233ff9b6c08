//! The directory of one instance: whether it lives, why it stopped, and the files beside its disk.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use runner_core::hypervisor::ExitReason;

use machine_disks::{
    lock,
    private::{self, is_missing},
};

use crate::process;

const EXIT: &str = "exit.json";
/// What QEMU holds for as long as it lives.
pub(crate) const LOCK: &str = "lock";
/// The socket of the machine protocol.
pub(crate) const QMP: &str = "qmp";
/// The socket of the guest's agent.
pub(crate) const AGENT: &str = "agent";
/// QEMU's standard output and error.
pub(crate) const STDERR: &str = "stderr";
/// What QEMU was told, an argument a line, for whoever wants to know.
pub(crate) const ARGV: &str = "argv";

/// The directory of one instance.
#[derive(Debug, Clone)]
pub(crate) struct InstanceDir {
    path: PathBuf,
}

impl InstanceDir {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The instance's name, for log lines.
    pub(crate) fn name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// What is locked while it lives.
    pub(crate) fn lock(&self) -> PathBuf {
        self.join(LOCK)
    }

    pub(crate) fn join(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Whether QEMU lives, or is about to.
    pub(crate) fn is_alive(&self) -> io::Result<bool> {
        match lock::is_held(&self.join(LOCK)) {
            // Someone removed the lock. Whoever runs there is alive still.
            Err(error) if is_missing(&error) => Ok(process::find(self)?.is_some()),
            result => result,
        }
    }

    /// Which directory it is, whatever its path.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = fs::metadata(&self.path)?;
        Ok((metadata.dev(), metadata.ino()))
    }

    pub(crate) fn exit(&self) -> io::Result<Option<ExitReason>> {
        match fs::read(self.join(EXIT)) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers why it stopped. The first reason is the true one; the others follow from it.
    pub(crate) fn set_exit(&self, reason: &ExitReason) -> io::Result<()> {
        match self.exit()? {
            Some(_) => Ok(()),
            None => private::write(&self.join(EXIT), &serde_json::to_vec(reason)?),
        }
    }

    /// Makes a file that only we may read. Replaces one that is there, whole.
    pub(crate) fn write(&self, file: &str, content: &[u8]) -> io::Result<()> {
        private::write(&self.join(file), content)
    }

    /// The end of a file, as text; nothing if it cannot be read.
    pub(crate) fn tail(&self, file: &str, max_bytes: u64) -> String {
        let read = || {
            let mut file = File::open(self.join(file))?;
            let size = file.metadata()?.len();
            file.seek(SeekFrom::Start(size.saturating_sub(max_bytes)))?;
            let mut tail = Vec::new();
            file.take(max_bytes).read_to_end(&mut tail)?;
            Ok::<_, io::Error>(tail)
        };
        let tail = read().unwrap_or_default();
        String::from_utf8_lossy(&tail).trim_matches(['\0', '\n', ' ']).to_owned()
    }
}
