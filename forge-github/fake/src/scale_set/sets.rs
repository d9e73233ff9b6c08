//! The sets: named, in a group, with labels that jobs ask for.

use std::collections::VecDeque;

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Exception, Served, messages::Message, ok, sessions::Session};
use crate::{
    exchange::{Reply, Request},
    job::JobStatus,
    runner::DEFAULT_GROUP,
    scope::Scope,
    state::State,
    time::seconds,
};

#[derive(Debug, Clone)]
pub(crate) struct ScaleSet {
    pub(crate) id: i64,
    pub(super) scope: Scope,
    name: String,
    pub(super) group: i64,
    pub(super) labels: Vec<String>,
    disable_update: bool,
    created: Timestamp,
    pub(super) session: Option<Session>,
    /// What was sent and not acknowledged.
    pub(super) sent: VecDeque<Message>,
    /// What is to be sent.
    pub(super) news: VecDeque<Value>,
    pub(super) last_message: i64,
    /// How many jobs the listener last said that it has room for.
    pub(super) capacity: usize,
}

/// What a client sends of a set. Some send all that they know, and most of that is ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Sent {
    name: Option<String>,
    runner_group_id: Option<i64>,
    labels: Option<Vec<SentLabel>>,
    #[serde(rename = "RunnerSetting")]
    runner_setting: Option<Setting>,
    #[serde(rename = "id")]
    _id: Option<i64>,
    #[serde(rename = "runnerGroupName")]
    _group_name: Option<String>,
    #[serde(rename = "createdOn")]
    _created: Option<String>,
    #[serde(rename = "runnerJitConfigUrl")]
    _url: Option<String>,
    #[serde(rename = "statistics")]
    _statistics: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SentLabel {
    r#type: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Setting {
    #[serde(default)]
    disable_update: bool,
}

impl State {
    pub(super) fn scale_set(&self, scope: &Scope, id: i64) -> Result<&ScaleSet, Exception> {
        let set = self.scale_sets.iter().find(|set| set.id == id && set.scope == *scope);
        set.ok_or_else(|| Exception::not_found("runner scale set"))
    }

    pub(super) fn set(&mut self, id: i64) -> Result<&mut ScaleSet, Exception> {
        let set = self.scale_sets.iter_mut().find(|set| set.id == id);
        set.ok_or_else(|| Exception::not_found("runner scale set"))
    }

    /// How much there is to do, and how many are there to do it.
    pub(super) fn statistics(&self, set: i64) -> Value {
        let jobs = |is: fn(&crate::job::Job) -> bool| {
            self.jobs.open().filter(|job| job.scale_set == Some(set) && is(job)).count()
        };
        let offered = |job: &&crate::job::Job| {
            job.status == JobStatus::Queued
                && (job.offered == Some(set) || job.scale_set == Some(set))
        };
        let available = self.jobs.open().filter(offered).filter(|job| job.assigned.is_none());
        let runners = |is: fn(&crate::runner::Runner) -> bool| {
            let of_set = self.runners.values().filter(|runner| runner.scale_set == Some(set));
            of_set.filter(|runner| is(runner)).count()
        };
        let open =
            |job: &crate::job::Job| job.assigned.is_some() && job.status != JobStatus::Completed;
        json!({
            "totalAvailableJobs": available.count(),
            "totalAcquiredJobs": 0,
            "totalAssignedJobs": jobs(open),
            "totalRunningJobs": jobs(|job| job.status == JobStatus::InProgress),
            "totalRegisteredRunners": runners(|_| true),
            "totalBusyRunners": runners(|runner| runner.job.is_some()),
            "totalIdleRunners": runners(|runner| runner.session.is_some() && runner.job.is_none()),
        })
    }

    pub(super) fn describe_set(&self, set: &ScaleSet) -> Value {
        let label = |name: &String| json!({ "type": "System", "name": name });
        json!({
            "id": set.id,
            "name": set.name,
            "runnerGroupId": set.group,
            "runnerGroupName": self.group_name(&set.scope, set.group),
            "labels": set.labels.iter().map(label).collect::<Vec<_>>(),
            "RunnerSetting": { "disableUpdate": set.disable_update },
            "createdOn": seconds(set.created),
            "runnerJitConfigUrl":
                format!("{}/_services/_apis/runtime/runnerscalesets/{}/generatejitconfig", self.home.web, set.id),
            "statistics": self.statistics(set.id),
        })
    }
}

