//! The interface of Servo's runner monitor, beside this service's own: the same paths, parameters and answers, so
//! that workflows which were written for it work here. What goes wrong is said as text.
//!
//! [`PATHS`] is the whole of it. Nothing here waits for the pool's loop: pictures of the pool are those that it
//! published last, and what changes it is decided by its task from memory.

use std::sync::{Arc, Mutex};

use poem::{EndpointExt, Route, http::Method};

use super::{Shared, door::Pace, text};
use crate::{config::ServoConfig, remote::Outside, seal::Seal};

mod asked;
mod overrides;
mod pictures;
mod queue;
mod show;
mod take;

/// Who may use a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// Everybody: the request brings its own proof.
    Proven,
    /// Who has a token that may operate.
    Token,
    /// Who has the administrator's token, or one like it.
    Admin,
}

/// Every path: `*` stands for any one segment.
const PATHS: [(&str, &[(Method, Access)]); 20] = [
    ("/dashboard.json", &[(Method::GET, Access::Open)]),
    ("/dashboard.html", &[(Method::GET, Access::Open)]),
    ("/dashboard.txt", &[(Method::GET, Access::Open)]),
    ("/select-runner", &[(Method::POST, Access::Proven)]),
    ("/profile/*/take", &[(Method::POST, Access::Token)]),
    ("/profile/*/take/*", &[(Method::POST, Access::Token)]),
    ("/profile/*/screenshot.png", &[(Method::GET, Access::Open)]),
    ("/runner/*/screenshot.png", &[(Method::GET, Access::Open)]),
    ("/runner/*/screenshot/now", &[(Method::GET, Access::Open)]),
    ("/enqueue", &[(Method::POST, Access::Proven)]),
    ("/profile/*/enqueue", &[(Method::POST, Access::Token)]),
    ("/profile/*/enqueue/*", &[(Method::POST, Access::Token)]),
    ("/take/*", &[(Method::POST, Access::Proven)]),
    // As published workflows know them, where a proxy has put them.
    ("/queue/enqueue", &[(Method::POST, Access::Proven)]),
    ("/queue/profile/*/enqueue", &[(Method::POST, Access::Token)]),
    ("/queue/profile/*/enqueue/*", &[(Method::POST, Access::Token)]),
    ("/queue/take/*", &[(Method::POST, Access::Proven)]),
    ("/queue/dashboard.txt", &[(Method::GET, Access::Open)]),
    ("/queue/*", &[(Method::GET, Access::Open)]),
    (
        "/policy/override",
        &[
            (Method::GET, Access::Open),
            (Method::POST, Access::Admin),
            (Method::DELETE, Access::Admin),
        ],
    ),
];

/// What the paths share.
pub struct Servo {
    shared: Shared,
    config: ServoConfig,
    seal: Seal,
    /// The GitHub whose artifacts prove who asks.
    prover: Option<Arc<dyn Outside>>,
    /// The dashboard of a status, as it was written last.
    written: Mutex<Option<show::Written>>,
    screenshots: Option<Pace>,
}

impl Servo {
    /// The interface of a service.
    pub fn new(shared: Shared, config: ServoConfig, seal: Seal) -> Arc<Self> {
        let forge = config.proof.as_ref().map(|proof| &proof.forge);
        let prover = forge.and_then(|name| shared.0.forges.get(name));
        let prover = prover.map(|remote| remote.outside.clone());
        let screenshots = config.screenshot_rate.map(|rate| {
            Pace::new(rate, "asks for more new pictures", "screenshot_rate in [servo]")
        });
        Arc::new(Self { shared, config, seal, prover, written: Mutex::default(), screenshots })
    }

    /// Adds every path to `route`.
    pub fn add_to(self: Arc<Self>, route: Route) -> Route {
        let with = |endpoint: poem::RouteMethod| {
            let servo = self.clone();
            endpoint.data(servo).map_to_response()
        };
        let mut route = route;
        for base in ["", "/queue"] {
            route = route
                .at(format!("{base}/enqueue"), with(poem::post(queue::enqueue)))
                .at(format!("{base}/profile/:key/enqueue"), with(poem::post(queue::enqueue_one)))
                .at(
                    format!("{base}/profile/:key/enqueue/:count"),
                    with(poem::post(queue::enqueue_several)),
                )
                .at(format!("{base}/take/:id"), with(poem::post(queue::take)))
                .at(format!("{base}/dashboard.txt"), with(poem::get(show::as_lines)));
        }
        route
            .at("/queue/:id", with(poem::get(queue::show)))
            .at("/dashboard.json", with(poem::get(show::as_json)))
            .at("/dashboard.html", with(poem::get(show::as_page)))
            .at("/select-runner", with(poem::post(take::select)))
            .at("/profile/:key/take", with(poem::post(take::one)))
            .at("/profile/:key/take/:count", with(poem::post(take::several)))
            .at("/profile/:key/screenshot.png", with(poem::get(pictures::of_profile)))
            .at("/runner/:id/screenshot.png", with(poem::get(pictures::last)))
            .at("/runner/:id/screenshot/now", with(poem::get(pictures::now)))
            .at(
                "/policy/override",
                with(poem::get(overrides::show).post(overrides::begin).delete(overrides::end)),
            )
    }
}

/// Who may do this there. None if there is no such path, or it does not take that method.
pub fn access(method: &Method, path: &str) -> Option<Access> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let methods = methods(path)?;
    methods.iter().find(|(taken, _)| taken == method).map(|(_, access)| *access)
}

/// What a path takes, as `Allow` has it. None if there is no such path.
pub fn allow(path: &str) -> Option<String> {
    let methods = methods(path)?.iter().flat_map(|(method, _)| match *method {
        Method::GET => vec!["GET", "HEAD"],
        ref other => vec![other.as_str()],
    });
    let mut methods: Vec<String> = methods.map(str::to_owned).collect();
    methods.push("OPTIONS".to_owned());
    Some(methods.join(", "))
}

fn methods(path: &str) -> Option<&'static [(Method, Access)]> {
    PATHS.iter().find(|(pattern, _)| fits(pattern, path)).map(|(_, methods)| *methods)
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("*"), Some(segment)) if !segment.is_empty() => (),
            (Some(word), Some(segment)) if word == segment => (),
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_do_what_is_told_by_path_and_method() {
        assert_eq!(access(&Method::GET, "/dashboard.json"), Some(Access::Open));
        assert_eq!(access(&Method::HEAD, "/runner/7/screenshot.png"), Some(Access::Open));
        assert_eq!(access(&Method::POST, "/dashboard.json"), None);
        assert_eq!(access(&Method::POST, "/select-runner"), Some(Access::Proven));
        assert_eq!(access(&Method::POST, "/profile/linux/take"), Some(Access::Token));
        assert_eq!(access(&Method::POST, "/profile/linux/take/3"), Some(Access::Token));
        for other in ["/profile//take", "/profile/a/b/take", "/select-runner/", "/api/v2/jobs", "/"]
        {
            assert_eq!(access(&Method::POST, other), None, "{other}");
        }
        assert_eq!(allow("/profile/x/take").as_deref(), Some("POST, OPTIONS"));
        assert_eq!(allow("/elsewhere"), None);
    }
}
