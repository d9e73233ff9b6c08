//! `GET /metrics`: for Prometheus.

use poem::{Response, handler, web::Data};

use super::Shared;
use crate::metrics::CONTENT_TYPE;

/// What is counted, as text.
#[handler]
pub fn metrics(shared: Data<&Shared>) -> Response {
    Response::builder().content_type(CONTENT_TYPE).body(shared.0.0.metrics.text())
}
