//! Enterprises, organisations and repositories, and how GitHub describes them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    contract::Contract,
    exchange::{Addresses, Refusal},
    ids::node,
    scope::Scope,
    state::State,
    time::seconds,
};

/// An organisation, or a user who owns repositories.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: i64,
    pub(crate) login: String,
    pub(crate) is_user: bool,
    /// The slug of the enterprise that it is a part of.
    pub(crate) enterprise: Option<String>,
    pub(crate) created: Timestamp,
}

#[derive(Debug, Clone)]
pub(crate) struct Enterprise {
    pub(crate) id: i64,
    pub(crate) slug: String,
    pub(crate) created: Timestamp,
}

#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) id: i64,
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) private: bool,
    /// Whether it is a fork.
    pub(crate) fork: bool,
    pub(crate) created: Timestamp,
}

impl Account {
    /// As GitHub describes it beside what it owns.
    pub(crate) fn json(&self, addresses: &Addresses) -> Value {
        let example = Contract::example("workflow-run")["actor"].clone();
        let mut user = moved(example, addresses, &["octocat"], &self.login);
        user["id"] = self.id.into();
        user["login"] = self.login.clone().into();
        user["node_id"] = node("User", self.id).into();
        user["type"] = if self.is_user { "User" } else { "Organization" }.into();
        user
    }

    pub(crate) fn full_json(&self, addresses: &Addresses) -> Value {
        let example = Contract::example("organization-full");
        let mut organisation = moved(example, addresses, &["github"], &self.login);
        organisation["id"] = self.id.into();
        organisation["login"] = self.login.clone().into();
        organisation["name"] = self.login.clone().into();
        organisation["node_id"] = node("Organization", self.id).into();
        organisation["html_url"] = format!("{}/{}", addresses.web, self.login).into();
        organisation["created_at"] = seconds(self.created).into();
        organisation["updated_at"] = seconds(self.created).into();
        organisation["archived_at"] = Value::Null;
        organisation["secret_scanning_push_protection_custom_link"] = Value::Null;
        organisation
    }

    /// As a webhook describes it.
    pub(crate) fn hook_json(&self, addresses: &Addresses) -> Value {
        let url = format!("{}/orgs/{}", addresses.api, self.login);
        json!({
            "login": self.login,
            "id": self.id,
            "node_id": node("Organization", self.id),
            "url": url,
            "repos_url": format!("{url}/repos"),
            "events_url": format!("{url}/events"),
            "hooks_url": format!("{url}/hooks"),
            "issues_url": format!("{url}/issues"),
            "members_url": format!("{url}/members{{/member}}"),
            "public_members_url": format!("{url}/public_members{{/member}}"),
            "avatar_url": format!("{}/avatars/{}", addresses.web, self.id),
            "description": "",
        })
    }
}

impl Enterprise {
    pub(crate) fn json(&self, addresses: &Addresses) -> Value {
        json!({
            "id": self.id,
            "slug": self.slug,
            "name": self.slug,
            "node_id": node("Enterprise", self.id),
            "avatar_url": format!("{}/avatars/{}", addresses.web, self.id),
            "description": null,
            "website_url": null,
            "html_url": format!("{}/enterprises/{}", addresses.web, self.slug),
            "created_at": seconds(self.created),
            "updated_at": seconds(self.created),
        })
    }
}

impl Repository {
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    pub(crate) fn scope(&self) -> Scope {
        Scope::Repository { owner: self.owner.clone(), name: self.name.clone() }
    }

    /// As GitHub describes it beside a run.
    pub(crate) fn json(&self, state: &State, addresses: &Addresses) -> Value {
        self.described(Contract::example("workflow-run")["repository"].clone(), state, addresses)
    }

    pub(crate) fn full_json(&self, state: &State, addresses: &Addresses) -> Value {
        let mut json = self.list_json(state, addresses);
        json["network_count"] = 0.into();
        json["subscribers_count"] = 0.into();
        json["has_discussions"] = false.into();
        json
    }

    /// As GitHub describes it in lists of repositories.
    pub(crate) fn list_json(&self, state: &State, addresses: &Addresses) -> Value {
        let (web, name) = (&addresses.web, self.full_name());
        let more = json!({
            "archived": false, "clone_url": format!("{web}/{name}.git"),
            "created_at": seconds(self.created), "default_branch": "main", "disabled": false,
            "forks": 0, "forks_count": 0,
            "has_downloads": true, "has_issues": true, "has_pages": false, "has_projects": true,
            "has_wiki": true, "homepage": null, "language": null, "license": null,
            "mirror_url": null, "open_issues": 0, "open_issues_count": 0,
            "pushed_at": seconds(self.created), "size": 0,
            "stargazers_count": 0,
            "svn_url": format!("{web}/{name}"), "updated_at": seconds(self.created),
            "visibility": if self.private { "private" } else { "public" },
            "watchers": 0, "watchers_count": 0,
        });
        changed(self.json(state, addresses), more)
    }

    /// What `example` says of a repository of `octo-org`, said of this one.
    pub(crate) fn described(&self, example: Value, state: &State, addresses: &Addresses) -> Value {
        let mut repository = moved(example, addresses, &EXAMPLES, &self.full_name());
        repository["id"] = self.id.into();
        repository["node_id"] = node("Repository", self.id).into();
        repository["name"] = self.name.clone().into();
        repository["full_name"] = self.full_name().into();
        repository["git_url"] = format!("git://github.com/{}.git", self.full_name()).into();
        repository["ssh_url"] = format!("git@github.com:{}.git", self.full_name()).into();
        repository["private"] = self.private.into();
        repository["fork"] = self.fork.into();
        if let Ok(owner) = state.account(&self.owner) {
            repository["owner"] = owner.json(addresses);
        }
        repository
    }
}

