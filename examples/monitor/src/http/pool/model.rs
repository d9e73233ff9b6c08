//! The pool as the API tells it.

use std::collections::BTreeMap;

use poem_openapi::{Enum, Object};
use runner_core::{
    Profile, Resources, Status,
    hypervisor::InstanceState,
    plan::{Held, Sight},
    status::{BuildState, ProfileStatus, WorkerStatus},
    worker::Phase,
};

use super::{super::workers::HoldInfo, target};
use crate::remote::{JobPlace, Remotes};

/// The pool at one moment.
#[derive(Object)]
pub struct PoolStatus {
    /// When; none before the first look.
    at: Option<String>,
    /// Whether the pool is being emptied.
    draining: bool,
    /// Whether a policy override holds.
    overridden: bool,
    /// How many actions are in flight.
    in_flight: u32,
    /// Whether the hypervisor can be seen.
    hypervisor: SightInfo,
    /// Whether the images can be seen.
    builder: SightInfo,
    /// Whether each forge can be seen.
    forges: BTreeMap<String, SightInfo>,
    /// What the host has, when known.
    capacity: Option<ResourcesInfo>,
    /// What is in use.
    used: ResourcesInfo,
    /// Workers by phase, by profile.
    profiles: BTreeMap<String, Counts>,
    /// How many jobs wait, by forge.
    queued: BTreeMap<String, u64>,
    /// The images.
    images: Vec<ImageInfo>,
    /// What is wanted and not done, and why.
    held: Vec<HeldInfo>,
    /// What failed lately.
    failures: Vec<FailureInfo>,
    /// What an operator should know, such as a configuration that was refused.
    pub warnings: Vec<String>,
}

/// Whether a list could be read.
#[derive(Object)]
struct SightInfo {
    /// Whether it was read in full.
    seen: bool,
    /// Why not.
    #[oai(skip_serializing_if_is_none)]
    reason: Option<String>,
}

/// What one machine takes, or what the host has.
#[derive(Object)]
pub struct ResourcesInfo {
    vcpus: u32,
    memory_mib: u64,
    huge_memory_mib: u64,
    disk_mib: u64,
    /// Whatever else is counted.
    counters: BTreeMap<String, u64>,
}

/// How many workers are in each phase, and how many there should be.
#[derive(Object)]
pub struct Counts {
    starting: u32,
    idle: u32,
    reserved: u32,
    busy: u32,
    unseen: u32,
    over: u32,
    /// How many there should be: those promised or at work, and as many ready ones as are kept.
    target: u32,
    /// How many there are that are not over.
    healthy: u32,
    /// How many more there should be.
    wanted: u32,
    /// How many to keep ready.
    min_idle: u32,
    /// How many there may be.
    max: u32,
    /// How many jobs wait.
    queued: u32,
    /// Whether it makes no workers and retires idle ones.
    paused: bool,
    /// Who changed its numbers or paused it last, if they are not what is configured.
    #[oai(skip_serializing_if_is_none)]
    adjusted_by: Option<String>,
    /// When the image was built that its next workers boot; missing while there is none.
    #[oai(skip_serializing_if_is_none)]
    image_built_at: Option<String>,
    /// How the build of its next image goes. An old image serves on meanwhile.
    build: BuildName,
}

/// How the build of an image goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
enum BuildName {
    /// None is due.
    Resting,
    /// It is being built.
    Building,
    /// The last try failed; the next one comes by itself.
    Failed,
}

/// An image.
#[derive(Object)]
struct ImageInfo {
    id: String,
    profile: String,
    built_at: String,
    digest: String,
    size_bytes: u64,
}

/// Something wanted that is not done now.
#[derive(Object)]
pub struct HeldInfo {
    /// What waits.
    subject: String,
    /// What for.
    why_not: String,
}

/// Something that failed and must wait.
#[derive(Object)]
struct FailureInfo {
    /// What failed.
    subject: String,
    /// The last failure, in words.
    error: String,
    /// How often in a row.
    failures: u32,
    /// When the next try may come.
    retry_at: String,
}

/// A kind of runner on offer.
#[derive(Object)]
pub struct ProfileInfo {
    /// Its name.
    pub name: String,
    /// Whose jobs it runs.
    forge: String,
    /// What it offers to jobs, beside its name.
    labels: Vec<String>,
    /// What one machine takes.
    resources: ResourcesInfo,
    /// Workers by phase.
    counts: Counts,
}

/// Where a worker is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum PhaseName {
    Starting,
    Idle,
    Reserved,
    Busy,
    Unseen,
    Over,
}

/// One worker at one moment.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
pub struct WorkerInfo {
    /// Its name.
    pub name: String,
    pub profile: Option<String>,
    forge: Option<String>,
    image: Option<String>,
    /// Where it is in its life.
    pub phase: PhaseName,
    /// Why it is over.
    ending: Option<String>,
    /// Since when it is in this phase.
    since: String,
    created_at: Option<String>,
    /// Its job.
    job: Option<String>,
    /// Where people find its job, if that is elsewhere.
    job_place: Option<JobPlaceInfo>,
    reservation: Option<String>,
    /// Whether its machine runs, if there is one.
    running: Option<bool>,
    /// Who wants its machine kept, and until when.
    hold: Option<HoldInfo>,
    /// Who asked to retire it.
    retired_by: Option<String>,
    /// What its machine takes.
    resources: Option<ResourcesInfo>,
}

/// Where people find a job.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct JobPlaceInfo {
    /// What its forge calls it.
    title: String,
    /// What it belongs to, such as `acme/widgets`.
    repository: Option<String>,
    /// The address of its page at its forge.
    url: Option<String>,
}

