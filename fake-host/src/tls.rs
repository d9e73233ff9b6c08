//! A certificate made at the start, for one fake alone.

use std::{io, sync::Arc};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// A key that nobody else has, and a certificate for it that signs itself.
#[derive(Clone)]
pub struct Tls {
    /// Takes connections with it, as HTTP/1.1.
    pub acceptor: TlsAcceptor,
    /// What a client has to trust, in PEM.
    pub certificate: String,
}

impl Tls {
    /// Makes them for these names and addresses.
    ///
    /// # Errors
    ///
    /// A name that is none.
    pub fn new(names: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let names: Vec<_> = names.into_iter().collect();
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
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate: cert.pem() })
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
