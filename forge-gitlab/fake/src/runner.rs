//! Runners: what somebody created, the managers that use its token, and how GitLab tells of both.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    account::{Level, Place},
    exchange::{Refusal, Request},
    ids::{ProjectId, RunnerId, UserId, random_text},
    state::State,
    time::millis,
};

/// How long a runner is online after its last contact.
const ONLINE: SignedDuration = SignedDuration::from_hours(2);
/// After how long it is stale.
const STALE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A contact sooner after the last one is not written down.
const CONTACT_EVERY: SignedDuration = SignedDuration::from_mins(40);
/// The shortest timeout that GitLab takes, in seconds.
const SHORTEST_TIMEOUT: i64 = 600;
const LONGEST_NOTE: usize = 1024;

/// What kind of runner somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunnerSpec {
    /// Whose jobs it takes.
    pub place: Place,
    /// Free text.
    pub description: String,
    /// Free text for whoever looks after it.
    pub maintenance_note: Option<String>,
    /// Whether it gets no jobs.
    pub paused: bool,
    /// Whether it cannot be given to other projects.
    pub locked: bool,
    /// Whether it takes jobs of protected refs only.
    pub protected: bool,
    /// Whether it takes jobs without tags.
    pub run_untagged: bool,
    /// What it can do, in words that jobs ask for.
    pub tags: Vec<String>,
    /// The longest that a job of its may take, in whole seconds. At least 10 min.
    pub maximum_timeout: Option<Duration>,
}

impl RunnerSpec {
    /// One that takes any job of a place.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            description: String::new(),
            maintenance_note: None,
            paused: false,
            locked: false,
            protected: false,
            run_untagged: true,
            tags: Vec::new(),
            maximum_timeout: None,
        }
    }

    /// One with these tags, which takes no job without.
    pub fn tagged(place: Place, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let tags = tags.into_iter().map(Into::into).collect();
        Self { tags, run_untagged: false, ..Self::new(place) }
    }
}

/// What is known of a runner.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) id: RunnerId,
    pub(crate) spec: RunnerSpec,
    pub(crate) token: String,
    pub(crate) token_expires: Option<Timestamp>,
    /// Those that it was given to, the first one its own.
    pub(crate) projects: Vec<ProjectId>,
    pub(crate) contacted: Option<Timestamp>,
    pub(crate) managers: BTreeMap<String, Manager>,
    /// What was said of it when it was verified, or when it asked for a job.
    pub(crate) info: Value,
    pub(crate) created: Timestamp,
}

/// A machine that uses a runner's token.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    id: u64,
    created: Timestamp,
    contacted: Option<Timestamp>,
    info: Value,
}

fn status(contacted: Option<Timestamp>, created: Timestamp, now: Timestamp) -> &'static str {
    match contacted {
        Some(time) if now.duration_since(time) <= ONLINE => "online",
        Some(time) if now.duration_since(time) > STALE => "stale",
        Some(_) => "offline",
        None if now.duration_since(created) > STALE => "stale",
        None => "never_contacted",
    }
}

