//! Answers why: why a job waits and until when, what became of one, and why a worker is gone. From what the
//! pool published, the event log and the flight recorder: pure, and in the same words everywhere.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    event::Event,
    forge::QueuedJob,
    local::{Job, JobState},
    name::{ForgeName, Label, ProfileName, WorkerName},
    plan::Subject,
    profile::Profile,
    recorder::FlightRecord,
    status::{ProfileStatus, Status, WorkerStatus},
    worker::Phase,
};

mod chances;
mod waiting;

pub(crate) use chances::{chances, held};
pub use waiting::waiting_reservation;

/// An answer, from its gist to its grounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What it is about.
    pub subject: String,
    /// The answer in one sentence.
    pub summary: String,
    /// In how long what is waited for is likely to happen, where that can be told.
    pub estimate: Option<Duration>,
    /// What it rests on: a chain of reasons, or steps with their times.
    pub lines: Vec<Line>,
}

/// One reason, or one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it happened, if it is a step.
    pub at: Option<Timestamp>,
    /// It in words.
    pub text: String,
}

impl Explanation {
    fn say(&mut self, text: impl Into<String>) {
        self.lines.push(Line { at: None, text: text.into() });
    }

    fn step(&mut self, at: Timestamp, text: impl Into<String>) {
        self.lines.push(Line { at: Some(at), text: text.into() });
    }

    /// Puts the steps into the order of their times, reasons first.
    fn sort(&mut self) {
        self.lines.sort_by_key(|line| line.at);
        self.lines.dedup();
    }
}

/// What events to read to explain a job of the local queue.
pub fn subjects_of_job(job: &Job, status: &Status) -> Vec<Subject> {
    let mut subjects = vec![Subject::Job(job.id.clone())];
    subjects.extend(job.worker.clone().map(Subject::Worker));
    let queued = job.as_queued();
    let worker_profile = job.worker.as_ref().and_then(|worker| worker.parts()).map(|(p, _)| p);
    let serving = status.offered.iter().filter(|profile| profile.serves(&queued));
    let profiles: BTreeSet<ProfileName> =
        serving.map(|profile| profile.name.clone()).chain(worker_profile).collect();
    for profile in profiles {
        subjects.push(Subject::Profile(profile.clone()));
        subjects.push(Subject::Build(profile));
    }
    subjects
}

/// Why a job of the local queue waits, or what became of it. `events` are those about
/// [`subjects_of_job`].
pub fn local_job(
    job: &Job,
    forge: &ForgeName,
    status: &Status,
    events: &[Event],
    now: Timestamp,
) -> Explanation {
    if job.state == JobState::Queued {
        return waiting_job(&job.as_queued(), forge, status, now);
    }
    let summary = match (&job.state, &job.worker) {
        (JobState::Running, Some(worker)) => {
            let since =
                job.started_at.or(job.assigned_at).map_or(Duration::ZERO, |at| age(at, now));
            format!("it runs on worker {worker} since {}", say(since))
        }
        (state, Some(worker)) => format!("it {} on worker {worker}", is_or_has(state)),
        (state, None) => format!("it {} before a worker had it", is_or_has(state)),
    };
    let mut told = Explanation {
        subject: format!("job {}", job.id),
        summary,
        estimate: None,
        lines: Vec::new(),
    };
    told.step(job.queued_at, "it was queued");
    let waited = |at: Timestamp| say(age(job.queued_at, at));
    if let Some(at) = job.assigned_at {
        let worker = job.worker.as_ref().map_or("a worker".to_owned(), |w| format!("worker {w}"));
        told.step(at, format!("{worker} took it, after {}", waited(at)));
    }
    if let Some(at) = job.started_at {
        told.step(at, "its command was started");
    }
    if let Some(at) = job.first_output_at {
        told.step(at, "its first output was seen");
    }
    if let Some(at) = job.ended_at {
        let ran =
            job.started_at.map_or(String::new(), |from| format!(", after {}", say(age(from, at))));
        told.step(at, format!("it {}{ran}", is_or_has(&job.state)));
    }
    // What the pool did for it while it waited, and what became of its worker.
    let waited_until = job.assigned_at.or(job.ended_at).unwrap_or(now);
    for event in events {
        let concerns = match &event.subject {
            Subject::Worker(worker) => job.worker.as_ref() == Some(worker),
            Subject::Profile(_) | Subject::Build(_) => {
                (job.queued_at..=waited_until).contains(&event.at)
            }
            _ => false,
        };
        if concerns {
            told.step(event.at, event.to_string());
        }
    }
    told.sort();
    told
}

