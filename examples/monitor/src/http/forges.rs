//! The forges elsewhere: whether each can be used, and who tells what waits for its profiles.

use std::collections::BTreeMap;

use poem_openapi::{Object, OpenApi, payload::Json};
use runner_core::{ForgeName, forge::QueuedJob};

use super::Shared;
use crate::remote::{Asked, Figures, Ill, JobPlace, Note, Outside, Program, Remote, SourceFigures};

/// How much is told of what a forge said of itself.
const NOTES: usize = 20;
/// How many of its waiting jobs are told.
const JOBS: usize = 100;

pub struct ForgesApi(pub Shared);

/// A forge elsewhere.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct ForgeInfo {
    /// What profiles call it.
    name: String,
    /// What of it the runners belong to, such as `organization acme at github.com`.
    place: String,
    /// Whether it could be used when it was last called.
    usable: bool,
    /// Why not, and what to do about it.
    reason: Option<String>,
    /// Since when not.
    since: Option<String>,
    /// The ways of knowing what waits.
    sources: Vec<SourceInfo>,
    /// By profile, who tells what waits for it.
    profiles: BTreeMap<String, ProfileSource>,
    /// The jobs that wait there, oldest first: a hundred at most.
    waiting: Vec<WaitingInfo>,
    /// What it said of itself lately, newest first.
    notes: Vec<NoteInfo>,
    /// When the last delivery of its webhook came that was signed.
    last_delivery_at: Option<String>,
    /// For how many seconds nothing is asked, as it wished.
    paused_seconds: f64,
    /// What is left of its hourly limits, by kind of call.
    limits: BTreeMap<String, LimitInfo>,
}

/// A job that waits at its forge.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct WaitingInfo {
    /// Its name.
    id: String,
    /// What its forge calls it, where known.
    title: Option<String>,
    /// What it belongs to, such as `acme/widgets`, where known.
    repository: Option<String>,
    /// The address of its page at its forge, where known.
    url: Option<String>,
    /// The only profile it may run on, if it names one.
    profile: Option<String>,
    /// What a profile must offer for it, all of it.
    labels: Vec<String>,
    /// The reservation whose workers it waits for.
    reserved_for: Option<String>,
    /// Since when it waits.
    queued_at: String,
}

/// A way of knowing what waits.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct SourceInfo {
    /// Which, such as `webhook`.
    kind: String,
    /// The only profile it speaks of, where there is one.
    profile: Option<String>,
    /// Whether it can be relied upon.
    reliable: bool,
    /// Why not.
    reason: Option<String>,
    /// Since when not.
    since: Option<String>,
}

/// Who tells what waits for a profile, and what its image carries.
#[derive(Object, Default)]
#[oai(skip_serializing_if_is_none)]
struct ProfileSource {
    /// Who is asked at the moment. Nobody can be, if none.
    source: Option<String>,
    /// Who is to be asked, the best first.
    order: Vec<String>,
    /// Whether the best cannot be relied upon, and another has taken over, or nobody could.
    failed_over: bool,
    /// The forge's runner program in its image, where that is known.
    program: Option<ProgramInfo>,
}

/// The forge's runner program in an image.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct ProgramInfo {
    /// Its version.
    version: String,
    /// The newest there is, if the forge told.
    newest: Option<String>,
    /// From when on the forge may refuse it.
    refused_from: Option<String>,
    /// What to do about it, once it is time to.
    warning: Option<String>,
}

/// Something that a forge said of itself.
#[derive(Object)]
struct NoteInfo {
    at: String,
    text: String,
}

/// What is left of a limit.
#[derive(Object)]
struct LimitInfo {
    /// How many calls there may be.
    limit: u64,
    /// How many are left.
    remaining: u64,
    /// After how many seconds there are as many as at first.
    resets_in_seconds: u64,
}

