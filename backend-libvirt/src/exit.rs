//! Why an instance ended, from what libvirt says of it.

use runner_core::hypervisor::ExitReason;
use serde::Deserialize;
use virt::{domain::DomainShutoffReason, sys};

use crate::events::What;

/// What an event says of the end, if it says why. The first that does is right: the others follow from it.
pub(crate) fn of_event(what: &What) -> Option<ExitReason> {
    match what {
        What::Lifecycle { event, detail } => of_lifecycle(*event, *detail),
        What::Shutdown(details) => of_shutdown(details),
        What::Reboot | What::Agent | What::ControlError => None,
    }
}

/// What libvirt remembers of a domain that has ended: less than the events had said, and only until it is
/// restarted.
pub(crate) fn of_state(reason: DomainShutoffReason) -> ExitReason {
    match reason {
        DomainShutoffReason::Unknown => ExitReason::Unknown,
        DomainShutoffReason::Shutdown => ExitReason::GuestShutdown,
        DomainShutoffReason::Destroyed
        | DomainShutoffReason::Migrated
        | DomainShutoffReason::Saved
        | DomainShutoffReason::FromSnapshot => ExitReason::HostStopped,
        DomainShutoffReason::Crashed => crashed("libvirt says that it crashed"),
        DomainShutoffReason::Failed => crashed("libvirt says that it failed"),
        DomainShutoffReason::Daemon => crashed("libvirt gave it up when it was restarted itself"),
    }
}

/// Whether what libvirt remembers may mean several things, of which an event tells which.
pub(crate) fn is_ambiguous(reason: DomainShutoffReason) -> bool {
    matches!(reason, DomainShutoffReason::Shutdown | DomainShutoffReason::Crashed)
}

/// Numbers of `virDomainEventType` and of the details that go with each.
fn of_lifecycle(event: u32, detail: u32) -> Option<ExitReason> {
    match (event, detail) {
        (sys::VIR_DOMAIN_EVENT_CRASHED, sys::VIR_DOMAIN_EVENT_CRASHED_PANICKED) => {
            Some(ExitReason::GuestPanic)
        }
        (sys::VIR_DOMAIN_EVENT_SHUTDOWN, sys::VIR_DOMAIN_EVENT_SHUTDOWN_HOST) => {
            Some(ExitReason::HostStopped)
        }
        (sys::VIR_DOMAIN_EVENT_STOPPED, detail) => Some(match detail {
            sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => ExitReason::GuestShutdown,
            sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => crashed("libvirt says that it crashed"),
            sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => {
                crashed("its process ended without a word, or could not be started")
            }
            // Destroyed, migrated, saved, put back to a snapshot: not by the guest.
            _ => ExitReason::HostStopped,
        }),
        _ => None,
    }
}

/// QEMU's `ShutdownCause`, which libvirt hands on as it came.
fn of_shutdown(details: &str) -> Option<ExitReason> {
    #[derive(Deserialize)]
    struct Shutdown {
        reason: String,
    }
    let shutdown: Shutdown = serde_json::from_str(details).ok()?;
    Some(match &*shutdown.reason {
        "guest-shutdown" => ExitReason::GuestShutdown,
        "guest-reset" | "subsystem-reset" => ExitReason::GuestReset,
        "guest-panic" => ExitReason::GuestPanic,
        "host-qmp-quit" | "host-qmp-system-reset" | "host-signal" | "host-ui" => {
            ExitReason::HostStopped
        }
        other => crashed(&format!("qemu said {other:?}")),
    })
}

fn crashed(how: &str) -> ExitReason {
    ExitReason::Crashed(how.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_told_from_a_shutdown() {
        let shutdown = |text: &str| of_event(&What::Shutdown(text.to_owned()));
        assert_eq!(
            shutdown(r#"{"guest":true,"reason":"guest-reset"}"#),
            Some(ExitReason::GuestReset)
        );
        assert_eq!(
            shutdown(r#"{"guest":true,"reason":"guest-shutdown"}"#),
            Some(ExitReason::GuestShutdown)
        );
        for nothing in ["", "{}", "[", r#"{"guest":true}"#, r#"{"reason":7}"#] {
            assert_eq!(shutdown(nothing), None, "{nothing}");
        }
        assert!(matches!(shutdown(r#"{"reason":"x"}"#), Some(ExitReason::Crashed(_))));
    }

    #[test]
    fn what_does_not_end_it_says_nothing_of_the_end() {
        for (event, detail) in [
            (sys::VIR_DOMAIN_EVENT_DEFINED, 0),
            (sys::VIR_DOMAIN_EVENT_UNDEFINED, 0),
            (sys::VIR_DOMAIN_EVENT_STARTED, 0),
            (sys::VIR_DOMAIN_EVENT_SUSPENDED, 0),
            (sys::VIR_DOMAIN_EVENT_RESUMED, 0),
            (sys::VIR_DOMAIN_EVENT_SHUTDOWN, sys::VIR_DOMAIN_EVENT_SHUTDOWN_GUEST),
            (1000, 1000),
        ] {
            assert_eq!(of_event(&What::Lifecycle { event, detail }), None);
        }
    }
}
