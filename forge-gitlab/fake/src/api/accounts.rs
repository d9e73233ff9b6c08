//! Users, groups and projects, to look at.

use serde_json::{Value, json};

use crate::{
    access::Scope,
    account::{Level, Place},
    exchange::{Answer, Refusal, Reply, Request},
    ids::UserId,
    page::page,
    state::State,
};

pub(super) fn own_user(state: &mut State, request: &Request) -> Answer {
    let user = state.caller(request, &[Scope::ReadApi, Scope::ReadUser])?;
    let own = state.users.get(&user).ok_or_else(Refusal::unauthorized)?;
    let mut json = own.full_json(&request.base);
    json["email"] = format!("{}@example.com", own.username).into();
    Reply::ok(json)
}

pub(super) fn own_token(state: &mut State, request: &Request) -> Answer {
    let token = state.access_token(request)?;
    Reply::ok(token.json(state.now()))
}

/// Only whoever administers the instance is told who else does.
fn seen_by_all(state: &State, caller: UserId, mut user: Value) -> Value {
    if !state.is_admin(caller) {
        user.as_object_mut().expect("a user is an object").remove("is_admin");
    }
    user
}

pub(super) fn users(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi, Scope::ReadUser])?;
    let username = request.text("username");
    let search = request.text("search").unwrap_or_default();
    let users = state.users.values().filter(|user| {
        username.is_none_or(|name| name.eq_ignore_ascii_case(&user.username))
            && user.username.contains(search)
    });
    let users = users.map(|user| seen_by_all(state, caller, user.full_json(&request.base)));
    page(request, users.collect())
}

pub(super) fn user(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi, Scope::ReadUser])?;
    let user = state.users.get(&UserId(request.number("id")?));
    let user = user.ok_or_else(|| Refusal::not_found("User"))?;
    Reply::ok(seen_by_all(state, caller, user.full_json(&request.base)))
}

pub(super) fn groups(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi])?;
    let search = request.text("search").unwrap_or_default();
    let groups = state.groups.values().filter(|group| {
        group.path.contains(search) && state.level(caller, Place::Group(group.id)).is_some()
    });
    page(request, groups.map(|group| group.json(&request.base)).collect())
}

pub(super) fn group(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi])?;
    let id = state.group_of(request)?;
    state.must_be(caller, Level::Guest, Place::Group(id))?;
    Reply::ok(state.groups[&id].json(&request.base))
}

pub(super) fn group_projects(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi])?;
    let id = state.group_of(request)?;
    state.must_be(caller, Level::Guest, Place::Group(id))?;
    let nested = request.flag("include_subgroups")?.unwrap_or(false);
    let projects = state.projects.values().filter(|project| {
        project.group == Some(id) || nested && state.with_parents(project.group).contains(&id)
    });
    page(request, projects.map(|project| project.json(state, &request.base)).collect())
}

pub(super) fn projects(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi])?;
    let search = request.text("search").unwrap_or_default();
    let projects = state.projects.values().filter(|project| {
        project.path.contains(search) && state.level(caller, Place::Project(project.id)).is_some()
    });
    page(request, projects.map(|project| project.json(state, &request.base)).collect())
}

pub(super) fn project(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi])?;
    let id = state.project_of(request)?;
    state.must_be(caller, Level::Guest, Place::Project(id))?;
    Reply::ok(state.projects[&id].json(state, &request.base))
}

pub(super) fn group_members(state: &mut State, request: &Request) -> Answer {
    let place = Place::Group(state.group_of(request)?);
    members(state, request, place)
}

pub(super) fn project_members(state: &mut State, request: &Request) -> Answer {
    let place = Place::Project(state.project_of(request)?);
    members(state, request, place)
}

fn members(state: &State, request: &Request, place: Place) -> Answer {
    let caller = state.caller(request, &[Scope::ReadApi])?;
    state.must_be(caller, Level::Guest, place)?;
    let members = state.members_of(place).into_iter().map(|(id, level)| {
        let user = &state.users[&id];
        json!({
            "id": id,
            "username": user.username,
            "name": user.username,
            "state": "active",
            "web_url": format!("{}/{}", request.base, user.username),
            "access_level": level as u8,
        })
    });
    page(request, members.collect())
}