#[OpenApi]
impl ForgesApi {
    /// List the forges elsewhere
    ///
    /// The local queue is none of them.
    #[oai(path = "/forges", method = "get", operation_id = "list_forges")]
    async fn forges(&self) -> Json<Vec<ForgeInfo>> {
        let (forges, status) = (self.0.0.forges.iter(), self.0.status());
        let info = |(name, remote): (&ForgeName, &Remote)| {
            let waiting = status.queued.get(name).into_iter().flatten().take(JOBS);
            let waiting = waiting.map(|job| waits(job, &*remote.outside)).collect();
            info(name, remote.outside.figures(), waiting)
        };
        Json(forges.map(info).collect())
    }
}

fn waits(job: &QueuedJob, outside: &dyn Outside) -> WaitingInfo {
    let place = outside.job(&job.id);
    let (title, repository, url) = match place {
        Some(JobPlace { title, repository, page }) => (Some(title), repository, page),
        None => (None, None, None),
    };
    WaitingInfo {
        id: job.id.to_string(),
        title,
        repository,
        url,
        profile: job.profile.as_ref().map(ToString::to_string),
        labels: job.labels.iter().map(ToString::to_string).collect(),
        reserved_for: job.reserved_for.as_ref().map(ToString::to_string),
        queued_at: job.queued_at.to_string(),
    }
}

fn info(name: &ForgeName, figures: Figures, waiting: Vec<WaitingInfo>) -> ForgeInfo {
    let (since, reason) = told(figures.ill.as_ref());
    let mut profiles: BTreeMap<String, ProfileSource> = BTreeMap::new();
    for (profile, asked) in &figures.asked {
        profiles.insert(profile.to_string(), asked.into());
    }
    for (profile, program) in figures.programs {
        profiles.entry(profile.to_string()).or_default().program = Some(program.into());
    }
    let budget = figures.budget.unwrap_or_default();
    let hourly = budget.hourly.into_iter();
    let limit = |(kind, (limit, remaining, resets_in_seconds))| {
        (kind, LimitInfo { limit, remaining, resets_in_seconds })
    };
    ForgeInfo {
        name: name.to_string(),
        place: figures.place,
        usable: figures.ill.is_none(),
        reason,
        since,
        sources: figures.sources.into_iter().map(Into::into).collect(),
        profiles,
        waiting,
        notes: figures.notes.into_iter().rev().take(NOTES).map(Into::into).collect(),
        last_delivery_at: figures
            .deliveries
            .and_then(|deliveries| deliveries.last_heard_at)
            .map(|at| at.to_string()),
        paused_seconds: budget.paused_seconds,
        limits: hourly.map(limit).collect(),
    }
}

fn told(ill: Option<&Ill>) -> (Option<String>, Option<String>) {
    let since = ill.and_then(|ill| ill.since);
    (since.map(|at| at.to_string()), ill.map(|ill| ill.reason.clone()))
}

impl From<SourceFigures> for SourceInfo {
    fn from(source: SourceFigures) -> Self {
        let (since, reason) = told(source.ill.as_ref());
        Self {
            kind: source.kind.to_owned(),
            profile: source.profile.map(|profile| profile.to_string()),
            reliable: source.ill.is_none(),
            reason,
            since,
        }
    }
}

impl From<&Asked> for ProfileSource {
    fn from(asked: &Asked) -> Self {
        Self {
            source: asked.now.map(str::to_owned),
            order: asked.order.iter().map(|&kind| kind.to_owned()).collect(),
            failed_over: asked.failed_over(),
            program: None,
        }
    }
}

impl From<Program> for ProgramInfo {
    fn from(program: Program) -> Self {
        Self {
            version: program.version,
            newest: program.newest,
            refused_from: program.refused_from.map(|at| at.to_string()),
            warning: program.warning,
        }
    }
}

impl From<Note> for NoteInfo {
    fn from(note: Note) -> Self {
        Self { at: note.at.to_string(), text: note.text }
    }
}