pub(super) fn groups(state: &State, scope: &Scope, request: &Request) -> Served {
    let wanted = request.query("groupName").unwrap_or_default();
    let of_scope = state.groups.iter().filter(|group| group.scope == *scope);
    let named = of_scope.filter(|group| group.name.eq_ignore_ascii_case(wanted));
    let mut groups: Vec<_> = named
        .map(|group| {
            let size = state.runners_of(scope).filter(|runner| runner.group == group.id).count();
            let default = group.id == DEFAULT_GROUP;
            json!({ "id": group.id, "name": group.name, "size": size, "isDefaultGroup": default })
        })
        .collect();
    if matches!(scope, Scope::Repository { .. }) && wanted.eq_ignore_ascii_case("default") {
        groups.push(json!({ "id": 1, "name": "Default", "size": 0, "isDefaultGroup": true }));
    }
    ok(&json!({ "count": groups.len(), "value": groups }))
}

pub(super) fn find(state: &State, scope: &Scope, request: &Request) -> Served {
    let group = request.query("runnerGroupId").and_then(|text| text.parse().ok());
    let name = request.query("name");
    let sets = state.scale_sets.iter().filter(|set| {
        set.scope == *scope
            && group.is_none_or(|group: i64| group == set.group)
            && name.is_none_or(|name| set.name.eq_ignore_ascii_case(name))
    });
    let sets: Vec<_> = sets.map(|set| state.describe_set(set)).collect();
    ok(&json!({ "count": sets.len(), "value": sets }))
}

pub(super) fn show(state: &mut State, id: i64) -> Served {
    let set = state.set(id)?.clone();
    ok(&state.describe_set(&set))
}

pub(super) fn create(state: &mut State, scope: &Scope, sent: Sent) -> Served {
    let name = sent.name.clone().filter(|name| !name.is_empty()).ok_or_else(|| {
        let message = "The runner scale set has no name.";
        Exception::new(StatusCode::BAD_REQUEST, "ArgumentException", message)
    })?;
    let group = sent.runner_group_id.unwrap_or(DEFAULT_GROUP);
    if !state.has_group(scope, group) {
        return Err(Exception::not_found("runner group"));
    }
    let taken = state.scale_sets.iter().any(|set| {
        set.scope == *scope && set.group == group && set.name.eq_ignore_ascii_case(&name)
    });
    if taken {
        let message = format!("Runner scale set {name} already exists.");
        return Err(Exception::new(StatusCode::CONFLICT, "RunnerScaleSetExistsException", message));
    }
    let (id, created) = (state.next_id(), state.now());
    let mut set = ScaleSet {
        id,
        scope: scope.clone(),
        labels: vec![name.clone()],
        name,
        group,
        disable_update: false,
        created,
        session: None,
        sent: VecDeque::new(),
        news: VecDeque::new(),
        last_message: 0,
        capacity: 0,
    };
    set.apply(sent);
    state.scale_sets.push(set);
    show(state, id)
}

pub(super) fn update(state: &mut State, id: i64, sent: Sent) -> Served {
    let scope = state.set(id)?.scope.clone();
    if sent.runner_group_id.is_some_and(|group| !state.has_group(&scope, group)) {
        return Err(Exception::not_found("runner group"));
    }
    state.set(id)?.apply(sent);
    show(state, id)
}

impl ScaleSet {
    fn apply(&mut self, sent: Sent) {
        if let Some(name) = sent.name.filter(|name| !name.is_empty()) {
            self.name = name;
        }
        if let Some(group) = sent.runner_group_id {
            self.group = group;
        }
        if let Some(labels) = sent.labels.filter(|labels| !labels.is_empty()) {
            let system = labels.into_iter().filter(|label| label.r#type == "System");
            self.labels = system.map(|label| label.name).collect();
        }
        if let Some(setting) = sent.runner_setting {
            self.disable_update = setting.disable_update;
        }
    }
}

/// The jobs that wait in it wait for someone else.
pub(super) fn delete(state: &mut State, id: i64) -> Served {
    state.scale_sets.retain(|set| set.id != id);
    for job in state.jobs.queued_mut() {
        if job.scale_set == Some(id) || job.offered == Some(id) {
            (job.scale_set, job.offered, job.assigned) = (None, None, None);
        }
    }
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}
