//! The pool as it was last seen, and its profiles.

use poem_openapi::{Object, OpenApi, param::Path, payload::Json};
use runner_core::{ProfileName, wish::Adjust};
use serde::Deserialize;

use super::{
    Admin, Shared,
    problem::Problem,
    strict::{Strict, given},
};

pub mod model;
pub mod target;

use model::{Counts, PoolStatus, ProfileInfo};

pub struct PoolApi(pub Shared);

#[OpenApi]
impl PoolApi {
    /// Show the pool
    #[oai(path = "/status", method = "get", operation_id = "show_status")]
    async fn status(&self) -> Json<PoolStatus> {
        let mut status = PoolStatus::from(&*self.0.status());
        status.warnings = self.0.config().warnings();
        Json(status)
    }

    /// List profiles
    #[oai(path = "/profiles", method = "get", operation_id = "list_profiles")]
    async fn profiles(&self) -> Json<Vec<ProfileInfo>> {
        Json(model::profiles(&self.0.config().profiles, &self.0.status()))
    }

    /// Show a profile
    #[oai(path = "/profiles/:name", method = "get", operation_id = "show_profile")]
    async fn profile(&self, name: Path<String>) -> Result<Json<ProfileInfo>, Problem> {
        let profiles = model::profiles(&self.0.config().profiles, &self.0.status());
        let profile = profiles.into_iter().find(|profile| profile.name == name.0);
        profile.map(Json).ok_or_else(|| unknown(&name))
    }

    /// Change a profile's numbers, or pause it
    ///
    /// Until they are changed again: over restarts and edits of the configuration, too. A paused profile
    /// makes no workers and retires idle ones; jobs that run go on, and jobs that wait wait.
    #[oai(path = "/profiles/:name", method = "patch", operation_id = "adjust_profile")]
    async fn adjust(
        &self,
        by: Admin,
        name: Path<String>,
        wish: Json<Strict<ProfileWish>>,
    ) -> Result<Json<Counts>, Problem> {
        let Json(Strict(wish)) = wish;
        if wish.min_idle.is_none() && wish.max.is_none() && wish.paused.is_none() {
            return Err(Problem::bad_request("say what to change: min_idle, max or paused"));
        }
        let adjust = Adjust {
            min_idle: wish.min_idle.map(Some),
            max: wish.max.map(Some),
            paused: wish.paused,
        };
        self.do_adjust(&name, &adjust, by.name().as_str()).await
    }

    /// Make a profile what is configured
    ///
    /// Fine when it is that already.
    #[oai(path = "/profiles/:name/adjustment", method = "delete", operation_id = "end_adjustment")]
    async fn end_adjustment(&self, by: Admin, name: Path<String>) -> Result<Json<Counts>, Problem> {
        let configured = Adjust { min_idle: Some(None), max: Some(None), paused: Some(false) };
        self.do_adjust(&name, &configured, by.name().as_str()).await
    }
}

impl PoolApi {
    async fn do_adjust(
        &self,
        name: &str,
        adjust: &Adjust,
        by: &str,
    ) -> Result<Json<Counts>, Problem> {
        let profile = ProfileName::new(name).map_err(|_| unknown(name))?;
        let status = self.0.0.pool.adjust(&profile, adjust.clone(), by).await?;
        Ok(Json((&status).into()))
    }
}

fn unknown(profile: &str) -> Problem {
    Problem::not_found(format!("profile {profile:?} does not exist"))
}

/// What to change of a profile.
#[derive(Object, Deserialize)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
struct ProfileWish {
    /// How many idle workers to keep ready.
    #[serde(default, deserialize_with = "given")]
    min_idle: Option<u32>,
    /// How many workers there may be.
    #[serde(default, deserialize_with = "given")]
    max: Option<u32>,
    /// Whether it makes no workers and retires idle ones.
    #[serde(default, deserialize_with = "given")]
    paused: Option<bool>,
}
