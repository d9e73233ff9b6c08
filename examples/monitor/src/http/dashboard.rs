//! The page at `/`: what the API tells, live, without anything from elsewhere.

use poem::{
    Response, handler,
    http::{StatusCode, header},
    web::Path,
};

/// Where the parts of the page are.
pub const PARTS: &str = "/dashboard/";

/// Only what this service serves, and nothing written into the page itself. Pictures are fetched by the
/// script, which sends the token.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = include_str!("dashboard/index.html");

macro_rules! parts {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("dashboard/", $name)))),*]
    };
}

const FILES: [(&str, &str); 18] = parts![
    "ansi.js",
    "api.js",
    "dialog.js",
    "events.js",
    "explain.js",
    "forges.js",
    "icon.svg",
    "job-dialog.js",
    "jobs.js",
    "main.js",
    "page.js",
    "profiles.js",
    "promises.js",
    "screens.js",
    "stream.js",
    "style.css",
    "theme.js",
    "worker-dialog.js",
    "workers.js",
];

/// The page.
#[handler]
pub fn page() -> Response {
    Response::builder()
        .content_type("text/html; charset=utf-8")
        .header(header::CONTENT_SECURITY_POLICY, POLICY)
        .body(PAGE)
}

/// A part of the page.
#[handler]
pub fn part(name: Path<String>) -> Response {
    let Some((name, text)) = FILES.iter().find(|(own, _)| *own == name.0) else {
        return Response::builder().status(StatusCode::NOT_FOUND).finish();
    };
    let kind = match name.rsplit_once('.') {
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "image/svg+xml",
    };
    Response::builder().content_type(kind).body(*text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_page_stays_small() {
        let size: usize = FILES.iter().map(|(_, text)| text.len()).sum();
        assert!(size + PAGE.len() < 150 << 10, "{} bytes", size + PAGE.len());
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        for (name, text) in FILES.iter().copied().chain([("index.html", PAGE)]) {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for foreign in ["http://", "https://", "@import", "innerHTML", "outerHTML", "eval("] {
                assert!(!text.contains(foreign), "{name} has {foreign}");
            }
            assert!(!text.contains("style=") && !text.contains("onclick="), "{name}");
        }
    }
}
