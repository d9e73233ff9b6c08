//! Which runner gets which job, and what tells runners that there is something new.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{
    account::Place,
    exchange::{Answer, Refusal, Reply, Request},
    ids::{JobId, RunnerId, random_hex},
    job::{Job, Status},
    runner::Runner,
    state::State,
};

/// How long the value lasts that tells a runner whether there is something new. Then it looks in earnest.
const VALUE_LASTS: SignedDuration = SignedDuration::from_hours(1);

const LAST_UPDATE: &str = "x-gitlab-last-update";

/// What a runner gets to know when there is nothing for it, and which another job for it changes.
#[derive(Debug, Clone)]
pub(crate) struct QueueValue {
    pub(crate) text: String,
    set: Timestamp,
}

/// Without these features a runner cannot do a job, and who wanted it is told so.
fn needed_features(job: &Job) -> Vec<&'static str> {
    let spec = &job.spec;
    let reports = spec.artifacts.len() > 1;
    let excludes = spec.artifacts.iter().any(|artifacts| !artifacts.exclude.is_empty());
    let more_steps = spec.steps.iter().any(|step| step.name == "release");
    let fallback = spec.cache.iter().any(|cache| !cache.fallback_keys.is_empty());
    let needs = [
        ("upload_multiple_artifacts", reports),
        ("refspecs", spec.git.merge_request),
        ("artifacts_exclude", excludes),
        ("multi_build_steps", more_steps),
        ("return_exit_code", !spec.allow_failure_exit_codes.is_empty()),
        ("fallback_cache_keys", fallback),
        ("vault_secrets", spec.secrets.is_some()),
    ];
    needs.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name).collect()
}

impl State {
    /// The value of a runner's queue, a new one when there is none.
    pub(crate) fn queue_value(&mut self, id: RunnerId) -> String {
        let now = self.now();
        let fresh = || QueueValue { text: random_hex(16), set: now };
        let value = self.queue_values.entry(id).or_insert_with(fresh);
        if now.duration_since(value.set) >= VALUE_LASTS {
            *value = fresh();
        }
        value.text.clone()
    }

    /// Whether nothing is new since a runner was told `value`.
    fn is_latest(&self, id: RunnerId, value: &str) -> bool {
        let now = self.now();
        self.queue_values
            .get(&id)
            .is_some_and(|known| known.text == value && now.duration_since(known.set) < VALUE_LASTS)
    }

    /// The same by the runner's token, as workhorse has it: it does not know runners.
    pub(crate) fn is_latest_for(&self, token: &str, value: &str) -> bool {
        let runner = self.runners.values().find(|runner| runner.token == token);
        runner.is_some_and(|runner| self.is_latest(runner.id, value))
    }

    pub(crate) fn wake_runner(&mut self, id: RunnerId) {
        let value = QueueValue { text: random_hex(16), set: self.now() };
        self.queue_values.insert(id, value);
    }

    /// Tells all runners that could have a job.
    pub(crate) fn wake_runners_for(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        let able = self.runners.values().filter(|runner| self.suits(runner, job));
        let able: Vec<_> = able.map(|runner| runner.id).collect();
        for runner in able {
            self.wake_runner(runner);
        }
    }

    /// Whether a runner may have a job.
    fn suits(&self, runner: &Runner, job: &Job) -> bool {
        let Some(project) = self.projects.get(&job.project) else { return false };
        let of_place = match runner.spec.place {
            Place::Instance => project.options.instance_runners,
            Place::Group(group) => {
                project.options.group_runners && self.with_parents(project.group).contains(&group)
            }
            Place::Project(_) => runner.projects.contains(&project.id),
        };
        let has = |tag: &String| runner.spec.tags.contains(tag);
        let of_tags = match job.spec.tags.as_slice() {
            [] => runner.spec.run_untagged,
            tags => tags.iter().all(has),
        };
        let protected = project.options.protected_refs.contains(&job.spec.git.reference);
        of_place && of_tags && (protected || !runner.spec.protected)
    }

