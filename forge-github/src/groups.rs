//! Runner groups: which repositories may use a runner.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;

use crate::{
    budget::Priority,
    client::Client,
    error::{Answer, ApiError},
    list::{self, Item},
    scope::Scope,
};

/// A runner group, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Group {
    /// By number. The default group has 1.
    Id(u64),
    /// By name.
    Name(String),
}

impl Default for Group {
    fn default() -> Self {
        Self::Id(1)
    }
}

#[derive(Deserialize)]
struct GithubGroup {
    id: u64,
    name: String,
}

impl Item for GithubGroup {
    const LIST: &'static str = "runner_groups";
    fn number(&self) -> u64 {
        self.id
    }
}

/// The numbers of groups that were asked for by name.
#[derive(Default)]
pub(crate) struct Groups(Mutex<HashMap<String, u64>>);

impl Groups {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group's number. GitHub is asked once.
    pub async fn number(&self, client: &Client, group: &Group) -> Answer<u64> {
        let name = match group {
            Group::Id(id) => return Ok(*id),
            Group::Name(name) => name,
        };
        if let Some(id) = self.known().get(name).copied() {
            return Ok(id);
        }
        let scope = client.place().scope();
        if let Scope::Repository(_) = scope {
            let what = format!("{scope} has no runner groups, so none is called {name:?}");
            return Err(ApiError::credentials(what));
        }
        let path = format!("{}/actions/runner-groups", scope.path());
        let groups: Vec<GithubGroup> = list::whole(client, &path, Priority::Provision).await?;
        let mut found = groups.iter().filter(|group| group.name.eq_ignore_ascii_case(name));
        let Some(group) = found.next() else {
            let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
            let names = names.join(", ");
            let what = format!("{scope} has no runner group {name:?} that we may see, but {names}");
            return Err(ApiError::credentials(what));
        };
        self.known().insert(name.clone(), group.id);
        Ok(group.id)
    }

    /// A group may have been deleted and made anew: GitHub is asked again next time.
    pub fn forget(&self, group: &Group) -> bool {
        match group {
            Group::Id(_) => false,
            Group::Name(name) => self.known().remove(name).is_some(),
        }
    }
}