/// Why a job waits: the chain that decides, from what it asks for to what will free what it needs.
pub fn waiting_job(
    job: &QueuedJob,
    forge: &ForgeName,
    status: &Status,
    now: Timestamp,
) -> Explanation {
    let mut told = Explanation {
        subject: format!("job {}", job.id),
        summary: String::new(),
        estimate: None,
        lines: Vec::new(),
    };
    told.say(format!(
        "it waits since {} and asks for {}",
        say(age(job.queued_at, now)),
        asks_for(job)
    ));
    if let Some(id) = &job.reserved_for {
        waiting::tell_of_reservation(&mut told, id, status, now);
        return told;
    }
    let of_forge = |profile: &&Profile| profile.forge == *forge;
    let serving: Vec<&Profile> =
        status.offered.iter().filter(of_forge).filter(|profile| profile.serves(job)).collect();
    if serving.is_empty() {
        told.summary = "no profile serves it".to_owned();
        for profile in status.offered.iter().filter(of_forge) {
            told.say(format!("profile {} {}", profile.name, what_lacks(profile, job)));
        }
        told.say("it waits until a profile that serves it is offered, or until it is cancelled");
        return told;
    }
    let names: Vec<&str> = serving.iter().map(|profile| profile.name.as_str()).collect();
    told.say(format!("served by profile {}", names.join(", ")));
    let profile = serving[0];
    let none = ProfileStatus::default();
    let counts = status.profiles.get(&profile.name).unwrap_or(&none);
    let place = place(job, forge, profile, status);
    told.say(match place {
        0 => format!("it is the first that waits for profile {}", profile.name),
        ahead => format!("{ahead} wait for profile {} before it", profile.name),
    });
    told.say(format!(
        "workers of profile {}: {} idle, {} starting, {} busy, {} reserved, {} going; at most {}",
        profile.name,
        counts.idle,
        counts.starting,
        counts.busy,
        counts.reserved,
        counts.over,
        counts.max
    ));
    let held = held(profile, forge, status);
    for reason in &held {
        told.say(reason.clone());
    }
    let chances = chances(profile, counts, status, now);
    for chance in &chances {
        told.say(chance.text.clone());
    }
    told.estimate = chances.get(place).and_then(|chance| chance.after);
    told.summary = match (held.first(), chances.get(place)) {
        (Some(reason), None) => reason.clone(),
        (_, Some(chance)) => chance.text.clone(),
        (None, None) => format!("{place} wait before it, and nothing tells when they will run"),
    };
    told.say(match told.estimate {
        Some(after) => format!("it is likely to start in {}", say(after)),
        None => "nothing tells when it will start".to_owned(),
    });
    told
}

/// How many jobs wait for the same profile before this one.
fn place(job: &QueuedJob, forge: &ForgeName, profile: &Profile, status: &Status) -> usize {
    let queued = status.queued.get(forge).map_or(&[][..], Vec::as_slice);
    let before = queued.iter().take_while(|other| other.id != job.id);
    before.filter(|other| other.reserved_for.is_none() && profile.serves(other)).count()
}

