//! Users, groups and projects, and who is a member of what.

use std::{collections::BTreeSet, path::PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    exchange::{Refusal, Request},
    ids::{GroupId, ProjectId, UserId, random_text},
    job_spec::Variable,
    state::State,
    time::millis,
};

/// Whoever administers the instance.
pub(crate) const ADMIN: &str = "root";

/// Whom something is for: everybody, a group with all that is in it, or a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// All of this GitLab.
    Instance,
    /// A group, its groups and their projects.
    Group(GroupId),
    /// A project.
    Project(ProjectId),
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// To look at little.
    Guest = 10,
    /// To look.
    Reporter = 20,
    /// To push, and to run pipelines.
    Developer = 30,
    /// To change a project, and its runners.
    Maintainer = 40,
    /// To change a group, and its runners.
    Owner = 50,
}

#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) username: String,
    pub(crate) admin: bool,
    pub(crate) created: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    /// With those of the groups that it is in.
    pub(crate) path: String,
    pub(crate) parent: Option<GroupId>,
    pub(crate) registration_token: String,
}

#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) id: ProjectId,
    /// With those of the groups that it is in, or of its user.
    pub(crate) path: String,
    pub(crate) group: Option<GroupId>,
    pub(crate) created: Timestamp,
    pub(crate) registration_token: String,
    pub(crate) options: ProjectOptions,
}

/// What an owner decides about a project.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProjectOptions {
    /// Whether runners of the instance take its jobs.
    pub instance_runners: bool,
    /// Whether runners of its groups take its jobs.
    pub group_runners: bool,
    /// Refs whose jobs are protected. At first the default branch, `main`.
    pub protected_refs: BTreeSet<String>,
    /// Where its jobs clone from. `None` for this GitLab. The job's token is put into an address of HTTP or HTTPS.
    pub repository: Option<String>,
    /// A directory, bare or not, that git knows, and that this GitLab serves to jobs of the project at the project's
    /// address. It takes a git on this machine.
    pub served_repository: Option<PathBuf>,
    /// What all its jobs get, whatever they say themselves.
    pub variables: Vec<Variable>,
}

impl Default for ProjectOptions {
    fn default() -> Self {
        Self {
            instance_runners: true,
            group_runners: true,
            protected_refs: BTreeSet::from(["main".to_owned()]),
            repository: None,
            served_repository: None,
            variables: Vec::new(),
        }
    }
}

/// The last part of a path.
pub(crate) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl User {
    pub(crate) fn json(&self, base: &str) -> Value {
        json!({
            "id": self.id,
            "username": self.username,
            "name": self.username,
            "state": "active",
            "locked": false,
            "avatar_url": null,
            "web_url": format!("{base}/{}", self.username),
        })
    }

    pub(crate) fn full_json(&self, base: &str) -> Value {
        let mut user = self.json(base);
        user["created_at"] = millis(self.created).into();
        user["bot"] = false.into();
        user["is_admin"] = self.admin.into();
        user
    }
}

impl Group {
    pub(crate) fn json(&self, base: &str) -> Value {
        json!({
            "id": self.id,
            "name": name(&self.path),
            "path": name(&self.path),
            "full_path": self.path,
            "full_name": self.path.replace('/', " / "),
            "parent_id": self.parent,
            "visibility": "private",
            "shared_runners_setting": "enabled",
            "web_url": format!("{base}/groups/{}", self.path),
        })
    }
}

impl Project {
    pub(crate) fn json(&self, state: &State, base: &str) -> Value {
        let (space, _) = self.path.rsplit_once('/').unwrap_or((&self.path, ""));
        let group = self.group.and_then(|id| state.groups.get(&id));
        let owner = state.users.values().find(|user| user.username == space).map(|user| user.id.0);
        json!({
            "id": self.id,
            "name": name(&self.path),
            "path": name(&self.path),
            "path_with_namespace": self.path,
            "name_with_namespace": self.path.replace('/', " / "),
            "default_branch": "main",
            "visibility": "private",
            "archived": false,
            "created_at": millis(self.created),
            "shared_runners_enabled": self.options.instance_runners,
            "group_runners_enabled": self.options.group_runners,
            "web_url": format!("{base}/{}", self.path),
            "http_url_to_repo": format!("{base}/{}.git", self.path),
            "namespace": {
                "id": group.map(|group| group.id.0).or(owner).unwrap_or(self.id.0),
                "name": name(space),
                "path": name(space),
                "kind": if group.is_some() { "group" } else { "user" },
                "full_path": space,
                "parent_id": group.and_then(|group| group.parent),
            },
        })
    }

    /// In a few words, as a job's or a runner's.
    pub(crate) fn brief_json(&self) -> Value {
        json!({
            "id": self.id,
            "name": name(&self.path),
            "path": name(&self.path),
            "path_with_namespace": self.path,
            "name_with_namespace": self.path.replace('/', " / "),
            "created_at": millis(self.created),
        })
    }
}

