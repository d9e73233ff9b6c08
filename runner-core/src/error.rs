//! One error for all three traits. A variant says what the caller can do.

use std::{io, time::Duration};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, sorted by what the caller can do about it.
///
/// `Display` leaves the source out: whoever logs walks the chain, with [`chain`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The thing does not exist (any more). For an unmaking verb this is success.
    #[error("{what} does not exist")]
    NotFound {
        /// The thing.
        what: String,
    },
    /// The thing is in use, such as a runner with a job: leave it alone and look again later.
    #[error("{what} is busy")]
    Busy {
        /// The thing.
        what: String,
    },
    /// There is no room. Try again when something has been unmade.
    #[error("not enough {resource}: {needed} needed, {available} available")]
    Exhausted {
        /// What ran out, such as `memory` or `disk space`.
        resource: String,
        /// What was asked for, with its unit.
        needed: String,
        /// What there is, with its unit.
        available: String,
    },
    /// This implementation cannot do that, ever; its capabilities say so.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// The credentials were refused. Someone must act.
    #[error("{what} refused the credentials: {reason}")]
    Unauthorized {
        /// Who refused.
        what: String,
        /// What is wrong with them, and what to grant where.
        reason: String,
    },
    /// Too many calls. Wait before the next one.
    #[error("too many calls, the next one in {} s", wait.as_secs())]
    RateLimited {
        /// How long to wait.
        wait: Duration,
    },
    /// The caller's input breaks a rule. The same call will fail again.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// The input.
        what: String,
        /// The rule, and the way out.
        reason: String,
    },
    /// The world outside failed: a daemon, a disk, a network. Try again later.
    #[error("{backend} could not {doing}")]
    Backend {
        /// Who failed, such as `qemu` or `store`.
        backend: &'static str,
        /// What it was doing, as a verb phrase that names the thing: `start worker linux-17`.
        doing: String,
        /// Why.
        #[source]
        source: Source,
    },
}

/// When to repeat a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// At some later time of the caller's choice.
    Later,
    /// Not before this time has passed.
    After(Duration),
    /// Not at all: the same call fails again.
    Never,
}

impl Error {
    /// `what` does not exist.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// `what` is in use.
    pub fn busy(what: impl Into<String>) -> Self {
        Self::Busy { what: what.into() }
    }

    /// `what` cannot be done here.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    /// `what` refused the credentials, because of `reason`.
    pub fn unauthorized(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unauthorized { what: what.into(), reason: reason.into() }
    }

    /// `what` breaks a rule.
    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    /// `backend` failed in `doing`.
    pub fn backend(
        backend: &'static str,
        doing: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        Self::Backend { backend, doing: doing.into(), source: source.into() }
    }

    /// `backend` failed in `doing`, on a disk: a full one is [`Exhausted`](Self::Exhausted), all else a failure of
    /// the backend.
    pub fn disk(backend: &'static str, doing: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Exhausted {
                resource: "disk space".to_owned(),
                needed: format!("more to {}", doing.into()),
                available: "none".to_owned(),
            },
            _ => Self::backend(backend, doing, source),
        }
    }

    /// A word for counters and filters: the variant. Never changes.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Busy { .. } => "busy",
            Self::Exhausted { .. } => "exhausted",
            Self::Unsupported { .. } => "unsupported",
            Self::Unauthorized { .. } => "unauthorized",
            Self::RateLimited { .. } => "rate_limited",
            Self::Invalid { .. } => "invalid",
            Self::Backend { .. } => "backend",
        }
    }

    /// Whether and when the same call may succeed.
    pub fn retry(&self) -> Retry {
        match self {
            Self::RateLimited { wait } => Retry::After(*wait),
            Self::NotFound { .. } | Self::Unsupported { .. } | Self::Invalid { .. } => Retry::Never,
            Self::Busy { .. }
            | Self::Exhausted { .. }
            | Self::Unauthorized { .. }
            | Self::Backend { .. } => Retry::Later,
        }
    }

    /// Whether the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the thing is in use.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// The error and all its sources on one line, for logs: `a: because b: because c`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_leaves_the_source_to_the_chain() {
        let error =
            Error::backend("qemu", "start worker linux-1", std::io::Error::other("no such file"));
        assert_eq!(error.to_string(), "qemu could not start worker linux-1");
        assert_eq!(chain(&error), "qemu could not start worker linux-1: no such file");
    }
}
