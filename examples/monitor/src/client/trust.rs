//! Which services a client trusts that speak HTTPS.

use std::{error::Error, fs, io, path::Path};

use anyhow::{Context, bail};
use reqwest::{Certificate, ClientBuilder};
use tokio_rustls::rustls;

use crate::http::tls;

/// A client that trusts by the certificates in `ca`, or by the system's if none.
pub fn builder(server: &str, ca: Option<&Path>) -> anyhow::Result<ClientBuilder> {
    tls::prepare();
    let builder = reqwest::Client::builder();
    if server.starts_with("http://") {
        // Nothing to trust by, and no need for the system to have it.
        return Ok(builder.tls_certs_only([]));
    }
    let Some(ca) = ca else { return Ok(builder) };
    let shown = ca.display();
    let text = fs::read(ca)
        .with_context(|| format!("could not read the certificates {shown}; see --ca"))?;
    let certificates = Certificate::from_pem_bundle(&text)
        .with_context(|| format!("{shown} holds no certificates that can be read"))?;
    if certificates.is_empty() {
        bail!("there is no certificate in {shown}; it must be PEM: -----BEGIN CERTIFICATE-----");
    }
    Ok(builder.tls_certs_only(certificates))
}

/// Whether a call failed because the service's certificate is not trusted.
pub fn is_missing(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inside.and_then(|inside| inside.downcast_ref()));
        if let Some(rustls::Error::InvalidCertificate(_)) = tls {
            return true;
        }
        next = match inside {
            Some(inside) => Some(inside),
            None => error.source(),
        };
    }
    false
}
