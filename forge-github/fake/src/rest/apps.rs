//! Apps: who they are, where they are installed, and the tokens they get there.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::jobs::repository;
use crate::{
    access::{Caller, Grant, Level, Token, secret},
    account::moved,
    app::{AppRecord, Installation},
    contract::Contract,
    exchange::{Addresses, Answer, Refusal, Reply, Request},
    ids::node,
    page,
    scope::Scope,
    state::State,
    time::seconds,
};

/// How long an installation's token is good.
const TOKEN: SignedDuration = SignedDuration::from_hours(1);

/// The App that asks.
pub(super) fn app<'a>(state: &'a State, request: &Request) -> Result<&'a AppRecord, Refusal> {
    let Caller::App(id) = request.caller else { return Err(Refusal::not_found()) };
    state.apps.iter().find(|app| app.id == id).ok_or_else(Refusal::not_found)
}

fn permissions(app: &AppRecord) -> Value {
    app.permissions.iter().map(|(name, level)| (name.clone(), level.name())).collect()
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    let app = app(state, request)?;
    let example = Contract::example("integration");
    let mut json = moved(example, &request.addresses, &["octoapp"], &app.slug);
    json["id"] = app.id.into();
    json["node_id"] = node("Integration", app.id).into();
    json["client_id"] = app.client_id.clone().into();
    json["slug"] = app.slug.clone().into();
    json["name"] = app.slug.clone().into();
    json["owner"] = state.account(&app.owner)?.json(&request.addresses);
    json["permissions"] = permissions(app);
    json["events"] = app.events.clone().into();
    json["created_at"] = seconds(app.created).into();
    json["updated_at"] = seconds(app.created).into();
    Reply::ok(json)
}

fn describe(installation: &Installation, state: &State, addresses: &Addresses) -> Answer {
    Reply::ok(installation_json(installation, state, addresses)?)
}

fn installation_json(
    installation: &Installation,
    state: &State,
    addresses: &Addresses,
) -> Result<Value, Refusal> {
    let app = state.apps.iter().find(|app| app.id == installation.app);
    let app = app.ok_or_else(Refusal::not_found)?;
    let (id, account) = (installation.id, &installation.account);
    let (target, account_json) = match installation.kind {
        "Enterprise" => {
            let enterprise = state.enterprise(account)?;
            (enterprise.id, enterprise.json(addresses))
        }
        _ => {
            let account = state.account(account)?;
            (account.id, account.json(addresses))
        }
    };
    let selection = if installation.repositories.is_some() { "selected" } else { "all" };
    Ok(json!({
        "id": id,
        "app_id": app.id,
        "app_slug": app.slug,
        "client_id": app.client_id,
        "target_id": target,
        "target_type": installation.kind,
        "account": account_json,
        "permissions": permissions(app),
        "events": app.events,
        "repository_selection": selection,
        "access_tokens_url": format!("{}/app/installations/{id}/access_tokens", addresses.api),
        "repositories_url": format!("{}/installation/repositories", addresses.api),
        "html_url": format!("{}/organizations/{account}/settings/installations/{id}", addresses.web),
        "single_file_name": null,
        "has_multiple_single_files": false,
        "single_file_paths": [],
        "suspended_at": null,
        "suspended_by": null,
        "created_at": seconds(installation.created),
        "updated_at": seconds(installation.created),
    }))
}

pub(super) fn find_installation(state: &mut State, request: &Request) -> Answer {
    let app = app(state, request)?.id;
    let user = request.parameters.get("username").cloned();
    let (account, repository) = match (user, request.scope()) {
        (Some(login), _) => (login, None),
        (None, Ok(Scope::Repository { owner, .. })) => (owner, Some(repository(state, request)?)),
        (None, Ok(Scope::Organisation(login))) => (login, None),
        (None, Ok(Scope::Enterprise(slug))) => (slug, None),
        (None, Err(refusal)) => return Err(refusal),
    };
    let has = |one: &Installation| match (repository, &one.repositories) {
        (Some(id), Some(selected)) => selected.contains(&id),
        _ => true,
    };
    let mut installations = state.installations.iter();
    let installation = installations
        .find(|one| one.app == app && one.account.eq_ignore_ascii_case(&account) && has(one));
    describe(installation.ok_or_else(Refusal::not_found)?, state, &request.addresses)
}

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let app = app(state, request)?.id;
    let installations = state.installations.iter().filter(|one| one.app == app);
    let mut all = Vec::new();
    for one in installations {
        let mut json = installation_json(one, state, &request.addresses)?;
        // It is only told of one by itself.
        json.as_object_mut().map(|fields| fields.remove("client_id"));
        all.push(json);
    }
    page::bare(request, all)
}

