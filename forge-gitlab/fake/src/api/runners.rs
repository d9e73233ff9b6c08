//! Runners, for whoever looks after them.

use serde_json::{Value, json};

use crate::{
    access::Scope,
    account::{Level, Place},
    exchange::{Answer, Refusal, Reply, Request},
    ids::{GroupId, ProjectId, RunnerId, UserId},
    page::page,
    runner::{Runner, RunnerSpec, read_spec},
    state::State,
};

const LOOK: [Scope; 2] = [Scope::ReadApi, Scope::ManageRunner];

pub(super) fn create(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::CreateRunner])?;
    let invalid = |name: &str| Refusal::parameter(format!("{name} does not have a valid value"));
    let number = |name: &str| match request.integer(name)? {
        Some(number) => u64::try_from(number).map_err(|_| invalid(name)),
        None => Err(Refusal::parameter(format!("{name} is missing"))),
    };
    let nowhere = || Refusal::new(400, "400 Bad request - Missing/invalid scope");
    let place = match request.required("runner_type")? {
        "instance_type" => Place::Instance,
        "group_type" => Place::Group(GroupId(number("group_id")?)),
        "project_type" => Place::Project(ProjectId(number("project_id")?)),
        _ => return Err(invalid("runner_type")),
    };
    let allowed = match place {
        Place::Instance => state.is_admin(caller),
        Place::Group(id) if !state.groups.contains_key(&id) => return Err(nowhere()),
        Place::Project(id) if !state.projects.contains_key(&id) => return Err(nowhere()),
        Place::Group(_) => state.level(caller, place) >= Some(Level::Owner),
        Place::Project(_) => state.level(caller, place) >= Some(Level::Maintainer),
    };
    if !allowed {
        return Err(Refusal::forbidden_because("Insufficient permissions"));
    }
    let mut spec = RunnerSpec::new(place);
    read_spec(request, &mut spec)?;
    let id = state.add_runner(spec);
    let mut json = state.runners[&id].token_json();
    json["id"] = json!(id);
    Reply::created(json)
}

/// Those of `runners` that the filters of a request let through, newest first.
fn filtered(state: &State, request: &Request, keep: impl Fn(&Runner) -> bool) -> Answer {
    let now = state.now();
    let paused = request.flag("paused")?;
    let tags = request.list("tag_list").unwrap_or_default();
    let kind = request.text("type");
    // The older way to say either.
    let scope = request.text("scope");
    let wanted = |runner: &Runner, word: &str| match word {
        "specific" => runner.kind() == "project_type",
        "shared" => runner.kind() == "instance_type",
        "active" => !runner.spec.paused,
        "paused" => runner.spec.paused,
        word if word.ends_with("_type") => runner.kind() == word,
        word => runner.status(now) == word,
    };
    let version = request.text("version_prefix").unwrap_or_default();
    let kept = state.runners.values().rev().filter(|runner| {
        keep(runner)
            && paused.is_none_or(|paused| runner.spec.paused == paused)
            && kind.is_none_or(|kind| runner.kind() == kind)
            && scope.is_none_or(|scope| wanted(runner, scope))
            && request.text("status").is_none_or(|status| wanted(runner, status))
            && tags.iter().all(|tag| runner.spec.tags.contains(tag))
            && runner.info["version"].as_str().unwrap_or_default().starts_with(version)
    });
    page(request, kept.map(|runner| runner.brief_json(now)).collect())
}

pub(super) fn owned(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &LOOK)?;
    let own = |place: Place| {
        let level = match place {
            Place::Group(_) => Level::Owner,
            _ => Level::Maintainer,
        };
        state.level(caller, place).is_some_and(|own| own >= level)
    };
    filtered(state, request, |runner| match runner.spec.place {
        Place::Instance => false,
        Place::Group(_) => own(runner.spec.place),
        Place::Project(_) => runner.projects.iter().any(|id| own(Place::Project(*id))),
    })
}

