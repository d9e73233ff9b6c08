//! A forge in numbers and words.

use std::collections::BTreeMap;

use runner_core::ProfileName;
use serde::Serialize;
use tokio::time::Instant;

use super::GithubForge;
use crate::{
    breaker::BreakerFigures,
    budget::BudgetFigures,
    demand::{Health, SourceKind},
};

/// One source of demand, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceFigures {
    /// Which way of knowing.
    pub kind: SourceKind,
    /// The only profile it speaks of, where there is one.
    pub profile: Option<ProfileName>,
    /// Whether it can be relied upon.
    pub health: Health,
}

/// A forge in numbers and words, for metrics and the dashboard.
#[derive(Debug, Clone, Serialize)]
pub struct GithubFigures {
    /// Whether GitHub can be used at the moment.
    pub health: Health,
    /// What was spent, and what is left.
    pub budget: BudgetFigures,
    /// Who tells what waits.
    pub sources: Vec<SourceFigures>,
    /// Who is asked for each profile at the moment, if anybody could be.
    pub active: BTreeMap<ProfileName, Option<SourceKind>>,
    /// The profiles whose runners die before they come online.
    pub breaker: BTreeMap<ProfileName, BreakerFigures>,
    /// Registrations that share their name with another, and will be removed.
    pub ghosts: usize,
}

impl GithubForge {
    /// The forge in numbers and words.
    pub fn figures(&self) -> GithubFigures {
        let inner = &self.inner;
        let sources = inner.demand.sources().iter().map(|source| SourceFigures {
            kind: source.kind(),
            profile: source.profile().cloned(),
            health: source.health(),
        });
        GithubFigures {
            health: inner.client.health(),
            budget: inner.client.figures(),
            sources: sources.collect(),
            active: inner.demand.active(),
            breaker: inner.breaker.figures(Instant::now()),
            ghosts: inner.view().hidden.len(),
        }
    }
}