/// Every profile on offer, with its counts.
pub fn profiles(profiles: &[Profile], status: &Status) -> Vec<ProfileInfo> {
    let none = ProfileStatus::default();
    let info = |profile: &Profile| ProfileInfo {
        name: profile.name.to_string(),
        forge: profile.forge.to_string(),
        labels: profile.labels.iter().map(ToString::to_string).collect(),
        resources: (&profile.resources).into(),
        counts: status.profiles.get(&profile.name).unwrap_or(&none).into(),
    };
    profiles.iter().map(info).collect()
}

impl From<&Status> for PoolStatus {
    fn from(status: &Status) -> Self {
        let text = ToString::to_string;
        Self {
            at: status.at.as_ref().map(text),
            draining: status.draining,
            overridden: status.policy.is_some(),
            in_flight: status.in_flight,
            hypervisor: (&status.hypervisor).into(),
            builder: (&status.builder).into(),
            forges: by_name(&status.forges, |sight| sight.into()),
            capacity: status.capacity.as_ref().map(Into::into),
            used: (&status.used).into(),
            profiles: by_name(&status.profiles, |counts| counts.into()),
            queued: by_name(&status.queued, |jobs| jobs.len() as u64),
            images: status
                .images
                .iter()
                .map(|image| ImageInfo {
                    id: image.id.to_string(),
                    profile: image.recipe.profile.to_string(),
                    built_at: image.built_at.to_string(),
                    digest: image.digest.clone(),
                    size_bytes: image.size_bytes,
                })
                .collect(),
            held: status.held.iter().map(HeldInfo::from).collect(),
            failures: status
                .backoff
                .iter()
                .map(|(subject, backoff)| FailureInfo {
                    subject: subject.to_string(),
                    error: backoff.error.clone(),
                    failures: backoff.failures,
                    retry_at: backoff.not_before.to_string(),
                })
                .collect(),
            warnings: Vec::new(),
        }
    }
}

fn by_name<K: ToString, V, T>(map: &BTreeMap<K, V>, info: impl Fn(&V) -> T) -> BTreeMap<String, T> {
    let entries = map.iter();
    entries.map(|(name, value)| (name.to_string(), info(value))).collect()
}

impl From<&Held> for HeldInfo {
    fn from(held: &Held) -> Self {
        Self { subject: held.subject.to_string(), why_not: held.why_not.to_string() }
    }
}

impl From<&Sight> for SightInfo {
    fn from(sight: &Sight) -> Self {
        let reason = match sight {
            Sight::Seen => None,
            Sight::Blind(reason) => Some(reason.clone()),
            Sight::Unasked => Some("it was not asked yet".to_owned()),
        };
        Self { seen: reason.is_none(), reason }
    }
}

impl From<&Resources> for ResourcesInfo {
    fn from(resources: &Resources) -> Self {
        Self {
            vcpus: resources.vcpus,
            memory_mib: resources.memory_mib,
            huge_memory_mib: resources.huge_memory_mib,
            disk_mib: resources.disk_mib,
            counters: resources.counters.clone(),
        }
    }
}

impl From<&ProfileStatus> for Counts {
    fn from(status: &ProfileStatus) -> Self {
        Self {
            starting: status.starting,
            idle: status.idle,
            reserved: status.reserved,
            busy: status.busy,
            unseen: status.unseen,
            over: status.over,
            target: target::target(status),
            healthy: target::healthy(status),
            wanted: target::wanted(status),
            min_idle: status.min_idle,
            max: status.max,
            queued: status.queued,
            paused: status.adjustment.as_ref().is_some_and(|adjustment| adjustment.paused),
            adjusted_by: status.adjustment.as_ref().map(|adjustment| adjustment.by.clone()),
            image_built_at: status.image_built_at.map(|at| at.to_string()),
            build: match status.build {
                BuildState::Resting => BuildName::Resting,
                BuildState::Building => BuildName::Building,
                BuildState::Failed { .. } => BuildName::Failed,
            },
        }
    }
}

impl WorkerInfo {
    /// A worker, with what its forge knows of its job.
    pub fn of(worker: &WorkerStatus, forges: &Remotes) -> Self {
        let forge = worker.forge.as_ref().and_then(|name| forges.get(name));
        let job_place =
            forge.zip(worker.job.as_ref()).and_then(|(forge, id)| forge.outside.job(id));
        let (phase, ending) = match &worker.phase {
            Phase::Starting => (PhaseName::Starting, None),
            Phase::Idle => (PhaseName::Idle, None),
            Phase::Reserved => (PhaseName::Reserved, None),
            Phase::Busy => (PhaseName::Busy, None),
            Phase::Unseen => (PhaseName::Unseen, None),
            Phase::Over(ending) => (PhaseName::Over, Some(ending.to_string())),
        };
        let instance = worker.instance.as_ref();
        Self {
            name: worker.name.to_string(),
            profile: worker.profile.as_ref().map(ToString::to_string),
            forge: worker.forge.as_ref().map(ToString::to_string),
            image: worker.image.as_ref().map(ToString::to_string),
            phase,
            ending,
            since: worker.since.to_string(),
            created_at: worker.created_at.map(|at| at.to_string()),
            job: worker.job.as_ref().map(ToString::to_string),
            job_place: job_place.map(|JobPlace { title, repository, page }| JobPlaceInfo {
                title,
                repository,
                url: page,
            }),
            reservation: worker.reservation.as_ref().map(ToString::to_string),
            hold: worker.hold.as_ref().map(Into::into),
            retired_by: worker.dismissal.as_ref().map(|dismissal| dismissal.by.clone()),
            running: instance.map(|i| !matches!(i.state, InstanceState::Stopped(_))),
            resources: instance.map(|instance| (&instance.resources).into()),
        }
    }
}
