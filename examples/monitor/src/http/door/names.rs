//! Which host a request is for, and which page sent it: a page elsewhere must not reach this service by
//! tricks with DNS, nor by asking for changes that it cannot see the answer of.

use std::net::IpAddr;

use poem::{
    Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
};

use crate::{config::HttpConfig, http::problem::Problem};

/// The names of this service.
pub struct Names {
    /// On loopback only this host's own names lead here: anything else is a page that plays tricks with DNS.
    loopback: bool,
    names: Vec<String>,
}

impl Names {
    pub fn new(http: &HttpConfig) -> Self {
        Self { loopback: http.is_local(), names: http.names.clone() }
    }

    /// Which host the request is for, if that is this service.
    pub fn host(&self, request: &Request) -> Result<String, Problem> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = match (hosts.next().map(HeaderValue::to_str), hosts.next()) {
            (_, Some(_)) => return Err(Problem::bad_request("there is more than one Host header")),
            (Some(Err(_)), None) => {
                return Err(Problem::bad_request("the Host header is not text"));
            }
            (Some(Ok(host)), None) => Some(host.to_owned()),
            (None, None) => None,
        };
        // HTTP/2 has it in the address, and a proxy's client in both.
        let authority = request.original_uri().authority().map(|authority| authority.to_string());
        let host = match (host, authority) {
            (Some(host), Some(other)) if host != other => {
                let detail =
                    format!("the Host header is {host:?}, and the address is of {other:?}");
                return Err(Problem::bad_request(detail));
            }
            (Some(host), _) | (None, Some(host)) => host,
            (None, None) => return Err(Problem::bad_request("the Host header is missing")),
        };
        if self.knows(&host) {
            return Ok(host);
        }
        let detail = format!("{host:?} is not a name of this service; add it to names in [http]");
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail))
    }

    /// Refuses a change that a page of another origin asks for.
    pub fn check_origin(&self, request: &Request, host: &str) -> Result<(), Problem> {
        let header = |name: HeaderName| text(request.headers(), &name);
        let own = match header(header::ORIGIN) {
            Some(origin) => origin.is_some_and(|origin| is_origin_of(origin, host)),
            // A browser that leaves the origin out says at least this; programs say neither.
            None => match header(HeaderName::from_static("sec-fetch-site")) {
                Some(site) => matches!(site, Some("same-origin" | "none")),
                None => true,
            },
        };
        if own {
            return Ok(());
        }
        let detail = "a page of another origin must not change anything here";
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// Whether a request for `host` is meant for us.
    fn knows(&self, host: &str) -> bool {
        let name = host.parse::<Uri>().ok();
        let Some(name) = name.as_ref().and_then(|uri| uri.host()) else {
            return false;
        };
        if !self.loopback && self.names.is_empty() {
            return true;
        }
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let own_address =
            address.is_ok_and(|address| !self.loopback || address.to_canonical().is_loopback());
        own_address
            || name.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

/// None where there is no such header; none in it where the header is not text.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a str>> {
    headers.get(name).map(|value| value.to_str().ok())
}

fn is_origin_of(origin: &str, host: &str) -> bool {
    let from = origin.parse::<Uri>().ok();
    from.and_then(|uri| uri.authority().map(|from| from.as_str() == host)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_by_where_the_service_listens() {
        let names = |loopback, names: &[&str]| Names {
            loopback,
            names: names.iter().map(ToString::to_string).collect(),
        };
        let local = names(true, &["ci.example"]);
        for own in ["localhost", "LOCALHOST:1", "127.0.0.9:80", "[::1]", "ci.example:8000"] {
            assert!(local.knows(own), "{own}");
        }
        for other in
            ["evil.example", "8.8.8.8", "localhost.evil.example", "", "a b", "ci.example.x"]
        {
            assert!(!local.knows(other), "{other}");
        }
        let remote = names(false, &["ci.example"]);
        for own in ["ci.example", "10.1.2.3:8000", "[fd00::1]:8000", "localhost"] {
            assert!(remote.knows(own), "{own}");
        }
        assert!(!remote.knows("evil.example"), "names were given: only they lead here");
        assert!(names(false, &[]).knows("whatever.example"));
    }
}
