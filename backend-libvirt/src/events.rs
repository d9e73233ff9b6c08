//! What libvirt says by itself: of domains, and of a connection's end.
//!
//! The crate `virt` has no wrapper for these, so this is one. No other file has `unsafe` in it but the one below,
//! about streams. Its soundness rests on four rules of libvirt:
//!
//! 1. A callback and its free function get the very pointer that they were registered with.
//! 2. The free function is called once for a registration that succeeded, after the last call of the callback
//!    has returned, in whatever thread; and never for a registration that failed.
//! 3. The objects a callback is handed are valid until it returns, and are not the callback's to free.
//! 4. Callbacks are called by whoever runs the event loop. That is one thread of ours.
//!
//! For rule 2 see `virObjectEventCallbackListMarkDeleteID` and `virConnectCloseCallbackDataCall` in libvirt's
//! source: what is deregistered while events are being delivered is only marked, and freed afterwards.

pub(crate) mod stream;

use std::{
    ffi::{CStr, c_char, c_int, c_longlong, c_uint, c_void},
    mem,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use uuid::Uuid;
use virt::{connect::Connect, error::Error, sys};

/// How long to wait before the event loop is tried again after it failed.
const PAUSE: Duration = Duration::from_millis(200);

/// What libvirt says of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Which domain.
    pub(crate) domain: Uuid,
    pub(crate) what: What,
}

/// What happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Its life took a turn: `virDomainEventType`, and a detail that depends on it.
    Lifecycle { event: u32, detail: u32 },
    /// The guest rebooted, which a domain of ours does not survive.
    Reboot,
    /// The guest's agent came or went.
    Agent,
    /// libvirt lost the way to talk to the machine.
    ControlError,
    /// QEMU says why the machine ends: the `data` of its event `SHUTDOWN`, in JSON.
    Shutdown(String),
}

/// Who is told. Both are called by the thread of the event loop, and must not block or call libvirt.
pub(crate) struct Listener {
    /// Something happened to a domain.
    pub(crate) event: Box<dyn Fn(Event) + Send + Sync>,
    /// The connection is closed, why in words. Called once at most.
    pub(crate) closed: Box<dyn Fn(&'static str) + Send + Sync>,
}

/// Makes libvirt deliver events in a thread of its own, for the rest of the process. Call it before any
/// connection is opened: those that are older hear nothing.
///
/// # Errors
/// Those of libvirt, or of starting a thread; the same at every later call.
pub(crate) fn start() -> Result<(), &'static str> {
    static STARTED: OnceLock<Result<(), &'static str>> = OnceLock::new();
    *STARTED.get_or_init(|| {
        // libvirt would print each error beside returning it.
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl()
            .map_err(|_| "libvirt could not set its event loop up")?;
        let run = || loop {
            if virt::event::event_run_default_impl().is_err() {
                thread::sleep(PAUSE);
            }
        };
        let thread = thread::Builder::new().name("libvirt-events".to_owned()).spawn(run);
        thread.map(|_| ()).map_err(|_| "the thread of libvirt's event loop could not be started")
    })
}

/// A listener registered with a connection, until this is dropped.
///
/// Dropping it asks the daemon and so may block, like every call of libvirt.
pub(crate) struct Subscription {
    connect: Connect,
    domains: Vec<c_int>,
    monitor: Option<c_int>,
    close: bool,
}

impl Subscription {
    /// Has `listener` told of the end of `connect`, and of what happens to any of its `domains` if so.
    ///
    /// # Errors
    /// Those of libvirt, when it delivers no events of domains' lives. All else a driver may do without.
    pub(crate) fn register(
        connect: &Connect,
        listener: &Arc<Listener>,
        domains: bool,
    ) -> Result<Self, Error> {
        let mut all =
            Self { connect: connect.clone(), domains: Vec::new(), monitor: None, close: false };
        all.close(listener);
        if !domains {
            return Ok(all);
        }
        all.domain(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle(on_lifecycle), listener)?;
        for (id, callback) in [
            (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent_lifecycle(on_agent)),
            (sys::VIR_DOMAIN_EVENT_ID_CONTROL_ERROR, on_control_error),
            (sys::VIR_DOMAIN_EVENT_ID_REBOOT, on_reboot),
        ] {
            if let Err(error) = all.domain(id, callback, listener) {
                tracing::debug!(id, %error, "This driver tells less of its domains.");
            }
        }
        all.monitor(listener);
        Ok(all)
    }

