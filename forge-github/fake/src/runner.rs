//! Runners, and the groups that say who may use them.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    exchange::{Addresses, Refusal},
    ids::random_text,
    scope::Scope,
    state::State,
};

/// The group that a runner is in if nothing else is said.
pub(crate) const DEFAULT_GROUP: i64 = 1;

/// Names that GitHub gives by itself. They cannot be taken away.
const READ_ONLY: [&str; 7] = ["self-hosted", "linux", "macos", "windows", "x64", "arm", "arm64"];

/// How long GitHub's names may be.
const NAME: usize = 64;

/// A registration.
#[derive(Debug, Clone)]
pub(crate) struct Runner {
    pub(crate) id: i64,
    pub(crate) scope: Scope,
    pub(crate) name: String,
    pub(crate) group: i64,
    pub(crate) labels: Vec<Label>,
    /// When its program was last heard of, or it was made.
    pub(crate) seen: Timestamp,
    /// What the runner proves itself with.
    pub(crate) credential: String,
    pub(crate) scale_set: Option<i64>,
    /// There while the runner's program is.
    pub(crate) session: Option<Session>,
    /// The job that it runs.
    pub(crate) job: Option<i64>,
}

/// A runner's program that is connected.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Label {
    pub(crate) id: i64,
    pub(crate) name: String,
}

/// A group of runners.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) id: i64,
    /// An enterprise or an organisation.
    pub(crate) scope: Scope,
    pub(crate) name: String,
    pub(crate) visibility: String,
    /// Repositories, or organisations, that a group for selected ones is for.
    pub(crate) selected: BTreeSet<i64>,
    pub(crate) public: bool,
    pub(crate) restricted: bool,
    pub(crate) workflows: Vec<String>,
}

impl Label {
    pub(crate) fn is_read_only(&self) -> bool {
        READ_ONLY.contains(&self.name.as_str())
    }

    fn json(&self) -> Value {
        let kind = if self.is_read_only() { "read-only" } else { "custom" };
        json!({ "id": self.id, "name": self.name, "type": kind })
    }
}

impl Runner {
    pub(crate) fn json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "os": if self.session.is_some() { "linux" } else { "unknown" },
            "status": if self.session.is_some() { "online" } else { "offline" },
            "busy": self.job.is_some(),
            "ephemeral": true,
            "runner_group_id": self.group,
            "labels": self.labels.iter().map(Label::json).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn labels_json(&self) -> Value {
        let labels: Vec<_> = self.labels.iter().map(Label::json).collect();
        json!({ "total_count": labels.len(), "labels": labels })
    }

    /// Whether it has all that a job asks for.
    pub(crate) fn has(&self, labels: &[String]) -> bool {
        labels
            .iter()
            .all(|wanted| self.labels.iter().any(|label| label.name.eq_ignore_ascii_case(wanted)))
    }

    /// What the runner's program is started with.
    ///
    /// It has the shape of GitHub's: files by their names, each in Base64, all in Base64. Its key is noise:
    /// the program's conversation with GitHub is not a part of this fake, and `/_fake/runner` takes its place.
    pub(crate) fn jit_config(&self, addresses: &Addresses) -> String {
        let runner = json!({
            "AgentId": self.id.to_string(),
            "AgentName": self.name,
            "DisableUpdate": "True",
            "Ephemeral": "True",
            "GitHubUrl": format!("{}/{}", addresses.web, self.scope),
            "PoolId": self.group.to_string(),
            "PoolName": "Default",
            "ServerUrl": addresses.web,
            "WorkFolder": "_work",
        });
        let credentials = json!({
            "Data": {
                "AuthorizationUrl": format!("{}/_apis/oauth2/token", addresses.web),
                "ClientId": self.credential,
                "RequireFipsCryptography": "True",
            },
            "Scheme": "OAuth",
        });
        let noise = || BASE64.encode(random_text(128));
        let key = json!({
            "d": noise(), "dp": noise(), "dq": noise(), "exponent": "AQAB", "inverseQ": noise(),
            "modulus": noise(), "p": noise(), "q": noise(),
        });
        let file = |content: Value| BASE64.encode(content.to_string());
        BASE64.encode(
            json!({
                ".credentials": file(credentials),
                ".credentials_rsaparams": file(key),
                ".runner": file(runner),
            })
            .to_string(),
        )
    }
}

