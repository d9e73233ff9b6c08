//! Writing and reading whole files in the guest.

use bytes::Bytes;
use runner_core::{Error, Result};

use crate::{
    error::{self, Complaint},
    guest::AgentGuest,
    open_file::OpenFile,
    transport::{CallError, Transport},
};

const WRITE: &str = include_str!("scripts/write.sh");

impl<T: Transport> AgentGuest<T> {
    /// Through standard input of a script and not with the agent's own writing of files: that would make the
    /// file readable to all in the guest before its mode is set.
    pub(crate) async fn write(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        check(path)?;
        if mode & !0o7777 != 0 {
            return Err(Error::invalid(format!("file mode {mode:o}"), "use permission bits only"));
        }
        let (mode, temporary) =
            (format!("{mode:o}"), format!("{path}.{:016x}", rand::random::<u64>()));
        let doing = || format!("write {path} in {}", self.instance);

        let most = self.agent.max_content();
        let count = content.len().div_ceil(most).max(1);
        for (n, piece) in (0..count).zip(content.chunks(most).chain([&[][..]])) {
            let first = if n == 0 { "first" } else { "more" };
            let last = if n + 1 == count { "last" } else { "more" };
            let arguments = [path, &temporary, &mode, first, last];
            let outcome = self.agent.script(WRITE, &arguments, piece).await;
            let outcome = outcome.map_err(|error| error::call(&self.instance, doing(), error))?;
            if outcome.code != Some(0) {
                return Err(match Complaint::of(&outcome.stderr) {
                    Complaint::Full => error::full(path, content.len()),
                    Complaint::Directory => Error::invalid(path, "it is a directory"),
                    _ => error::failed(doing(), outcome.stderr),
                });
            }
        }
        Ok(())
    }

    pub(crate) async fn read(&self, path: &str, offset: u64, max_bytes: usize) -> Result<Bytes> {
        check(path)?;
        // Further on, file systems refuse to seek; no file is that long.
        let offset = offset.min(1 << 43);
        let read = async {
            let mut file = OpenFile::open(&self.agent, path).await?;
            file.read_all(offset, max_bytes).await
        };
        let piece = read.await.map_err(|error| match &error {
            CallError::Refused(why) => match Complaint::of(why) {
                Complaint::Missing => Error::not_found(path),
                Complaint::Directory => Error::invalid(path, "it is a directory"),
                _ => {
                    error::call(&self.instance, format!("read {path} in {}", self.instance), error)
                }
            },
            _ => error::call(&self.instance, format!("read {path} in {}", self.instance), error),
        })?;
        Ok(piece.content)
    }
}

fn check(path: &str) -> Result<()> {
    if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
        return Err(Error::invalid(format!("path {path:?}"), "use the absolute path of a file"));
    }
    Ok(())
}