impl Runner {
    pub(crate) fn kind(&self) -> &'static str {
        match self.spec.place {
            Place::Instance => "instance_type",
            Place::Group(_) => "group_type",
            Place::Project(_) => "project_type",
        }
    }

    pub(crate) fn status(&self, now: Timestamp) -> &'static str {
        status(self.contacted, self.created, now)
    }

    fn is_online(&self, now: Timestamp) -> Option<bool> {
        self.contacted.map(|_| self.status(now) == "online")
    }

    pub(crate) fn brief_json(&self, now: Timestamp) -> Value {
        json!({
            "id": self.id,
            "description": self.spec.description,
            "ip_address": null,
            "active": !self.spec.paused,
            "paused": self.spec.paused,
            "is_shared": self.spec.place == Place::Instance,
            "runner_type": self.kind(),
            "name": self.info["name"].as_str(),
            "online": self.is_online(now),
            "status": self.status(now),
        })
    }

    pub(crate) fn full_json(&self, state: &State, base: &str) -> Value {
        let mut runner = self.brief_json(state.now());
        let projects = self.projects.iter().filter_map(|id| state.projects.get(id));
        let projects: Vec<_> = projects.map(|project| project.brief_json()).collect();
        let group = match self.spec.place {
            Place::Group(id) => state.groups.get(&id),
            _ => None,
        };
        let groups: Vec<_> = group.map(|group| group.json(base)).into_iter().collect();
        let more = json!({
            "tag_list": self.spec.tags,
            "run_untagged": self.spec.run_untagged,
            "locked": self.spec.locked,
            "maximum_timeout": self.spec.maximum_timeout.map(|time| time.as_secs()),
            "access_level": if self.spec.protected { "ref_protected" } else { "not_protected" },
            "version": self.info["version"].as_str(),
            "revision": self.info["revision"].as_str(),
            "platform": self.info["platform"].as_str(),
            "architecture": self.info["architecture"].as_str(),
            "contacted_at": self.contacted.map(millis),
            "maintenance_note": self.spec.maintenance_note,
            "projects": projects,
            "groups": groups,
        });
        for (name, value) in more.as_object().expect("it is one") {
            runner[name] = value.clone();
        }
        runner
    }

    pub(crate) fn managers_json(&self, now: Timestamp) -> Vec<Value> {
        let manager = |(system_id, manager): (&String, &Manager)| {
            json!({
                "id": manager.id,
                "system_id": system_id,
                "version": manager.info["version"].as_str(),
                "revision": manager.info["revision"].as_str(),
                "platform": manager.info["platform"].as_str(),
                "architecture": manager.info["architecture"].as_str(),
                "created_at": millis(manager.created),
                "contacted_at": manager.contacted.map(millis),
                "ip_address": null,
                "status": status(manager.contacted, manager.created, now),
            })
        };
        self.managers.iter().map(manager).collect()
    }

    /// What whoever asked for a token gets. It is shown here and nowhere else.
    pub(crate) fn token_json(&self) -> Value {
        json!({ "token": self.token, "token_expires_at": self.token_expires.map(millis) })
    }
}

impl State {
    pub(crate) fn add_runner(&mut self, spec: RunnerSpec) -> RunnerId {
        let id = RunnerId(self.next_id());
        let projects = match spec.place {
            Place::Project(project) => vec![project],
            _ => Vec::new(),
        };
        let runner = Runner {
            id,
            spec,
            token: String::new(),
            token_expires: None,
            projects,
            contacted: None,
            managers: BTreeMap::new(),
            info: Value::Null,
            created: self.now(),
        };
        self.runners.insert(id, runner);
        self.renew_token(id);
        id
    }

    /// Gives a runner another token. The one before is good for nothing from now on.
    pub(crate) fn renew_token(&mut self, id: RunnerId) {
        let lifetime = self.settings.runner_token_lifetime;
        let lifetime = lifetime.and_then(|lifetime| SignedDuration::try_from(lifetime).ok());
        let expires = lifetime.and_then(|lifetime| self.now().saturating_add(lifetime).ok());
        if let Some(runner) = self.runners.get_mut(&id) {
            runner.token = format!("glrt-{}", random_text(20));
            runner.token_expires = expires;
        }
    }

    /// The runner of a token that is good.
    pub(crate) fn runner_by_token(&self, token: &str) -> Result<&Runner, Refusal> {
        let now = self.now();
        let good = |runner: &&Runner| {
            runner.token == token && runner.token_expires.is_none_or(|end| now < end)
        };
        self.runners.values().find(good).ok_or_else(Refusal::forbidden)
    }

    /// The same for what only a runner that belongs somewhere may do, with word of its manager.
    pub(crate) fn runner_at_work(&mut self, request: &Request) -> Result<RunnerId, Refusal> {
        let token = request.required("token")?;
        let runner = self.runner_by_token(token)?.id;
        if self.is_orphaned(runner) {
            return Err(Refusal::new(422, "Runner is orphaned"));
        }
        let system_id = request.text("system_id").unwrap_or_default().to_owned();
        if system_id.len() > 64 {
            return Err(Refusal::parameter("system_id is invalid"));
        }
        let info = request.field("info").cloned().unwrap_or_default();
        self.note_contact(runner, &system_id, info);
        Ok(runner)
    }

