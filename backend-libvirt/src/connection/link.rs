//! One connection of libvirt, from its opening to its end.

use std::{sync::Arc, thread};

use tokio::sync::{oneshot, watch};
use virt::connect::Connect;

use super::Failure;
use crate::{
    events::{self, Event, Listener, Subscription},
    uri::LibvirtUri,
};

/// How often to ask a quiet daemon whether it is there, in seconds, and how often in vain.
const KEEP_ALIVE: (i32, u32) = (5, 3);

/// Who is told what happens to domains.
pub(crate) type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// A connection that was opened.
pub(crate) struct Link {
    // Always there until it is dropped.
    parts: Option<(Subscription, Connect)>,
    closed: watch::Receiver<Option<&'static str>>,
}

impl Link {
    /// Opens a connection in a thread of its own, however long that takes.
    pub(crate) fn open(
        uri: LibvirtUri,
        on_event: Option<OnEvent>,
    ) -> oneshot::Receiver<Result<Self, Failure>> {
        let (done, opened) = oneshot::channel();
        let open = move || {
            // Nobody may wait any more; then it is closed again, here.
            let _ = done.send(Self::open_here(&uri, on_event));
        };
        if let Err(error) = thread::Builder::new().name("libvirt-open".to_owned()).spawn(open) {
            // The sender went with it, which the receiver sees.
            tracing::error!(%error, "Could not start a thread to connect to libvirt.");
        }
        opened
    }

    fn open_here(uri: &LibvirtUri, on_event: Option<OnEvent>) -> Result<Self, Failure> {
        events::start().map_err(|why| Failure::refused(None, why))?;
        let refused = |error| Failure::of(uri, &error);
        let connect = Connect::open(Some(uri.expose())).map_err(refused)?;
        // Drivers in our own process need none and refuse it.
        let _ = connect.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1);
        let (close, closed) = watch::channel(None);
        let domains = on_event.is_some();
        let listener = Arc::new(Listener {
            event: Box::new(move |event| {
                if let Some(on_event) = &on_event {
                    on_event(event);
                }
            }),
            closed: Box::new(move |why| {
                close.send_replace(Some(why));
            }),
        });
        let subscription = Subscription::register(&connect, &listener, domains).map_err(refused)?;
        Ok(Self { parts: Some((subscription, connect)), closed })
    }

    pub(crate) fn connect(&self) -> &Connect {
        // Only `drop` takes it.
        &self.parts.as_ref().expect("a link has its connection until it is dropped").1
    }

    /// Returns when the connection is closed: why.
    pub(crate) async fn closed(&self) -> &'static str {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(why) => (*why).unwrap_or_default(),
            // libvirt has forgotten us, which it does of connections that are closed.
            Err(_) => "the connection ended",
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let parts = self.parts.take();
        // To close is to tell the daemon, and it may hang.
        let close = thread::Builder::new().name("libvirt-close".to_owned());
        if let Err(error) = close.spawn(move || drop(parts)) {
            tracing::warn!(%error, "Closed a connection to libvirt without a thread of its own.");
        }
    }
}
