//! Several sources as one: who is asked for which profile, who takes over, and who makes up for what was lost.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use jiff::Timestamp;
use runner_core::{Changes, Clock, Hint, JobId, Label, ProfileName, Result, error::chain};
use serde::Serialize;
use tokio::time::Instant;

use super::{DemandSource, Freshness, Health, JobFact, Known, SourceKind, Waiting};
use crate::jobs::PollSource;

/// How many notes are kept.
const NOTES: usize = 200;
/// How many jobs are asked about in one round.
const ASKED_AT_ONCE: usize = 10;

/// Which jobs a profile takes, and who tells of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileDemand {
    /// What it offers, beside its own name.
    pub labels: BTreeSet<Label>,
    /// Who is asked, the best first. The next takes over while one is ill.
    pub sources: Vec<SourceKind>,
}

/// How demand is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemandPace {
    /// How often GitHub is asked what waits where nothing better tells.
    pub poll_every: Duration,
    /// How often it is asked all the same, for what the others may have lost.
    pub sweep_every: Duration,
    /// After how long GitHub is asked why a job still waits, and each time that long again.
    pub job_deadline: Duration,
}

impl Default for DemandPace {
    fn default() -> Self {
        Self {
            poll_every: Duration::from_secs(30),
            sweep_every: Duration::from_secs(300),
            job_deadline: Duration::from_secs(180),
        }
    }
}

/// Something about demand that an operator may want to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// When.
    pub at: Timestamp,
    /// The job it is about, if one.
    pub job: Option<JobId>,
    /// The profile it is about, if one.
    pub profile: Option<ProfileName>,
    /// What, in words.
    pub text: String,
}

/// All sources of one forge.
pub(crate) struct Demand {
    profiles: BTreeMap<ProfileName, ProfileDemand>,
    sources: Vec<Arc<dyn DemandSource>>,
    poll: Arc<PollSource>,
    pace: DemandPace,
    clock: Clock,
    hint: Hint,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: BTreeMap<ProfileName, Option<SourceKind>>,
    /// Since when each job is known to wait, and when GitHub was last asked about it.
    waiting: BTreeMap<JobId, Wait>,
    swept: Option<Instant>,
    notes: VecDeque<Note>,
}

struct Wait {
    waiting: Waiting,
    asked: Instant,
    first: Instant,
    /// GitHub is to be asked whatever its deadline.
    due: bool,
}

