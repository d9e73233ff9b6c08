//! What a job says, piece by piece.

use http::header::RANGE;
use serde_json::json;

use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    state::State,
    trace::Appended,
};

/// `PATCH /jobs/:id/trace`.
pub(super) fn append(state: &mut State, request: &Request) -> Answer {
    let id = state.job_at_work(request)?;
    let error = |status: u16, text: &str| Refusal::error(status, json!({ "error": text }));
    let Some(range) = request.header("content-range") else {
        let refusal = error(400, "400 Missing header Content-Range");
        return Err(refusal.with("job-status", state.jobs[&id].status.name()));
    };
    // What follows the start is ignored: GitLab looks at how much there is.
    let start = range.split('-').next().and_then(|start| start.trim().parse::<usize>().ok());
    let start = start.ok_or_else(|| error(400, "400 Bad Content-Range"))?;

    let limit = state.settings.trace_limit;
    let end = start.saturating_add(request.body.len());
    if u64::try_from(end).is_ok_and(|end| end > limit) {
        state.fail(id, "trace_size_exceeded", None);
        let refusal = error(403, "403 Forbidden");
        return Err(refusal.with("job-status", state.jobs[&id].status.name()));
    }
    let job = state.jobs.get_mut(&id).ok_or_else(Refusal::forbidden)?;
    match job.trace.append(start, &request.body) {
        Appended::Until(size) => {
            let reply = state.about_job(id, Reply::empty(202));
            Ok(reply.with(RANGE, format!("0-{size}")))
        }
        Appended::Gap(size) => {
            let refusal = error(416, "416 Range Not Satisfiable");
            Err(refusal.with(RANGE, format!("0-{size}")))
        }
    }
}
