//! A runner's labels.

use crate::{
    exchange::{Answer, Refusal, Reply, Request},
    runner::Label,
    state::State,
};

/// How many a runner may have.
const MOST: usize = 100;

pub(super) fn list(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, request.number("runner_id")?);
    Reply::ok(state.runner(&scope, id)?.labels_json())
}

pub(super) fn add(state: &mut State, request: &Request) -> Answer {
    set(state, request, |_| true)
}

pub(super) fn replace(state: &mut State, request: &Request) -> Answer {
    set(state, request, Label::is_read_only)
}

pub(super) fn clear(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, request.number("runner_id")?);
    let runner = state.runner(&scope, id)?;
    runner.labels.retain(Label::is_read_only);
    Reply::ok(runner.labels_json())
}

pub(super) fn remove(state: &mut State, request: &Request) -> Answer {
    let (scope, id) = (request.scope()?, request.number("runner_id")?);
    let name = request.parameters.get("name").map(|name| name.to_lowercase());
    let runner = state.runner(&scope, id)?;
    let index = runner.labels.iter().position(|label| Some(&label.name) == name.as_ref());
    let index = index.ok_or_else(Refusal::not_found)?;
    if runner.labels[index].is_read_only() {
        let name = &runner.labels[index].name;
        return Err(Refusal::invalid(format!("Label {name:?} is read-only and cannot be removed")));
    }
    runner.labels.remove(index);
    Reply::ok(runner.labels_json())
}

fn set(state: &mut State, request: &Request, stays: impl Fn(&Label) -> bool) -> Answer {
    let (scope, id) = (request.scope()?, request.number("runner_id")?);
    // There must be one before its labels are made.
    state.runner(&scope, id)?;
    let labels = state.labels(&request.texts("labels"))?;
    let runner = state.runner(&scope, id)?;
    let mut all: Vec<_> = runner.labels.iter().filter(|label| stays(label)).cloned().collect();
    let known = |all: &[Label], new: &Label| all.iter().any(|label| label.name == new.name);
    for label in labels {
        if !known(&all, &label) {
            all.push(label);
        }
    }
    if all.len() > MOST {
        return Err(Refusal::invalid(format!("A runner may have at most {MOST} labels")));
    }
    runner.labels = all;
    Reply::ok(runner.labels_json())
}
