//! What GitLab does, route by route.

use std::{collections::HashMap, sync::LazyLock};

use crate::{
    exchange::{Answer, Refusal, Request},
    state::State,
};

mod accounts;
mod artifacts;
mod instance;
mod jobs;
mod project_jobs;
mod project_runners;
mod runner_tokens;
mod runners;
mod trace;

/// Does what a request asks for, whole or not at all.
type Handler = fn(&mut State, &Request) -> Answer;

static HANDLERS: LazyLock<HashMap<&'static str, Handler>> = LazyLock::new(|| {
    let all: &[(&str, Handler)] = &[
        ("GET /api/v4/groups", accounts::groups),
        ("GET /api/v4/groups/{id}", accounts::group),
        ("GET /api/v4/groups/{id}/members/all", accounts::group_members),
        ("GET /api/v4/groups/{id}/projects", accounts::group_projects),
        ("GET /api/v4/groups/{id}/runners", runners::of_group),
        ("GET /api/v4/job", jobs::by_token),
        ("POST /api/v4/jobs/request", State::request_job),
        ("PUT /api/v4/jobs/{id}", jobs::update),
        ("GET /api/v4/jobs/{id}/artifacts", artifacts::download),
        ("POST /api/v4/jobs/{id}/artifacts", artifacts::upload),
        ("PATCH /api/v4/jobs/{id}/trace", trace::append),
        ("GET /api/v4/metadata", instance::metadata),
        ("GET /api/v4/personal_access_tokens/self", accounts::own_token),
        ("GET /api/v4/projects", accounts::projects),
        ("GET /api/v4/projects/{id}", accounts::project),
        ("GET /api/v4/projects/{id}/jobs", project_jobs::list),
        ("GET /api/v4/projects/{id}/jobs/{job_id}", project_jobs::one),
        ("DELETE /api/v4/projects/{id}/jobs/{job_id}/artifacts", project_jobs::delete_artifacts),
        ("GET /api/v4/projects/{id}/jobs/{job_id}/artifacts", project_jobs::artifacts),
        ("POST /api/v4/projects/{id}/jobs/{job_id}/cancel", project_jobs::cancel),
        ("POST /api/v4/projects/{id}/jobs/{job_id}/erase", project_jobs::erase),
        ("POST /api/v4/projects/{id}/jobs/{job_id}/play", project_jobs::play),
        ("POST /api/v4/projects/{id}/jobs/{job_id}/retry", project_jobs::retry),
        ("GET /api/v4/projects/{id}/jobs/{job_id}/trace", project_jobs::trace),
        ("GET /api/v4/projects/{id}/members/all", accounts::project_members),
        ("DELETE /api/v4/projects/{id}/pipelines/{pipeline_id}", project_jobs::delete_pipeline),
        ("GET /api/v4/projects/{id}/pipelines/{pipeline_id}", project_jobs::pipeline),
        ("GET /api/v4/projects/{id}/pipelines/{pipeline_id}/jobs", project_jobs::of_pipeline),
        ("GET /api/v4/projects/{id}/runners", runners::of_project),
        ("POST /api/v4/projects/{id}/runners", project_runners::assign),
        ("DELETE /api/v4/projects/{id}/runners/{runner_id}", project_runners::unassign),
        ("DELETE /api/v4/runners", runner_tokens::unregister),
        ("GET /api/v4/runners", runners::owned),
        ("POST /api/v4/runners", runner_tokens::register),
        ("GET /api/v4/runners/all", runners::all),
        ("DELETE /api/v4/runners/managers", runner_tokens::unregister_manager),
        ("POST /api/v4/runners/reset_authentication_token", runner_tokens::reset),
        ("POST /api/v4/runners/reset_registration_token", runner_tokens::reset_registration),
        ("GET /api/v4/runners/router/discovery", runner_tokens::discover_router),
        ("POST /api/v4/runners/verify", runner_tokens::verify),
        ("DELETE /api/v4/runners/{id}", runners::delete),
        ("GET /api/v4/runners/{id}", runners::one),
        ("PUT /api/v4/runners/{id}", runners::update),
        ("GET /api/v4/runners/{id}/jobs", runners::jobs),
        ("GET /api/v4/runners/{id}/managers", runners::managers),
        ("POST /api/v4/runners/{id}/reset_authentication_token", runners::reset),
        ("GET /api/v4/user", accounts::own_user),
        ("POST /api/v4/user/runners", runners::create),
        ("GET /api/v4/users", accounts::users),
        ("GET /api/v4/users/{id}", accounts::user),
        ("GET /api/v4/version", instance::metadata),
    ];
    all.iter().copied().collect()
});

/// Does what a request to a route asks for.
pub(crate) fn answer(state: &mut State, route: &str, request: &Request) -> Answer {
    match HANDLERS.get(route) {
        Some(handler) => handler(state, request),
        None => Err(Refusal::error(404, serde_json::json!({ "error": "404 Not Found" }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Contract;

    #[test]
    fn everything_that_the_description_has_is_here() {
        // Between workhorse and Rails, which are one here.
        let absent = ["POST /api/v4/jobs/{id}/artifacts/authorize"];
        let mut described: Vec<_> =
            Contract::gitlab().operations().map(|operation| operation.route()).collect();
        described.retain(|route| !absent.contains(&route.as_str()));
        described.sort();
        let mut handled: Vec<_> = HANDLERS.keys().map(|route| (*route).to_owned()).collect();
        handled.sort();
        assert_eq!(handled, described);
    }
}