fn find<'a>(state: &'a State, request: &Request) -> Result<&'a Installation, Refusal> {
    let (app, id) = (app(state, request)?.id, request.number("installation_id")?);
    let mut installations = state.installations.iter();
    installations.find(|one| one.id == id && one.app == app).ok_or_else(Refusal::not_found)
}

pub(super) fn show_installation(state: &mut State, request: &Request) -> Answer {
    describe(find(state, request)?, state, &request.addresses)
}

pub(super) fn uninstall(state: &mut State, request: &Request) -> Answer {
    let id = find(state, request)?.id;
    state.uninstall(id);
    Reply::no_content()
}

pub(super) fn create_token(state: &mut State, request: &Request) -> Answer {
    let installation = find(state, request)?.clone();
    let held = app(state, request)?.permissions.clone();
    let asked = request.field("permissions").as_object().filter(|asked| !asked.is_empty());
    let permissions = match asked {
        None => held,
        Some(asked) => {
            let mut permissions = crate::Permissions::new();
            for (name, level) in asked {
                let level = if level == "read" { Level::Read } else { Level::Write };
                if held.get(name).is_none_or(|held| *held < level) {
                    return Err(Refusal::invalid(
                        "The permissions requested are not granted to this installation.",
                    ));
                }
                permissions.insert(name.clone(), level);
            }
            permissions
        }
    };
    let repositories = chosen(state, request, &installation)?;
    let now = state.now();
    let expires = now.saturating_add(TOKEN).unwrap_or(jiff::Timestamp::MAX);
    let token = secret("ghs_");
    let mut json = json!({
        "token": token,
        "expires_at": seconds(expires),
        "permissions": permissions
            .iter()
            .map(|(name, level)| (name.clone(), level.name()))
            .collect::<Value>(),
        "repository_selection": if repositories.is_some() { "selected" } else { "all" },
    });
    if let Some(ids) = &repositories {
        let described = ids.iter().filter_map(|id| state.repository_by_id(*id));
        let described = described.map(|one| one.list_json(state, &request.addresses));
        json["repositories"] = Value::Array(described.collect());
    }
    let grant = Grant { account: installation.account, permissions, repositories };
    let caller = Caller::Installation { id: installation.id, grant };
    state.tokens.insert(token, Token { caller, expires: Some(expires) });
    Reply::created(json)
}

/// The repositories that a token is asked for; all of the installation's if none are named.
fn chosen(
    state: &State,
    request: &Request,
    installation: &Installation,
) -> Result<Option<Vec<i64>>, Refusal> {
    let mut ids = request.numbers("repository_ids");
    for name in request.texts("repositories") {
        let repository = state.repository(&installation.account, &name);
        ids.push(repository.map_err(|_| outside())?.id);
    }
    if ids.is_empty() {
        return Ok(installation.repositories.clone());
    }
    let owned = |id: &i64| {
        let repository = state.repository_by_id(*id);
        let owned = repository.is_some_and(|r| r.owner.eq_ignore_ascii_case(&installation.account));
        owned && installation.repositories.as_ref().is_none_or(|ids| ids.contains(id))
    };
    if ids.iter().all(owned) { Ok(Some(ids)) } else { Err(outside()) }
}

fn outside() -> Refusal {
    Refusal::invalid(
        "There is at least one repository that does not exist or is not accessible to the parent \
         installation.",
    )
}

pub(super) fn repositories(state: &mut State, request: &Request) -> Answer {
    let Caller::Installation { grant, .. } = &request.caller else {
        return Err(Refusal::not_found());
    };
    let mine = state.repositories.iter().filter(|repository| {
        repository.owner.eq_ignore_ascii_case(&grant.account) && grant.has_repository(repository.id)
    });
    let mine = mine.map(|one| one.list_json(state, &request.addresses)).collect();
    page::counted(request, "repositories", mine)
}

pub(super) fn revoke_token(state: &mut State, request: &Request) -> Answer {
    let held = request.header(http::header::AUTHORIZATION).and_then(|value| value.split_once(' '));
    if let Some((_, token)) = held {
        state.tokens.remove(token);
    }
    Reply::no_content()
}
