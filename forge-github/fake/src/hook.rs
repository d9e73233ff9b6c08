//! Webhooks: who is told what, and what became of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    exchange::{Addresses, Refusal},
    ids::hex,
    job::JobStatus,
    scope::Scope,
    state::State,
    time::seconds,
};

/// How long deliveries are kept, and can be had again.
const KEPT: SignedDuration = SignedDuration::from_hours(3 * 24);

/// How many deliveries are kept at most. GitHub keeps all of three days; a long simulation has no room for that.
const MOST_KEPT: usize = 5_000;

static EXAMPLE: LazyLock<Value> =
    LazyLock::new(|| read(include_str!("../contract/webhooks/workflow_job.completed.1.json")));
static WAITING_EXAMPLE: LazyLock<Value> =
    LazyLock::new(|| read(include_str!("../contract/webhooks/workflow_job.waiting.1.json")));

fn read(example: &str) -> Value {
    serde_json::from_str(example).expect("the example is JSON")
}

/// Takes deliveries in memory, and says which status it answers.
pub(crate) type Receiver = Arc<dyn Fn(&HeaderMap, &[u8]) -> StatusCode + Send + Sync>;

/// Whose hook it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Owner {
    Scope(Scope),
    App(i64),
}

#[derive(Debug, Clone)]
pub(crate) struct Hook {
    pub(crate) id: i64,
    pub(crate) owner: Owner,
    pub(crate) url: String,
    pub(crate) secret: Option<String>,
    pub(crate) content_type: String,
    pub(crate) insecure_ssl: bool,
    pub(crate) events: Vec<String>,
    pub(crate) active: bool,
    pub(crate) created: Timestamp,
    pub(crate) updated: Timestamp,
    pub(crate) last_response: Option<(u16, String)>,
}

/// One attempt to tell a hook something.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) id: i64,
    pub(crate) guid: String,
    pub(crate) hook: i64,
    pub(crate) url: String,
    pub(crate) event: String,
    pub(crate) action: Option<String>,
    pub(crate) repository: Option<i64>,
    pub(crate) installation: Option<i64>,
    pub(crate) at: Timestamp,
    pub(crate) redelivery: bool,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) payload: Bytes,
    /// `None` until it is over.
    pub(crate) outcome: Option<Outcome>,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) code: u16,
    pub(crate) status: String,
    pub(crate) seconds: f64,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Hook {
    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "url": self.url,
            "content_type": self.content_type,
            "insecure_ssl": if self.insecure_ssl { "1" } else { "0" },
        });
        if self.secret.is_some() {
            config["secret"] = "********".into();
        }
        config
    }

    pub(crate) fn json(&self, addresses: &Addresses) -> Value {
        let Owner::Scope(scope) = &self.owner else { return Value::Null };
        let url = format!("{}{}/hooks/{}", addresses.api, scope.path(), self.id);
        let is_repository = matches!(scope, Scope::Repository { .. });
        let mut json = json!({
            "id": self.id,
            "type": if is_repository { "Repository" } else { "Organization" },
            "name": "web",
            "active": self.active,
            "events": self.events,
            "config": self.config(),
            "url": url,
            "ping_url": format!("{url}/pings"),
            "deliveries_url": format!("{url}/deliveries"),
            "created_at": seconds(self.created),
            "updated_at": seconds(self.updated),
        });
        if is_repository {
            json["test_url"] = format!("{url}/tests").into();
            json["last_response"] = match &self.last_response {
                None => json!({ "code": null, "status": "unused", "message": null }),
                Some((code, status)) => {
                    json!({ "code": code, "status": "active", "message": status })
                }
            };
        }
        json
    }

    fn wants(&self, event: &str) -> bool {
        self.active && self.events.iter().any(|wanted| wanted == event || wanted == "*")
    }
}

impl Delivery {
    pub(crate) fn json(&self) -> Value {
        let (status, code, seconds_taken) = match &self.outcome {
            Some(outcome) => (outcome.status.as_str(), outcome.code, outcome.seconds),
            None => ("pending", 0, 0.0),
        };
        json!({
            "id": self.id,
            "guid": self.guid,
            "delivered_at": seconds(self.at),
            "redelivery": self.redelivery,
            "duration": seconds_taken,
            "status": status,
            "status_code": code,
            "event": self.event,
            "action": self.action,
            "installation_id": self.installation,
            "repository_id": self.repository,
            "throttled_at": null,
        })
    }

