//! What each operation of the API does.

use http::Method;

use crate::{
    contract::Operation,
    exchange::{Answer, Request},
    state::State,
};

mod apps;
mod artifacts;
mod groups;
mod hooks;
mod jobs;
mod labels;
mod places;
mod runners;
mod runs;
mod workflows;

/// Does it, and answers.
pub(crate) type Handler = fn(&mut State, &Request) -> Answer;

const SCOPES: [&str; 3] = ["/orgs/{org}", "/repos/{owner}/{repo}", "/enterprises/{enterprise}"];

/// What does an operation. What is the same at every scope is written once.
#[rustfmt::skip]
pub(crate) fn handler(operation: &Operation) -> Option<Handler> {
    let template = operation.template;
    let scoped = SCOPES.iter().find_map(|scope| template.strip_prefix(scope));
    let get = operation.method == Method::GET;
    let handler: Handler = match (operation.method.as_str(), scoped.unwrap_or(template)) {
        ("GET", "") => places::show,
        ("GET", "/installation") | ("GET", "/users/{username}/installation") => apps::find_installation,
        ("GET", "/contents/{path}") => places::contents,
        ("GET", "/meta") => places::meta,
        ("GET", "/rate_limit") => places::rate_limit,

        ("GET", "/actions/runners") => runners::list,
        ("GET", "/actions/runners/downloads") => runners::downloads,
        ("GET", "/actions/runners/deprecations/{version}") => runners::deprecation,
        ("POST", "/actions/runners/generate-jitconfig") => runners::generate_jitconfig,
        ("POST", "/actions/runners/registration-token" | "/actions/runners/remove-token") => runners::token,
        ("GET", "/actions/runners/{runner_id}") => runners::show,
        ("DELETE", "/actions/runners/{runner_id}") => runners::delete,
        ("GET", "/actions/runners/{runner_id}/labels") => labels::list,
        ("POST", "/actions/runners/{runner_id}/labels") => labels::add,
        ("PUT", "/actions/runners/{runner_id}/labels") => labels::replace,
        ("DELETE", "/actions/runners/{runner_id}/labels") => labels::clear,
        ("DELETE", "/actions/runners/{runner_id}/labels/{name}") => labels::remove,

        ("GET", "/actions/runner-groups") => groups::list,
        ("POST", "/actions/runner-groups") => groups::create,
        ("GET", "/actions/runner-groups/{runner_group_id}") => groups::show,
        ("PATCH", "/actions/runner-groups/{runner_group_id}") => groups::update,
        ("DELETE", "/actions/runner-groups/{runner_group_id}") => groups::delete,
        ("GET", "/actions/runner-groups/{runner_group_id}/repositories" | "/actions/runner-groups/{runner_group_id}/organizations") => groups::list_selected,
        ("PUT", "/actions/runner-groups/{runner_group_id}/repositories" | "/actions/runner-groups/{runner_group_id}/organizations") => groups::select,
        ("PUT" | "DELETE", "/actions/runner-groups/{runner_group_id}/repositories/{repository_id}" | "/actions/runner-groups/{runner_group_id}/organizations/{org_id}") => groups::select_one,
        ("GET", "/actions/runner-groups/{runner_group_id}/runners") => groups::list_runners,
        ("PUT", "/actions/runner-groups/{runner_group_id}/runners") => groups::set_runners,
        ("PUT" | "DELETE", "/actions/runner-groups/{runner_group_id}/runners/{runner_id}") => groups::move_runner,

        ("GET", "/actions/jobs/{job_id}") => jobs::show,
        ("GET", "/actions/jobs/{job_id}/logs") => jobs::logs,
        ("POST", "/actions/jobs/{job_id}/rerun") => jobs::rerun,
        ("GET", "/actions/runs/{run_id}/jobs" | "/actions/runs/{run_id}/attempts/{attempt_number}/jobs") => jobs::list,

        ("GET", "/actions/runs") => runs::list,
        ("GET", "/actions/runs/{run_id}" | "/actions/runs/{run_id}/attempts/{attempt_number}") => runs::show,
        ("DELETE", "/actions/runs/{run_id}") => runs::delete,
        ("POST", "/actions/runs/{run_id}/cancel" | "/actions/runs/{run_id}/force-cancel") => runs::cancel,
        ("POST", "/actions/runs/{run_id}/rerun" | "/actions/runs/{run_id}/rerun-failed-jobs") => runs::rerun,
        ("GET", "/actions/runs/{run_id}/logs") => runs::logs,
        ("DELETE", "/actions/runs/{run_id}/logs") => runs::delete_logs,
        ("POST", "/actions/workflows/{workflow_id}/dispatches") => runs::dispatch,
        ("GET", "/actions/workflows") => workflows::list,
        ("GET", "/actions/workflows/{workflow_id}") => workflows::show,

        ("GET", "/actions/artifacts" | "/actions/runs/{run_id}/artifacts") => artifacts::list,
        ("GET", "/actions/artifacts/{artifact_id}") => artifacts::show,
        ("DELETE", "/actions/artifacts/{artifact_id}") => artifacts::delete,
        ("GET", "/actions/artifacts/{artifact_id}/{archive_format}") => artifacts::download,

        ("GET", "/hooks") => hooks::list,
        ("POST", "/hooks") => hooks::create,
        ("GET", "/hooks/{hook_id}") => hooks::show,
        ("PATCH", "/hooks/{hook_id}") => hooks::update,
        ("DELETE", "/hooks/{hook_id}") => hooks::delete,
        (_, "/hooks/{hook_id}/config" | "/app/hook/config") if get => hooks::config,
        ("PATCH", "/hooks/{hook_id}/config" | "/app/hook/config") => hooks::update_config,
        ("POST", "/hooks/{hook_id}/pings") => hooks::ping,
        ("POST", "/hooks/{hook_id}/tests") => hooks::test,
        ("GET", "/hooks/{hook_id}/deliveries" | "/app/hook/deliveries") => hooks::deliveries,
        ("GET", "/hooks/{hook_id}/deliveries/{delivery_id}" | "/app/hook/deliveries/{delivery_id}") => hooks::delivery,
        ("POST", "/hooks/{hook_id}/deliveries/{delivery_id}/attempts" | "/app/hook/deliveries/{delivery_id}/attempts") => hooks::redeliver,

        ("GET", "/app") => apps::show,
        ("GET", "/app/installations") => apps::list,
        ("GET", "/app/installations/{installation_id}") => apps::show_installation,
        ("DELETE", "/app/installations/{installation_id}") => apps::uninstall,
        ("POST", "/app/installations/{installation_id}/access_tokens") => apps::create_token,
        ("GET", "/installation/repositories") => apps::repositories,
        ("DELETE", "/installation/token") => apps::revoke_token,
        _ => return None,
    };
    Some(handler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Contract;

    #[test]
    fn every_operation_of_the_description_is_done() {
        for operation in Contract::github().operations() {
            let at = (&operation.method, operation.template);
            assert!(handler(operation).is_some(), "nothing does {at:?}");
        }
    }
}
