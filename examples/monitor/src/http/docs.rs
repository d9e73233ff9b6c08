//! The page that shows the API's description, and tries it out. Everything it needs is in this program.

use std::sync::LazyLock;

use poem::{Response, handler, http::header};

use super::openapi;

const PAGE: &str = include_str!("docs.html");

/// The page's element styles itself with style elements; nothing else is more than its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; \
                      connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// What the page's script is between, in the page that comes with it. That page fetches fonts from elsewhere.
const BEFORE: &str = "<script charset=\"UTF-8\">";
const AFTER: &str = "</script>";

/// The page.
#[handler]
pub fn page() -> Response {
    Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .body(PAGE)
}

/// Its script.
#[handler]
pub fn script() -> Response {
    Response::builder()
        .content_type("text/javascript; charset=utf-8")
        .header(header::CACHE_CONTROL, "public, max-age=86400")
        .body(SCRIPT.as_str())
}

static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let whole = openapi::service(()).rapidoc_html();
    let after = whole.split_once(BEFORE).map_or("", |(_, after)| after);
    after.split_once(AFTER).map_or("", |(inner, _)| inner).to_owned()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_whole() {
        assert!(SCRIPT.len() > 500_000, "{}", SCRIPT.len());
        assert!(SCRIPT.contains("rapi-doc"));
    }
}
