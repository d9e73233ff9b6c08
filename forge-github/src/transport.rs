//! How requests reach GitHub: its API, and the Actions service beside it.

use std::{error::Error, io, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use runner_core::Result;

use crate::error::{ApiError, backend};

/// The longest answer that is read. GitHub's longest, 100 jobs with all their steps, has about 2 MiB.
const LONGEST: usize = 32 << 20;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Carries a request to GitHub and brings the whole answer back.
///
/// # Contract
/// - Redirects are answers like any other: whoever followed them would take the credentials along.
/// - An answer that did not arrive whole is an error.
/// - How long that takes is the caller's business: it drops what takes too long.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Makes one call.
    ///
    /// # Errors
    /// [`ApiError::Unanswered`], [`ApiError::Nonsense`] for an answer that is too long.
    ///
    /// # Cancel safety
    /// May be dropped at any moment; what was asked for may have been done.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ApiError>;
}

/// HTTP, over TLS except on this machine. Proxies and certificates are the system's: `HTTPS_PROXY`,
/// `SSL_CERT_FILE`.
#[derive(Debug, Clone)]
pub struct HttpTransport(reqwest::Client);

impl HttpTransport {
    /// A transport that also trusts these authorities (PEM, any number), beside the system's.
    ///
    /// Where no cryptography was chosen for this process's rustls yet, it chooses ring.
    ///
    /// # Errors
    /// `Backend` when the certificates are none, or the system's cannot be read.
    pub fn new(authorities: &[u8]) -> Result<Self> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Whoever was first meanwhile has chosen.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let roots = reqwest::Certificate::from_pem_bundle(authorities)
            .map_err(|error| backend("read the certificates to trust", error))?;
        let agent = concat!("runner-forge-github/", env!("CARGO_PKG_VERSION"));
        reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_merge(roots)
            .user_agent(agent)
            .build()
            .map(Self)
            .map_err(|error| backend("prepare its HTTP client", error))
    }

    /// The client it calls with, which follows no redirects: what proofs are fetched with.
    pub fn http(&self) -> &reqwest::Client {
        &self.0
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ApiError> {
        let request = reqwest::Request::try_from(request).map_err(unanswered)?;
        let mut response = self.0.execute(request).await.map_err(unanswered)?;
        let mut whole = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
            if whole.len() + chunk.len() > LONGEST {
                return Err(ApiError::nonsense("the answer is longer than 32 MiB"));
            }
            whole.extend_from_slice(&chunk);
        }
        let mut answer = Response::new(whole.freeze());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        Ok(answer)
    }
}

fn unanswered(error: reqwest::Error) -> ApiError {
    // The address tells nothing that the operator does not know, and may tell too much.
    let error = error.without_url();
    let is_tls = is_tls(&error);
    let how = if is_tls {
        "its certificate is not to be trusted"
    } else if error.is_connect() {
        "it cannot be reached"
    } else if error.is_timeout() {
        "it did not answer in time"
    } else if error.is_body() || error.is_decode() {
        "its answer ended in the middle"
    } else {
        "the connection broke"
    };
    ApiError::unanswered(how, error)
}

fn is_tls(error: &(dyn Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    // What an I/O error is made of is not its source.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.is_some_and(|inner| is_tls(inner)) || error.source().is_some_and(is_tls)
}
