//! Calls about the host.

use super::{Connection, Failure, Kind};

/// What the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) processors: u32,
    pub(crate) memory_mib: u64,
}

impl Connection {
    /// What the host has, used or not.
    pub(crate) async fn host(&self) -> Result<Host, Failure> {
        self.call(Kind::Look, |connect| {
            let info = connect.node_info()?;
            Ok(Host { processors: info.cpus, memory_mib: info.memory / 1024 })
        })
        .await
    }

    /// Of libvirt, and of the emulator if there is one.
    pub(crate) async fn versions(&self) -> Result<(u32, Option<u32>), Failure> {
        self.call(Kind::Look, |connect| {
            let libvirt = connect.lib_version()?;
            Ok((libvirt, connect.hyp_version().ok().filter(|version| *version > 0)))
        })
        .await
    }

    /// What the host and its emulators can do, as libvirt says it in XML.
    pub(crate) async fn capabilities(&self) -> Result<String, Failure> {
        self.call(Kind::Look, |connect| connect.capabilities()).await
    }
}