/// What became of a worker, or why it is as it is. `events` are those about it.
pub fn worker(
    name: &WorkerName,
    status: &Status,
    events: &[Event],
    flight: Option<&FlightRecord>,
    now: Timestamp,
) -> Option<Explanation> {
    let found = find(status, name);
    if found.is_none() && events.is_empty() && flight.is_none() {
        return None;
    }
    let mut told = Explanation {
        subject: format!("worker {name}"),
        summary: String::new(),
        estimate: None,
        lines: Vec::new(),
    };
    told.summary = match (found, flight) {
        (Some(worker), _) => describe(worker, now),
        (None, Some(flight)) => format!("it is gone: {}", flight.why),
        (None, None) => match events.last() {
            Some(event) => format!("it is gone; the last that was said: {event}"),
            None => "it is gone".to_owned(),
        },
    };
    for event in events {
        told.step(event.at, event.to_string());
    }
    told.sort();
    if let Some(flight) = flight {
        evidence(&mut told, flight);
    }
    Some(told)
}

fn evidence(told: &mut Explanation, flight: &FlightRecord) {
    told.say(format!("what was seen of it at its end ({:.0}):", flight.at));
    if let Some(exit) = &flight.exit {
        told.say(format!("its machine had stopped: {exit}"));
    }
    if let Some(job) = &flight.job {
        told.say(format!("its last job was {job}"));
    }
    for (path, text) in &flight.vitals {
        told.say(format!("{path}: {}", text.replace('\n', "; ")));
    }
    if let Some(at) = flight.screenshot_at {
        told.say(format!("a screenshot of {at:.0} is kept"));
    }
    for missing in &flight.missing {
        told.say(format!("could not be had: {missing}"));
    }
    let lines = flight.console.lines().filter(|line| !line.trim().is_empty()).count();
    let tail = flight.console.lines().filter(|line| !line.trim().is_empty());
    for line in tail.skip(lines.saturating_sub(10)) {
        told.say(format!("console: {}", line.trim_end()));
    }
}

fn describe(worker: &WorkerStatus, now: Timestamp) -> String {
    let since = say(age(worker.since, now));
    let mut text = match &worker.phase {
        Phase::Over(ending) => format!("it is over since {since}: {ending}"),
        phase => format!("it is {} since {since}", phase.word()),
    };
    if let Some(job) = &worker.job {
        text.push_str(&format!(", job {job}"));
    }
    if let Some(hold) = &worker.hold {
        text.push_str(&format!(
            "; it is kept for {} until {:.0}: {}",
            hold.by, hold.until, hold.purpose
        ));
    }
    if let Some(dismissal) = &worker.dismissal {
        text.push_str(&format!("; {} asked to retire it", dismissal.by));
    }
    text
}

fn find<'a>(status: &'a Status, name: &WorkerName) -> Option<&'a WorkerStatus> {
    status.workers.iter().find(|worker| worker.name == *name)
}

fn asks_for(job: &QueuedJob) -> String {
    let labels: Vec<&str> = job.labels.iter().map(Label::as_str).collect();
    match (&job.profile, labels.is_empty()) {
        (Some(profile), true) => format!("profile {profile}"),
        (Some(profile), false) => format!("profile {profile} with {}", labels.join(", ")),
        (None, false) => format!("labels {}", labels.join(", ")),
        (None, true) => "any worker of its reservation".to_owned(),
    }
}

fn what_lacks(profile: &Profile, job: &QueuedJob) -> String {
    if job.profile.as_ref().is_some_and(|wanted| *wanted != profile.name) {
        return "is not the one it asks for".to_owned();
    }
    let offers = |label: &&Label| profile.offers(&[(*label).clone()].into());
    let missing: Vec<&str> =
        job.labels.iter().filter(|label| !offers(label)).map(Label::as_str).collect();
    format!("does not offer {}", missing.join(", "))
}