    fn domain(
        &mut self,
        id: sys::virDomainEventID,
        callback: Generic,
        listener: &Arc<Listener>,
    ) -> Result<(), Error> {
        let opaque = lend(listener);
        // SAFETY: `connect` is a connection that lives. No domain means all of them. `callback` has the
        // signature that libvirt documents for `id`, behind the type of all, and takes `opaque` for what
        // `lend` made of it, as `free` does.
        let registered = unsafe {
            let connect = self.connect.as_ptr();
            let no_domain = std::ptr::null_mut();
            sys::virConnectDomainEventRegisterAny(
                connect,
                no_domain,
                id.cast_signed(),
                Some(callback),
                opaque,
                Some(free),
            )
        };
        if registered < 0 {
            let error = Error::last_error();
            // SAFETY: libvirt did not take `opaque` (rule 2), so it is ours to free, once.
            unsafe { free(opaque) };
            return Err(error);
        }
        self.domains.push(registered);
        Ok(())
    }

    /// Only QEMU tells a guest's reset from its shutdown; libvirt hands its words on.
    fn monitor(&mut self, listener: &Arc<Listener>) {
        let opaque = lend(listener);
        // SAFETY: as above; the name is a constant that ends with a zero and that libvirt copies, and
        // `on_monitor` has just the type that is asked for.
        let registered = unsafe {
            sys::virConnectDomainQemuMonitorEventRegister(
                self.connect.as_ptr(),
                std::ptr::null_mut(),
                c"SHUTDOWN".as_ptr(),
                Some(on_monitor),
                opaque,
                Some(free),
                0,
            )
        };
        if registered < 0 {
            // SAFETY: libvirt did not take `opaque` (rule 2).
            unsafe { free(opaque) };
        } else {
            self.monitor = Some(registered);
        }
    }

    fn close(&mut self, listener: &Arc<Listener>) {
        // A driver within our own process is never cut off. It takes a callback without a word, and forgets it
        // without freeing what goes with it.
        if self.connect.uri().is_ok_and(|uri| uri.starts_with("test:")) {
            return;
        }
        let opaque = lend(listener);
        // SAFETY: as above, and `on_close` has just the type that is asked for.
        let registered = unsafe {
            sys::virConnectRegisterCloseCallback(
                self.connect.as_ptr(),
                Some(on_close),
                opaque,
                Some(free),
            )
        };
        if registered < 0 {
            // SAFETY: libvirt did not take `opaque` (rule 2).
            unsafe { free(opaque) };
        } else {
            self.close = true;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // What fails here is a connection that is closed, of which libvirt forgets the callbacks first. None
        // of this frees a listener that is being called (rule 2).
        // SAFETY: `connect` lives until the end of this function, and each number is one that it gave out
        // and that is given back once.
        unsafe {
            let connect = self.connect.as_ptr();
            for id in self.domains.drain(..) {
                sys::virConnectDomainEventDeregisterAny(connect, id);
            }
            if let Some(id) = self.monitor.take() {
                sys::virConnectDomainQemuMonitorEventDeregister(connect, id);
            }
            if mem::take(&mut self.close) {
                sys::virConnectUnregisterCloseCallback(connect, Some(on_close));
            }
        }
    }
}

/// A share of `listener` as a pointer, to be given back to [`free`] once.
fn lend(listener: &Arc<Listener>) -> *mut c_void {
    Arc::into_raw(listener.clone()).cast_mut().cast()
}

/// Gives back what [`lend`] made.
///
/// # Safety
/// `opaque` comes from [`lend`], and nobody uses it afterwards.
unsafe extern "C" fn free(opaque: *mut c_void) {
    // SAFETY: `lend` made it by `Arc::into_raw` of the same type, and the caller gives it up.
    drop(unsafe { Arc::from_raw(opaque.cast_const().cast::<Listener>()) });
}

/// Tells the listener behind `opaque` what happened to `domain`.
///
/// # Safety
/// `opaque` comes from [`lend`] and was not freed; `domain` is a domain that lives, or null.
unsafe fn tell(opaque: *mut c_void, domain: sys::virDomainPtr, what: What) {
    let mut bytes = [0; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the buffer has the length that libvirt fills, and `domain` is as the caller promises; libvirt
    // checks for null.
    if unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } < 0 {
        return;
    }
    // SAFETY: as the caller promises, it points to a listener; listeners are shared between threads and never
    // changed, so that a shared reference is sound while others use it. libvirt holds the share it was lent
    // until we return (rule 2).
    let listener = unsafe { &*opaque.cast_const().cast::<Listener>() };
    (listener.event)(Event { domain: Uuid::from_bytes(bytes), what });
}

type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type Lifecycle =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type AgentLifecycle =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);