pub(super) fn all(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &LOOK)?;
    if !state.is_admin(caller) {
        return Err(Refusal::forbidden());
    }
    filtered(state, request, |_| true)
}

pub(super) fn of_group(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &LOOK)?;
    let group = state.group_of(request)?;
    state.must_be(caller, Level::Maintainer, Place::Group(group))?;
    let places = state.places(Place::Group(group));
    filtered(state, request, |runner| places.contains(&runner.spec.place))
}

pub(super) fn of_project(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &LOOK)?;
    let project = state.project_of(request)?;
    state.must_be(caller, Level::Maintainer, Place::Project(project))?;
    let places = state.places(Place::Project(project));
    let options = state.projects[&project].options.clone();
    filtered(state, request, |runner| match runner.spec.place {
        Place::Instance => options.instance_runners,
        Place::Group(_) => options.group_runners && places.contains(&runner.spec.place),
        Place::Project(_) => runner.projects.contains(&project),
    })
}

/// The runner of a path's `{id}`, for whoever may look after it.
fn managed<'a>(state: &'a State, request: &Request, caller: UserId) -> Result<&'a Runner, Refusal> {
    let id = RunnerId(request.number("id")?);
    let runner = state.runners.get(&id).ok_or_else(|| Refusal::not_found("Runner"))?;
    if state.may_manage(caller, runner) {
        Ok(runner)
    } else {
        Err(Refusal::forbidden_because("No access granted"))
    }
}

pub(super) fn one(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &LOOK)?;
    let id = RunnerId(request.number("id")?);
    let runner = state.runners.get(&id);
    // Everybody may look at what is for everybody.
    let runner = match runner.filter(|runner| runner.spec.place == Place::Instance) {
        Some(runner) => runner,
        None => managed(state, request, caller)?,
    };
    Reply::ok(runner.full_json(state, &request.base))
}

pub(super) fn update(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ManageRunner])?;
    let runner = managed(state, request, caller)?;
    let (id, mut spec) = (runner.id, runner.spec.clone());
    read_spec(request, &mut spec)?;
    if let Some(runner) = state.runners.get_mut(&id) {
        runner.spec = spec;
    }
    state.wake_runner(id);
    Reply::ok(state.runners[&id].full_json(state, &request.base))
}

pub(super) fn delete(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ManageRunner])?;
    let runner = managed(state, request, caller)?;
    if runner.projects.len() > 1 {
        let reason = "Runner associated with more than one project";
        return Err(Refusal::forbidden_because(reason));
    }
    let id = runner.id;
    state.delete_runner(id);
    Reply::no_content()
}

pub(super) fn reset(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &[Scope::ManageRunner])?;
    let id = managed(state, request, caller)?.id;
    state.renew_token(id);
    Reply::created(state.runners[&id].token_json())
}

pub(super) fn managers(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &LOOK)?;
    let runner = managed(state, request, caller)?;
    Reply::ok(runner.managers_json(state.now()).into())
}

pub(super) fn jobs(state: &mut State, request: &Request) -> Answer {
    let caller = state.caller(request, &LOOK)?;
    let runner = managed(state, request, caller)?;
    let status = request.text("status");
    let system_id = request.text("system_id");
    let jobs = state.jobs.values().rev().filter(|job| {
        job.runner == Some(runner.id)
            && status.is_none_or(|status| job.status.name() == status)
            && system_id.is_none_or(|id| job.system_id.as_deref() == Some(id))
    });
    let mut jobs: Vec<_> = jobs
        .map(|job| {
            let mut json = job.brief_json(state, &request.base);
            let project = state.projects.get(&job.project);
            json["project"] = project.map_or(Value::Null, |project| project.brief_json());
            json
        })
        .collect();
    if request.text("sort") == Some("asc") {
        jobs.reverse();
    }
    page(request, jobs)
}

impl State {
    /// Forgets a runner. What it runs goes on: a job has a token of its own.
    pub(crate) fn delete_runner(&mut self, id: RunnerId) -> bool {
        self.queue_values.remove(&id);
        self.runners.remove(&id).is_some()
    }
}