fn is_or_has(state: &JobState) -> String {
    match state {
        JobState::Queued | JobState::Running => format!("is {}", state.word()),
        JobState::Cancelled => "was cancelled".to_owned(),
        JobState::Interrupted { reason } => format!("was interrupted: {reason}"),
        state => state.to_string(),
    }
}

fn usually(usual: Option<Duration>) -> String {
    usual.map_or(String::new(), |usual| format!(", which usually takes {}", say(usual)))
}

/// How long it is since `since`; nothing for a time to come.
fn age(since: Timestamp, now: Timestamp) -> Duration {
    let age: SignedDuration = now.duration_since(since);
    Duration::try_from(age).unwrap_or_default()
}

/// A duration as people say it, to two units: `350 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`.
pub fn say(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history::Usual,
        image::{Recipe, RecipeKind},
        name::JobId,
        plan::{Held, WhyNot},
        resources::Resources,
    };

    fn now() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().expect("a time")
    }

    fn ago(seconds: i64) -> Timestamp {
        now() - SignedDuration::from_secs(seconds)
    }

    fn job(id: &str) -> QueuedJob {
        QueuedJob {
            id: JobId::new(id).expect("an id"),
            profile: Some(ProfileName::new("linux").expect("a name")),
            labels: BTreeSet::new(),
            reserved_for: None,
            queued_at: ago(5),
        }
    }

    fn busy(serial: u64, seconds: i64) -> WorkerStatus {
        let profile = ProfileName::new("linux").expect("a name");
        WorkerStatus {
            name: WorkerName::of(&profile, serial),
            profile: Some(profile),
            forge: None,
            runner: None,
            image: None,
            phase: Phase::Busy,
            since: ago(seconds),
            created_at: None,
            job: None,
            reservation: None,
            marked: None,
            instance: None,
            hold: None,
            dismissal: None,
        }
    }

    /// A profile that has all of its two workers, which began 50 s and 10 s ago.
    fn full(forge: &ForgeName, usual: Usual) -> Status {
        let name = ProfileName::new("linux").expect("a name");
        let recipe = Recipe { profile: name.clone(), kind: RecipeKind::Micro {} };
        let profile = Profile::new(forge.clone(), recipe, Resources::default());
        let counts = ProfileStatus { busy: 2, max: 2, offered: true, usual, ..Default::default() };
        let subject = Subject::Profile(name.clone());
        Status {
            profiles: [(name, counts)].into(),
            offered: [profile].into(),
            workers: vec![busy(1, 10), busy(2, 50)],
            queued: [(forge.clone(), vec![job("1-a"), job("2-b"), job("3-c")])].into(),
            held: vec![Held { subject, why_not: WhyNot::AtMax { max: 2 } }],
            forges: [(forge.clone(), crate::plan::Sight::Seen)].into(),
            hypervisor: crate::plan::Sight::Seen,
            ..Status::default()
        }
    }

    #[test]
    fn a_job_is_likely_to_start_when_those_before_it_have_got_their_workers() {
        let forge = ForgeName::new("local").expect("a name");
        let (run, boot) = (Duration::from_secs(60), Duration::from_secs(3));
        let usual = Usual { boot: Some(boot), run: Some(run), build: None };
        let status = full(&forge, usual);
        // The worker that began 50 s ago has 10 s to go, the other 50 s; then their successors boot.
        let expected = [("1-a", Some(13)), ("2-b", Some(53)), ("3-c", None)];
        for (id, seconds) in expected {
            let told = waiting_job(&job(id), &forge, &status, now());
            assert_eq!(told.estimate, seconds.map(Duration::from_secs), "{told:#?}");
        }
        let unknown = full(&forge, Usual::default());
        let told = waiting_job(&job("1-a"), &forge, &unknown, now());
        assert_eq!(told.estimate, None);
        let says = |part: &str| told.lines.iter().any(|line| line.text.contains(part));
        assert!(says("the profile has all of its 2 workers"), "{told:#?}");
        assert!(says("nothing tells when it will start"), "{told:#?}");
    }
}
