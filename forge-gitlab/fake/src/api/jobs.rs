//! A job, for its runner: who it is, and what becomes of it.

use serde_json::Value;

use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    ids::JobId,
    job::Status,
    settings::WrongTrace,
    state::State,
};

const JOB_STATUS: &str = "job-status";
const UPDATE_INTERVAL: &str = "x-gitlab-trace-update-interval";

/// The token that opens a job.
pub(super) fn job_token(request: &Request) -> Option<&str> {
    request.header("job-token").or_else(|| request.text("token"))
}

impl State {
    /// The job of a path's `{id}`, for whoever has its token.
    ///
    /// There is no 404: one can come from anywhere between a runner and GitLab, and a runner must end what is
    /// no job any more (`lib/api/ci/helpers/runner.rb`).
    fn job_by_token(&self, request: &Request) -> Result<JobId, Refusal> {
        let id = JobId(request.number("id")?);
        let job = self.jobs.get(&id).ok_or_else(Refusal::forbidden)?;
        if job_token(request) != Some(job.token.as_str()) {
            return Err(Refusal::forbidden());
        }
        if !self.projects.contains_key(&job.project) {
            return Err(Refusal::forbidden_because("Project has been deleted!"));
        }
        if job.erased.is_some() {
            return Err(Refusal::forbidden_because("Job has been erased!"));
        }
        Ok(id)
    }

    /// The same for a job that runs, which is heard of by that.
    pub(super) fn job_at_work(&mut self, request: &Request) -> Result<JobId, Refusal> {
        let id = self.job_by_token(request)?;
        let now = self.now();
        let job = self.jobs.get_mut(&id).ok_or_else(Refusal::forbidden)?;
        if !job.status.is_at_work() {
            let refusal = Refusal::forbidden_because("Job is not running");
            return Err(refusal.with(JOB_STATUS, job.status.name()));
        }
        job.heard = now;
        Ok(id)
    }

    /// What every answer about a job says: what became of it, and how often its trace is wanted.
    pub(super) fn about_job(&self, id: JobId, reply: Reply) -> Reply {
        let job = &self.jobs[&id];
        let interval = match job.watched {
            true => self.settings.watched_trace_update_interval,
            false => self.settings.trace_update_interval,
        };
        reply.with(JOB_STATUS, job.status.name()).with(UPDATE_INTERVAL, interval.as_secs())
    }
}

/// `GET /job`.
pub(super) fn by_token(state: &mut State, request: &Request) -> Answer {
    let token = job_token(request).ok_or_else(Refusal::unauthorized)?;
    let at_work = |job: &&crate::job::Job| job.token == token && job.status.is_at_work();
    let job = state.jobs.values().find(at_work).ok_or_else(Refusal::unauthorized)?;
    Reply::ok(job.json(state, &request.base))
}

/// `PUT /jobs/:id`.
pub(super) fn update(state: &mut State, request: &Request) -> Answer {
    let id = state.job_by_token(request)?;
    let wanted = request.text("state").unwrap_or_default();
    if let Some(answer) = commit(state, id, wanted) {
        return answer;
    }
    let id = state.job_at_work(request)?;
    let mut said = request.fields.clone();
    said.remove("token");
    let job = state.jobs.get_mut(&id).expect("it is at work");
    job.updates.push(Value::Object(said));

    match wanted {
        "running" => job.keep_alives += 1,
        "success" | "failed" => {
            if let Some(reply) = store_trace(state, id, request) {
                return Ok(state.about_job(id, reply));
            }
            finish(state, id, wanted, request)?;
        }
        _ => return Err(Refusal::new(400, "400 Bad request")),
    }
    Ok(state.about_job(id, Reply::text(200, "200")))
}

/// The second half of handing a job out in two phases. `None` when that is not what goes on.
fn commit(state: &mut State, id: JobId, wanted: &str) -> Option<Answer> {
    let now = state.now();
    let job = state.jobs.get_mut(&id)?;
    match (job.offered, wanted) {
        (true, "running") => state.start(id),
        (true, "pending") => job.heard = now,
        (true, _) => return Some(Err(Refusal::new(400, "400 Bad request"))),
        (false, "pending") if job.status == Status::Running => {
            return Some(Err(Refusal::conflict("job is already assigned")));
        }
        (false, _) => return None,
    }
    Some(Ok(state.about_job(id, Reply::text(200, "200"))))
}

/// What GitLab does with the trace before it takes a final update: it stores it, which may take until a later
/// update, and compares it. An older runner that gives no checksum is taken at its word.
fn store_trace(state: &mut State, id: JobId, request: &Request) -> Option<Reply> {
    let output = request.fields.get("output").unwrap_or(&Value::Null);
    let checksum = output["checksum"].as_str().or_else(|| request.text("checksum"))?;
    let (answers, wrong_trace) = (state.settings.storing_answers, state.settings.wrong_trace);
    let job = state.jobs.get_mut(&id)?;
    if job.storing_answers < answers {
        job.storing_answers += 1;
        return Some(Reply::text(202, "202"));
    }
    let size = output["bytesize"].as_u64();
    let is_size = size.is_none_or(|size| usize::try_from(size) == Ok(job.trace.len()));
    if checksum == job.trace.checksum() && is_size {
        return None;
    }
    job.trace_is_wrong = true;
    match wrong_trace {
        WrongTrace::Taken => None,
        WrongTrace::Refused => {
            job.trace.forget();
            job.storing_answers = 0;
            Some(Refusal::new(412, "412 Precondition Failed").into_reply())
        }
    }
}

fn finish(state: &mut State, id: JobId, wanted: &str, request: &Request) -> Result<(), Refusal> {
    if wanted == "success" {
        state.succeed(id);
        return Ok(());
    }
    let known = |reason: &&str| state.settings.failure_reasons.iter().any(|known| known == reason);
    let reason = request.text("failure_reason").filter(known);
    let reason = reason.unwrap_or("unknown_failure").to_owned();
    let code = request.integer("exit_code")?;
    state.fail(id, &reason, code);
    Ok(())
}