/// What a JIT configuration says of its runner: the number and the proof.
pub(crate) fn read_jit_config(encoded: &str) -> Option<(i64, String)> {
    let decode = |text: &str| -> Option<Value> {
        serde_json::from_slice(&BASE64.decode(text.trim()).ok()?).ok()
    };
    let files = decode(encoded)?;
    let runner = decode(files[".runner"].as_str()?)?;
    let credentials = decode(files[".credentials"].as_str()?)?;
    let id = runner["AgentId"].as_str()?.parse().ok()?;
    Some((id, credentials["Data"]["ClientId"].as_str()?.to_owned()))
}

impl State {
    pub(crate) fn runners_of(&self, scope: &Scope) -> impl Iterator<Item = &Runner> {
        self.runners.values().filter(move |runner| runner.scope == *scope)
    }

    pub(crate) fn runner(&mut self, scope: &Scope, id: i64) -> Result<&mut Runner, Refusal> {
        let runner = self.runners.get_mut(&id).filter(|runner| runner.scope == *scope);
        runner.ok_or_else(Refusal::not_found)
    }

    /// Registers a runner that takes one job.
    pub(crate) fn register(
        &mut self,
        scope: &Scope,
        name: &str,
        group: i64,
        labels: &[String],
        scale_set: Option<i64>,
    ) -> Result<&Runner, Refusal> {
        if name.is_empty() || name.len() > NAME {
            return Err(Refusal::invalid(format!(
                "Runner name must be between 1 and {NAME} characters"
            )));
        }
        if !self.has_group(scope, group) {
            return Err(Refusal::not_found());
        }
        if self.runners_of(scope).any(|runner| runner.name.eq_ignore_ascii_case(name)) {
            return Err(Refusal::conflict(format!(
                "Already exists - A runner with the name {name} already exists."
            )));
        }
        let labels = self.labels(labels)?;
        let id = self.next_id();
        let runner = Runner {
            id,
            scope: scope.clone(),
            name: name.to_owned(),
            group,
            labels,
            seen: self.now(),
            credential: uuid::Uuid::new_v4().to_string(),
            scale_set,
            session: None,
            job: None,
        };
        Ok(self.runners.entry(id).or_insert(runner))
    }

    /// Labels as GitHub keeps them: lower-case, each once.
    pub(crate) fn labels(&mut self, names: &[String]) -> Result<Vec<Label>, Refusal> {
        let mut labels: Vec<Label> = Vec::new();
        for name in names {
            let name = name.to_lowercase();
            if name.is_empty() || name.len() > 256 || name.contains(',') {
                return Err(Refusal::invalid(format!("Label {name:?} is invalid")));
            }
            if !labels.iter().any(|label| label.name == name) {
                labels.push(Label { id: self.next_id(), name });
            }
        }
        Ok(labels)
    }

    /// A repository's runners are in the default group, and there is no other.
    pub(crate) fn has_group(&self, scope: &Scope, id: i64) -> bool {
        match scope {
            Scope::Repository { .. } => id == DEFAULT_GROUP,
            _ => self.groups.iter().any(|group| group.scope == *scope && group.id == id),
        }
    }

    pub(crate) fn group(&mut self, scope: &Scope, id: i64) -> Result<&mut Group, Refusal> {
        let group = self.groups.iter_mut().find(|group| group.scope == *scope && group.id == id);
        group.ok_or_else(Refusal::not_found)
    }

    /// The group's name, if the runner has one that can be seen.
    pub(crate) fn group_name(&self, scope: &Scope, id: i64) -> &str {
        let group = self.groups.iter().find(|group| group.scope == *scope && group.id == id);
        group.map_or("Default", |group| &group.name)
    }

    /// The runners of a group, with whoever is added moved out of the one before.
    pub(crate) fn default_group(scope: Scope) -> Group {
        Group {
            id: DEFAULT_GROUP,
            scope,
            name: "Default".to_owned(),
            visibility: "all".to_owned(),
            selected: BTreeSet::new(),
            public: false,
            restricted: false,
            workflows: Vec::new(),
        }
    }
}
