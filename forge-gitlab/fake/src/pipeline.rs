//! Pipelines: jobs that wait for each other.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    ids::{JobId, PipelineId, ProjectId, UserId},
    job::{Job, Status},
    job_spec::JobSpec,
    state::State,
    time::millis,
};

#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) id: PipelineId,
    pub(crate) project: ProjectId,
    pub(crate) user: UserId,
    /// In the order of their stages.
    pub(crate) jobs: Vec<JobId>,
    pub(crate) created: Timestamp,
}

impl Pipeline {
    pub(crate) fn status(&self, state: &State) -> &'static str {
        let jobs = || {
            let jobs = self.jobs.iter().filter_map(|id| state.jobs.get(id));
            jobs.filter(|job| !job.retried)
        };
        let any = |status: Status| jobs().any(|job| job.status == status);
        let in_turn = [Status::Running, Status::Canceling, Status::Pending];
        match in_turn.into_iter().find(|status| any(*status)) {
            Some(Status::Pending) if jobs().any(|job| job.status.is_over()) => "running",
            Some(status) => status.name(),
            None if jobs().any(|job| job.status == Status::Failed && !job.may_fail()) => "failed",
            None if any(Status::Canceled) => "canceled",
            None if any(Status::Created) => "created",
            None if any(Status::Manual) => "manual",
            None => "success",
        }
    }

    fn spec<'a>(&self, state: &'a State) -> Option<&'a JobSpec> {
        self.jobs.iter().find_map(|id| state.jobs.get(id)).map(|job| &job.spec)
    }

    pub(crate) fn brief_json(&self, state: &State, base: &str) -> Value {
        let spec = self.spec(state);
        let project = state.projects.get(&self.project);
        json!({
            "id": self.id,
            "iid": self.id,
            "project_id": self.project,
            "ref": spec.map_or("main", |spec| spec.git.reference.as_str()),
            "sha": spec.map_or("", |spec| spec.git.sha.as_str()),
            "source": "push",
            "status": self.status(state),
            "created_at": millis(self.created),
            "updated_at": millis(state.now()),
            "web_url": format!(
                "{base}/{}/-/pipelines/{}",
                project.map_or("", |project| project.path.as_str()),
                self.id
            ),
        })
    }

    pub(crate) fn json(&self, state: &State, base: &str) -> Value {
        let mut pipeline = self.brief_json(state, base);
        let spec = self.spec(state);
        let user = state.users.get(&self.user);
        pipeline["tag"] = spec.is_some_and(|spec| spec.git.tag).into();
        pipeline["before_sha"] = "0000000000000000000000000000000000000000".into();
        pipeline["user"] = user.map(|user| user.json(base)).into();
        for absent in ["name", "yaml_errors", "coverage", "committed_at"] {
            pipeline[absent] = Value::Null;
        }
        pipeline
    }
}

/// What the jobs that one waits for say of it.
enum Turn {
    Wait,
    Now,
    Never,
}

impl State {
    pub(crate) fn add_pipeline(
        &mut self,
        project: ProjectId,
        user: UserId,
        jobs: Vec<JobSpec>,
    ) -> PipelineId {
        let id = PipelineId(self.next_id());
        let jobs = jobs.into_iter().map(|spec| self.add_job(project, id, user, spec)).collect();
        let pipeline = Pipeline { id, project, user, jobs, created: self.now() };
        self.pipelines.insert(id, pipeline);
        self.advance(id);
        id
    }

    /// Starts what can start now, and skips what never will.
    pub(crate) fn advance(&mut self, id: PipelineId) {
        // What is skipped may be what another waits for.
        loop {
            let Some(pipeline) = self.pipelines.get(&id) else { return };
            let jobs = pipeline.jobs.iter().filter_map(|id| self.jobs.get(id));
            let mut created = jobs.filter(|job| job.status == Status::Created);
            let next = created.find_map(|job| match self.turn(job) {
                Turn::Wait => None,
                turn => Some((job.id, turn)),
            });
            match next {
                None => return,
                Some((id, Turn::Now)) => {
                    let job = self.jobs.get_mut(&id).expect("it was found just now");
                    if job.spec.manual {
                        job.status = Status::Manual;
                    } else {
                        self.enqueue(id);
                    }
                }
                Some((id, _)) => {
                    let job = self.jobs.get_mut(&id).expect("it was found just now");
                    job.status = Status::Skipped;
                }
            }
        }
    }

