//! The pool as it was last seen: its state, its workers, its profiles.

use poem_openapi::{OpenApi, param::Path, payload::Json};

use super::{Shared, problem::Problem};

pub mod model;

use model::{PoolStatus, ProfileInfo, WorkerInfo};

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

    /// List workers
    #[oai(path = "/workers", method = "get", operation_id = "list_workers")]
    async fn workers(&self) -> Json<Vec<WorkerInfo>> {
        let status = self.0.status();
        Json(status.workers.iter().map(WorkerInfo::from).collect())
    }

    /// Show a worker
    #[oai(path = "/workers/:name", method = "get", operation_id = "show_worker")]
    async fn worker(&self, name: Path<String>) -> Result<Json<WorkerInfo>, Problem> {
        let status = self.0.status();
        let mut workers = status.workers.iter();
        match workers.find(|worker| worker.name.as_str() == name.0) {
            Some(worker) => Ok(Json(worker.into())),
            None => Err(Problem::not_found(format!("worker {:?} does not exist", name.0))),
        }
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
        profile
            .map(Json)
            .ok_or_else(|| Problem::not_found(format!("profile {:?} does not exist", name.0)))
    }
}
