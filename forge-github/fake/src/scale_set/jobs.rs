//! Which jobs are a set's, and what its listener is told of them.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Exception, ScaleSet, Served, ok};
use crate::{
    job::{Conclusion, Job, JobStatus},
    state::State,
};

impl State {
    /// Tells the set of a job how it is.
    pub(crate) fn tell_scale_sets(&mut self, id: i64) {
        let Some(job) = self.jobs.get(id) else { return };
        match (job.status, job.scale_set) {
            (JobStatus::Queued, None) => self.spread_jobs(),
            (JobStatus::InProgress, Some(set)) => {
                let runner = job.runner.as_ref();
                let more = json!({
                    "runnerId": runner.map(|by| by.id),
                    "runnerName": runner.map(|by| &by.name),
                });
                self.tell_set(set, id, "JobStarted", more);
            }
            (JobStatus::Completed, Some(set)) if job.assigned.is_some() => {
                let result = match job.conclusion {
                    Some(Conclusion::Success) => "succeeded",
                    Some(Conclusion::Failure) => "failed",
                    _ => "canceled",
                };
                let runner = job.runner.as_ref();
                let more = json!({
                    "result": result,
                    "runnerId": runner.map_or(0, |by| by.id),
                    "runnerName": runner.map_or("", |by| &by.name),
                });
                self.tell_set(set, id, "JobCompleted", more);
            }
            _ => (),
        }
    }

    /// Gives queued jobs to the sets that their labels name, and as many to each as its listener has room for.
    pub(super) fn spread_jobs(&mut self) {
        let free = self.jobs.queued().filter(|job| job.assigned.is_none());
        let queued: Vec<_> = free.map(|job| job.id).collect();
        for id in queued {
            let Some(job) = self.jobs.get(id) else { continue };
            if let Some(set) = job.scale_set {
                if self.has_room(set) {
                    self.assign_to_set(set, id);
                }
                continue;
            }
            if job.offered.is_some() {
                continue;
            }
            let Some(set) = self.scale_sets.iter().find(|set| self.is_for_set(job, set)) else {
                continue;
            };
            let set = set.id;
            if self.must_acquire {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.offered = Some(set);
                }
                let url = format!(
                    "{}/_services/_apis/runtime/runnerscalesets/{set}/acquirejobs",
                    self.home.web
                );
                self.tell_set(set, id, "JobAvailable", json!({ "acquireJobUrl": url }));
                continue;
            }
            if let Some(job) = self.jobs.get_mut(id) {
                job.scale_set = Some(set);
            }
            if self.has_room(set) {
                self.assign_to_set(set, id);
            }
        }
    }

    fn is_for_set(&self, job: &Job, set: &ScaleSet) -> bool {
        let has = |wanted: &String| set.labels.iter().any(|have| have.eq_ignore_ascii_case(wanted));
        !job.labels.is_empty()
            && job.labels.iter().all(has)
            && self.opens(&set.scope, set.group, job.repository)
    }

    fn has_room(&self, set: i64) -> bool {
        let its = |job: &&Job| job.scale_set == Some(set) && job.assigned.is_some();
        let open = self.jobs.open().filter(its).count();
        let set = self.scale_sets.iter().find(|one| one.id == set);
        set.is_some_and(|set| set.session.is_some() && open < set.capacity)
    }

    fn assign_to_set(&mut self, set: i64, id: i64) {
        let now = self.now();
        if let Some(job) = self.jobs.get_mut(id) {
            (job.scale_set, job.offered, job.assigned) = (Some(set), None, Some(now));
        }
        self.tell_set(set, id, "JobAssigned", json!({}));
    }

    /// Takes what was offered. What somebody else has meanwhile is left out.
    pub(super) fn acquire(&mut self, set: i64, ids: &[i64]) -> Served {
        if ids.is_empty() {
            let message = "There are no jobs to acquire.";
            return Err(Exception::new(StatusCode::BAD_REQUEST, "ArgumentException", message));
        }
        let offered = |id: &&i64| {
            let job = self.jobs.get(**id);
            job.is_some_and(|job| job.offered == Some(set) && job.status == JobStatus::Queued)
        };
        let acquired: Vec<i64> = ids.iter().filter(offered).copied().collect();
        for id in &acquired {
            self.assign_to_set(set, *id);
        }
        ok(&json!({ "count": acquired.len(), "value": acquired }))
    }

    fn tell_set(&mut self, set: i64, id: i64, kind: &str, more: Value) {
        let Some(job) = self.jobs.get(id) else { return };
        let repository = self.repository_by_id(job.repository);
        let (owner, name) =
            repository.map(|r| (r.owner.as_str(), r.name.as_str())).unwrap_or_default();
        let run = self.runs.get(&job.run);
        let branch = run.map(|run| run.branch.as_str()).unwrap_or_default();
        // What has not happened yet happened at the beginning of time.
        let time = |time: Option<jiff::Timestamp>| match time {
            Some(time) => time.to_string(),
            None => "0001-01-01T00:00:00Z".to_owned(),
        };
        let item = json!({
            "messageType": kind,
            "runnerRequestId": job.id,
            "repositoryName": name,
            "ownerName": owner,
            "jobId": format!("{:08x}-0000-4000-8000-{:012x}", job.run, job.id),
            "jobWorkflowRef": format!("{owner}/{name}/.github/workflows/ci.yml@refs/heads/{branch}"),
            "jobDisplayName": job.name,
            "workflowRunId": job.run,
            "eventName": run.map(|run| &run.event),
            "requestLabels": job.labels,
            "queueTime": time(Some(job.created)),
            "scaleSetAssignTime": time(job.assigned),
            "runnerAssignTime": time(job.started),
            "finishTime": time(job.completed),
        });
        let item = crate::account::changed(item, more);
        if let Ok(set) = self.set(set) {
            set.news.push_back(item);
        }
    }
}
