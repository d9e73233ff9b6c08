//! Workflow runs.

use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::{Value, json};

use super::jobs::{log, repository};
use crate::{
    artifact::zip,
    exchange::{Answer, Refusal, Reply, Request},
    job::{Conclusion, JobRequest, JobStatus, Run},
    page,
    state::State,
    time::seconds,
};

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let repository = repository(state, request)?;
    let wanted = |run: &&Run| {
        let (status, conclusion) = run.progress(state);
        let is = |name: &str, value: &str| request.query(name).is_none_or(|asked| asked == value);
        let conclusion = conclusion.map(Conclusion::name);
        run.repository == repository
            && request
                .query("status")
                .is_none_or(|asked| asked == status.name() || Some(asked) == conclusion)
            && is("event", &run.event)
            && is("branch", &run.branch)
            && is("actor", &run.actor)
            && is("head_sha", &run.sha)
            && request.query("created").is_none_or(|range| in_range(&seconds(run.created), range))
    };
    let json = |run: &Run| run.json(state, &request.addresses);
    // The newest first. Those that are under way are found without looking at all that are over.
    let runs: Vec<Value> = match request.query("status") {
        Some("queued" | "in_progress" | "waiting") => {
            let open: BTreeSet<i64> = state.jobs.open().map(|job| job.run).collect();
            let open = open.iter().rev().filter_map(|id| state.runs.get(id));
            open.filter(wanted).map(json).collect()
        }
        _ => state.runs.values().rev().filter(wanted).map(json).collect(),
    };
    page::counted(request, "workflow_runs", runs)
}

/// Whether a time is in a range of GitHub's search syntax. Such texts sort as their times do.
fn in_range(time: &str, range: &str) -> bool {
    if let Some((from, to)) = range.split_once("..") {
        return (from == "*" || time >= from) && (to == "*" || time <= to || time.starts_with(to));
    }
    for (sign, is) in [
        (">=", time >= range.trim_start_matches(">=")),
        ("<=", time <= range.trim_start_matches("<=")),
        (">", time > range.trim_start_matches('>')),
        ("<", time < range.trim_start_matches('<')),
    ] {
        if range.starts_with(sign) {
            return is;
        }
    }
    time.starts_with(range)
}

fn find<'a>(state: &'a State, request: &Request) -> Result<&'a Run, Refusal> {
    state.run(repository(state, request)?, request.number("run_id")?)
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    let run = find(state, request)?;
    if request.parameters.contains_key("attempt_number") {
        let attempt = request.number("attempt_number")?;
        if !(1..=run.attempt).contains(&attempt) {
            return Err(Refusal::not_found());
        }
        let run = Run { attempt, ..run.clone() };
        return Reply::ok(run.json(state, &request.addresses));
    }
    Reply::ok(run.json(state, &request.addresses))
}

pub(super) fn delete(state: &mut State, request: &Request) -> Answer {
    let run = find(state, request)?;
    if run.progress(state).0 != JobStatus::Completed {
        return Err(Refusal::forbidden("Could not delete the workflow run"));
    }
    let id = run.id;
    state.runs.remove(&id);
    state.jobs.remove_run(id);
    state.artifacts.retain(|_, artifact| artifact.run != id);
    Reply::no_content()
}

pub(super) fn cancel(state: &mut State, request: &Request) -> Answer {
    let id = find(state, request)?.id;
    state.cancel(id)?;
    Reply::accepted()
}

pub(super) fn rerun(state: &mut State, request: &Request) -> Answer {
    let id = find(state, request)?.id;
    let failed_only = request.path.ends_with("/rerun-failed-jobs");
    state.rerun(id, |job| !failed_only || job.conclusion != Some(Conclusion::Success))?;
    Reply::created(json!({}))
}

pub(super) fn logs(state: &mut State, request: &Request) -> Answer {
    let run = find(state, request)?;
    let jobs = state.jobs_of(run.id, Some(run.attempt)).enumerate();
    let files: Vec<_> =
        jobs.map(|(index, job)| (format!("{index}_{}.txt", job.name), log(job))).collect();
    let files = files.iter().map(|(name, content)| (name.as_str(), content.as_bytes()));
    let archive = zip(files);
    let link = state.link(&request.addresses, "application/zip", archive);
    Reply::redirect(&link)
}

pub(super) fn delete_logs(state: &mut State, request: &Request) -> Answer {
    find(state, request)?;
    Reply::no_content()
}

pub(super) fn dispatch(state: &mut State, request: &Request) -> Answer {
    let repository = repository(state, request)?;
    let name = state.repository_by_id(repository).map(|r| r.full_name()).unwrap_or_default();
    let branch = request.field("ref").as_str().unwrap_or_default();
    let labels = ["self-hosted"];
    let (run, _) = state.enqueue(JobRequest {
        event: "workflow_dispatch".to_owned(),
        branch: branch.trim_start_matches("refs/heads/").to_owned(),
        ..JobRequest::new(name.clone(), labels)
    })?;
    if request.field("return_run_details") != true {
        return Reply::no_content();
    }
    let path = format!("{name}/actions/runs/{run}");
    Ok(Reply::json(
        StatusCode::OK,
        json!({
            "workflow_run_id": run,
            "run_url": format!("{}/repos/{path}", request.addresses.api),
            "html_url": format!("{}/{path}", request.addresses.web),
        }),
    ))
}

#[cfg(test)]
mod tests {
    use super::in_range;

    #[test]
    fn a_range_of_time_is_read_as_in_a_search() {
        let time = "2026-11-21T08:00:00Z";
        for range in
            ["2026-11-21", ">=2026-11-21", "<2026-11-22", "2026-11-20..2026-11-21", "*..2027"]
        {
            assert!(in_range(time, range), "{range}");
        }
        for range in ["2026-11-22", ">2026-11-22", "<=2026-11-20", "2026-11-22..*"] {
            assert!(!in_range(time, range), "{range}");
        }
    }
}
