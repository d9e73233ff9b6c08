//! Calls about the consoles of domains.

use std::{sync::Arc, thread};

use tokio::sync::watch;
use uuid::Uuid;
use virt::{stream::Stream, sys};

use super::{Connection, Failure, Kind, link::Link};
use crate::events::stream::{Drain, Flow};

/// A console that is held open. What the guest writes there is thrown away, however slow its holder is, so that it
/// never waits for us.
pub(crate) struct OpenConsole {
    _drain: Held,
    /// How many bytes came so far; none once no more will come.
    bytes: watch::Receiver<Option<u64>>,
    link: Arc<Link>,
}

impl Connection {
    /// Opens the console of a domain that runs. Whoever else has it open keeps it: then this fails.
    pub(crate) async fn open_console(&self, domain: Uuid) -> Result<OpenConsole, Failure> {
        let link = self.shared.link()?;
        let (sender, bytes) = watch::channel(Some(0_u64));
        let drain = self
            .call(Kind::Look, move |connect| {
                let domain = connect.lookup_domain_by_uuid(domain)?;
                let stream = Stream::new(connect, sys::VIR_STREAM_NONBLOCK)?;
                domain.open_console(None, &stream, sys::VIR_DOMAIN_CONSOLE_SAFE)?;
                let drain = Drain::start(stream, move |flow| {
                    sender.send_modify(|bytes| match flow {
                        Flow::Bytes(count) => {
                            *bytes = bytes.map(|bytes| bytes.saturating_add(count as u64));
                        }
                        Flow::Over => *bytes = None,
                    });
                })?;
                Ok(Held(Some(drain)))
            })
            .await?;
        Ok(OpenConsole { _drain: drain, bytes, link })
    }
}

impl OpenConsole {
    /// Waits until the guest has written since this was called last: how many bytes in all, or none if it is over,
    /// because the domain ended, or someone took its console, or the connection is gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn bytes(&mut self) -> Option<u64> {
        tokio::select! {
            changed = self.bytes.changed() => changed.ok().and_then(|()| *self.bytes.borrow_and_update()),
            _ = self.link.closed() => None,
        }
    }
}

/// Ends in a thread of its own.
struct Held(Option<Drain>);

impl Drop for Held {
    fn drop(&mut self) {
        let drain = self.0.take();
        // To close is to tell the daemon, and it may hang.
        let close = thread::Builder::new().name("libvirt-close".to_owned());
        if let Err(error) = close.spawn(move || drop(drain)) {
            tracing::warn!(%error, "Closed a console without a thread of its own.");
        }
    }
}
