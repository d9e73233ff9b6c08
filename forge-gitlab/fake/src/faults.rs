//! What goes wrong between a client and GitLab, on purpose.

use std::{fmt, time::Duration};

use http::Method;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::contract::Contract;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// GitLab answers with this status and does nothing.
    Status {
        /// Such as 503.
        status: u16,
        /// What `Retry-After` says, in whole seconds. `None` for no such header.
        retry_after: Option<Duration>,
    },
    /// A proxy answers with this status and a page for people, and GitLab hears nothing.
    Html(u16),
    /// The connection is reset before GitLab does anything.
    Reset,
    /// GitLab does as asked, and the connection is reset before the answer.
    LostAnswer,
    /// GitLab does as asked, and half of the answer's body comes. An answer without a body is lost.
    Truncated,
    /// GitLab hears nothing, and nothing comes until the client gives up.
    Hang,
    /// GitLab does as asked and answers after this long.
    Slow(Duration),
}

/// Something that goes wrong, when, and how often.
///
/// ```
/// use std::time::Duration;
/// use fake_gitlab::Fault;
///
/// let fault = Fault::status(503)
///     .retry_after(Duration::from_secs(2))
///     .on("PATCH /jobs/{id}/trace")
///     .after(1)
///     .times(2);
/// ```
#[derive(Debug, Clone)]
pub struct Fault {
    kind: FaultKind,
    route: Option<String>,
    after: u32,
    times: Option<u32>,
    probability: f64,
}

/// There is no such route as a [`Fault`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownRoute(String);

impl fmt::Display for UnknownRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitLab has no route {}", self.0)
    }
}

impl std::error::Error for UnknownRoute {}

/// A fault that was put in, to take it out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

impl Fault {
    /// Of any kind, to every request, for ever. The methods below narrow that.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, route: None, after: 0, times: None, probability: 1.0 }
    }

    /// An answer with nothing but a status, such as 503, to every request.
    pub fn status(status: u16) -> Self {
        Self::new(FaultKind::Status { status, retry_after: None })
    }

    /// With a `Retry-After`, in whole seconds. Means nothing but to a [`FaultKind::Status`].
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        if let FaultKind::Status { retry_after, .. } = &mut self.kind {
            *retry_after = Some(wait);
        }
        self
    }

    /// To requests of one route only, such as `POST /jobs/request` or `PUT /jobs/{id}`. The path is the
    /// template of GitLab's description below `/api/v4`.
    #[must_use]
    pub fn on(mut self, route: &str) -> Self {
        let (method, path) = route.split_once(' ').unwrap_or(("", route));
        self.route = Some(format!("{method} /api/v4{path}"));
        self
    }

    /// Not to the first requests of its route.
    #[must_use]
    pub fn after(mut self, requests: u32) -> Self {
        self.after = requests;
        self
    }

    /// So many times at most.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// To a part of the requests, from 0 to 1, by the seed of this GitLab.
    #[must_use]
    pub fn probability(mut self, probability: f64) -> Self {
        self.probability = probability.clamp(0.0, 1.0);
        self
    }
}

/// All that are in.
#[derive(Debug)]
pub(crate) struct Faults {
    random: StdRng,
    last: u64,
    active: Vec<(FaultId, Fault)>,
    /// How often something went wrong on purpose.
    pub(crate) happened: u64,
}

impl Faults {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), last: 0, active: Vec::new(), happened: 0 }
    }

    pub(crate) fn inject(&mut self, fault: Fault) -> Result<FaultId, UnknownRoute> {
        if let Some(route) = &fault.route {
            let known =
                Contract::gitlab().operations().any(|operation| operation.route() == *route);
            if !known {
                return Err(UnknownRoute(route.clone()));
            }
        }
        self.last += 1;
        let id = FaultId(self.last);
        self.active.push((id, fault));
        Ok(id)
    }

    pub(crate) fn remove(&mut self, id: FaultId) -> bool {
        let before = self.active.len();
        self.active.retain(|(other, _)| *other != id);
        self.active.len() < before
    }

    pub(crate) fn clear(&mut self) {
        self.active.clear();
    }

    /// What goes wrong with a request, if anything does. The fault that was put in first comes first.
    pub(crate) fn draw(&mut self, route: &str) -> Option<FaultKind> {
        let of_route = |fault: &Fault| fault.route.as_deref().is_none_or(|other| other == route);
        for (_, fault) in self.active.iter_mut().filter(|(_, fault)| of_route(fault)) {
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            if fault.times == Some(0) || !self.random.random_bool(fault.probability) {
                continue;
            }
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
            self.happened += 1;
            return Some(fault.kind.clone());
        }
        None
    }
}

/// The route of a request: the template, where there is one.
pub(crate) fn route(method: &Method, path: &str) -> String {
    match Contract::gitlab().find(method, path) {
        Some((operation, _)) => operation.route(),
        None => format!("{method} {path}"),
    }
}