impl Demand {
    pub fn new(
        profiles: BTreeMap<ProfileName, ProfileDemand>,
        mut sources: Vec<Arc<dyn DemandSource>>,
        poll: Arc<PollSource>,
        pace: DemandPace,
        clock: Clock,
    ) -> Self {
        sources.push(poll.clone());
        let (hint, state) = (Hint::default(), Mutex::default());
        Self { profiles, sources, poll, pace, clock, hint, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything hints by itself.
    pub fn hints(&self) -> bool {
        self.sources.iter().any(|source| source.kind() != SourceKind::Poll)
    }

    pub fn changes(&self) -> Changes {
        self.hint.changes()
    }

    pub fn sources(&self) -> &[Arc<dyn DemandSource>] {
        &self.sources
    }

    pub fn active(&self) -> BTreeMap<ProfileName, Option<SourceKind>> {
        self.state().active.clone()
    }

    pub fn notes(&self) -> Vec<Note> {
        self.state().notes.iter().cloned().collect()
    }

    /// The job that a runner has, where anybody knows.
    pub fn job_of(&self, runner: &str) -> Option<JobId> {
        self.sources.iter().find_map(|source| source.job_of(runner))
    }

    /// What a job is, where anybody knows.
    pub fn job(&self, id: &JobId) -> Option<Known> {
        self.sources.iter().find_map(|source| source.job(id))
    }

    /// Whether anybody heard that a runner had its job, and that the job is over.
    pub fn is_over(&self, runner: &str) -> bool {
        self.sources.iter().any(|source| source.is_over(runner))
    }

    /// What waits for a runner of ours, oldest first.
    pub async fn queued(&self) -> Result<Vec<Waiting>> {
        let mut tried: BTreeMap<usize, Result<Vec<Waiting>, String>> = BTreeMap::new();
        let mut chosen: BTreeMap<ProfileName, Option<usize>> = BTreeMap::new();
        let mut last_error = None;
        // Each round asks those whom the profiles choose, until each profile has one that answered.
        loop {
            chosen.clear();
            for (name, profile) in &self.profiles {
                chosen.insert(name.clone(), self.choose(name, profile, &tried));
            }
            let new: BTreeSet<usize> = chosen
                .values()
                .flatten()
                .filter(|index| !tried.contains_key(index))
                .copied()
                .collect();
            if new.is_empty() {
                break;
            }
            let answers = new
                .iter()
                .map(async |&index| (index, self.sources[index].queued(Freshness::Usual).await));
            for (index, answer) in join_all(answers).await {
                tried.insert(
                    index,
                    answer.map_err(|error| {
                        let reason = chain(&error);
                        last_error = Some(error);
                        reason
                    }),
                );
            }
        }
        self.say_who(&chosen, &tried);
        if chosen.values().any(Option::is_none)
            && let Some(error) = last_error
        {
            return Err(error);
        }
        let mut jobs: BTreeMap<JobId, Waiting> = BTreeMap::new();
        for (name, index) in &chosen {
            let Some(Some(Ok(waiting))) = index.map(|index| tried.get(&index)) else { continue };
            let profile = &self.profiles[name];
            let its = waiting.iter().filter(|waiting| concerns(name, profile, waiting));
            jobs.extend(its.map(|waiting| (waiting.job.id.clone(), waiting.clone())));
        }
        let mut jobs: Vec<Waiting> = jobs.into_values().collect();
        jobs.sort_by(|a, b| (a.job.queued_at, &a.job.id).cmp(&(b.job.queued_at, &b.job.id)));
        self.watch(&jobs);
        Ok(jobs)
    }

    /// The best source for a profile that is well and has not failed just now.
    fn choose(
        &self,
        name: &ProfileName,
        profile: &ProfileDemand,
        tried: &BTreeMap<usize, Result<Vec<Waiting>, String>>,
    ) -> Option<usize> {
        let of_kind = |kind: &SourceKind| {
            self.sources.iter().position(|source| {
                source.kind() == *kind && source.profile().is_none_or(|its| its == name)
            })
        };
        let may = |index: &usize| match tried.get(index) {
            Some(answer) => answer.is_ok(),
            // Whoever asks finds out by asking whether it is well.
            None => {
                let source = &self.sources[*index];
                source.kind() == SourceKind::Poll || source.health().is_well()
            }
        };
        profile.sources.iter().filter_map(of_kind).find(may)
    }

    /// Notes who is asked from now on, where that changed.
    fn say_who(
        &self,
        chosen: &BTreeMap<ProfileName, Option<usize>>,
        tried: &BTreeMap<usize, Result<Vec<Waiting>, String>>,
    ) {
        for (name, index) in chosen {
            let kind = index.map(|index| self.sources[index].kind());
            let before = self.state().active.insert(name.clone(), kind);
            if before == Some(kind) || (before.is_none() && kind == self.best(name)) {
                continue;
            }
            let why = self.reasons(name, kind, tried);
            let text = match kind {
                Some(kind) if why.is_empty() => format!("{kind} tells what waits again"),
                Some(kind) => format!("{kind} tells what waits, because {why}"),
                None => format!("nothing tells what waits, because {why}"),
            };
            tracing::warn!(profile = %name, text, "Another source of demand.");
            self.note(None, Some(name.clone()), text);
        }
    }

    fn best(&self, name: &ProfileName) -> Option<SourceKind> {
        self.profiles[name].sources.first().copied()
    }

    /// Why those that come before `kind` were passed over.
    fn reasons(
        &self,
        name: &ProfileName,
        kind: Option<SourceKind>,
        tried: &BTreeMap<usize, Result<Vec<Waiting>, String>>,
    ) -> String {
        let better = self.profiles[name].sources.iter().take_while(|better| Some(**better) != kind);
        let reasons = better.map(|better| {
            let its = |source: &&Arc<dyn DemandSource>| {
                source.kind() == *better && source.profile().is_none_or(|its| its == name)
            };
            let Some(index) = self.sources.iter().position(|source| its(&source)) else {
                return format!("{better} is not set up");
            };
            let health = self.sources[index].health();
            match (tried.get(&index), &health) {
                (Some(Err(reason)), _) | (None, Health::Ill { reason, .. }) => {
                    format!("{better} does not: {reason}")
                }
                _ => format!("{better} does not"),
            }
        });
        reasons.collect::<Vec<_>>().join(", and ")
    }

    fn note(&self, job: Option<JobId>, profile: Option<ProfileName>, text: String) {
        let mut state = self.state();
        if state.notes.len() == NOTES {
            state.notes.pop_front();
        }
        state.notes.push_back(Note { at: self.clock.now(), job, profile, text });
    }

    /// Keeps the time of each job that waits.
    fn watch(&self, jobs: &[Waiting]) {
        let now = Instant::now();
        let mut state = self.state();
        let mut before = std::mem::take(&mut state.waiting);
        state.waiting = jobs
            .iter()
            .map(|job| {
                let (waiting, known) = (job.clone(), before.remove(&job.job.id));
                let wait = match known {
                    Some(known) => Wait { waiting, ..known },
                    None => Wait { waiting, asked: now, first: now, due: false },
                };
                (job.job.id.clone(), wait)
            })
            .collect();
    }

    /// What has to be done from time to time, beside answering: asks GitHub about jobs that wait for too
    /// long, and about everything now and then, and tells every source.
    pub async fn tend(&self) {
        let now = Instant::now();
        if self.hints() && self.state().swept.is_none_or(|at| at + self.sweep_every() <= now) {
            let asked_at = self.clock.now();
            match self.poll.look(now).await {
                Ok(facts) => {
                    self.state().swept = Some(now);
                    self.doubt(&facts, now);
                    facts.iter().for_each(|fact| self.learn(fact));
                    self.sources.iter().for_each(|source| source.caught_up(asked_at));
                    self.hint.hint();
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::debug!(error, "What was lost could not be looked for.");
                }
            }
        }
        for (job, waited) in self.overdue(now) {
            self.ask_about(&job, waited).await;
        }
    }

    /// Makes jobs due that were believed to wait, and that a sweep begun since did not find.
    fn doubt(&self, found: &[JobFact], began: Instant) {
        let found: BTreeSet<u64> = found.iter().map(|fact| fact.number).collect();
        for wait in self.state().waiting.values_mut() {
            let lacks = wait.waiting.number.is_some_and(|number| !found.contains(&number));
            if lacks && wait.first < began {
                wait.due = true;
            }
        }
    }

    /// Whoever may have missed something waits for a sweep to catch up.
    fn sweep_every(&self) -> Duration {
        match self.sources.iter().all(|source| source.health().is_well()) {
            true => self.pace.sweep_every,
            false => self.pace.poll_every,
        }
    }

    /// Jobs that are due: most of all, those that have waited for a deadline since GitHub was last asked.
    fn overdue(&self, now: Instant) -> Vec<(Waiting, Duration)> {
        let mut state = self.state();
        let due = state
            .waiting
            .values_mut()
            .filter(|wait| wait.due || wait.asked + self.pace.job_deadline <= now);
        due.take(ASKED_AT_ONCE)
            .map(|wait| {
                (wait.asked, wait.due) = (now, false);
                (wait.waiting.clone(), now - wait.first)
            })
            .collect()
    }

    async fn ask_about(&self, waiting: &Waiting, waited: Duration) {
        let (Some(repository), Some(number)) = (&waiting.repository, waiting.number) else {
            return;
        };
        let id = waiting.job.id.clone();
        let seconds = waited.as_secs();
        let text = match self.poll.ask(repository, number).await {
            Ok(Some(fact)) => {
                self.learn(&fact);
                match fact.status {
                    super::JobStatus::Queued => format!(
                        "it has waited for {seconds} s, and GitHub says that it waits: for a runner that \
                         offers {}",
                        fact.labels.join(", ")
                    ),
                    super::JobStatus::InProgress => {
                        let runner = fact.runner.as_deref().unwrap_or("a runner");
                        format!("GitHub says that {runner} has it; that news was lost")
                    }
                    super::JobStatus::Completed => {
                        "GitHub says that it is over; that news was lost".to_owned()
                    }
                    super::JobStatus::Waiting => {
                        "GitHub says that it waits for something other than a runner".to_owned()
                    }
                }
            }
            Ok(None) => {
                self.sources.iter().for_each(|source| source.forget(number));
                self.hint.hint();
                "GitHub knows no such job any more".to_owned()
            }
            Err(error) => {
                format!(
                    "it has waited for {seconds} s, and GitHub could not be asked: {}",
                    chain(&error)
                )
            }
        };
        tracing::info!(job = %id, text, "A job waits for long.");
        self.note(Some(id), None, text);
    }

    /// Tells every source what GitHub said.
    pub fn learn(&self, fact: &JobFact) {
        self.sources.iter().for_each(|source| source.learn(fact));
        self.hint.hint();
    }

    /// Passes a source's hints on, for ever.
    pub async fn listen(&self, index: usize) {
        let mut changes = self.sources[index].changes();
        loop {
            changes.next().await;
            self.hint.hint();
        }
    }
}

/// Whether a job is a profile's: one that it could run, or that is told for it. A job of a reservation may be
/// anybody's.
fn concerns(name: &ProfileName, profile: &ProfileDemand, waiting: &Waiting) -> bool {
    let job = &waiting.job;
    if let Some(only) = &job.profile {
        return only == name;
    }
    let offers = |wanted: &Label| {
        wanted.as_str().eq_ignore_ascii_case(name.as_str())
            || profile.labels.iter().any(|label| label.matches(wanted))
    };
    job.reserved_for.is_some() || (!job.labels.is_empty() && job.labels.iter().all(offers))
}
