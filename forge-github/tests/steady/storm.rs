//! What goes wrong at GitHub and on the way from there, and how often.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fake_github::{FakeGitHub, Fault, FaultRule, WebhookFaults};
use forge_github::SourceKind;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

/// Chance that repeats itself.
#[derive(Clone)]
pub struct Luck(Arc<Mutex<StdRng>>);

impl Luck {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub fn strikes(&self, probability: f64) -> bool {
        self.0.lock().unwrap().random_bool(probability)
    }

    pub fn between(&self, from: u64, to: u64) -> u64 {
        self.0.lock().unwrap().random_range(from..=to)
    }

    pub fn seconds(&self, from: u64, to: u64) -> Duration {
        Duration::from_secs(self.between(from, to))
    }
}

/// Who tells what waits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Demand {
    /// Deliveries, and asking while they cannot be relied upon.
    Webhooks,
    /// A runner scale set alone.
    ScaleSet,
    /// A runner scale set, then deliveries, then asking: those that come first are down at times.
    Failover,
}

impl Demand {
    /// The profile's sources, the best first.
    pub fn sources(self) -> Vec<SourceKind> {
        match self {
            Self::Webhooks => vec![SourceKind::Webhook, SourceKind::Poll],
            Self::ScaleSet => vec![SourceKind::ScaleSet],
            Self::Failover => vec![SourceKind::ScaleSet, SourceKind::Webhook, SourceKind::Poll],
        }
    }

    pub fn has_scale_set(self) -> bool {
        self != Self::Webhooks
    }

    pub fn has_deliveries(self) -> bool {
        self != Self::ScaleSet
    }
}

/// What is down, and until when.
struct Outage {
    until: Instant,
    service: bool,
    deliveries: bool,
}

/// The weather.
pub struct Storm {
    demand: Demand,
    seed: u64,
    luck: Luck,
    outage: Option<Outage>,
    outages: usize,
    must_acquire: bool,
}

impl Storm {
    pub fn new(demand: Demand, seed: u64, luck: Luck) -> Self {
        Self { demand, seed, luck, outage: None, outages: 0, must_acquire: true }
    }

    /// How often a source of demand was down.
    pub fn outages(&self) -> usize {
        self.outages
    }

    pub fn begin(&self, github: &FakeGitHub) {
        github.seed_faults(self.seed);
        self.order(github);
        github.webhook_faults(WebhookFaults {
            lose: 0.02,
            vanish: 0.01,
            duplicate: 0.03,
            reorder: 0.03,
            delay: 0.05,
            delay_ms: 20_000,
            seed: self.seed,
        });
    }

    pub fn end(&mut self, github: &FakeGitHub) {
        self.outage = None;
        github.clear_faults();
        github.release_webhooks(1, false);
    }

    /// What happens by itself within a few seconds.
    pub fn rage(&mut self, github: &FakeGitHub) {
        if self.demand.has_scale_set() {
            if self.luck.strikes(0.002) {
                github.expire_scale_set_sessions();
            }
            if self.luck.strikes(0.002) {
                github.expire_queue_tokens();
            }
        }
        // Elsewhere a job that the scale set has is nobody else's, for as long as it has no runner.
        if self.demand == Demand::ScaleSet && self.luck.strikes(0.002) {
            self.must_acquire = !self.must_acquire;
            github.set_must_acquire(self.must_acquire);
        }
        match &self.outage {
            Some(outage) if outage.until <= Instant::now() => {
                if outage.deliveries {
                    github.release_webhooks(1, self.luck.strikes(0.5));
                }
                self.outage = None;
                self.order(github);
            }
            None if self.demand == Demand::Failover && self.luck.strikes(0.01) => {
                let until = Instant::now() + self.luck.seconds(30, 1200);
                let service = self.luck.strikes(0.8);
                let deliveries = !service || self.luck.strikes(0.3);
                if deliveries {
                    github.hold_webhooks();
                }
                self.outage = Some(Outage { until, service, deliveries });
                self.outages += 1;
                self.order(github);
            }
            _ => {}
        }
    }

    /// One call in twenty goes wrong, and one delivery in eight.
    fn order(&self, github: &FakeGitHub) {
        github.clear_faults();
        if self.outage.as_ref().is_some_and(|outage| outage.service) {
            let down = [(0.5, status(503, None)), (0.5, Fault::Reset), (1.0, Fault::Hang)];
            for (probability, fault) in down {
                let rule = FaultRule::always(fault).operation("scale-set/*");
                github.fault(rule.probability(probability));
            }
        }
        let anywhere = [
            (0.004, status(500, None)),
            (0.004, status(502, None)),
            (0.004, status(503, Some(5))),
            (0.002, status(401, None)),
            (0.002, status(403, None)),
            (0.004, status(404, None)),
            (0.004, Fault::Html { status: 200 }),
            (0.004, Fault::Html { status: 503 }),
            (0.004, Fault::Reset),
            (0.004, Fault::LostReply),
            (0.004, Fault::Truncated),
            (0.004, Fault::Garbage),
            (0.002, Fault::Hang),
            (0.002, Fault::Slow { piece: 200, pause_ms: 20 }),
            (0.001, Fault::ExpiredToken),
            (0.0005, status(429, Some(20))),
            (0.0005, Fault::SecondaryLimit { retry_after: Some(20) }),
            (0.0003, Fault::SecondaryLimit { retry_after: None }),
            (0.0002, Fault::PrimaryLimit { reset_after: 120 }),
        ];
        for (probability, fault) in anywhere {
            github.fault(FaultRule::always(fault).probability(probability));
        }
        let at = |method: &str, path: &str, fault, probability| {
            let rule = FaultRule::always(fault).method(method).path(path);
            github.fault(rule.probability(probability));
        };
        let (mint, mint_of_set) = ("*/generate-jitconfig", "*/generatejitconfig*");
        at("POST", mint, Fault::LostReply, 0.02);
        at("POST", mint, status(409, None), 0.01);
        at("POST", mint, status(422, None), 0.005);
        at("POST", mint_of_set, Fault::LostReply, 0.02);
        at("DELETE", "*/actions/runners/*", status(422, None), 0.05);
        at("GET", "*/actions/*", Fault::ShortList, 0.01);
        at("GET", "*/messages?*", Fault::LostReply, 0.02);
        at("DELETE", "*/messages/*", Fault::LostReply, 0.02);
        at("POST", "*/acquirejobs*", Fault::LostReply, 0.02);
    }
}

const fn status(status: u16, retry_after: Option<u64>) -> Fault {
    Fault::Status { status, retry_after, message: None }
}
