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
}
