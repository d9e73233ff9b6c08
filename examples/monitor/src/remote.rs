//! A forge elsewhere: what the service asks of it beside what the pool does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use poem::http::{HeaderMap, StatusCode};
use runner_core::{
    Clock, EventLog, Forge, ForgeName, ProfileName, Status,
    event::What,
    plan::{Sight, Subject},
};
use tokio::sync::watch;

use crate::config::Config;

/// Forges elsewhere, by the names that profiles call them.
pub type Remotes = BTreeMap<ForgeName, Remote>;

/// The largest delivery of a webhook that is read, in bytes: GitHub sends none that is larger.
pub const MAX_DELIVERY_BYTES: u64 = 25 << 20;

/// A forge elsewhere.
#[derive(Clone)]
pub struct Remote {
    /// What the pool has of it.
    pub forge: Arc<dyn Forge>,
    /// What the service has of it.
    pub outside: Arc<dyn Outside>,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// What to answer.
    pub status: StatusCode,
    /// What was understood, or why it was refused.
    pub said: String,
}

/// What the service asks of a forge elsewhere.
///
/// # Contract
/// All but [`stop`](Self::stop) answer from memory, at once, and never panic, whatever comes.
#[async_trait]
pub trait Outside: Send + Sync + 'static {
    /// Whether it takes deliveries of a webhook.
    fn hears(&self) -> bool;

    /// Takes in a delivery: its headers and its body, byte for byte.
    fn deliver(&self, headers: &HeaderMap, body: &[u8]) -> Delivered;

    /// The forge in numbers.
    fn figures(&self) -> Figures;

    /// Why it does not do its work at the moment, where that does not show in its lists.
    fn trouble(&self) -> Option<String>;

    /// What an operator should be told since this was last asked, in sentences.
    fn news(&self) -> Vec<String>;

    /// Takes on what was edited of the configuration, as far as it can.
    fn configure(&self, config: &Config);

    /// Takes in how many machines each profile may have.
    fn follow(&self, status: &Status);

    /// Ends what is open at the forge, such as sessions. The runners stay.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; the forge then ends it when it is tired of it.
    async fn stop(&self);
}

/// How long forges may take to end what is open.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Tells forges how many machines there may be, the event log what they have to say, and `shown` what the pool
/// publishes, with their troubles, as long as the pool lives.
pub async fn attend(
    remotes: Remotes,
    mut statuses: watch::Receiver<Arc<Status>>,
    events: EventLog,
    clock: Clock,
    shown: watch::Sender<Arc<Status>>,
) {
    loop {
        let status = statuses.borrow_and_update().clone();
        shown.send_replace(with_troubles(&remotes, status.clone()));
        for (name, remote) in &remotes {
            remote.outside.follow(&status);
            for said in remote.outside.news() {
                let text = format!("forge {name}: {said}");
                events.record(clock.now(), Subject::Pool, What::Note { text });
            }
        }
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

/// A status in which a forge that does not do its work is as one that cannot be seen.
pub fn with_troubles(remotes: &Remotes, status: Arc<Status>) -> Arc<Status> {
    let mut status = status;
    for (name, remote) in remotes {
        let is_seen = status.forges.get(name) == Some(&Sight::Seen);
        if is_seen && let Some(trouble) = remote.outside.trouble() {
            let status = Arc::make_mut(&mut status);
            status.forges.insert(name.clone(), Sight::Blind(trouble));
        }
    }
    status
}

/// Ends what is open at forges.
pub async fn stop(remotes: &Remotes) {
    let all = remotes.values().map(|remote| remote.outside.stop());
    if tokio::time::timeout(STOP_LIMIT, futures::future::join_all(all)).await.is_err() {
        tracing::warn!("What is open at a forge could not be ended in time.");
    }
}

/// A forge elsewhere in numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Whether it can be used at the moment, where that is known beside its lists.
    pub well: Option<bool>,
    /// Who tells what waits: which way, for which profile if for one, and whether it can be relied upon.
    pub sources: Vec<(&'static str, Option<ProfileName>, bool)>,
    /// Who is asked for each profile at the moment, if anybody could be.
    pub active: BTreeMap<ProfileName, Option<&'static str>>,
    /// Profiles whose runners died before they came online: how many in a row.
    pub failures: BTreeMap<ProfileName, u32>,
    /// Registrations that share their name with another.
    pub ghosts: usize,
    /// What was spent, and what is left, where it counts.
    pub budget: Option<BudgetFigures>,
    /// What came by webhook, where there is one.
    pub deliveries: Option<DeliveryFigures>,
}

/// What was spent of a forge's limits, and what is left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BudgetFigures {
    /// Calls, by what they were for.
    pub calls: BTreeMap<&'static str, u64>,
    /// Answers that nothing had changed.
    pub unchanged: u64,
    /// Calls that the forge refused for their number.
    pub refused: u64,
    /// Calls that were not made, as their turn would have been too late.
    pub given_up: u64,
    /// For how long calls waited for their turn, in seconds.
    pub waited_seconds: f64,
    /// Calls under way.
    pub in_flight: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// Points spent within the last minute.
    pub points_last_minute: u32,
    /// Registrations within the last minute.
    pub registrations_last_minute: u32,
    /// For how long nothing is asked, in seconds.
    pub paused_seconds: f64,
    /// By kind of call: how many may be made in a while, how many are left, and in how many seconds that ends.
    pub hourly: BTreeMap<String, (u64, u64, u64)>,
}

/// What came by webhook since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryFigures {
    /// By what became of them.
    pub counts: [(&'static str, u64); 7],
    /// When the last one came that was signed.
    pub last_heard_at: Option<Timestamp>,
}
