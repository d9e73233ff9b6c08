//! That a stream has something to read: it is read at once, and thrown away.
//!
//! The crate `virt` has a wrapper for this, which gives libvirt the address of a value that may move or go while
//! it is called. What libvirt gets here is a number, and nobody takes it for an address: a call that comes too
//! late finds nothing under it. So nothing rests on when libvirt is done with it.

use std::{
    collections::HashMap,
    ffi::{c_int, c_void},
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use virt::{error::Error, stream::Stream, sys};

/// What is read at once, in bytes; libvirt calls again while there is more.
const PIECE: usize = 64 * 1024;

/// What came of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// So many bytes.
    Bytes(usize),
    /// Its end, or that of the connection.
    Over,
}

/// A stream that is emptied as it fills, until this is dropped.
///
/// Dropping it asks the daemon and so may block, like every call of libvirt.
pub(crate) struct Drain {
    number: usize,
    drained: Arc<Drained>,
}

struct Drained {
    /// Taken by whoever closes it, so that the thread of the event loop never has the last share.
    stream: Mutex<Option<Stream>>,
    on_flow: Box<dyn Fn(Flow) + Send + Sync>,
}

static ALL: Mutex<Option<HashMap<usize, Arc<Drained>>>> = Mutex::new(None);
static NEXT: AtomicUsize = AtomicUsize::new(1);

impl Drain {
    /// Empties `stream`, which is open and does not block. `on_flow` is called by the thread of the event loop, and
    /// must not block or call libvirt.
    ///
    /// # Errors
    /// Those of libvirt. The stream is closed then.
    pub(crate) fn start(
        stream: Stream,
        on_flow: impl Fn(Flow) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: a copy of the pointer for the call below, during which this function has the stream.
        let pointer = unsafe { stream.as_ptr() };
        let stream = Mutex::new(Some(stream));
        let drained = Arc::new(Drained { stream, on_flow: Box::new(on_flow) });
        all().get_or_insert_default().insert(number, drained.clone());
        // From here on it is closed when this is dropped.
        let drain = Self { number, drained };
        let events = sys::VIR_STREAM_EVENT_READABLE
            | sys::VIR_STREAM_EVENT_ERROR
            | sys::VIR_STREAM_EVENT_HANGUP;
        // SAFETY: `pointer` is a stream that lives: `drain` has it. `on_event` has the type that is asked for, and
        // takes its last argument for a number, which needs no freeing.
        let added = unsafe {
            sys::virStreamEventAddCallback(
                pointer,
                events.cast_signed(),
                Some(on_event),
                ptr::without_provenance_mut(number),
                None,
            )
        };
        if added < 0 { Err(Error::last_error()) } else { Ok(drain) }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if let Some(all) = all().as_mut() {
            all.remove(&self.number);
        }
        let stream = self.drained.lock().take();
        if let Some(stream) = stream {
            // Either fails if it has ended.
            let _ = stream.event_remove_callback();
            let _ = stream.abort();
        }
    }
}

impl Drained {
    fn lock(&self) -> MutexGuard<'_, Option<Stream>> {
        // Every change is one call, so that a panic leaves nothing half done.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self) {
        let flow = {
            let stream = self.lock();
            let Some(stream) = &*stream else { return };
            let mut piece = [0; PIECE];
            match stream.recv(&mut piece) {
                Ok(count) if count > 0 => Flow::Bytes(count.unsigned_abs()),
                // It was called because there is something: this is its end, of which libvirt would tell for ever.
                _ => {
                    let _ = stream.event_remove_callback();
                    Flow::Over
                }
            }
        };
        (self.on_flow)(flow);
    }
}

fn all() -> MutexGuard<'static, Option<HashMap<usize, Arc<Drained>>>> {
    // As above.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called by libvirt, and safe for anybody to call.
extern "C" fn on_event(_: sys::virStreamPtr, _events: c_int, number: *mut c_void) {
    let drained = all().as_ref().and_then(|all| all.get(&number.addr()).cloned());
    if let Some(drained) = drained {
        drained.drain();
    }
}
