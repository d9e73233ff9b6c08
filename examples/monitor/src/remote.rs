//! A forge elsewhere: what the service asks of it beside what the pool does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use poem::http::{HeaderMap, StatusCode};
use runner_core::{
    Clock, Error, EventLog, Forge, ForgeName, JobId, ProfileName, Result, Secret, Status,
    event::What,
    plan::{Sight, Subject},
};
use tokio::sync::watch;

use crate::{config::Config, guests::Contact};

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

/// Where people find a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPlace {
    /// What the forge calls it.
    pub title: String,
    /// What it belongs to, such as `acme/widgets`, where known.
    pub repository: Option<String>,
    /// The address of its page, where known.
    pub page: Option<String>,
}

/// What a workflow says of itself. None of it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What it made up to identify its reservation.
    pub unique_id: String,
    /// The repository that it runs in.
    pub repository: String,
    /// The workflow run.
    pub run: u64,
}

/// What a workflow has proven to be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Which kind of worker, if it says.
    pub profile: Option<ProfileName>,
    /// How many.
    pub count: u32,
}

/// Why nothing is proven, in words that may be told to whoever asked.
#[derive(Debug)]
pub enum NotProven {
    /// What it says cannot be.
    Malformed(String),
    /// It is not so, or not allowed.
    Refused(String),
    /// It wants more than it may have at one time.
    TooMany(String),
    /// It cannot be found out for now.
    Failed(Error),
}

/// When a machine tells of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before its first step.
    Started,
    /// After its last.
    Completed,
}

/// What a machine told of its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobTold {
    /// The job in words.
    pub job: String,
    /// Why it may not run, if it may not.
    pub refused: Option<String>,
    /// What the machine is answered.
    pub answer: String,
}

/// What the service asks of a forge elsewhere.
///
/// # Contract
/// All but [`prove`](Self::prove) and [`stop`](Self::stop) answer from memory, at once, and never panic, whatever comes.
#[async_trait]
pub trait Outside: Send + Sync + 'static {
    /// Whether it takes deliveries of a webhook.
    fn hears(&self) -> bool;

    /// Takes in a delivery: its headers and its body, byte for byte.
    fn deliver(&self, headers: &HeaderMap, body: &[u8]) -> Delivered;

    /// What a machine is to be told that runs a runner with this secret, and may ask at `contact`.
    ///
    /// # Errors
    /// `Invalid` for what a machine could not read.
    fn user_data(
        &self,
        profile: &ProfileName,
        secret: &Secret<String>,
        contact: &Contact,
    ) -> Result<Secret<String>>;

    /// Takes in what a machine of this profile tells of its job, and judges one that is about to begin.
    ///
    /// # Errors
    /// `Invalid` for what cannot be read, `Unsupported` where machines have nothing to tell.
    fn job_told(&self, profile: &ProfileName, moment: Moment, report: &[u8]) -> Result<JobTold>;

    /// Asks the forge whether a workflow is what it says, and what it may have, by an artifact that only it can
    /// have uploaded. Good once. `held` is how many workers its repository has already.
    ///
    /// # Errors
    /// Why nothing is proven.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; the proof may be used up then.
    async fn prove(&self, claim: &Claim, held: u32) -> std::result::Result<Proven, NotProven> {
        let _ = (claim, held);
        Err(NotProven::Refused("this forge knows no proofs".to_owned()))
    }

    /// Where people find a job; none of one that it does not know.
    fn job(&self, id: &JobId) -> Option<JobPlace> {
        let _ = id;
        None
    }

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

/// A forge elsewhere in numbers and words.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// What of it the runners belong to, for people.
    pub place: String,
    /// Why it cannot be used at the moment, if it cannot.
    pub ill: Option<Ill>,
    /// Who tells what waits.
    pub sources: Vec<SourceFigures>,
    /// Who is asked for each profile.
    pub asked: BTreeMap<ProfileName, Asked>,
    /// What it said of itself lately, oldest first.
    pub notes: Vec<Note>,
    /// The runner programs in the images of profiles, where that is known.
    pub programs: BTreeMap<ProfileName, Program>,
    /// Profiles whose runners died before they came online: how many in a row.
    pub failures: BTreeMap<ProfileName, u32>,
    /// Registrations that share their name with another.
    pub ghosts: usize,
    /// What was spent, and what is left, where it counts.
    pub budget: Option<BudgetFigures>,
    /// What came by webhook, where there is one.
    pub deliveries: Option<DeliveryFigures>,
}

/// Something that cannot be relied upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ill {
    /// Since when, where that is known.
    pub since: Option<Timestamp>,
    /// Why, in words for the operator.
    pub reason: String,
}

/// One way of knowing what waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFigures {
    /// Which.
    pub kind: &'static str,
    /// The only profile it speaks of, where there is one.
    pub profile: Option<ProfileName>,
    /// Why it cannot be relied upon, if it cannot.
    pub ill: Option<Ill>,
}

/// Who is asked what waits for a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whom the configuration names, the best first.
    pub order: Vec<&'static str>,
    /// Who it is at the moment, if anybody could be.
    pub now: Option<&'static str>,
}

impl Asked {
    /// Whether the best cannot be relied upon, and another has taken over.
    pub fn failed_over(&self) -> bool {
        self.order.first().copied() != self.now
    }
}

/// Something that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// The sentence.
    pub text: String,
}

/// The forge's runner program in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// The newest that the forge offers, if it told.
    pub newest: Option<String>,
    /// From when on the forge may refuse it, once there is a newer one.
    pub refused_from: Option<Timestamp>,
    /// What to do about it, once it is time to.
    pub warning: Option<String>,
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
