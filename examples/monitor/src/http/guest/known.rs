//! Which machine asks: by the secret that it sends, or else by the address that it asks from.

use std::net::{IpAddr, SocketAddr};

use poem::{
    FromRequest, Request, RequestBody, Response,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    web::headers::{Authorization, HeaderMapExt, authorization::Bearer},
};
use runner_core::{WorkerName, error::chain};

use crate::{
    guests::{Guests, Known},
    http::text,
};

/// A machine that has proven which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest(pub WorkerName);

impl<'a> FromRequest<'a> for Guest {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        let known = request.data::<Self>().cloned();
        known.ok_or_else(|| poem::Error::from_response(unknown("only machines are served here")))
    }
}

/// Which machine asks. One that sends a secret is known by that alone.
pub async fn guest(
    request: &Request,
    guests: &Guests,
    from: Option<IpAddr>,
) -> Result<Guest, Box<Response>> {
    let known = if request.headers().contains_key(header::AUTHORIZATION) {
        let bearer = request.headers().typed_get::<Authorization<Bearer>>();
        let Some(bearer) = bearer else {
            return Err(Box::new(unknown("send the secret as Authorization: Bearer SECRET")));
        };
        guests.by_token(bearer.token().trim()).await.map_err(|error| {
            tracing::error!(error = chain(&error), "It could not be told which machine asks.");
            text::later("it cannot be told now which machine asks; try again", 2)
        })?
    } else {
        match from {
            Some(address) => guests.by_address(address).await,
            None => Known::Nobody("it is not known where this comes from"),
        }
    };
    match known {
        Known::Machine(worker) => Ok(Guest(worker)),
        Known::Nobody(why) => Err(Box::new(unknown(why))),
        Known::Ambiguous => {
            let detail = "more than one machine has this address; send the machine's secret";
            Err(Box::new(text::refusal(StatusCode::FORBIDDEN, detail)))
        }
        Known::Gone(worker) => {
            let detail = format!("worker {worker} is gone, and its secret with it");
            Err(Box::new(text::refusal(StatusCode::FORBIDDEN, detail)))
        }
    }
}

fn unknown(why: &str) -> Response {
    let detail = format!("{why}; machines send the secret of their user data");
    let mut response = text::refusal(StatusCode::UNAUTHORIZED, detail);
    let bearer = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    response
}

/// Where a request comes from. What it says itself of that counts only if it comes from one of `proxies`.
///
/// # Errors
/// For what a proxy says that is no address.
pub fn address(request: &Request, proxies: &[IpAddr]) -> Result<Option<IpAddr>, &'static str> {
    let peer = request.remote_addr().as_socket_addr().map(|peer| peer.ip());
    behind(peer, request.headers(), proxies)
}

fn behind(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    proxies: &[IpAddr],
) -> Result<Option<IpAddr>, &'static str> {
    match peer.map(|peer| peer.to_canonical()) {
        Some(peer) if proxies.contains(&peer) => told(headers),
        peer => Ok(peer),
    }
}

/// The address that a proxy tells of its client. None if it tells none: it does not speak for itself.
fn told(headers: &HeaderMap) -> Result<Option<IpAddr>, &'static str> {
    const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
    let by_real_ip = match last(headers, &REAL_IP)? {
        Some(text) => Some(text.trim().parse().map_err(|_| "X-Real-IP is not an address")?),
        None => None,
    };
    let by_forwarded = match last(headers, &header::FORWARDED)? {
        Some(text) => Some(forwarded(text).ok_or("Forwarded names no address")?),
        None => None,
    };
    match (by_real_ip, by_forwarded) {
        (Some(one), Some(other)) if one != other => Err("X-Real-IP and Forwarded do not agree"),
        (one, other) => Ok(one.or(other).map(|address: IpAddr| address.to_canonical())),
    }
}

/// The one that the proxy added, behind what it was sent.
fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, &'static str> {
    let value = headers.get_all(name).iter().next_back();
    value.map(|value| value.to_str().map_err(|_| "a header is not text")).transpose()
}

/// The address in the last element of `Forwarded`, as RFC 7239 has it.
fn forwarded(text: &str) -> Option<IpAddr> {
    let element = text.rsplit(',').next()?;
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let mut nodes = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for"));
    let (_, node) = nodes.next()?;
    let node = node.trim().trim_matches('"');
    let bare = node.trim_start_matches('[').trim_end_matches(']');
    let with_port = || node.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, headers: &[(&'static str, &str)]) -> Result<Option<IpAddr>, &'static str> {
        let pairs = headers.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        let proxies = ["10.0.0.1".parse().unwrap()];
        behind(Some(peer.parse().unwrap()), &pairs.collect(), &proxies)
    }

    #[test]
    fn headers_count_only_when_a_proxy_of_ours_sends_them() {
        let address = |text: &str| Ok(Some(text.parse().unwrap()));
        let lie = [("x-real-ip", "10.9.9.9"), ("forwarded", "for=10.9.9.9")];
        assert_eq!(from("10.0.0.2", &lie), address("10.0.0.2"));
        assert_eq!(from("10.0.0.1", &lie), address("10.9.9.9"));
        assert_eq!(from("::ffff:10.0.0.1", &lie), address("10.9.9.9"));
        assert_eq!(from("10.0.0.1", &[]), Ok(None), "it does not speak for itself");
        let forged = [("forwarded", "for=10.1.1.1, for=\"[fd00::7]:4711\";proto=http")];
        assert_eq!(from("10.0.0.1", &forged), address("fd00::7"));
        assert_eq!(from("10.0.0.1", &[("forwarded", "for=10.1.1.1:80")]), address("10.1.1.1"));
        for (name, bad) in
            [("x-real-ip", "unknown"), ("forwarded", "for=_hidden"), ("forwarded", "by=10.0.0.1")]
        {
            assert!(from("10.0.0.1", &[(name, bad)]).is_err(), "{bad}");
        }
        let two = [("x-real-ip", "10.1.1.1"), ("forwarded", "for=10.1.1.2")];
        assert!(from("10.0.0.1", &two).is_err());
    }
}