impl State {
    pub(crate) fn add_user(&mut self, username: &str, admin: bool) -> UserId {
        if let Some(user) = self.users.values_mut().find(|user| user.username == username) {
            user.admin |= admin;
            return user.id;
        }
        let id = UserId(self.next_id());
        let user = User { id, username: username.to_owned(), admin, created: self.now() };
        self.users.insert(id, user);
        id
    }

    /// The group of a path, made with the groups that it is in when there is none.
    pub(crate) fn add_group(&mut self, path: &str) -> GroupId {
        if let Some(group) = self.groups.values().find(|group| group.path == path) {
            return group.id;
        }
        let parent = path.rsplit_once('/').map(|(parent, _)| self.add_group(parent));
        let id = GroupId(self.next_id());
        let registration_token = format!("GR1348941{}", random_text(20));
        self.groups.insert(id, Group { id, path: path.to_owned(), parent, registration_token });
        id
    }

    pub(crate) fn add_project(&mut self, path: &str) -> ProjectId {
        if let Some(project) = self.projects.values().find(|project| project.path == path) {
            return project.id;
        }
        let space = path.rsplit_once('/').map(|(space, _)| space);
        let is_user = |space: &&str| self.users.values().any(|user| user.username == *space);
        let group = space.filter(|space| !is_user(space)).map(|space| self.add_group(space));
        let id = ProjectId(self.next_id());
        let project = Project {
            id,
            path: path.to_owned(),
            group,
            created: self.now(),
            registration_token: format!("GR1348941{}", random_text(20)),
            options: ProjectOptions::default(),
        };
        self.projects.insert(id, project);
        id
    }

    /// A group, and what it is in, from the inside out.
    pub(crate) fn with_parents(&self, group: Option<GroupId>) -> Vec<GroupId> {
        let parent = |id: &GroupId| self.groups.get(id)?.parent;
        std::iter::successors(group, parent).collect()
    }

    /// All places that a place is in, itself the first.
    pub(crate) fn places(&self, place: Place) -> Vec<Place> {
        let (own, group) = match place {
            Place::Instance => (None, None),
            Place::Group(id) => (None, Some(id)),
            Place::Project(id) => {
                (Some(place), self.projects.get(&id).and_then(|project| project.group))
            }
        };
        let groups = self.with_parents(group).into_iter().map(Place::Group);
        own.into_iter().chain(groups).chain([Place::Instance]).collect()
    }

    /// What a user may do there. Whoever administers the instance owns all of it.
    pub(crate) fn level(&self, user: UserId, place: Place) -> Option<Level> {
        let user = self.users.get(&user)?;
        if user.admin {
            return Some(Level::Owner);
        }
        let places = self.places(place);
        let mut levels: Vec<_> = self
            .members
            .iter()
            .filter(|(member, at, _)| *member == user.id && places.contains(at))
            .map(|(_, _, level)| *level)
            .collect();
        if let Place::Project(id) = place
            && let Some(project) = self.projects.get(&id)
            && project.path.split_once('/').is_some_and(|(space, _)| space == user.username)
        {
            levels.push(Level::Owner);
        }
        levels.into_iter().max()
    }

    /// Everybody who is a member there, and what they may do.
    pub(crate) fn members_of(&self, place: Place) -> Vec<(UserId, Level)> {
        let places = self.places(place);
        let here = self.members.iter().filter(|(_, at, _)| places.contains(at));
        let users: BTreeSet<_> = here.map(|(user, _, _)| *user).collect();
        users.into_iter().filter_map(|user| Some((user, self.level(user, place)?))).collect()
    }

    /// The project of a path's `{id}`: a number, or a path in percent-encoding.
    pub(crate) fn project_of(&self, request: &Request) -> Result<ProjectId, Refusal> {
        let id = request.parameters.get("id").map_or("", String::as_str);
        let by_number = id.parse().ok().map(ProjectId).and_then(|id| self.projects.get(&id));
        let project = by_number
            .or_else(|| self.projects.values().find(|project| project.path == id))
            .ok_or_else(|| Refusal::not_found("Project"))?;
        Ok(project.id)
    }

    /// The group of a path's `{id}`.
    pub(crate) fn group_of(&self, request: &Request) -> Result<GroupId, Refusal> {
        let id = request.parameters.get("id").map_or("", String::as_str);
        let by_number = id.parse().ok().map(GroupId).and_then(|id| self.groups.get(&id));
        let group = by_number
            .or_else(|| self.groups.values().find(|group| group.path == id))
            .ok_or_else(|| Refusal::not_found("Group"))?;
        Ok(group.id)
    }
}