/// `callback` in the type that registering takes for all kinds of event.
fn lifecycle(callback: Lifecycle) -> Generic {
    // SAFETY: function pointers have one size, and this one is not called as what it becomes: libvirt casts
    // it back to `virConnectDomainEventCallback`, which is its type, before it calls it.
    unsafe { mem::transmute::<Lifecycle, Generic>(callback) }
}

/// `callback` in the type that registering takes for all kinds of event.
fn agent_lifecycle(callback: AgentLifecycle) -> Generic {
    // SAFETY: as above, with `virConnectDomainEventAgentLifecycleCallback`.
    unsafe { mem::transmute::<AgentLifecycle, Generic>(callback) }
}

/// # Safety
/// Only libvirt calls it, by the rules above; the same holds for the callbacks below. Its result means nothing.
unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let what = What::Lifecycle { event: event.cast_unsigned(), detail: detail.cast_unsigned() };
    // SAFETY: rules 1 and 3.
    unsafe { tell(opaque, domain, what) };
    0
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: rules 1 and 3.
    unsafe { tell(opaque, domain, What::Agent) };
}

unsafe extern "C" fn on_reboot(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
) {
    // SAFETY: rules 1 and 3.
    unsafe { tell(opaque, domain, What::Reboot) };
}

unsafe extern "C" fn on_control_error(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
) {
    // SAFETY: rules 1 and 3.
    unsafe { tell(opaque, domain, What::ControlError) };
}

