//! Hooks of repositories, organisations and Apps, and what was delivered to them.

use serde_json::Value;

use super::apps::app;
use crate::{
    access::Caller,
    exchange::{Answer, Refusal, Reply, Request},
    hook::{Hook, Owner},
    page,
    state::State,
};

fn owner(request: &Request) -> Result<Owner, Refusal> {
    match (&request.caller, request.path.starts_with("/app/")) {
        (Caller::App(id), true) => Ok(Owner::App(*id)),
        _ => Ok(Owner::Scope(request.scope()?)),
    }
}

/// The hook that the path names; an App's has no name.
fn find<'a>(state: &'a State, request: &Request) -> Result<&'a Hook, Refusal> {
    let owner = owner(request)?;
    match owner {
        Owner::App(_) => {
            app(state, request)?;
            state.hook(&owner, None)
        }
        Owner::Scope(_) => state.hook(&owner, Some(request.number("hook_id")?)),
    }
}

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let (owner, scope) = (owner(request)?, request.scope()?);
    state.knows(&scope)?;
    let hooks = state.hooks.iter().filter(|hook| hook.owner == owner);
    page::bare(request, hooks.map(|hook| hook.json(&request.addresses)).collect())
}

pub(super) fn show(state: &mut State, request: &Request) -> Answer {
    Reply::ok(find(state, request)?.json(&request.addresses))
}

pub(super) fn create(state: &mut State, request: &Request) -> Answer {
    let (owner, scope) = (owner(request)?, request.scope()?);
    state.knows(&scope)?;
    let config = request.field("config");
    let Some(url) = config["url"].as_str() else {
        return Err(Refusal::invalid("Validation Failed"));
    };
    let events = request.texts("events");
    let (id, now) = (state.next_id(), state.now());
    let mut hook = Hook {
        id,
        owner,
        url: url.to_owned(),
        secret: None,
        content_type: "form".to_owned(),
        insecure_ssl: false,
        events: if events.is_empty() { vec!["push".to_owned()] } else { events },
        active: request.field("active") != false,
        created: now,
        updated: now,
        last_response: None,
    };
    configure(&mut hook, config);
    let json = hook.json(&request.addresses);
    state.hooks.push(hook);
    state.ping(id)?;
    Reply::created(json)
}

pub(super) fn update(state: &mut State, request: &Request) -> Answer {
    let (id, now) = (find(state, request)?.id, state.now());
    let hook = state.hook_mut(id)?;
    let config = request.field("config");
    if config.is_object() {
        // What is not said is as if it were taken away.
        hook.secret = None;
        configure(hook, config);
    }
    if request.field("events").is_array() {
        hook.events = request.texts("events");
    }
    for event in request.texts("add_events") {
        if !hook.events.contains(&event) {
            hook.events.push(event);
        }
    }
    let removed = request.texts("remove_events");
    hook.events.retain(|event| !removed.contains(event));
    if let Some(active) = request.field("active").as_bool() {
        hook.active = active;
    }
    hook.updated = now;
    Reply::ok(hook.json(&request.addresses))
}

fn configure(hook: &mut Hook, config: &Value) {
    if let Some(url) = config["url"].as_str() {
        url.clone_into(&mut hook.url);
    }
    if let Some(secret) = config["secret"].as_str() {
        hook.secret = Some(secret.to_owned());
    }
    if let Some(content_type) = config["content_type"].as_str() {
        content_type.clone_into(&mut hook.content_type);
    }
    match &config["insecure_ssl"] {
        Value::Null => (),
        value => hook.insecure_ssl = *value == "1" || *value == 1,
    }
}

pub(super) fn delete(state: &mut State, request: &Request) -> Answer {
    let id = find(state, request)?.id;
    state.hooks.retain(|hook| hook.id != id);
    Reply::no_content()
}

pub(super) fn config(state: &mut State, request: &Request) -> Answer {
    Reply::ok(find(state, request)?.config())
}

pub(super) fn update_config(state: &mut State, request: &Request) -> Answer {
    let (id, now) = (find(state, request)?.id, state.now());
    let hook = state.hook_mut(id)?;
    if let Some(body) = &request.json {
        configure(hook, body);
    }
    hook.updated = now;
    Reply::ok(hook.config())
}

pub(super) fn ping(state: &mut State, request: &Request) -> Answer {
    let id = find(state, request)?.id;
    state.ping(id)?;
    Reply::no_content()
}

/// GitHub sends the last push. There was none.
pub(super) fn test(state: &mut State, request: &Request) -> Answer {
    find(state, request)?;
    Reply::no_content()
}

pub(super) fn deliveries(state: &mut State, request: &Request) -> Answer {
    let hook = find(state, request)?.id;
    let status = request.query("status");
    let deliveries =
        state.deliveries_of(hook).filter(page::from_cursor(request)).filter(|delivery| {
            let failed = delivery.outcome.as_ref().is_none_or(|outcome| outcome.code >= 400);
            status.is_none_or(|status| (status == "failure") == failed)
        });
    page::by_cursor(request, deliveries.map(|delivery| delivery.json()))
}

pub(super) fn delivery(state: &mut State, request: &Request) -> Answer {
    let (hook, id) = (find(state, request)?.id, request.number("delivery_id")?);
    let delivery = state.deliveries_of(hook).find(|delivery| delivery.id == id);
    Reply::ok(delivery.ok_or_else(Refusal::not_found)?.full_json())
}

pub(super) fn redeliver(state: &mut State, request: &Request) -> Answer {
    let (hook, id) = (find(state, request)?.id, request.number("delivery_id")?);
    state.redeliver(hook, id)?;
    Reply::accepted()
}