    pub(crate) fn full_json(&self) -> Value {
        let mut json = self.json();
        let payload: Value = serde_json::from_slice(&self.payload).unwrap_or_default();
        json["url"] = self.url.clone().into();
        json["request"] = json!({ "headers": self.headers, "payload": payload });
        json["response"] = match &self.outcome {
            Some(outcome) => json!({ "headers": outcome.headers, "payload": outcome.body }),
            None => json!({ "headers": null, "payload": null }),
        };
        json
    }
}

/// What `X-Hub-Signature-256` says of these bytes.
pub(crate) fn signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key is a key");
    mac.update(body);
    format!("sha256={}", hex(&mac.finalize().into_bytes()))
}

impl State {
    pub(crate) fn hook(&self, owner: &Owner, id: Option<i64>) -> Result<&Hook, Refusal> {
        let is = |hook: &&Hook| hook.owner == *owner && id.is_none_or(|id| hook.id == id);
        self.hooks.iter().find(is).ok_or_else(Refusal::not_found)
    }

    pub(crate) fn hook_mut(&mut self, id: i64) -> Result<&mut Hook, Refusal> {
        self.hooks.iter_mut().find(|hook| hook.id == id).ok_or_else(Refusal::not_found)
    }

    /// What was sent to a hook in the days that GitHub remembers, newest first.
    pub(crate) fn deliveries_of(&self, hook: i64) -> impl Iterator<Item = &Delivery> {
        let now = self.now();
        let kept = move |one: &&Delivery| one.hook == hook && now.duration_since(one.at) <= KEPT;
        self.deliveries.values().rev().filter(kept).filter(|one| one.outcome.is_some())
    }

    /// Tells everyone who wants to know how a job is.
    pub(crate) fn tell_of_job(&mut self, id: i64) {
        self.tell_scale_sets(id);
        let Some(job) = self.jobs.get(id) else { return };
        let Some(repository) = self.repository_by_id(job.repository) else { return };
        if !self.hooks.iter().any(|hook| hook.wants("workflow_job")) {
            return;
        }
        let action = job.status.name();
        let waits = job.status == JobStatus::Waiting;
        let mut payload = if waits { WAITING_EXAMPLE.clone() } else { EXAMPLE.clone() };
        payload["action"] = action.into();
        payload["workflow_job"] = job.json(self, &self.home);
        payload["workflow_job"]["started_at"] =
            job.started.or(Some(job.created)).map(seconds).into();
        let fields = payload["repository"].take();
        payload["repository"] = repository.described(fields, self, &self.home);
        if let Some(fields) = payload.as_object_mut() {
            fields.remove("installation");
            fields.remove("organization");
        }
        if let Ok(owner) = self.account(&repository.owner) {
            if !owner.is_user {
                payload["organization"] = owner.hook_json(&self.home);
            }
            if let Some(enterprise) = &owner.enterprise
                && let Ok(enterprise) = self.enterprise(enterprise)
            {
                payload["enterprise"] = enterprise.json(&self.home);
            }
        }
        let actor = self.runs.get(&job.run).map(|run| run.actor.clone()).unwrap_or_default();
        if let Ok(actor) = self.account(&actor) {
            payload["sender"] = actor.json(&self.home);
        }
        let (scope, organisation) =
            (repository.scope(), Scope::Organisation(repository.owner.clone()));
        let (repository, owner) = (repository.id, repository.owner.clone());
        let mut listeners = Vec::new();
        for hook in self.hooks.iter().filter(|hook| hook.wants("workflow_job")) {
            match &hook.owner {
                Owner::Scope(of) if *of == scope || *of == organisation => {
                    listeners.push((hook.id, None));
                }
                Owner::App(app) => {
                    let installation = self.installations.iter().find(|one| {
                        one.app == *app
                            && one.account.eq_ignore_ascii_case(&owner)
                            && one.repositories.as_ref().is_none_or(|ids| ids.contains(&repository))
                    });
                    if let Some(installation) = installation {
                        listeners.push((hook.id, Some(installation.id)));
                    }
                }
                Owner::Scope(_) => (),
            }
        }
        for (hook, installation) in listeners {
            let mut payload = payload.clone();
            if let Some(id) = installation {
                let node_id = crate::ids::node("IntegrationInstallation", id);
                payload["installation"] = json!({ "id": id, "node_id": node_id });
            }
            let about =
                About { event: "workflow_job", action: Some(action), repository: Some(repository) };
            self.tell(hook, &about, installation, &payload);
        }
    }

