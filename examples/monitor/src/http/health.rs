//! Whether the process is up, and whether it can do its work.

use poem::{
    IntoResponse, Response, handler,
    http::StatusCode,
    web::{Data, Json},
};
use runner_core::plan::Sight;
use serde_json::json;

use super::Shared;

/// The process is up.
#[handler]
pub fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "status": "up" }))
}

/// The hypervisor, the images and every forge can be seen; what cannot be is named, with the reason.
/// Warnings do not make it unready.
#[handler]
pub fn readyz(shared: Data<&Shared>) -> Response {
    let status = shared.status();
    let mut blind = serde_json::Map::new();
    let mut look = |name: String, sight: &Sight| {
        let reason = match sight {
            Sight::Seen => return,
            Sight::Blind(reason) => reason.clone(),
            Sight::Unasked => "it was not asked yet".to_owned(),
        };
        blind.insert(name, reason.into());
    };
    look("hypervisor".to_owned(), &status.hypervisor);
    look("image builder".to_owned(), &status.builder);
    for (name, sight) in &status.forges {
        look(format!("forge {name}"), sight);
    }
    let ready = blind.is_empty() && status.at.is_some();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let warnings = shared.warnings();
    let body = json!({
        "ready": ready, "blind": blind, "draining": status.draining, "warnings": warnings,
    });
    Json(body).with_status(code).into_response()
}
