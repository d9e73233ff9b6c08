//! What goes wrong at GitHub and on the way from there, and how often.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fake_github::{FakeGitHub, Fault, FaultRule, WebhookFaults};
use rand::{RngExt, SeedableRng, rngs::StdRng};

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

const fn status(status: u16, retry_after: Option<u64>) -> Fault {
    Fault::Status { status, retry_after, message: None }
}

/// One call in twenty goes wrong, and one delivery in eight.
pub fn begin(github: &FakeGitHub) {
    github.seed_faults(7);
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
    let at = |method: &str, path: &str, fault| FaultRule::always(fault).method(method).path(path);
    let mint = "*/generate-jitconfig";
    github.fault(at("POST", mint, Fault::LostReply).probability(0.02));
    github.fault(at("POST", mint, status(409, None)).probability(0.01));
    github.fault(at("POST", mint, status(422, None)).probability(0.005));
    github.fault(at("DELETE", "*/actions/runners/*", status(422, None)).probability(0.05));
    github.fault(at("GET", "*/actions/*", Fault::ShortList).probability(0.01));
    github.webhook_faults(WebhookFaults {
        lose: 0.02,
        vanish: 0.01,
        duplicate: 0.03,
        reorder: 0.03,
        delay: 0.05,
        delay_ms: 20_000,
        seed: 7,
    });
}