    /// Whether what a runner was created for is gone.
    pub(crate) fn is_orphaned(&self, id: RunnerId) -> bool {
        let Some(runner) = self.runners.get(&id) else { return true };
        match runner.spec.place {
            Place::Instance => false,
            Place::Group(group) => !self.groups.contains_key(&group),
            Place::Project(project) => !self.projects.contains_key(&project),
        }
    }

    fn note_contact(&mut self, id: RunnerId, system_id: &str, info: Value) {
        let now = self.now();
        let next = self.next_id();
        let Some(runner) = self.runners.get_mut(&id) else { return };
        let renew = |contacted: &mut Option<Timestamp>| {
            if contacted.is_none_or(|time| now.duration_since(time) >= CONTACT_EVERY) {
                *contacted = Some(now);
            }
        };
        renew(&mut runner.contacted);
        if info.is_object() {
            runner.info = info.clone();
        }
        if !system_id.is_empty() {
            let manager = runner.managers.entry(system_id.to_owned()).or_insert(Manager {
                id: next,
                created: now,
                contacted: None,
                info: Value::Null,
            });
            renew(&mut manager.contacted);
            if info.is_object() {
                manager.info = info;
            }
        }
    }

    /// Whether a user may look after a runner.
    pub(crate) fn may_manage(&self, user: UserId, runner: &Runner) -> bool {
        let at_least =
            |level: Level, place: Place| self.level(user, place).is_some_and(|own| own >= level);
        match runner.spec.place {
            Place::Instance => self.is_admin(user),
            Place::Group(_) => at_least(Level::Owner, runner.spec.place),
            Place::Project(_) => {
                let mut projects = runner.projects.iter();
                self.is_admin(user)
                    || projects.any(|id| at_least(Level::Maintainer, Place::Project(*id)))
            }
        }
    }
}

/// Puts into a specification what a request says of it.
pub(crate) fn read_spec(request: &Request, spec: &mut RunnerSpec) -> Result<(), Refusal> {
    let bad = |what: &str| Refusal::error(400, json!({ "message": { "base": [what] } }));
    if let Some(text) = request.text("description") {
        spec.description = text.to_owned();
    }
    if let Some(note) = request.text("maintenance_note") {
        if note.chars().count() > LONGEST_NOTE {
            return Err(bad("Maintainer note is too long (maximum is 1024 characters)"));
        }
        spec.maintenance_note = Some(note.to_owned());
    }
    if let Some(active) = request.flag("active")? {
        spec.paused = !active;
    }
    if let Some(paused) = request.flag("paused")? {
        spec.paused = paused;
    }
    if let Some(locked) = request.flag("locked")? {
        spec.locked = locked;
    }
    if let Some(level) = request.text("access_level") {
        spec.protected = match level {
            "ref_protected" => true,
            "not_protected" => false,
            _ => return Err(Refusal::parameter("access_level does not have a valid value")),
        };
    }
    if let Some(tags) = request.list("tag_list") {
        spec.tags = tags;
    }
    if let Some(untagged) = request.flag("run_untagged")? {
        spec.run_untagged = untagged;
    }
    if !spec.run_untagged && spec.tags.is_empty() {
        return Err(bad(
            "Tags list can not be empty when runner is not allowed to pick untagged jobs",
        ));
    }
    if request.fields.get("maximum_timeout").is_some_and(Value::is_null) {
        spec.maximum_timeout = None;
    }
    if let Some(seconds) = request.integer("maximum_timeout")? {
        if seconds < SHORTEST_TIMEOUT {
            return Err(bad("Maximum timeout needs to be at least 10 minutes"));
        }
        spec.maximum_timeout = u64::try_from(seconds).ok().map(Duration::from_secs);
    }
    Ok(())
}
