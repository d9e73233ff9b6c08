//! What an administrator asks of GitLab: runners made, listed, looked at, changed and removed.
//!
//! Source: `POST /user/runners` and `/runners/:id` in GitLab's `lib/api`.

use jiff::Timestamp;
use reqwest::Method;
use runner_core::{Error, Label, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, Reply, send, send_once},
    config::{Administration, Place, ProfileConfig},
    error::refused,
};

/// How many things a page of a list has: the most that GitLab gives.
const PAGE: usize = 100;
/// How many pages of a list are read.
const PAGES: usize = 100;

/// Calls GitLab as whoever may create runners.
pub(crate) struct Admin {
    client: Client,
    administration: Administration,
}

/// A runner that was just made. Its token is shown only now.
#[derive(Deserialize)]
pub(crate) struct Created {
    pub id: u64,
    pub token: String,
    #[serde(default)]
    pub token_expires_at: Option<Timestamp>,
}

impl Admin {
    pub(crate) fn new(client: Client, administration: Administration) -> Self {
        Self { client, administration }
    }

    pub(crate) fn place(&self) -> Place {
        self.administration.place
    }

    pub(crate) fn exposes(&self) -> bool {
        self.administration.expose_runners
    }

    /// Makes a runner as it should be. Once: what failed may have made one, which a list shows.
    pub(crate) async fn create(&self, wanted: Value, note: &str) -> Result<Created> {
        let doing = "create a runner";
        let mut body = wanted;
        if let Some(fields) = body.as_object_mut() {
            // What is not limited is not said.
            fields.retain(|_, value| !value.is_null());
        }
        body["maintenance_note"] = note.into();
        body["locked"] = matches!(self.place(), Place::Project(_)).into();
        match self.place() {
            Place::Instance => body["runner_type"] = "instance_type".into(),
            Place::Group(id) => {
                body["runner_type"] = "group_type".into();
                body["group_id"] = id.into();
            }
            Place::Project(id) => {
                body["runner_type"] = "project_type".into();
                body["project_id"] = id.into();
            }
        }
        let request = self.client.request(Method::POST, "user/runners").json(&body);
        let request = request.header("PRIVATE-TOKEN", self.administration.token.expose());
        let reply = send_once(doing, request).await?;
        if reply.status.as_u16() != 201 {
            return Err(refused(doing, &reply));
        }
        reply.json(doing)
    }

    /// All runners of the place, in brief.
    pub(crate) async fn runners(&self) -> Result<Vec<Value>> {
        let path = match self.place() {
            Place::Instance => "runners/all?type=instance_type".to_owned(),
            Place::Group(id) => format!("groups/{id}/runners?type=group_type"),
            Place::Project(id) => format!("projects/{id}/runners?type=project_type"),
        };
        self.list("list the runners", &path).await
    }

    /// All pages of a list. What may be a part of it is an error.
    pub(crate) async fn list(&self, doing: &str, path: &str) -> Result<Vec<Value>> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut all = Vec::new();
        for page in 1..=PAGES {
            let path = format!("{path}{separator}per_page={PAGE}&page={page}");
            let reply = self.call(doing, Method::GET, &path, None).await?;
            if !reply.status.is_success() {
                return Err(refused(doing, &reply));
            }
            let items: Vec<Value> = reply.json(doing)?;
            let is_last = items.len() < PAGE;
            all.extend(items);
            if is_last {
                return Ok(all);
            }
        }
        Err(Error::invalid(doing, format!("it has more than {} entries", PAGE * PAGES)))
    }

    /// A runner in full. None if there is none.
    pub(crate) async fn runner(&self, id: u64) -> Result<Option<Value>> {
        let doing = "look at a runner";
        let reply = self.call(doing, Method::GET, &format!("runners/{id}"), None).await?;
        match reply.status.as_u16() {
            200 => reply.json(doing).map(Some),
            404 => Ok(None),
            _ => Err(refused(doing, &reply)),
        }
    }

    /// Changes some of its fields. False if there is no such runner.
    pub(crate) async fn change(&self, id: u64, fields: &Value) -> Result<bool> {
        let doing = "correct a runner";
        let reply = self.call(doing, Method::PUT, &format!("runners/{id}"), Some(fields)).await?;
        match reply.status.as_u16() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(refused(doing, &reply)),
        }
    }

    /// Fine if there is none.
    pub(crate) async fn delete(&self, id: u64) -> Result<()> {
        let doing = "remove a runner";
        let reply = self.call(doing, Method::DELETE, &format!("runners/{id}"), None).await?;
        match reply.status.as_u16() {
            204 | 404 => Ok(()),
            _ => Err(refused(doing, &reply)),
        }
    }

    async fn call(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply> {
        let request = self.client.request(method, path);
        let request = request.header("PRIVATE-TOKEN", self.administration.token.expose());
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        send(doing, request).await
    }
}

/// What a profile's runner should be, in GitLab's fields. Whether it is paused is left to others.
pub(crate) fn wanted(profile: &ProfileConfig, description: &str) -> Value {
    let tags: Vec<&str> = profile.tags.iter().map(Label::as_str).collect();
    json!({
        "description": description,
        "tag_list": tags,
        "run_untagged": profile.run_untagged,
        "access_level": if profile.protected_only { "ref_protected" } else { "not_protected" },
        "maximum_timeout": profile.maximum_timeout.map(|limit| limit.as_secs()),
    })
}
