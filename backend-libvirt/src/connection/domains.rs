//! Calls about domains.

use std::{
    thread,
    time::{Duration, Instant},
};

use uuid::Uuid;
use virt::{
    connect::Connect,
    domain::{DomainShutoffReason, DomainState, DomainStateReason},
    enumutil::Enum,
    error::{Error, ErrorNumber},
    sys,
};

use super::{Connection, Failure, Kind};

/// How often to look whether a domain that is tried out has ended.
const TRIED: Duration = Duration::from_millis(20);

/// Whether a domain runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// A process is there: it runs, or is paused, starting or ending.
    Active,
    /// There is none, and why, if libvirt knows.
    Ended(DomainShutoffReason),
}

/// A domain, whoever's it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) life: Life,
}

impl Connection {
    /// Every domain there is.
    pub(crate) async fn domains(&self) -> Result<Vec<Domain>, Failure> {
        self.call(Kind::Look, |connect| {
            let mut all = Vec::new();
            for domain in connect.list_all_domains(0)? {
                // One that vanished meanwhile is not there.
                all.extend(present(look(&domain))?);
            }
            Ok(all)
        })
        .await
    }

    /// The domain of this name.
    pub(crate) async fn domain(&self, name: &str) -> Result<Option<Domain>, Failure> {
        let name = name.to_owned();
        self.call(Kind::Look, move |connect| {
            present(connect.lookup_domain_by_name(&name).and_then(|domain| look(&domain)))
        })
        .await
    }

    /// Whether a domain runs; None if there is no such domain.
    pub(crate) async fn life(&self, domain: Uuid) -> Result<Option<Life>, Failure> {
        self.call(Kind::Look, move |connect| {
            present(connect.lookup_domain_by_uuid(domain).and_then(|domain| life(&domain)))
        })
        .await
    }

    /// The document of a domain, without its secrets; None if there is no such domain.
    pub(crate) async fn document(&self, domain: Uuid) -> Result<Option<String>, Failure> {
        self.call(Kind::Look, move |connect| {
            present(connect.lookup_domain_by_uuid(domain).and_then(|domain| domain.xml_desc(0)))
        })
        .await
    }

    /// Defines a domain that lasts, without starting it.
    pub(crate) async fn define(&self, document: String) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| connect.define_domain_xml(&document).map(|_| ())).await
    }

    /// Starts a domain.
    pub(crate) async fn start(&self, domain: Uuid) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| connect.lookup_domain_by_uuid(domain)?.create()).await
    }

    /// Starts a domain that nobody defines, waits up to `patience` for it to end by itself, and ends it otherwise:
    /// how long it ran, or nothing if it had to be ended. It ends with the connection at the latest.
    pub(crate) async fn try_out(
        &self,
        document: String,
        patience: Duration,
    ) -> Result<Option<Duration>, Failure> {
        self.call(Kind::Act, move |connect| {
            let domain = connect.create_domain_xml(&document, sys::VIR_DOMAIN_START_AUTODESTROY)?;
            let start = Instant::now();
            while present(domain.is_active())? == Some(true) {
                if start.elapsed() > patience {
                    return present(domain.destroy()).map(|_| None);
                }
                thread::sleep(TRIED);
            }
            Ok(Some(start.elapsed()))
        })
        .await
    }

    /// Ends a domain's process by force. Fine when there is none.
    pub(crate) async fn stop(&self, domain: Uuid) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| {
            let stop = || {
                let domain = connect.lookup_domain_by_uuid(domain)?;
                match domain.destroy() {
                    // It ended by itself, or never ran.
                    Err(_) if life(&domain)? != Life::Active => Ok(()),
                    result => result,
                }
            };
            present(stop()).map(|_| ())
        })
        .await
    }

    /// Makes libvirt forget a domain that has ended, and all that it keeps beside its document. Fine when there
    /// is none.
    pub(crate) async fn undefine(&self, domain: Uuid) -> Result<(), Failure> {
        self.call(Kind::Act, move |connect| present(undefine(connect, domain)).map(|_| ())).await
    }
}

fn undefine(connect: &Connect, domain: Uuid) -> Result<(), Error> {
    let all = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    let domain = connect.lookup_domain_by_uuid(domain)?;
    match domain.undefine_flags(all) {
        // Drivers that have none of these refuse the words for them.
        Err(error) if is_any(&error, &[ErrorNumber::InvalidArg, ErrorNumber::NoSupport]) => {
            domain.undefine()
        }
        // What is not persistent is forgotten when it ends.
        Err(_) if !domain.is_persistent()? && life(&domain)? != Life::Active => Ok(()),
        result => result,
    }
}

fn look(domain: &virt::domain::Domain) -> Result<Domain, Error> {
    let life = match domain.id() {
        // What has a number runs; the list says so, and there is no need to ask again.
        Some(_) => Life::Active,
        None => life(domain)?,
    };
    Ok(Domain { uuid: domain.uuid()?, name: domain.name()?, life })
}

fn life(domain: &virt::domain::Domain) -> Result<Life, Error> {
    let (state, reason) = domain.state()?;
    Ok(match (state, reason) {
        // The crate takes a call that failed for a state that nobody knows.
        (Enum::Unknown(u32::MAX), _) => return Err(Error::last_error()),
        (_, Enum::Known(DomainStateReason::Shutoff(reason))) => {
            Life::Ended(reason.unwrap_or(DomainShutoffReason::Unknown))
        }
        (Enum::Known(DomainState::Crashed), _) if !domain.is_active()? => {
            Life::Ended(DomainShutoffReason::Crashed)
        }
        _ => Life::Active,
    })
}

/// None for a domain that does not exist.
fn present<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(error) if is_any(&error, &[ErrorNumber::NoDomain]) => Ok(None),
        result => result.map(Some),
    }
}

fn is_any(error: &Error, numbers: &[ErrorNumber]) -> bool {
    error.code().known().is_some_and(|number| numbers.contains(&number))
}