    /// Tells a hook that it is one.
    pub(crate) fn ping(&mut self, id: i64) -> Result<(), Refusal> {
        let hook = self.hook_mut(id)?.clone();
        let mut payload = json!({
            "zen": "Keep it logically awesome.",
            "hook_id": hook.id,
            "hook": hook.json(&self.home),
        });
        if let Owner::App(app) = hook.owner {
            payload["hook"] =
                json!({ "id": id, "type": "App", "app_id": app, "config": hook.config() });
        }
        self.tell(id, &About { event: "ping", action: None, repository: None }, None, &payload);
        Ok(())
    }

    fn tell(&mut self, hook: i64, about: &About<'_>, installation: Option<i64>, payload: &Value) {
        let Ok(hook) = self.hook_mut(hook).cloned() else { return };
        let json = Bytes::from(payload.to_string());
        let (body, content_type) = match hook.content_type.as_str() {
            "json" => (json.clone(), "application/json"),
            _ => {
                let text = String::from_utf8_lossy(&json);
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("payload", &text)
                    .finish();
                (Bytes::from(form), "application/x-www-form-urlencoded")
            }
        };
        let guid = uuid::Uuid::new_v4().to_string();
        let (kind, target) = self.target(&hook.owner);
        let mut headers = BTreeMap::from([
            ("Accept".to_owned(), "*/*".to_owned()),
            ("Content-Type".to_owned(), content_type.to_owned()),
            ("User-Agent".to_owned(), "GitHub-Hookshot/fake".to_owned()),
            ("X-GitHub-Delivery".to_owned(), guid.clone()),
            ("X-GitHub-Event".to_owned(), about.event.to_owned()),
            ("X-GitHub-Hook-ID".to_owned(), hook.id.to_string()),
            ("X-GitHub-Hook-Installation-Target-ID".to_owned(), target.to_string()),
            ("X-GitHub-Hook-Installation-Target-Type".to_owned(), kind.to_owned()),
        ]);
        if let Some(secret) = &hook.secret {
            headers.insert("X-Hub-Signature-256".to_owned(), signature(secret, &body));
        }
        let delivery = Delivery {
            id: self.next_id(),
            guid,
            hook: hook.id,
            url: hook.url,
            event: about.event.to_owned(),
            action: about.action.map(str::to_owned),
            repository: about.repository,
            installation,
            at: self.now(),
            redelivery: false,
            headers,
            payload: body,
            outcome: None,
        };
        self.outbox.push_back(delivery.id);
        self.deliveries.insert(delivery.id, delivery);
        while self.deliveries.len() > MOST_KEPT
            && self.deliveries.first_key_value().is_some_and(|(_, oldest)| oldest.outcome.is_some())
        {
            self.deliveries.pop_first();
        }
    }

    fn target(&self, owner: &Owner) -> (&'static str, i64) {
        match owner {
            Owner::App(id) => ("integration", *id),
            Owner::Scope(Scope::Repository { owner, name }) => {
                ("repository", self.repository(owner, name).map(|r| r.id).unwrap_or_default())
            }
            Owner::Scope(Scope::Organisation(login)) => {
                ("organization", self.account(login).map(|account| account.id).unwrap_or_default())
            }
            Owner::Scope(Scope::Enterprise(slug)) => {
                ("business", self.enterprise(slug).map(|one| one.id).unwrap_or_default())
            }
        }
    }

    /// Sends again what was sent before.
    pub(crate) fn redeliver(&mut self, hook: i64, id: i64) -> Result<(), Refusal> {
        let found = self.deliveries_of(hook).find(|delivery| delivery.id == id).cloned();
        let old = found.ok_or_else(Refusal::not_found)?;
        let (id, at) = (self.next_id(), self.now());
        let new = Delivery { id, at, redelivery: true, outcome: None, ..old };
        self.deliveries.insert(id, new);
        self.outbox.push_back(id);
        Ok(())
    }
}

struct About<'a> {
    event: &'a str,
    action: Option<&'a str>,
    repository: Option<i64>,
}
