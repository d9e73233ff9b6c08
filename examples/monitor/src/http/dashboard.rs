//! The page at `/`: what the API tells, live, without anything from elsewhere.

use poem::{Response, handler, http::header};

/// One page, one script and one style sheet in it, and nothing else.
const PAGE: &str = include_str!("dashboard.html");

const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
#[handler]
pub fn page() -> Response {
    Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .body(PAGE)
}
