//! Whether the service can listen, or does.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use runner_core::error::chain;
use serde::Deserialize;
use std::net::TcpListener;

use super::{Check, Subject};
use crate::{config::HttpConfig, http::tls};

/// How long whoever listens there may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Ready {
    ready: bool,
    #[serde(default)]
    blind: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    warnings: Vec<String>,
}

pub(super) async fn check(subject: &Subject) -> Vec<Check> {
    let (name, listen) = ("address", subject.config.http.listen);
    let error = match TcpListener::bind(listen) {
        Ok(_) => return vec![Check::ok(name, format!("{listen} is free"))],
        Err(error) => error,
    };
    let way_out = match error.kind() {
        ErrorKind::AddrInUse => match ready(&subject.config.http).await {
            Ok(ready) => return served(listen, ready),
            Err(error) => {
                let found = format!("{listen} is in use, and by no monitor: {error}");
                let way_out = "find it with `ss -ltnp` and stop it, or listen elsewhere in [http]";
                return vec![Check::failure(name, found, way_out)];
            }
        },
        ErrorKind::PermissionDenied => "choose a port above 1023 in [http], or use monitor.socket",
        ErrorKind::AddrNotAvailable => "listen on an address that this host has, such as 127.0.0.1",
        _ => "listen elsewhere in [http]",
    };
    vec![Check::failure(name, format!("{listen} cannot be listened on: {error}"), way_out)]
}

async fn ready(http: &HttpConfig) -> Result<Ready, String> {
    let text = |error: reqwest::Error| chain(&error.without_url());
    tls::prepare();
    // Nothing secret is said, so whoever answers need not be trusted.
    let client =
        reqwest::Client::builder().tls_certs_only([]).tls_danger_accept_invalid_certs(true);
    let client = client.no_proxy().timeout(PATIENCE).build().map_err(text)?;
    let url = format!("{}://{}/readyz", http.scheme(), http.listen);
    let answer = client.get(url).send().await.map_err(text)?;
    answer.json().await.map_err(text)
}

/// What the service there says of itself.
fn served(listen: SocketAddr, ready: Ready) -> Vec<Check> {
    let mut checks = vec![Check::ok("address", format!("a monitor answers on {listen}"))];
    let way_out = "see `monitor events`";
    for (what, reason) in &ready.blind {
        let reason = reason.as_str().unwrap_or_default();
        let found = format!("{what} cannot be seen: {reason}");
        checks.push(Check::failure("running service", found, way_out));
    }
    if !ready.ready && ready.blind.is_empty() {
        checks.push(Check::warning("running service", "it is not ready yet", "wait a moment"));
    }
    for warning in ready.warnings {
        checks.push(Check::warning("running service", warning, way_out));
    }
    checks
}