    fn turn(&self, job: &Job) -> Turn {
        let mut turn = Turn::Now;
        for before in self.waited_for(job) {
            match before.status {
                Status::Success => (),
                Status::Failed if before.may_fail() => (),
                // Nobody has to start what its pipeline does not need.
                Status::Manual if before.spec.allow_failure => (),
                Status::Failed | Status::Canceled | Status::Skipped => return Turn::Never,
                _ => turn = Turn::Wait,
            }
        }
        turn
    }

    /// The jobs that one waits for.
    fn waited_for<'a>(&'a self, job: &'a Job) -> Vec<&'a Job> {
        match &job.spec.needs {
            Some(names) => {
                let named = |other: &&Job| names.contains(&other.spec.name);
                self.others(job).filter(named).collect()
            }
            None => self.of_stages_before(job),
        }
    }

    fn others<'a>(&'a self, job: &'a Job) -> impl Iterator<Item = &'a Job> {
        let pipeline = self.pipelines.get(&job.pipeline);
        let jobs = pipeline.map_or([].as_slice(), |pipeline| pipeline.jobs.as_slice());
        let jobs = jobs.iter().filter_map(|id| self.jobs.get(id));
        jobs.filter(|other| other.id != job.id && !other.retried)
    }

    /// Stages are in the order in which the pipeline's jobs first name them.
    fn of_stages_before<'a>(&'a self, job: &'a Job) -> Vec<&'a Job> {
        let pipeline = self.pipelines.get(&job.pipeline);
        let jobs = pipeline.map_or([].as_slice(), |pipeline| pipeline.jobs.as_slice());
        let stages = jobs.iter().filter_map(|id| self.jobs.get(id)).map(|job| &job.spec.stage);
        let before: Vec<_> = stages.take_while(|stage| **stage != job.spec.stage).collect();
        self.others(job).filter(|other| before.contains(&&other.spec.stage)).collect()
    }

    /// The jobs whose artifacts one gets.
    pub(crate) fn dependencies<'a>(&'a self, job: &'a Job) -> Vec<&'a Job> {
        let mut jobs = match (&job.spec.dependencies, &job.spec.needs) {
            (Some(names), _) => {
                let named = |other: &&Job| names.contains(&other.spec.name);
                self.others(job).filter(named).collect()
            }
            (None, Some(_)) => self.waited_for(job),
            (None, None) => self.of_stages_before(job),
        };
        jobs.retain(|other| other.status.is_over() && other.erased.is_none());
        jobs
    }

    /// Runs a job that is over once more, as another one, and those that were skipped for its sake.
    pub(crate) fn retry(&mut self, id: JobId, user: UserId) -> Option<JobId> {
        let job = self.jobs.get(&id).filter(|job| job.status.is_over() && !job.retried)?;
        let (project, pipeline, spec) = (job.project, job.pipeline, job.spec.clone());
        let again = self.add_job(project, pipeline, user, spec);
        let jobs = &mut self.pipelines.get_mut(&pipeline)?.jobs;
        let at = jobs.iter().position(|other| *other == id)?;
        jobs.insert(at + 1, again);
        self.jobs.get_mut(&id)?.retried = true;
        for other in self.pipelines.get(&pipeline)?.jobs.clone() {
            if let Some(other) = self.jobs.get_mut(&other)
                && other.status == Status::Skipped
            {
                other.status = Status::Created;
            }
        }
        self.advance(pipeline);
        Some(again)
    }

    pub(crate) fn delete_pipeline(&mut self, id: PipelineId) -> bool {
        let Some(pipeline) = self.pipelines.remove(&id) else { return false };
        for job in pipeline.jobs {
            self.jobs.remove(&job);
        }
        true
    }
}
