//! Forges elsewhere, read when someone asks.

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    catalogue::{self, Kind, Metric},
    pool::seconds,
};
use crate::remote::{BudgetFigures, Figures, Remotes};

/// What is read at every collection.
const READ: &[Metric] = &[
    catalogue::FORGE_WELL,
    catalogue::FORGE_SOURCE,
    catalogue::FORGE_ACTIVE,
    catalogue::FORGE_FLAPS,
    catalogue::FORGE_GHOSTS,
    catalogue::FORGE_PROGRAM,
    catalogue::FORGE_REQUESTS,
    catalogue::FORGE_UNCHANGED,
    catalogue::FORGE_REFUSED,
    catalogue::FORGE_GIVEN_UP,
    catalogue::FORGE_WAITED,
    catalogue::FORGE_IN_FLIGHT,
    catalogue::FORGE_WAITING,
    catalogue::FORGE_POINTS,
    catalogue::FORGE_MINTS,
    catalogue::FORGE_PAUSED,
    catalogue::FORGE_LIMIT,
    catalogue::FORGE_LEFT,
    catalogue::FORGE_RESET,
    catalogue::DELIVERIES,
    catalogue::HEARD,
];

/// Reads the forges.
#[derive(Clone)]
pub struct ForgeFigures {
    descs: Vec<Desc>,
    forges: Remotes,
}

impl ForgeFigures {
    pub fn new(forges: Remotes) -> Self {
        let descs = READ.iter().flat_map(|metric| {
            let gauge = metric.gauge();
            gauge.desc().into_iter().cloned().collect::<Vec<_>>()
        });
        Self { descs: descs.collect(), forges }
    }
}

impl Collector for ForgeFigures {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let forges = self.forges.iter();
        let all: Vec<(&str, Figures)> =
            forges.map(|(name, remote)| (name.as_str(), remote.outside.figures())).collect();
        let mut families = Vec::new();
        for metric in READ {
            let values = all.iter().flat_map(|(forge, figures)| {
                let values = of(metric, figures).into_iter();
                values.map(move |(labels, value)| ([&[*forge], &*labels].concat(), value))
            });
            families.extend(family(metric, values));
        }
        families
    }
}

/// A family, unless it is empty.
fn family<'a>(
    metric: &Metric,
    values: impl Iterator<Item = (Vec<&'a str>, f64)>,
) -> Option<MetricFamily> {
    let family = match metric.kind {
        Kind::Gauge | Kind::Histogram(_) => {
            let gauge = metric.gauge();
            values.for_each(|(labels, value)| gauge.with_label_values(&labels).set(value));
            gauge.collect()
        }
        Kind::Counter => {
            let counter = metric.seconds();
            values.for_each(|(labels, value)| counter.with_label_values(&labels).inc_by(value));
            counter.collect()
        }
    };
    family.into_iter().find(|family| !family.get_metric().is_empty())
}

/// What a metric says of one forge: its labels but the first, and its value.
fn of<'a>(metric: &Metric, figures: &'a Figures) -> Vec<(Vec<&'a str>, f64)> {
    let one = |value: f64| vec![(Vec::new(), value)];
    let yes = |is: bool| f64::from(u8::from(is));
    let budget = |value: fn(&BudgetFigures) -> f64| {
        figures.budget.iter().map(|its| (Vec::new(), value(its))).collect()
    };
    let hourly = |value: fn(&(u64, u64, u64)) -> u64| {
        let each = figures.budget.iter().flat_map(|its| its.hourly.iter());
        each.map(|(kind, its)| (vec![kind.as_str()], value(its) as f64)).collect()
    };
    match metric.name {
        // What has no sources of its own knows nothing beside its lists.
        name if name == catalogue::FORGE_WELL.name && figures.sources.is_empty() => Vec::new(),
        name if name == catalogue::FORGE_WELL.name => one(yes(figures.ill.is_none())),
        name if name == catalogue::FORGE_SOURCE.name => {
            let each = figures.sources.iter();
            each.map(|its| {
                let profile = its.profile.as_ref().map_or("", |name| name.as_str());
                (vec![its.kind, profile], yes(its.ill.is_none()))
            })
            .collect()
        }
        name if name == catalogue::FORGE_ACTIVE.name => {
            let each = figures.asked.iter();
            each.filter_map(|(profile, asked)| Some((vec![asked.now?, profile.as_str()], 1.0)))
                .collect()
        }
        name if name == catalogue::FORGE_FLAPS.name => {
            let each = figures.failures.iter();
            each.map(|(profile, count)| (vec![profile.as_str()], (*count).into())).collect()
        }
        name if name == catalogue::FORGE_GHOSTS.name => one(figures.ghosts as f64),
        name if name == catalogue::FORGE_PROGRAM.name => {
            let each = figures.programs.iter();
            each.filter_map(|(profile, program)| {
                let at = seconds(jiff::Timestamp::UNIX_EPOCH, program.refused_from?);
                Some((vec![profile.as_str(), program.version.as_str()], at))
            })
            .collect()
        }
        name if name == catalogue::FORGE_REQUESTS.name => {
            let each = figures.budget.iter().flat_map(|its| its.calls.iter());
            each.map(|(purpose, count)| (vec![*purpose], *count as f64)).collect()
        }
        name if name == catalogue::FORGE_UNCHANGED.name => budget(|its| its.unchanged as f64),
        name if name == catalogue::FORGE_REFUSED.name => budget(|its| its.refused as f64),
        name if name == catalogue::FORGE_GIVEN_UP.name => budget(|its| its.given_up as f64),
        name if name == catalogue::FORGE_WAITED.name => budget(|its| its.waited_seconds),
        name if name == catalogue::FORGE_IN_FLIGHT.name => budget(|its| its.in_flight as f64),
        name if name == catalogue::FORGE_WAITING.name => budget(|its| its.waiting as f64),
        name if name == catalogue::FORGE_POINTS.name => budget(|its| its.points_last_minute.into()),
        name if name == catalogue::FORGE_MINTS.name => {
            budget(|its| its.registrations_last_minute.into())
        }
        name if name == catalogue::FORGE_PAUSED.name => budget(|its| its.paused_seconds),
        name if name == catalogue::FORGE_LIMIT.name => hourly(|its| its.0),
        name if name == catalogue::FORGE_LEFT.name => hourly(|its| its.1),
        name if name == catalogue::FORGE_RESET.name => hourly(|its| its.2),
        name if name == catalogue::DELIVERIES.name => {
            let each = figures.deliveries.iter().flat_map(|its| its.counts);
            each.map(|(outcome, count)| (vec![outcome], count as f64)).collect()
        }
        name if name == catalogue::HEARD.name => {
            let heard = figures.deliveries.and_then(|its| its.last_heard_at);
            heard
                .map(|at| (Vec::new(), seconds(jiff::Timestamp::UNIX_EPOCH, at)))
                .into_iter()
                .collect()
        }
        _ => Vec::new(),
    }
}