/// The repositories of GitHub's examples.
const EXAMPLES: [&str; 3] = ["octo-org/octo-repo", "octocat/Hello-World", "Codertocat/Hello-World"];

/// An example of GitHub's, at home here: links lead to us, and to `name` where they led to one of `from`.
pub(crate) fn moved(mut example: Value, addresses: &Addresses, from: &[&str], name: &str) -> Value {
    fn walk(value: &mut Value, change: &impl Fn(&str) -> String) {
        match value {
            Value::String(text) => *text = change(text),
            Value::Array(list) => list.iter_mut().for_each(|item| walk(item, change)),
            Value::Object(object) => object.values_mut().for_each(|item| walk(item, change)),
            _ => (),
        }
    }
    walk(&mut example, &|text| {
        let at = |prefix, base| text.strip_prefix(prefix).map(|path| (base, path));
        let found = at("https://api.github.com", &addresses.api)
            .or_else(|| at("http://api.github.com", &addresses.api))
            .or_else(|| at("https://github.com", &addresses.web));
        match found {
            Some((base, path)) => {
                let mut from = from.iter().map(|from| format!("/{from}"));
                let found = from.find(|from| path.contains(from.as_str()));
                let path = match found {
                    Some(from) => path.replacen(&from, &format!("/{name}"), 1),
                    None => path.to_owned(),
                };
                format!("{base}{path}")
            }
            None => text.to_owned(),
        }
    });
    example
}

/// An object with some of its fields changed, or new.
pub(crate) fn changed(mut object: Value, changes: Value) -> Value {
    if let (Some(fields), Value::Object(changes)) = (object.as_object_mut(), changes) {
        fields.extend(changes);
    }
    object
}

impl State {
    pub(crate) fn account(&self, login: &str) -> Result<&Account, Refusal> {
        let mut accounts = self.accounts.iter();
        accounts
            .find(|account| account.login.eq_ignore_ascii_case(login))
            .ok_or_else(Refusal::not_found)
    }

    pub(crate) fn enterprise(&self, slug: &str) -> Result<&Enterprise, Refusal> {
        let mut enterprises = self.enterprises.iter();
        enterprises
            .find(|enterprise| enterprise.slug.eq_ignore_ascii_case(slug))
            .ok_or_else(Refusal::not_found)
    }

    pub(crate) fn repository(&self, owner: &str, name: &str) -> Result<&Repository, Refusal> {
        let scope = Scope::Repository { owner: owner.to_owned(), name: name.to_owned() };
        let mut repositories = self.repositories.iter();
        repositories.find(|repository| repository.scope() == scope).ok_or_else(Refusal::not_found)
    }

    pub(crate) fn repository_by_id(&self, id: i64) -> Option<&Repository> {
        self.repositories.iter().find(|repository| repository.id == id)
    }

    /// Whether there is such a place.
    pub(crate) fn knows(&self, scope: &Scope) -> Result<(), Refusal> {
        match scope {
            Scope::Enterprise(slug) => self.enterprise(slug).map(|_| ()),
            Scope::Organisation(login) => {
                let account = self.account(login)?;
                if account.is_user { Err(Refusal::not_found()) } else { Ok(()) }
            }
            Scope::Repository { owner, name } => self.repository(owner, name).map(|_| ()),
        }
    }

    pub(crate) fn add_enterprise(&mut self, slug: &str) {
        if self.enterprise(slug).is_ok() {
            return;
        }
        let (id, created) = (self.next_id(), self.now());
        self.enterprises.push(Enterprise { id, slug: slug.to_owned(), created });
        self.groups.push(Self::default_group(Scope::Enterprise(slug.to_owned())));
    }

    pub(crate) fn add_organisation(&mut self, login: &str, enterprise: Option<&str>) {
        if let Some(slug) = enterprise {
            self.add_enterprise(slug);
        }
        if self.account(login).is_ok() {
            return;
        }
        self.add_account(login, false, enterprise);
        self.groups.push(Self::default_group(Scope::Organisation(login.to_owned())));
    }

    pub(crate) fn add_account(&mut self, login: &str, is_user: bool, enterprise: Option<&str>) {
        let account = Account {
            id: self.next_id(),
            login: login.to_owned(),
            is_user,
            enterprise: enterprise.map(str::to_owned),
            created: self.now(),
        };
        self.accounts.push(account);
    }

    /// Adds a repository, and a user for its owner if there is nobody of that name.
    pub(crate) fn add_repository(&mut self, owner: &str, name: &str) -> &mut Repository {
        if self.account(owner).is_err() {
            self.add_account(owner, true, None);
        }
        let scope = Scope::Repository { owner: owner.to_owned(), name: name.to_owned() };
        let index = self.repositories.iter().position(|repository| repository.scope() == scope);
        let index = index.unwrap_or_else(|| {
            let repository = Repository {
                id: self.next_id(),
                owner: owner.to_owned(),
                name: name.to_owned(),
                private: true,
                fork: false,
                created: self.now(),
            };
            self.repositories.push(repository);
            self.repositories.len() - 1
        });
        &mut self.repositories[index]
    }
}
