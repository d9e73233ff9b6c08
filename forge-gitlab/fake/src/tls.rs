//! A certificate made at the start, for this fake alone.

use std::{io, net::IpAddr, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    /// What a client has to trust, in PEM.
    pub(crate) certificate: String,
}

/// Makes a key, and a certificate for `localhost` and these addresses.
pub(crate) fn make(addresses: &[IpAddr]) -> io::Result<Tls> {
    let addresses = addresses.iter().map(ToString::to_string);
    let names: Vec<_> = addresses.chain(["localhost".to_owned()]).collect();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(names).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)), certificate: cert.pem() })
}