unsafe extern "C" fn on_monitor(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: *const c_char,
    _seconds: c_longlong,
    _micros: c_uint,
    details: *const c_char,
    opaque: *mut c_void,
) {
    let details = match details.is_null() {
        true => String::new(),
        // SAFETY: a string of libvirt's that ends with a zero and lives until we return (rule 3).
        false => unsafe { CStr::from_ptr(details) }.to_string_lossy().into_owned(),
    };
    // SAFETY: rules 1 and 3.
    unsafe { tell(opaque, domain, What::Shutdown(details)) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    let why = match reason.cast_unsigned() {
        sys::VIR_CONNECT_CLOSE_REASON_EOF => "the daemon closed the connection",
        sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE => "the daemon did not answer for too long",
        sys::VIR_CONNECT_CLOSE_REASON_CLIENT => "the connection was given up",
        _ => "the connection failed",
    };
    // SAFETY: rule 1, and as in `tell`.
    let listener = unsafe { &*opaque.cast_const().cast::<Listener>() };
    (listener.closed)(why);
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicBool, AtomicUsize, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A connection to a host that libvirt makes up, and that nobody else has.
    fn connect() -> Connect {
        start().unwrap();
        let host = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(host.path(), "<node/>").unwrap();
        Connect::open(Some(&format!("test://{}", host.path().display()))).unwrap()
    }

    fn document(name: &str) -> String {
        format!(
            "<domain type='test'><name>{name}</name><memory>1024</memory>\
             <os><type>hvm</type></os></domain>"
        )
    }

    /// One life of a domain: four events.
    fn live(connect: &Connect, name: &str) {
        let domain = connect.define_domain_xml(&document(name)).unwrap();
        domain.create().unwrap();
        domain.destroy().unwrap();
        domain.undefine().unwrap();
    }

    const LIFE: [u32; 4] = [
        sys::VIR_DOMAIN_EVENT_DEFINED,
        sys::VIR_DOMAIN_EVENT_STARTED,
        sys::VIR_DOMAIN_EVENT_STOPPED,
        sys::VIR_DOMAIN_EVENT_UNDEFINED,
    ];

    #[test]
    fn ten_thousand_events_arrive_in_their_order() {
        let connect = connect();
        let (heard, events) = mpsc::channel();
        let heard = Mutex::new(heard);
        let listener = Arc::new(Listener {
            event: Box::new(move |event| drop(heard.lock().unwrap().send(event))),
            closed: Box::new(|_| {}),
        });
        let subscription = Subscription::register(&connect, &listener, true).unwrap();
        for n in 0..2500 {
            live(&connect, &format!("many-{n}"));
        }
        for n in 0..10_000 {
            let event = events.recv_timeout(LONG).unwrap();
            let What::Lifecycle { event, .. } = event.what else { panic!("{event:?}") };
            assert_eq!(event, LIFE[n % 4], "event {n}");
        }
        drop(subscription);
        live(&connect, "unheard");
        assert!(events.try_recv().is_err(), "an event after the end");
        freed(&listener);
    }

    /// Waits until libvirt has given all shares of a listener back.
    fn freed(listener: &Arc<Listener>) {
        let start = std::time::Instant::now();
        while Arc::strong_count(listener) > 1 {
            assert!(start.elapsed() < LONG, "libvirt keeps a listener");
            thread::yield_now();
        }
    }

    /// Says when it is used after its end.
    struct Canary {
        dead: &'static AtomicBool,
        misused: Arc<AtomicBool>,
        heard: Arc<AtomicUsize>,
    }

    impl Canary {
        fn sing(&self) {
            self.heard.fetch_add(1, Ordering::Relaxed);
            if self.dead.load(Ordering::SeqCst) {
                self.misused.store(true, Ordering::SeqCst);
            }
        }
    }

    impl Drop for Canary {
        fn drop(&mut self) {
            self.dead.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn nobody_is_called_after_the_end_however_often_connections_come_and_go() {
        let (misused, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..200 {
            // Leaked, so that it can be looked at when all else is gone.
            let dead: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
            let canary = Canary { dead, misused: misused.clone(), heard: heard.clone() };
            let listener = Arc::new(Listener {
                event: Box::new(move |_| canary.sing()),
                closed: Box::new(|_| {}),
            });
            let connect = connect();
            let over = Arc::new(AtomicBool::new(false));
            let busy = {
                let (over, connect) = (over.clone(), connect.clone());
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        live(&connect, "busy");
                    }
                })
            };
            let before = heard.load(Ordering::Relaxed);
            let subscription = Subscription::register(&connect, &listener, true).unwrap();
            while heard.load(Ordering::Relaxed) == before {
                thread::yield_now();
            }
            // While events are on their way.
            drop(subscription);
            freed(&listener);
            drop(listener);
            assert!(dead.load(Ordering::SeqCst), "a listener was not freed");
            over.store(true, Ordering::Relaxed);
            busy.join().unwrap();
        }
        assert!(!misused.load(Ordering::SeqCst), "a listener was called after its end");
    }
}