    /// What a runner could have now, best first: for a runner of the instance, whoever has fewest of its jobs
    /// running comes first; then the oldest job does.
    fn candidates(&self, runner: &Runner) -> Vec<JobId> {
        let waiting = |job: &&Job| job.status == Status::Pending && !job.offered;
        let jobs = self.jobs.values().filter(waiting).filter(|job| self.suits(runner, job));
        let mut jobs: Vec<_> = jobs.collect();
        let shared = runner.spec.place == Place::Instance;
        jobs.sort_by_key(|job| {
            (if shared { self.running_on_instance_runners(job) } else { 0 }, job.id)
        });
        jobs.into_iter().map(|job| job.id).collect()
    }

    /// How many jobs of a job's project run on runners of the instance.
    pub(crate) fn running_on_instance_runners(&self, job: &Job) -> usize {
        let shared = |other: &&Job| {
            let runner = other.runner.and_then(|id| self.runners.get(&id));
            runner.is_some_and(|runner| runner.spec.place == Place::Instance)
        };
        let ours = |other: &&Job| other.project == job.project && other.status.is_at_work();
        self.jobs.values().filter(ours).filter(shared).count()
    }

    /// `POST /jobs/request`, once workhorse has let it through.
    pub(crate) fn request_job(&mut self, request: &Request) -> Answer {
        let id = self.runner_at_work(request)?;
        if let Some(seen) = request.text("last_update")
            && self.is_latest(id, seen)
        {
            return Ok(Reply::empty(204).with(LAST_UPDATE, seen));
        }
        let value = self.queue_value(id);
        let nothing = Reply::empty(204).with(LAST_UPDATE, value);
        let runner = self.runners.get(&id).ok_or_else(Refusal::forbidden)?;
        if runner.spec.paused {
            return Ok(nothing);
        }
        let features = request.fields.get("info").map_or(&Value::Null, |info| &info["features"]);
        let features = features.as_object().into_iter().flatten();
        let features = features.filter(|(_, offered)| **offered == true);
        let features: BTreeSet<_> = features.map(|(name, _)| name.clone()).collect();

        for job in self.candidates(runner) {
            let needed = needed_features(&self.jobs[&job]);
            if !needed.iter().all(|name| features.contains(*name)) {
                self.fail(job, "runner_unsupported", None);
            } else if self.lacks_artifacts(job) {
                self.fail(job, "missing_dependency_failure", None);
            } else {
                return Ok(self.hand_out(job, id, features, request));
            }
        }
        Ok(nothing)
    }

    /// Whether what a job names as its dependency has nothing for it any more.
    fn lacks_artifacts(&self, id: JobId) -> bool {
        let now = self.now();
        let job = &self.jobs[&id];
        let left_some =
            |job: &&&Job| job.artifacts.iter().any(|artifact| artifact.kind == "archive");
        let dependencies = self.dependencies(job);
        job.spec.dependencies.is_some()
            && dependencies.iter().filter(left_some).any(|job| job.archive(now).is_none())
    }

    fn hand_out(
        &mut self,
        id: JobId,
        runner: RunnerId,
        features: BTreeSet<String>,
        request: &Request,
    ) -> Reply {
        let two_phases =
            self.settings.two_phase_job_commit && features.contains("two_phase_job_commit");
        let now = self.now();
        let job = self.jobs.get_mut(&id).expect("it was a candidate just now");
        job.runner = Some(runner);
        job.system_id = request.text("system_id").map(str::to_owned);
        job.features = features;
        job.heard = now;
        let session = request.fields.get("session").and_then(|session| session["url"].as_str());
        job.session_url = session.filter(|url| !url.is_empty()).map(str::to_owned);
        if two_phases {
            job.offered = true;
        } else {
            self.start(id);
        }
        let odd = !self.jobs[&id].spec.payload.is_empty();
        let payload = self.payload(id, &request.base);
        Reply { odd, ..Reply::json(201, payload) }
    }
}
