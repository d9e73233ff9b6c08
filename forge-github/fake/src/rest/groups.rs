//! Runner groups: who may use which runners.

use http::Method;
use serde_json::{Value, json};

use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    page,
    runner::{DEFAULT_GROUP, Group, Runner},
    scope::Scope,
    state::State,
};

fn json(group: &Group, request: &Request) -> Value {
    let url = format!(
        "{}{}/actions/runner-groups/{}",
        request.addresses.api,
        group.scope.path(),
        group.id
    );
    let mut json = json!({
        "id": group.id,
        "name": group.name,
        "visibility": group.visibility,
        "default": group.id == DEFAULT_GROUP,
        "runners_url": format!("{url}/runners"),
        "allows_public_repositories": group.public,
        "workflow_restrictions_read_only": false,
        "restricted_to_workflows": group.restricted,
        "selected_workflows": group.workflows,
    });
    let is_enterprise = matches!(group.scope, Scope::Enterprise(_));
    if !is_enterprise {
        json["inherited"] = false.into();
    }
    if group.visibility == "selected" {
        let (field, end) = if is_enterprise {
            ("selected_organizations_url", "organizations")
        } else {
            ("selected_repositories_url", "repositories")
        };
        json[field] = format!("{url}/{end}").into();
    }
    json
}

fn find<'a>(state: &'a mut State, request: &Request) -> Result<&'a mut Group, Refusal> {
    state.group(&request.scope()?, request.number("runner_group_id")?)
}

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let scope = request.scope()?;
    state.knows(&scope)?;
    let place =
        request.query("visible_to_repository").or_else(|| request.query("visible_to_organization"));
    let place = match (&scope, place) {
        (_, None) => None,
        (Scope::Organisation(login), Some(name)) => Some(state.repository(login, name)?.id),
        (_, Some(login)) => Some(state.account(login)?.id),
    };
    let sees = |group: &&Group| {
        place.is_none_or(|id| group.visibility != "selected" || group.selected.contains(&id))
    };
    let groups = state.groups.iter().filter(|group| group.scope == scope).filter(sees);
    let groups = groups.map(|group| json(group, request)).collect();
    page::counted(request, "runner_groups", groups)
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    Reply::ok(json(find(state, request)?, request))
}

pub(super) fn create(state: &mut State, request: &Request) -> Answer {
    let scope = request.scope()?;
    state.knows(&scope)?;
    let of_scope = |group: &&Group| group.scope == scope;
    let name = request.field("name").as_str().unwrap_or_default().to_owned();
    if state.groups.iter().filter(of_scope).any(|group| group.name == name) {
        return Err(Refusal::conflict("Runner group name already exists"));
    }
    let id = state.groups.iter().filter(of_scope).map(|group| group.id).max().unwrap_or(0) + 1;
    let ids =
        [request.numbers("selected_repository_ids"), request.numbers("selected_organization_ids")];
    let mut group = Group {
        id,
        name,
        selected: ids.into_iter().flatten().collect(),
        ..State::default_group(scope.clone())
    };
    apply(&mut group, request);
    let runners = request.numbers("runners");
    let reply = json(&group, request);
    state.groups.push(group);
    for runner in runners {
        state.runner(&scope, runner)?.group = id;
    }
    Reply::created(reply)
}

pub(super) fn update(state: &mut State, request: &Request) -> Answer {
    let group = find(state, request)?;
    if let Some(name) = request.field("name").as_str() {
        name.clone_into(&mut group.name);
    }
    apply(group, request);
    Reply::ok(json(group, request))
}

fn apply(group: &mut Group, request: &Request) {
    if let Some(visibility) = request.field("visibility").as_str() {
        visibility.clone_into(&mut group.visibility);
    }
    if let Some(public) = request.field("allows_public_repositories").as_bool() {
        group.public = public;
    }
    if let Some(restricted) = request.field("restricted_to_workflows").as_bool() {
        group.restricted = restricted;
    }
    if request.field("selected_workflows").is_array() {
        group.workflows = request.texts("selected_workflows");
    }
}

pub(super) fn delete(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, find(state, request)?.id);
    if id == DEFAULT_GROUP {
        return Err(Refusal::forbidden("The default runner group cannot be deleted"));
    }
    state.groups.retain(|group| group.scope != scope || group.id != id);
    for runner in state.runners.values_mut().filter(|runner| runner.scope == scope) {
        if runner.group == id {
            runner.group = DEFAULT_GROUP;
        }
    }
    Reply::no_content()
}

pub(super) fn list_selected(state: &mut State, request: &Request) -> Answer {
    let (scope, selected) = (request.scope()?, find(state, request)?.selected.clone());
    let addresses = &request.addresses;
    if matches!(scope, Scope::Enterprise(_)) {
        let accounts = state.accounts.iter().filter(|account| selected.contains(&account.id));
        let accounts = accounts.map(|account| account.hook_json(addresses)).collect();
        return page::counted(request, "organizations", accounts);
    }
    let repositories = state.repositories.iter().filter(|one| selected.contains(&one.id));
    let repositories = repositories.map(|one| one.json(state, addresses)).collect();
    page::counted(request, "repositories", repositories)
}

pub(super) fn select(state: &mut State, request: &Request) -> Answer {
    let ids =
        [request.numbers("selected_repository_ids"), request.numbers("selected_organization_ids")];
    find(state, request)?.selected = ids.into_iter().flatten().collect();
    Reply::no_content()
}

pub(super) fn select_one(state: &mut State, request: &Request) -> Answer {
    let id = request.number("repository_id").or_else(|_| request.number("org_id"))?;
    let group = find(state, request)?;
    if request.method == Method::PUT {
        group.selected.insert(id);
    } else {
        group.selected.remove(&id);
    }
    Reply::no_content()
}

pub(super) fn list_runners(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, find(state, request)?.id);
    let runners = state.runners_of(&scope).filter(|runner| runner.group == id);
    let runners = runners.map(Runner::json).collect();
    page::counted(request, "runners", runners)
}

pub(super) fn set_runners(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, find(state, request)?.id);
    let chosen = request.numbers("runners");
    for runner in state.runners.values_mut().filter(|runner| runner.scope == scope) {
        if chosen.contains(&runner.id) {
            runner.group = id;
        } else if runner.group == id {
            runner.group = DEFAULT_GROUP;
        }
    }
    Reply::no_content()
}

pub(super) fn move_runner(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, find(state, request)?.id);
    let runner = state.runner(&scope, request.number("runner_id")?)?;
    if request.method == Method::PUT {
        runner.group = id;
    } else if runner.group == id {
        runner.group = DEFAULT_GROUP;
    }
    Reply::no_content()
}
